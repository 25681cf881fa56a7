"""The blind denoiser of gray photographs that comes with the package, `gahb.load_denoiser("photographs")`.

    python -m gahb train    --config configs/gahb/photographs64.py --workdir runs/photographs64
    python -m gahb evaluate --workdir runs/photographs64
    python -m gahb restore  --workdir runs/photographs64 --config.evaluate.restore.size=64
    python -m gahb export   --workdir runs/photographs64 --weights gahb/weights/photographs.npz

Data: random 64x64 crops of a folder of photographs with `train` and `test` in it, here `photographs1000` (899 and 50,
at most 400 pixels a side) in $SCOREBRIDGE_DATA, data or ../shared/data; --config.data.source=folder:DIR names yours.
Network: UNet with 32 kernels and 3 blocks, 1,915,776 parameters. Hardware: any; 1,650 seconds of one CPU core.
Expected, seed 0, mean PSNR in dB over 256 held-out crops at sigma = 10, 25, 50, 100 (of 255): 31.0, 27.9, 25.7, 23.3;
the stationary Wiener filter in the DCT domain, which knows sigma: 30.2, 26.0, 23.8, 22.1.
"""

from configs.base import folder
from configs.gahb import bsds


def get_config():
    config = bsds.get_config()

    config.data.source = folder("photographs1000")

    config.train.steps = 4000
    config.train.log_every = 100
    config.train.preview_every = 2000
    config.checkpoint.every = 200

    config.evaluate.panel_size = 128  # the smallest photographs have 143 pixels
    return config
