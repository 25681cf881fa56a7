"""Stage 2 in the size that the authors released, trained as they describe but could not: on predictions of stage 1.

    python -m diffmatch_jax train --config configs/diffmatch_jax/paper_stage2.py --workdir runs/paper2 \
        --config.data.source=folder:DIR --config.stage2.stage1=runs/paper
    python -m diffmatch_jax import-weights sr.pt --config configs/diffmatch_jax/paper_stage2.py \
        --workdir runs/authors2 --config.stage2.stage1=runs/authors

Data: as paper.py; half of the pairs start from a degraded truth. Network: that of paper.py on 256x256 cells, fine-tuned
from stage 1's weights. The paper gives no batch size; remat and --config.train.accumulate=N fit it into memory.
Hardware: accelerators (not run here).
"""

from configs.diffmatch_jax import paper


def get_config():
    config = paper.get_config()
    config.task = "stage2"
    config.stage2.from_stage1 = True
    config.train.batch_size = 4
    config.train.remat = True
    return config
