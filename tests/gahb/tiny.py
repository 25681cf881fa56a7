"""A denoiser small enough to train in a test, with everything that keeps state switched on."""

from configs.gahb.base import base


def get_config():
    config = base()
    config.model.num_kernels = 4
    config.model.num_blocks = 1
    config.data.size = 16
    config.train.steps = 5
    config.train.batch_size = 8
    config.train.log_every = 1
    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 0.01
    config.optimizer.clip_norm = 50.0
    # Adam divides by the size of the gradient: a large eps keeps rounding errors of tiny gradients small.
    config.optimizer.eps = 1e-2
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = 2
    config.ema.decay = 0.9
    config.checkpoint.every = 2
    config.checkpoint.keep = 2
    return config
