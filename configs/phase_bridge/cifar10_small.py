"""CIFAR-10 with a small network, as a denoiser: the whole path from images to samples on two CPU cores.

    python -m phase_bridge train    --config configs/phase_bridge/cifar10_small.py --workdir runs/cifar10-small
    python -m phase_bridge sample   --workdir runs/cifar10-small
    python -m phase_bridge figures  --workdir runs/cifar10-small

Data: 50,000 images from `cifar10_jpeg/1.0.0` in $SCOREBRIDGE_DATA, data or ../shared/data.
Network: SongUNet with 32 channels and one block a level. Hardware: any; too short a run for good pictures.
"""

from configs.phase_bridge import cifar10


def get_config():
    config = cifar10.get_config()

    config.model.channels = 32
    config.model.multipliers = (1, 2, 2)
    config.model.num_blocks = 1
    config.model.dropout = 0.0

    config.objective.name = "denoiser"
    config.objective.output = ""

    config.train.steps = 2000
    config.train.batch_size = 32
    config.train.preview_every = 500
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup = 100
    config.ema.decay = 0.999
    config.checkpoint.every = 500

    config.evaluate.num = 256
    config.sampler.num = 36
    return config
