"""CIFAR-10 by class as one small denoiser for every path, on cells of 2x2 pixels.

    python -m phase_bridge train    --config configs/phase_bridge/cifar10_small.py --workdir runs/cifar10-small
    python -m phase_bridge sample   --workdir runs/cifar10-small --config.sampler.label=3
    python -m phase_bridge evaluate --workdir runs/cifar10-small
    python -m phase_bridge figures  --workdir runs/cifar10-small

Without `sampler.label` all ten classes are equally likely; the classes of the samples are written beside them. One
example in ten is trained without its class, for classifier-free guidance.

Data: 50,000 images from `cifar10_jpeg/1.0.0` in $SCOREBRIDGE_DATA, data or ../shared/data, with their classes.
Network: SongUNet (DDPM++) with 56 channels on 16x16 cells, 3.9 million parameters.
Hardware: any; 16,000 steps of 32 images (512,000 images) are several hours of one CPU core.
"""

from configs.base import prepared
from configs.phase_bridge import faces32


def get_config():
    config = faces32.get_config()

    config.model.channels = 56
    config.model.num_classes = 10

    config.data.source = prepared("cifar10_jpeg/1.0.0")
    config.data.channels = 3
    config.data.fit = "none"
    config.data.labels = True

    config.objective.label_dropout = 0.1

    config.train.steps = 16_000
    config.train.log_every = 50
    config.ema.decay = 0.999

    config.evaluate.num = 2048
    config.evaluate.batch_size = 256
    config.sampler.num = 100
    config.sampler.batch_size = 50
    return config
