"""The experiment of `python -m phase_bridge demo`: the spiral, in a third of the steps of spiral.py.

    python -m phase_bridge train    --config configs/phase_bridge/demo.py --workdir runs/demo-spiral
    python -m phase_bridge compare  --config configs/phase_bridge/demo.py --workdir runs/demo-compare

Data: fresh points in every step (phase_bridge/toy.py); nothing to download.
Network: residual perceptron, 7 layers of 128. Hardware: any; meant for two CPU cores.
"""

from configs.phase_bridge import spiral


def get_config():
    config = spiral.get_config()

    config.train.steps = 1500
    config.optimizer.warmup = 100
    config.optimizer.learning_rate = 3e-3
    config.checkpoint.every = 500

    config.sampler.num = 4096
    config.sampler.batch_size = 4096
    config.evaluate.num = 5000
    config.compare.models = ("denoiser/agm-ode", "denoiser/edm", "denoiser/flow", "velocity/flow")
    config.compare.seeds = 1
    config.compare.nfe = (3, 5, 10, 20)
    config.compare.tune = False
    return config
