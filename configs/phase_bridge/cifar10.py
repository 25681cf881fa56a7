"""AGM-ODE on CIFAR-10 with the paper's network and recipe.

    python -m phase_bridge train    --config configs/phase_bridge/cifar10.py --workdir runs/cifar10
    python -m phase_bridge sample   --workdir runs/cifar10 --config.sampler.nfe=10
    python -m phase_bridge fidelity --workdir runs/cifar10 --num 50000 --weights inception.pth --reference train

Chen et al., ICLR 2024: FID of 50,000 samples 11.88, 4.54 and 2.58 with 5, 10 and 20 evaluations (the authors' README).

Data: 50,000 images from `cifar10_jpeg/1.0.0` in $SCOREBRIDGE_DATA, data or ../shared/data, which are re-encoded as
JPEG; for the original, prepare TFDS's data set and use --config.data.source=tfds:cifar10.
Network: SongUNet (NCSN++), 56,405,891 parameters. Hardware: 600,000 steps of 512 images need several large
accelerators for days; `cifar10_small.py` runs anywhere.
"""

from configs.base import prepared
from configs.phase_bridge.base import base


def get_config():
    config = base()

    config.model.dropout = 0.13

    config.data.source = prepared("cifar10_jpeg/1.0.0")
    config.data.size = 32
    config.data.flip = True

    config.objective.output = "preconditioned"

    config.train.steps = 600_000
    config.train.batch_size = 512
    config.train.log_every = 100
    config.train.preview_every = 5000
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup = 1999
    config.optimizer.clip_norm = 1.0
    config.checkpoint.every = 10_000

    config.evaluate.num = 2048
    config.evaluate.batch_size = 256
    config.evaluate.repeats = 2
    return config
