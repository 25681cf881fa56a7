"""Five spirals in the plane, learned as a denoiser: what a bridge does, in a minute on two CPU cores.

    python -m phase_bridge train    --config configs/phase_bridge/spiral.py --workdir runs/spiral
    python -m phase_bridge evaluate --workdir runs/spiral
    python -m phase_bridge sample   --workdir runs/spiral
    python -m phase_bridge figures  --workdir runs/spiral
    python -m phase_bridge compare  --config configs/phase_bridge/spiral.py --workdir runs/spiral-compare

Data: fresh points in every step (phase_bridge/toy.py); nothing to download.
Network: residual perceptron, 7 layers of 128. Hardware: any; about 10 ms of one CPU core a step.
The published recipe: spiral_released.py, or add --config.objective.name=force --config.model.time=log.
"""

from configs.phase_bridge.base import base


def get_config():
    config = base()

    config.model.network = "mlp"
    config.model.depth = 6
    config.model.time = "raw"

    config.data.source = "toy:spiral"
    config.data.channels = 2
    config.objective.sigma_data = 1.1253
    config.objective.name = "denoiser"

    config.train.steps = 4500
    config.train.batch_size = 1024
    config.train.log_every = 100
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup = 200
    config.optimizer.schedule = "cosine"
    config.optimizer.clip_norm = 1.0
    config.ema.decay = 0.999
    config.checkpoint.every = 1500

    config.sampler.solver = "data_multistep"
    config.sampler.degree = 1
    config.sampler.corrector = "on"
    config.sampler.num = 10000
    config.sampler.batch_size = 10000
    return config
