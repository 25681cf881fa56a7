"""The embedded pyramid, trained without labels by matching warped photographs of the Berkeley segmentation data set.

    python -m diffmatch_jax train    --config configs/diffmatch_jax/backbone.py --workdir runs/backbone
    python -m diffmatch_jax evaluate --workdir runs/backbone
    python -m diffmatch_jax export   --workdir runs/backbone --output diffmatch_jax/weights/backbone.npz

Data: 200 training and 200 test images (321x481, official splits) from `bsds500_images/1.0.0` in $SCOREBRIDGE_DATA, data
or ../shared/data; pairs of 128x128 are warped anew in every step, four in five of their pictures change in colour,
contrast, sharpness and noise. Objective: diffmatch_jax/training/pretraining.py at strides 4, 8 and 16.
Network: VGG-16 up to its fourth pool at a quarter of the width, 478,032 weights; `export` writes their average over
steps in half precision, 0.85 MiB. Those that come with the package are this run's.
Hardware: any; two CPU cores shared with other work took 25 minutes, 800 CPU seconds, about 1 s a step.
Expected, seed 0: mean end-point error in pixels of the best match of every 8x8 cell, 128 warps of 256x256 of the test
images, with clean pictures, noise of deviation 0.38 and 0.05 of the contrast: 10.1, 12.9, 10.4; the same pyramid with
random weights 28.3, 37.8, 29.7; plain 8x8 patches 46.0, 73.3, 83.8. After 300 of the steps 10.6, 13.6, 10.9.
On 128 warps of the 100 validation images: 9.6, 12.4, 9.8; random weights 27.1, 35.1, 27.5; no flow at all 35.4.
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
