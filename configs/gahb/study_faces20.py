"""When denoisers generalise, on a small scale: pairs of models on disjoint sets of N faces, 20x20, gray.

    python -m gahb study   --config configs/gahb/study_faces20.py --workdir runs/study_faces20
    python -m gahb figures --workdir runs/study_faces20

Each of its models is an ordinary run: `python -m gahb train --config configs/gahb/study_faces20.py --workdir DIR` with
data.half, data.subset and train.steps set trains one alone.

Kadkhodaie, Guth, Simoncelli, Mallat, ICLR 2024, figures 1, 2, 8, 15 and their patch origins, for N = 1 to 1,760.
Data: `faces_gray80/1.0.0` in $SCOREBRIDGE_DATA, data or ../shared/data (3,520 training and 342 test faces, one of each
person), resized to 20x20. Network: UNet with 32 kernels and one block.
Training: the recipe of photographs.py; small sets get as many steps as it takes to memorise them, so steps differ with
N. study_faces32.py trains equally for every N, and keeps the checkpoints that show memorisation over training time.
Hardware: two CPU cores, about 30 CPU minutes in all (37 minutes beside other work). The command may be stopped and
given again at any time.
Measured (seed 0; docs/gahb.md has all): the gap between training and held-out PSNR falls from 15 dB (N = 1) over 5 (10)
and 0.7 (100) to 0.1 (1000); the correlation of the two models' samples from one noise rises 0.07, 0.43, 0.89, 0.95,
beside 0.70 of the control, two models after 40 steps, which draw the same smooth blobs; of samples and their nearest
training image it falls from 1.00 to 0.71, below 0.75 of held-out faces.
"""

from configs.base import prepared
from configs.gahb.base import base


def get_config():
    config = base()

    config.model.num_kernels = 32
    config.model.num_blocks = 1

    config.data.source = prepared("faces_gray80/1.0.0")
    config.data.size = 20
    config.data.fit = "resize"
    config.data.flip = False

    config.train.steps = 8000
    config.train.batch_size = 8
    config.train.log_every = 200
    config.optimizer.learning_rate = 6e-3
    config.optimizer.b2 = 0.95
    config.optimizer.clip_norm = 20.0
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "2 percent"
    config.noise.freeze_after = 0.6
    config.checkpoint.every = 1000
    config.checkpoint.keep = 2

    config.sampler.num = 64
    config.sampler.sigma_L = 0.08

    config.study.sizes = (1, 10, 100, 1000, 1760)
    config.study.steps = (3000, 15_000, 25_000, 10_000, 10_000)
    config.study.control_steps = 40
    config.study.num_images = 128
    config.study.patch = 5
    config.study.trajectories = 3
    return config
