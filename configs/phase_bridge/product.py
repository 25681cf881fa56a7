"""Eight dimensions of known density: a rotated product of mixtures of two Gaussians, 256 modes of unequal weight.

    python -m phase_bridge train    --config configs/phase_bridge/product.py --workdir runs/product
    python -m phase_bridge evaluate --workdir runs/product
    python -m phase_bridge compare  --config configs/phase_bridge/product.py --workdir runs/product-compare

Data: fresh points in every step (phase_bridge/toy.py); nothing to download.
Network: residual perceptron, 7 layers of 128. Hardware: any; about 10 ms of one CPU core a step.
"""

from configs.phase_bridge import spiral


def get_config():
    config = spiral.get_config()
    config.data.source = "toy:product"
    config.data.channels = 8
    config.objective.sigma_data = 0.6022
    return config
