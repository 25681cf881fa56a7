"""The paper's second set of photographs: gray 80x80 images from a folder, such as LSUN bedrooms.

    python -m gahb train --config configs/gahb/lsun_folder.py --workdir runs/bedrooms/1 \\
        --config.data.source=folder:DIR
    python -m gahb train --config configs/gahb/lsun_folder.py --workdir runs/bedrooms/2 \\
        --config.data.source=folder:DIR --config.data.half=2

Kadkhodaie, Guth, Simoncelli, Mallat, ICLR 2024, figures 9 and 10. Of each image the largest central square is resized
to 80x80 (the authors keep the upper left 256x256 pixels) and its colours are averaged; near-duplicates are dropped.

Data: a folder of images, DIR (data/bedrooms unless it is given), with train and test below it or a tenth held out.
Network: UNet with 64 kernels and 3 blocks, 7,659,264 parameters. Hardware: one large accelerator or several, as for
celeba80.py.
"""

from configs.gahb.base import base


def get_config():
    config = base()

    config.data.source = "folder:data/bedrooms"
    config.data.size = 80
    config.data.fit = "resize"
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
