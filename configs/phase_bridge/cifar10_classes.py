"""CIFAR-10 by class with a small network: each image is made of a class that is asked for.

    python -m phase_bridge train    --config configs/phase_bridge/cifar10_classes.py --workdir runs/cifar10-classes
    python -m phase_bridge sample   --workdir runs/cifar10-classes --config.sampler.label=3
    python -m phase_bridge evaluate --workdir runs/cifar10-classes
    python -m phase_bridge figures  --workdir runs/cifar10-classes

Without `sampler.label` all ten classes are equally likely; the classes of the samples are written beside them.

Data: 50,000 images from `cifar10_jpeg/1.0.0` in $SCOREBRIDGE_DATA, data or ../shared/data, with their classes.
Network: SongUNet with 32 channels and one block a level. Hardware: any; two CPU cores take
about 0.6 s a step of 16 images. Expected, seed 0, after 600 steps of 16 with ema.decay=0.99: a loss of 0.45, from
0.85 at step 100; no objects yet (docs/phase_bridge.md). The 2,000 steps of 32 of this file have not been
run to their end.
"""

from configs.phase_bridge import cifar10_small


def get_config():
    config = cifar10_small.get_config()

    config.model.num_classes = 10
    config.data.labels = True
    config.sampler.num = 100
    config.sampler.batch_size = 50
    return config
