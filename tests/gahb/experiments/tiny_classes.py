"""A comparison of classes small enough for a test (config.data.source is given)."""

from configs.gahb.base import base


def get_config():
    config = base()
    config.model.num_kernels = 2
    config.model.num_blocks = 1

    config.data.size = 16
    config.data.fit = "none"
    config.data.flip = False

    config.train.batch_size = 4
    config.train.log_every = 2
    config.checkpoint.every = 4

    config.evaluate.curve_db = (34.0, 30.0, 24.0, 20.0, 16.0, 10.0)
    config.evaluate.batch_size = 4

    config.classes.names = ("calpha-2", "disks", "shuffled")
    config.classes.steps = (4,)
    config.classes.sigmas = (0.1,)
    config.classes.num_images = 6
    config.classes.basis_images = 2
    config.classes.oracle_images = 3
    config.classes.top = 6
    config.classes.probes = 2
    config.classes.bootstrap = 20
    return config
