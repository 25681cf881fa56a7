"""AGM-ODE on AFHQv2 at 64x64 with the paper's network and recipe, flips included, which the authors' code leaves out.

    python -m phase_bridge train    --config configs/phase_bridge/afhqv2.py --workdir runs/afhqv2 \\
        --config.data.source=folder:DIR
    python -m phase_bridge sample   --workdir runs/afhqv2 --config.sampler.nfe=20
    python -m phase_bridge fidelity --workdir runs/afhqv2 --num 50000 --weights inception.pth --reference train

Chen et al., ICLR 2024: FID of 50,000 samples 3.72 with 20 evaluations (the authors' README).

Data: a folder of images, DIR (data/afhqv2 unless it is given), whose central squares are resized to 64x64.
Network: SongUNet (NCSN++), 62,765,699 parameters. Hardware: as for cifar10.py.
"""

from configs.phase_bridge import cifar10


def get_config():
    config = cifar10.get_config()

    config.model.multipliers = (1, 2, 2, 2)
    config.model.dropout = 0.25

    config.data.source = "folder:data/afhqv2"
    config.data.size = 64
    config.data.fit = "resize"
    return config
