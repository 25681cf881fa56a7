"""Stage 1 as in bsds.py, in a size for an accelerator: 64x64 cells, a wider and deeper network, bfloat16.

    python -m diffmatch_jax train    --config configs/diffmatch_jax/accelerator.py --workdir runs/large
    python -m diffmatch_jax evaluate --workdir runs/large

PREPARED, NOT RUN YET: there are no numbers of it, neither of its speed nor of its accuracy.
Data: as bsds.py. Network: U-Net with 64, 128, 192 and 256 channels on 64x64 cells, 23.1 million parameters.
Hardware: meant for one H100. Expected time, an estimate: a step of 32 pairs is 4.8 TFLOP (counted: products and
convolutions of 151 GFLOP a pair), 16 ms at 30 % of the 989 TFLOP/s of bfloat16; 25,000 steps take 7 minutes, and ten
with compilation and evaluation. Where it is slower, --config.train.steps=N shortens the whole schedule.
"""

from configs.diffmatch_jax import bsds


def get_config():
    config = bsds.get_config()
    config.compute_dtype = "bfloat16"

    config.features.fine = 512
    config.features.compute_dtype = "bfloat16"
    config.process.noise_correlation = 6.0  # as large in the pairs as in bsds.py; not measured at this size
    config.sampler.confidence = 8.0  # pixels of 512, as 4 of 256

    config.model.channels = 64
    config.model.multipliers = (1, 2, 3, 4)
    config.model.num_blocks = 2
    config.model.attention = (2, 3)

    config.train.steps = 25_000
    config.train.batch_size = 32
    config.train.log_every = 250
    config.optimizer.learning_rate = 3e-4
    config.ema.decay = 0.999
    config.checkpoint.every = 5000
    return config
