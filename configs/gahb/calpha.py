"""A blind denoiser of geometric C^alpha images: two regular backgrounds that meet along a regular contour.

    python -m gahb train    --config configs/gahb/calpha.py --workdir runs/calpha
    python -m gahb evaluate --workdir runs/calpha
    python -m gahb generate --config configs/gahb/calpha.py --workdir runs/calpha-set --config.synthetic.num_train=500

Data: 40x40 images with alpha = 2 for contour and backgrounds, made inside the training step; nothing to download.
Other classes: --config.synthetic.alpha=4, and synthetic.beta for backgrounds of another regularity.
Network: UNet with 32 kernels and 2 blocks. Hardware: any; the length is meant for a short run on two CPU cores.
What to expect: the PSNR after denoising grows with that before it, at a slope that `python -m gahb classes` compares
with the nominal alpha / (alpha + 1) and with the error of an oracle that knows the contour, in
gahb/reference/gaussian.py.
"""

from configs.gahb.base import base


def get_config():
    config = base()

    config.model.num_kernels = 32
    config.model.num_blocks = 2

    config.data.source = "calpha"
    config.data.size = 40
    config.data.fit = "none"
    config.data.flip = False
    config.synthetic.alpha = 2.0

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
