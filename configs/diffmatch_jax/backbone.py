"""The embedded pyramid, trained without labels by matching warped photographs of the Berkeley segmentation data set.

    python -m diffmatch_jax train    --config configs/diffmatch_jax/backbone.py --workdir runs/backbone
    python -m diffmatch_jax evaluate --workdir runs/backbone
    python -m diffmatch_jax export   --workdir runs/backbone --output diffmatch_jax/weights/backbone.npz

Data: 200 training and 200 test images (321x481, official splits) from `bsds500_images/1.0.0` in $SCOREBRIDGE_DATA, data
or ../shared/data.
Network: VGG-16 up to its fourth pool at a quarter of the width.
Hardware: any; meant for two CPU cores.
"""

from configs.base import prepared
from configs.diffmatch_jax.base import base


def get_config():
    config = base()
    config.task = "backbone"

    config.data.source = prepared("bsds500_images/1.0.0")
    config.data.size = 481

    config.pairs.photometric = 0.8

    config.train.steps = 700
    config.train.batch_size = 8
    config.train.log_every = 25
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "3 percent"
    config.optimizer.clip_norm = 1.0
    config.ema.decay = 0.98
    config.checkpoint.every = 100

    config.evaluate.num = 128
    return config
