"""The regression twin of bsds.py: the same network, data, steps and conditions, in one evaluation without noise.

    python -m diffmatch_jax train    --config configs/diffmatch_jax/bsds_regression.py --workdir runs/regression
    python -m diffmatch_jax evaluate --workdir runs/regression

Data: as bsds.py. Network: as bsds.py. Hardware: any; meant for two CPU cores. Only run with train.steps=300, which
takes 6 minutes: seeds 0, 1, 2 give 4.52, 5.59, 5.60 px and rank correlations of .58, .60, .62, bsds.py so 4.53, 5.58,
5.60 and .56, .59, .64; their fits 4.67, 5.75, 5.72.
"""

from configs.diffmatch_jax import bsds


def get_config():
    config = bsds.get_config()
    config.objective.kind = "regression"
    return config
