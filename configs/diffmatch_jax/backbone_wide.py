"""The embedded pyramid trained for wide baselines: rotated and zoomed frames under local contrast normalisation.

    python -m diffmatch_jax train    --config configs/diffmatch_jax/backbone_wide.py --workdir runs/backbone_wide
    python -m diffmatch_jax evaluate --workdir runs/backbone_wide

Data: a folder of photographs with `train` and `test` in it, here `photographs1000` (902 and 47, at most 400 pixels a
side) in $SCOREBRIDGE_DATA, data or ../shared/data; --config.data.source=folder:DIR names yours. Pairs of 160x160 are
warped anew in every step; every warp is rotated by up to 35 degrees and zoomed by up to 1.8, in and out: `match`
searches over rotations in steps of 45 degrees and zooms in steps of 2, which leaves about that much.
Objective: that of backbone.py; inputs have their local contrast normalised, as the package's matcher does.
Network: that of backbone.py.
Hardware: any; about 2 CPU seconds a step, 3,000 steps. Expected numbers: not measured yet.
"""

from configs.base import folder
from configs.diffmatch_jax import backbone


def get_config():
    config = backbone.get_config()

    config.data.source = folder("photographs1000")
    config.data.size = 400
    config.features.contrast = 0.15
    config.pairs.frame_rotation = 35.0
    config.pairs.frame_zoom = 0.6
    config.pretraining.size = 160

    config.train.steps = 3000
    config.ema.decay = 0.99
    return config
