"""A blind denoiser of natural images in gray: random 64x64 crops of the Berkeley segmentation data set.

    python -m gahb train    --config configs/gahb/bsds.py --workdir runs/bsds
    python -m gahb evaluate --workdir runs/bsds

Data: 200 training and 200 test images (321x481, official splits) from `bsds500_images/1.0.0` in $SCOREBRIDGE_DATA, data
or ../shared/data. Network: UNet with 32 kernels and 3 blocks. Hardware: any; meant for two CPU cores, 530 CPU seconds
of training. Expected, seed 0, mean PSNR in dB over 256 crops of the test images at sigma = 10, 25, 50, 100 (of 255):
29.4, 26.8, 24.7, 22.6; the stationary Wiener filter in the DCT domain, which knows sigma: 30.7, 26.2, 23.9, 22.1. So
short a run has not learned weak noise yet.
"""

from configs.base import prepared
from configs.gahb.base import base


def get_config():
    config = base()

    config.model.num_kernels = 32
    config.model.num_blocks = 3

    config.data.source = prepared("bsds500_images/1.0.0")
    config.data.size = 64

    config.train.steps = 1500
    config.train.batch_size = 8
    config.train.preview_every = 500
    config.optimizer.learning_rate = 3e-3
    config.optimizer.b2 = 0.95
    config.optimizer.clip_norm = 50.0
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "2 percent"
    config.noise.freeze_after = 0.6
    config.checkpoint.every = 500

    config.evaluate.panel_size = 256

    config.sampler.num = 9
    config.sampler.sigma_L = 0.08
    return config
