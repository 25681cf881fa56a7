"""Denoisers of geometric C^alpha images (alpha = 1, 2, 3, 5) under weak noise, 32x32, gray: the slopes of their PSNR.

    python -m gahb classes --config configs/gahb/calpha32.py --workdir runs/calpha32
    python -m gahb figures --workdir runs/calpha32

Each of its models is an ordinary run: `python -m gahb train --config configs/gahb/calpha32.py --workdir DIR` trains the
one of faces under the same noise alone, and with data.source and synthetic.alpha set one of another class.

Kadkhodaie, Guth, Simoncelli, Mallat, ICLR 2024, section 4.1, figures 4 and 16. As classes32.py, but trained with noise
up to 60/255 instead of 255/255: strong noise makes nearly all of the loss, and a short training under it never learns
to keep what weak noise leaves.
Network: UNet with 32 kernels and 2 blocks. Data: made in the training step; nothing to download.
Hardware: two CPU cores, about 12 CPU minutes.
Results: docs/gahb.md.
"""

from configs.gahb import classes32


def get_config():
    config = classes32.get_config()

    config.noise.sigma_max = 60 / 255

    config.classes.names = ("calpha-1", "calpha-2", "calpha-3", "calpha-5")
    config.classes.steps = (4000,)
    config.classes.sigmas = (0.2,)
    return config
