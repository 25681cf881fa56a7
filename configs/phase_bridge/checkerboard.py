"""Eight squares of a board, which have corners and edges, learned with the improved recipe on fresh points.

    python -m phase_bridge train    --config configs/phase_bridge/checkerboard.py --workdir runs/checkerboard
    python -m phase_bridge evaluate --workdir runs/checkerboard
    python -m phase_bridge compare  --config configs/phase_bridge/checkerboard.py --workdir runs/checkerboard-compare

Data: fresh points in every step (phase_bridge/toy.py); nothing to download.
Network: residual perceptron, 7 layers of 128. Hardware: any; about 10 ms of one CPU core a step.
The published recipe: add --config.objective.name=force --config.model.time=log.
"""

from configs.phase_bridge import spiral


def get_config():
    config = spiral.get_config()
    config.data.source = "toy:checkerboard"
    config.objective.sigma_data = 0.866
    return config
