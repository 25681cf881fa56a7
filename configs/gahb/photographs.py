"""A small blind denoiser of gray photographs, on images that come with scikit-image: nothing to download.

    python -m gahb train    --config configs/gahb/photographs.py --workdir runs/photographs
    python -m gahb evaluate --workdir runs/photographs
    python -m gahb sample   --workdir runs/photographs
    python -m gahb figures  --workdir runs/photographs

Data: random 32x32 crops of nine photographs; three other photographs are held out (common/data/pipeline.py).
Network: UNet with 16 kernels and 2 blocks. Hardware: any; meant for two CPU cores, where training takes about 90 s.
Expected, seed 0, mean PSNR in dB over 256 held-out crops at sigma = 10, 25, 50, 100 (of 255): 32.2, 29.6, 27.5, 24.9;
the stationary Wiener filter in the DCT domain, which knows sigma: 31.5, 27.6, 25.3, 23.5. By the mean squared error
over all crops the gains are -1.57, +0.62, +1.18, +1.04 dB: a short run learns little about weak noise.
Strong noise is the hard part of a short run: many small steps at a high learning rate, a short memory of squared
gradients (b2), a clipped norm, and frozen running deviations for the last part (noise.freeze_after) are what it takes.
"""

from configs.gahb.base import base


def get_config():
    config = base()

    config.model.num_kernels = 16
    config.model.num_blocks = 2

    config.data.source = "photographs"
    config.data.size = 32

    config.train.steps = 5000
    config.train.batch_size = 8
    config.train.log_every = 100
    config.train.preview_every = 1000
    config.optimizer.learning_rate = 6e-3
    config.optimizer.b2 = 0.95
    config.optimizer.clip_norm = 20.0
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "2 percent"
    config.noise.freeze_after = 0.6
    config.checkpoint.every = 500

    config.evaluate.panel_size = 192

    config.sampler.sigma_L = 0.08
    return config
