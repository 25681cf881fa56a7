"""When denoisers generalise, with the paper's network: pairs of models on disjoint sets of N faces, 80x80, gray.

    python -m gahb study   --config configs/gahb/study_faces80.py --workdir runs/study_faces80
    python -m gahb figures --workdir runs/study_faces80

Each of its models is an ordinary run: `python -m gahb train --config configs/gahb/study_faces80.py --workdir DIR` with
data.half, data.subset and train.steps set trains one alone.

Data: `faces_gray80/1.0.0` in $SCOREBRIDGE_DATA, data or ../shared/data (3,520 training and 342 test faces, one of each
person). Network: UNet with 64 kernels and 3 blocks, 7,659,264 parameters. Hardware: an accelerator; a step of 32 images
is about 0.6 TFLOP, and the whole is 26,000 steps (a count, not a measured time). The command may be stopped and given
again at any time.
"""

from configs.base import prepared
from configs.gahb.base import base


def get_config():
    config = base()

    config.data.source = prepared("faces_gray80/1.0.0")
    config.data.size = 80
    config.data.fit = "none"
    config.data.flip = False

    config.train.steps = 3000
    config.train.batch_size = 32
    config.train.log_every = 200
    config.optimizer.learning_rate = 3e-3
    config.optimizer.b2 = 0.95
    config.optimizer.clip_norm = 100.0
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "2 percent"
    config.noise.freeze_after = 0.6
    config.checkpoint.every = 1000
    config.checkpoint.keep = 2

    config.evaluate.batch_size = 64
    config.sampler.num = 64
    config.sampler.sigma_L = 0.05

    config.study.sizes = (1, 10, 100, 1000, 1760)
    config.study.steps = (1000, 3000, 3000, 3000, 3000)
    config.study.num_images = 128
    config.study.patch = 20
    return config
