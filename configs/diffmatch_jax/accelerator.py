"""bsds.py in a size for an accelerator: twice the cells, 23 times the parameters, bfloat16; prepared, never run.

    python -m diffmatch_jax train    --config configs/diffmatch_jax/accelerator.py --workdir runs/large
    python -m diffmatch_jax evaluate --workdir runs/large
"""

from configs.diffmatch_jax import bsds


def get_config():
    config = bsds.get_config()
    config.compute_dtype = "bfloat16"

    config.features.fine = 512
    config.features.coarse = 256
    config.features.compute_dtype = "bfloat16"
    config.variable.scale = 8 / 512  # a cell
    config.sampler.confidence = 16.0  # pixels of 512, as 8 of 256

    config.model.channels = 64
    config.model.multipliers = (1, 2, 3, 4)
    config.model.num_blocks = 2
    config.model.attention = (2, 3)

    config.train.steps = 10_000
    config.train.batch_size = 32
    config.train.log_every = 100
    config.optimizer.learning_rate = 3e-4
    config.ema.decay = 0.999
    config.checkpoint.every = 1000
    return config
