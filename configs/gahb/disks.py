"""A blind denoiser of disks, a class of images with five parameters: centre, radius and two grays.

    python -m gahb train    --config configs/gahb/disks.py --workdir runs/disks
    python -m gahb evaluate --workdir runs/disks
    python -m gahb generate --config configs/gahb/disks.py --workdir runs/disks-set --config.synthetic.num_train=500

Data: 40x40 anti-aliased disks (gahb/datasets/manifolds.py), made inside the training step; nothing to download.
Network: UNet with 32 kernels and 2 blocks. Hardware: any; the length is meant for a short run on two CPU cores.
What to expect: at small noise the best denoiser projects on the five directions in which a disk can change, and its
squared error, summed over the pixels, is 5 sigma^2 (`gahb.metrics.manifold_psnr`). Networks stay above it.
"""

from configs.gahb.base import base


def get_config():
    config = base()

    config.model.num_kernels = 32
    config.model.num_blocks = 2

    config.data.source = "disks"
    config.data.size = 40
    config.data.fit = "none"
    config.data.flip = False

    config.train.steps = 2000
    config.train.batch_size = 16
    config.train.preview_every = 500
    config.optimizer.learning_rate = 3e-3
    config.optimizer.b2 = 0.95
    config.optimizer.clip_norm = 20.0
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "5 percent"
    config.noise.freeze_after = 0.6
    config.checkpoint.every = 500

    config.evaluate.curve_db = tuple(float(db) for db in range(34, -1, -2))  # noisy images, dB
    config.evaluate.panel_images = 4

    config.sampler.sigma_L = 0.08
    return config
