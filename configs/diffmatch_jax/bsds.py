"""Stage 1 of the matcher, on warps of the Berkeley segmentation data set and the embedded features.

    python -m diffmatch_jax train    --config configs/diffmatch_jax/bsds.py --workdir runs/matcher
    python -m diffmatch_jax evaluate --workdir runs/matcher

Data: 200 training and 200 test images (321x481, official splits) from `bsds500_images/1.0.0` in $SCOREBRIDGE_DATA, data
or ../shared/data.
Network: U-Net with 24, 48 and 72 channels on 32x32 cells.
Hardware: any; two CPU cores take about 25 minutes.
Expected, seed 0: mean end-point error 3.46 px on 64 held-out warps, winner-take-all 8.49, its robust fit 3.67; rank
correlation of spread and error .68. The weights in the package are this run's (`export --output
diffmatch_jax/weights/stage1.npz`).
"""

from configs.base import prepared
from configs.diffmatch_jax.base import base


def get_config():
    config = base()

    config.data.source = prepared("bsds500_images/1.0.0")
    config.data.size = 481

    config.conditioning.fit = 4.0
    config.conditioning.refine = 2
    config.conditioning.wide = 4
    config.conditioning.score = True
    config.process.predict_variance = True
    config.process.noise_correlation = 3.0
    config.objective.draws = 2
    config.objective.first_weight = 8.0  # with 1 the flow, which is the noisiest level's, is 1.3 % worse

    config.train.steps = 1000
    config.train.batch_size = 8
    config.train.log_every = 20
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup = "5 percent"
    config.ema.decay = 0.99
    config.checkpoint.every = 60

    config.sampler.estimate = "first"
    config.sampler.confidence = 4.0
    config.evaluate.num = 64
    return config
