"""Stage 2 (super-resolution) after bsds.py: 128x128 cells instead of 32x32, trained on crops of the grid.

    python -m diffmatch_jax train    --config configs/diffmatch_jax/bsds_stage2.py --workdir runs/matcher2 \
        --config.stage2.stage1=runs/matcher
    python -m diffmatch_jax evaluate --workdir runs/matcher2

Data: as bsds.py; a quarter of the pairs start from a degraded truth, not from a prediction of stage 1.
Network: U-Net with 24, 48 and 48 channels, as a regression: one evaluation of all cells. It starts from stage 1's flow,
refined twice without weights (conditioning.refine), and says how wrong its own may be; hypotheses are drawn from that.
Hardware: any; two CPU cores take about 14 minutes. Expected, seed 0: 2.15 px and 70.0 % of the pixels within 1 px on 64
held-out warps, the refined fit alone 2.19 and 70.9 %, stage 1 alone 3.46 and 31.6 %; rank correlation of spread and
error .75. The weights in the package are this run's (`export --output diffmatch_jax/weights/stage2.npz`).
Without stage2.stage1 it goes on from the robust fit.
"""

from configs.diffmatch_jax import bsds


def get_config():
    config = bsds.get_config()
    config.task = "stage2"

    config.model.channels = 24
    config.model.multipliers = (1, 2, 2)
    config.model.attention = ()
    config.process.noise_correlation = 8.0
    config.objective.scale = 0.01
    config.objective.kind = "regression"

    config.stage2.size = 64
    config.stage2.degraded = 0.25

    config.train.steps = 600
    config.train.batch_size = 4
    return config
