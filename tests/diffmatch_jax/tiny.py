"""A matcher small enough to train in a test, with everything that keeps state switched on."""

from configs.diffmatch_jax.base import base


def get_config():
    config = base()
    config.data.source = "photographs"
    config.data.size = 48
    config.features.pyramid = "random"
    config.features.fine = 32
    config.conditioning.fit = 2.0
    config.model.channels = 8
    config.model.multipliers = (1,)
    config.model.attention = ()
    config.model.heads = 1
    config.process.steps = 2
    config.process.predict_variance = True
    config.objective.draws = 2
    config.pairs.size = 32
    config.pairs.photometric = 0.0
    config.pairs.shares = (0, 1, 0)  # affine maps alone: other warps keep no state either, and take long to compile
    config.stage2.size = 8
    config.train.steps = 5
    config.train.batch_size = 2
    config.train.log_every = 2
    # Adam divides by the size of the gradient: a large eps keeps rounding errors of tiny gradients small.
    config.optimizer.eps = 1e-2
    config.optimizer.warmup = 2
    config.ema.decay = 0.9
    config.checkpoint.every = 3  # not a multiple of the logging interval: a window is open at every save
    config.checkpoint.keep = 9
    config.sampler.hypotheses = 2
    config.sampler.num = 3
    config.evaluate.num = 2
    config.evaluate.batch_size = 2
    return config
