"""When denoisers generalise, with the paper's network: pairs of models on disjoint sets of N gray CIFAR-10 images.

    python -m gahb study   --config configs/gahb/study_cifar10.py --workdir runs/study_cifar10
    python -m gahb figures --workdir runs/study_cifar10

Each of its models is an ordinary run: `python -m gahb train --config configs/gahb/study_cifar10.py --workdir DIR` with
data.half, data.subset and train.steps set trains one alone.

Data: `cifar10_jpeg/1.0.0` in $SCOREBRIDGE_DATA, data or ../shared/data (50,000 training and 10,000 test images), gray.
They are re-encoded as JPEG, so numbers are not comparable with published ones. Network: UNet with 64 kernels and 3
blocks, 7,659,264 parameters. Hardware: an accelerator; a step of 128 images is about 0.4 TFLOP,
and the whole is 44,000 steps (a count, not a measured time). The command may be stopped and given again at any time.
"""

from configs.base import prepared
from configs.gahb.base import base


def get_config():
    config = base()

    config.data.source = prepared("cifar10_jpeg/1.0.0")
    config.data.size = 32
    config.data.fit = "none"
    config.data.flip = False

    config.train.steps = 5000
    config.train.batch_size = 128
    config.train.log_every = 200
    config.optimizer.learning_rate = 3e-3
    config.optimizer.b2 = 0.95
    config.optimizer.clip_norm = 50.0
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "2 percent"
    config.noise.freeze_after = 0.6
    config.checkpoint.every = 1000
    config.checkpoint.keep = 2

    config.evaluate.batch_size = 256
    config.sampler.num = 64
    config.sampler.sigma_L = 0.05

    config.study.sizes = (10, 100, 1000, 10_000, 25_000)
    config.study.steps = (2000, 5000, 5000, 5000, 5000)
    config.study.patch = 8
    return config
