"""The published toy experiment: five spirals, the released recipe, 20 layers of 128, 5,000 points.

    python -m phase_bridge train    --config configs/phase_bridge/spiral_released.py --workdir runs/spiral-released
    python -m phase_bridge evaluate --workdir runs/spiral-released
    python -m phase_bridge sample   --workdir runs/spiral-released

AGM-SDE; for AGM-ODE add --config.objective.kind=ode --config.sampler.solver=euler.
Fresh points instead of 5,000: --config.data.points=0.

Data: points made here (phase_bridge/toy.py); nothing to download.
Network: residual perceptron, 333,828 parameters. Hardware: any accelerator; 40,001 steps of 2,048 points take hours on
two CPU cores.
"""

from configs.phase_bridge.base import base


def get_config():
    config = base()

    config.model.network = "mlp"
    config.data.source = "toy:spiral"
    config.data.points = 5000
    config.data.channels = 2
    config.objective.kind = "sde"
    config.objective.sigma_data = 1.1253

    config.train.steps = 40_001
    config.train.batch_size = 2048
    config.train.log_every = "1 percent"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup = 1999
    config.checkpoint.every = "10 percent"

    config.sampler.nfe = 200
    config.sampler.solver = "euler_maruyama"
    config.sampler.schedule = "uniform"
    config.sampler.last = 0.999
    config.sampler.num = 10000
    config.sampler.batch_size = 10000
    return config
