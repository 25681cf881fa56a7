"""A blind denoiser of 80x80 gray faces, from a prepared TFDS directory: the paper's network on a small data set.

    python -m gahb train    --config configs/gahb/faces80.py --workdir runs/faces80
    python -m gahb evaluate --workdir runs/faces80

Data: `faces_gray80/1.0.0` in $SCOREBRIDGE_DATA, data or ../shared/data: 3,520 training and 342 test faces, one of each
person. Network: UNet with 64 kernels and 3 blocks, 7,659,264 parameters. Hardware: an accelerator; a step of 32 images
is about 0.6 TFLOP. Two CPU cores take more than a second for eight images.
"""

from configs.base import prepared
from configs.gahb.base import base


def get_config():
    config = base()

    config.data.source = prepared("faces_gray80/1.0.0")
    config.data.size = 80
    config.data.fit = "none"

    config.train.steps = 4000
    config.train.batch_size = 32
    config.train.preview_every = 1000
    config.optimizer.learning_rate = 3e-3
    config.optimizer.b2 = 0.95
    config.optimizer.clip_norm = 100.0
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "2 percent"
    config.noise.freeze_after = 0.6
    config.checkpoint.every = 1000

    config.sampler.sigma_L = 0.08
    return config
