"""The regression twin of accelerator.py: the same network, data, steps and conditions, in one evaluation without noise.

    python -m diffmatch_jax train    --config configs/diffmatch_jax/accelerator_regression.py --workdir runs/large-twin
    python -m diffmatch_jax evaluate --workdir runs/large-twin
    python -m diffmatch_jax benchmark --workdir runs/large-table --data warps:prepared:data/bsds500_images/1.0.0 \
        --methods large=run:runs/large,refined=run:runs/large2,twin=run:runs/large-twin,wta --corruptions all

PREPARED, NOT RUN YET: there are no numbers of it, neither of its speed nor of its accuracy.
Data: as bsds.py. Network: as accelerator.py, 23.1 million parameters. Hardware: meant for one H100. Expected time, an
estimate: a step of 32 pairs is 3.3 TFLOP (counted: 103 GFLOP a pair, seen once where accelerator.py sees it twice), 11
ms at 30 % of the 989 TFLOP/s of bfloat16; 25,000 steps take 5 minutes. The last command compares the two, and stage 2
after the one, under every corruption.
"""

from configs.diffmatch_jax import accelerator


def get_config():
    config = accelerator.get_config()
    config.objective.kind = "regression"
    return config
