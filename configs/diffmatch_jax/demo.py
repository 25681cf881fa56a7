"""The experiment of `python -m diffmatch_jax demo`: matching of warped photographs, images that come with scikit-image.

    python -m diffmatch_jax train    --config configs/diffmatch_jax/demo.py --workdir runs/demo-matcher
    python -m diffmatch_jax evaluate --workdir runs/demo-matcher

Data: pairs warped from four colour photographs; two others are held out (common/data/pipeline.py).
Network: U-Net with 24 and 48 channels on 32x32 cells, on the embedded features. Hardware: any; two CPU cores
take 60 s. Expected, seed 0: mean end-point error 3.31 px on 8 held-out warps, winner-take-all 6.21, its fit 3.24.
"""

from configs.diffmatch_jax.base import base


def get_config():
    config = base()

    config.data.source = "photographs"
    config.data.size = 512

    config.conditioning.fit = 4.0
    config.conditioning.refine = 2
    config.conditioning.wide = 4
    config.conditioning.score = True
    config.process.predict_variance = True
    config.process.noise_correlation = 3.0
    config.objective.draws = 2

    config.model.multipliers = (1, 2)
    config.model.attention = ()

    config.train.steps = 30
    config.train.batch_size = 4
    config.train.log_every = 10
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup = 10
    config.ema.decay = 0.98
    config.checkpoint.every = 60

    config.sampler.estimate = "first"
    config.sampler.confidence = 4.0
    config.evaluate.num = 8
    config.evaluate.batch_size = 1  # one compiled program serves `match` too
    return config
