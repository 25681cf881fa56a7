"""A generalisation study small enough for a test, on images made there (config.data.source is given)."""

from configs.gahb.base import base


def get_config():
    config = base()
    config.model.num_kernels = 4
    config.model.num_blocks = 1

    config.data.size = 12
    config.data.fit = "none"
    config.data.flip = False

    config.train.batch_size = 8
    config.train.log_every = 10
    config.optimizer.learning_rate = 1e-2
    config.optimizer.b2 = 0.95
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "6 percent"
    config.noise.freeze_after = 0.6
    config.checkpoint.every = 20

    config.evaluate.curve_db = (20.0, 10.0, 0.0)
    config.evaluate.batch_size = 4
    config.sampler.num = 5
    config.sampler.batch_size = 3
    config.sampler.sigma_L = 0.2
    config.sampler.max_steps = 60

    config.study.sizes = (1, 2)
    config.study.steps = (80,)
    config.study.control_steps = 0
    config.study.num_images = 6
    config.study.bootstrap = 50
    config.study.patch = 4
    config.study.trajectories = 2
    config.study.trajectory_every = 4
    config.study.checkpoint_samples = 3
    config.study.checkpoint_db = (10.0, 0.0)
    config.study.machine_images = 2
    config.study.machine_db = (14.0, 2.0)
    config.study.windows = (3, 5)
    config.study.probes = 4
    return config
