"""Stage 1 as the authors released it: their network, geometry and process.

    python -m diffmatch_jax train --config configs/diffmatch_jax/paper.py --workdir runs/paper \
        --config.data.source=folder:DIR --config.features.pyramid=vgg16:vgg16-397923af.pth
    python -m diffmatch_jax import-weights checkpoint.pt --config configs/diffmatch_jax/paper.py \
        --workdir runs/authors --config.features.pyramid=vgg16:vgg16-397923af.pth

Data: warps of 40,000 photographs (DPED, CityScapes, ADE-20K) in the paper, 520x520 pixels, each shown as it is; any
folder of images, warped anew at every step where they stored one warp of each. Their second set pastes a moving object
into nine of ten pairs: add --config.pairs.objects=0.9 --config.pairs.coco=ANNOTATIONS:FOLDER.
Loss: the squared error of the flow against the truth in full resolution, which their code reduces to 64x64 first.
Learning rate: the paper's and that of their COCO settings; their settings for this data have 3e-5.
Network: U-Net with 128, 256, 384 and 512 channels on 64x64 cells, 121 million parameters, on VGG-16 with ImageNet's
weights, a file of torchvision's. Hardware: accelerators (not run here); the authors' training length is not known.
"""

from configs.diffmatch_jax.base import base


def get_config():
    config = base()

    config.data.size = 1024
    config.data.flip = False

    config.features.fine = 512
    config.features.compat = "released"

    config.model.channels = 128
    config.model.multipliers = (1, 2, 3, 4)
    config.model.num_blocks = 3
    config.model.attention = (2, 3)

    config.objective.scale = 1.0

    config.pairs.size = 520
    config.pairs.photometric = 0.0

    config.train.steps = 200_000
    config.train.batch_size = 18
    config.optimizer.learning_rate = 1e-4
    config.optimizer.schedule = "constant"
    config.ema.decay = 0.9999
    config.ema.warmup = False
    config.checkpoint.every = 5000

    config.sampler.hypotheses = 3
    return config
