"""Stage 2 (super-resolution) after bsds.py: 128x128 cells instead of 32x32, trained on crops of the grid.

    python -m diffmatch_jax train    --config configs/diffmatch_jax/bsds_stage2.py --workdir runs/matcher2 \
        --config.stage2.stage1=runs/matcher
    python -m diffmatch_jax evaluate --workdir runs/matcher2

Data: as bsds.py; half of the pairs start from a degraded truth instead of a prediction of stage 1.
Network: U-Net with 16 and 32 channels. Hardware: any; meant for two CPU cores. Not run to
its end yet with the present stage 1, so no numbers. Without stage2.stage1 it refines the
winner-take-all flow under a 5x5 median.
"""

from configs.diffmatch_jax import bsds


def get_config():
    config = bsds.get_config()
    config.task = "stage2"

    config.model.channels = 16
    config.model.multipliers = (1, 2)
    config.model.attention = ()
    config.variable.scale = 0.02
    config.variable.skip = False
    config.objective.scale = 0.01

    config.stage2.size = 32
    config.stage2.noise = 0.01

    config.train.steps = 240
    config.train.batch_size = 4
    config.sampler.hypotheses = 2
    return config
