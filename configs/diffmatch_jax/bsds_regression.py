"""The regression twin of bsds.py: the same network, data, steps and conditions, in one evaluation without noise.

    python -m diffmatch_jax train    --config configs/diffmatch_jax/bsds_regression.py --workdir runs/regression
    python -m diffmatch_jax evaluate --workdir runs/regression

Data: as bsds.py. Network: as bsds.py. Hardware: any; meant for two CPU cores. Only run with train.steps=200, which
takes 5 minutes: 3.656 px and a rank correlation of .52, bsds.py so 3.658 px and .51, their fit 3.666 px.
"""

from configs.diffmatch_jax import bsds


def get_config():
    config = bsds.get_config()
    config.objective.kind = "regression"
    return config
