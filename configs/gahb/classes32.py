"""Denoisers of classes with a known optimum, on a small scale: 32x32, gray.

    python -m gahb classes --config configs/gahb/classes32.py --workdir runs/classes32
    python -m gahb figures --workdir runs/classes32

Each of its models is an ordinary run: `python -m gahb train --config configs/gahb/classes32.py --workdir DIR` trains
the one of faces alone, and with data.source and synthetic.alpha set one of another class.

Kadkhodaie, Guth, Simoncelli, Mallat, ICLR 2024, sections 4.1 and 4.2, figures 4, 5, 16, 19, 20 and 21: geometric
C^alpha images (alpha = 1, 2, 3, 5), disks, sinusoids, multiples of one face, faces, and faces with shuffled pixels.

Data: made in the training step, or `faces_gray80/1.0.0` in $SCOREBRIDGE_DATA, data or ../shared/data, resized to 32x32.
Network: UNet with 32 kernels and 2 blocks. Training: the recipe of photographs.py.
Hardware: two CPU cores, about 35 CPU minutes in all. The command may be stopped and given again at any time.
Results: docs/gahb.md. The short training limits the slopes at small noise.
"""

from configs.base import prepared
from configs.gahb.base import base


def get_config():
    config = base()

    config.model.num_kernels = 32
    config.model.num_blocks = 2

    config.data.source = prepared("faces_gray80/1.0.0")
    config.data.size = 32
    config.data.fit = "resize"
    config.data.flip = False

    config.train.steps = 4000
    config.train.batch_size = 8
    config.train.log_every = 200
    config.optimizer.learning_rate = 6e-3
    config.optimizer.b2 = 0.95
    config.optimizer.clip_norm = 20.0
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "2 percent"
    config.noise.freeze_after = 0.6
    config.checkpoint.every = 1000
    config.checkpoint.keep = 1

    config.evaluate.curve_db = tuple(float(db) for db in range(36, -1, -2))  # noisy images, dB
    config.classes.steps = (4000, 4000, 4000, 4000, 4000, 1500, 1500, 4000, 4000)
    return config
