"""The blind denoiser of gray photographs that comes with the package, `gahb.load_denoiser("photographs")`.

    python -m gahb train    --config configs/gahb/photographs64.py --workdir runs/photographs64
    python -m gahb evaluate --workdir runs/photographs64
    python -m gahb restore  --workdir runs/photographs64 --config.evaluate.restore.size=64
    python -m gahb export   --workdir runs/photographs64 --weights gahb/weights/photographs.npz

Data: random 64x64 crops of a folder of photographs with `train` and `test` in it, here `photographs1000` (899 and 50,
at most 400 pixels a side) in $SCOREBRIDGE_DATA, data or ../shared/data; --config.data.source=folder:DIR names yours.
Network: UNet with 32 kernels and 3 blocks, 1,915,776 parameters. Hardware: any; meant for two CPU cores.
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
