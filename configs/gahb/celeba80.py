"""The paper's main experiment: one of two denoisers trained on disjoint halves of CelebA, 80x80, gray.

    python -m gahb train --config configs/gahb/celeba80.py --workdir runs/celeba80/1
    python -m gahb train --config configs/gahb/celeba80.py --workdir runs/celeba80/2 --config.data.half=2

Kadkhodaie, Guth, Simoncelli, Mallat, ICLR 2024, figures 1 to 3. data.subset = 1, 10, ... 10000 gives their smaller
training sets; a duration is counted in examples there, because they saw each set about equally often.

Data: TFDS `celeb_a`, prepared as array_record: the central 160x160 pixels resized to 80x80, near-duplicates removed,
one half of what remains (about 99,000 images). Network: UNet with 64 kernels and 3 blocks, 7,659,264 parameters.
Training: Adam, learning rate 1e-3 halved every 100 of 1000 epochs; an epoch of the authors' shows the half twice.
Hardware: one large accelerator or several; about 4e5 steps of 512 images.
"""

from configs.gahb.base import base


def get_config():
    config = base()

    config.data.source = "tfds:celeb_a"
    config.data.size = 80
    config.data.fit = "resize"
    config.data.square = 160
    config.data.flip = False
    config.data.drop_duplicates = True
    config.data.half = 1

    config.train.steps = "2000 epochs"
    config.train.batch_size = 512
    config.train.log_every = 100
    config.train.preview_every = 10_000
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "halving"
    config.optimizer.halve_every = "200 epochs"
    config.checkpoint.every = 5000

    config.sampler.sigma_L = 0.05
    return config
