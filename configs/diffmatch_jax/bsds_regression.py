"""The regression twin of bsds.py: the same network, data, steps and conditions, in one evaluation without noise.

    python -m diffmatch_jax train    --config configs/diffmatch_jax/bsds_regression.py --workdir runs/regression
    python -m diffmatch_jax evaluate --workdir runs/regression

Data: as bsds.py. Network: as bsds.py. Hardware: any; two CPU cores take about 20 minutes.
Expected, seeds 0, 1, 2: 3.49, 4.63, 4.12 px and rank correlations of .68, .68, .70 on 64 held-out warps each; bsds.py
so 3.46, 4.59, 4.15 px and .68, .70, .69, their fit 3.67, 4.77, 4.30 px.
"""

from configs.diffmatch_jax import bsds


def get_config():
    config = bsds.get_config()
    config.objective.kind = "regression"
    return config
