"""The regression twin of bsds.py: the same network, data, steps and conditions, in one evaluation without noise.

    python -m diffmatch_jax train    --config configs/diffmatch_jax/bsds_regression.py --workdir runs/regression
    python -m diffmatch_jax evaluate --workdir runs/regression

Data: as bsds.py. Network: as bsds.py. Hardware: any; meant for two CPU cores. Not run
to its end yet, so no numbers.
"""

from configs.diffmatch_jax import bsds


def get_config():
    config = bsds.get_config()
    config.objective.kind = "regression"
    return config
