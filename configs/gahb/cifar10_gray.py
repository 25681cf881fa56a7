"""A blind denoiser of CIFAR-10 in gray, 32x32, from a prepared TFDS directory.

    python -m gahb train    --config configs/gahb/cifar10_gray.py --workdir runs/cifar10
    python -m gahb evaluate --workdir runs/cifar10

Data: 50,000 training and 10,000 test images from `cifar10_jpeg/1.0.0` in $SCOREBRIDGE_DATA, data or ../shared/data.
These are re-encoded as JPEG, so numbers are not comparable with published ones; for the original, prepare TFDS's data
set and use --config.data.source=tfds:cifar10.
Network: UNet with 32 kernels and 2 blocks. Hardware: any; meant for two CPU cores, 370 CPU seconds of training.
Expected, seed 0, mean PSNR in dB over 256 test images at sigma = 10, 25, 50, 100 (of 255): 30.7, 26.0, 23.0, 20.2; the
stationary Wiener filter in the DCT domain, which knows sigma: 30.6, 25.4, 22.2, 19.6.
"""

from configs.base import prepared
from configs.gahb.base import base


def get_config():
    config = base()

    config.model.num_kernels = 32
    config.model.num_blocks = 2

    config.data.source = prepared("cifar10_jpeg/1.0.0")
    config.data.size = 32
    config.data.fit = "none"

    config.train.steps = 3000
    config.train.batch_size = 16
    config.train.preview_every = 1000
    config.optimizer.learning_rate = 3e-3
    config.optimizer.b2 = 0.95
    config.optimizer.clip_norm = 20.0
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "2 percent"
    config.noise.freeze_after = 0.6
    config.checkpoint.every = 500

    config.evaluate.panel_images = 4

    config.sampler.sigma_L = 0.08
    return config
