"""Every key of the `diffmatch_jax` experiments, with unit and default: small ones for CPUs; paper.py has the paper's.

Normalised flow divides x by the image's width and y by its height: 1 is a full image.
"""

from ml_collections import ConfigDict

from configs import base as shared


def base() -> ConfigDict:
    """Returns the shared keys plus the matcher's; lock it (`config.lock()`) after changing what you need."""
    config = shared.base()
    config.method = "diffmatch_jax"
    config.task = "stage1"  # what is trained: "stage1" | "stage2" (super-resolution) | "backbone"

    config.data.channels = 3
    config.data.size = 256  # "pad": images are shrunk to fit this square; "crop", ...: as everywhere
    config.data.fit = "pad"
    config.data.flip = True

    config.features = features = ConfigDict()
    features.pyramid = "embedded"  # "embedded" | "random" (narrow, untrained) | "vgg16:FILE" (torchvision's weights)
    features.fine = 256  # side of the images whose features are taken, pixels (paper: 512), and half of it for the
    # coarser levels; stage 1 works on fine / 8 cells a side, stage 2 on fine / 2
    features.contrast = 0.0  # fraction of a side over which local contrast is normalised first (paper: 0, not)
    features.compat = ""  # "" | "released": geometry, variable and loss of the released models
    features.compute_dtype = "float32"  # of the pyramid

    config.conditioning = conditioning = ConfigDict()  # the denoisers' inputs, beside the noisy flow
    conditioning.fit = 0.0  # cells (one deviation) of the robust affine fit that is the initial flow (0 = the winners)
    conditioning.refine = 0  # rounds of the fit to stage 2's features before stage 2 (0 = none)
    conditioning.wide = 0  # cells: also the largest correlations in squares of so many, 4 to each side (0 = none)
    conditioning.score = False  # also the winner's correlation, and its neighbourhood's part of a softmax of all

    config.model = model = ConfigDict()
    model.channels = 24  # of the first level (paper: 128)
    model.multipliers = (1, 2, 3)  # of the channels, by level; each level halves the grid once more (paper: 1, 2, 3, 4)
    model.num_blocks = 1  # blocks a level (paper: 3)
    model.attention = (2,)  # levels at which blocks attend (paper: 2, 3)
    model.heads = 4  # of the attention
    model.fused_attention = True  # the platform's kernel, in bfloat16 on a GPU; without forward-mode derivatives

    config.process = process = ConfigDict()  # the diffusion: of the flow's distance from the initial flow
    process.steps = 5  # noise levels, cosine schedule
    process.predict_variance = False  # the network also predicts the variance around its prediction
    process.noise_correlation = 0.0  # cells over which the noise is correlated, so that samples are smooth (0 = white)

    config.objective = objective = ConfigDict()
    objective.kind = "diffusion"  # "diffusion" | "regression" (the same network in one evaluation, without noise)
    objective.scale = 0.02  # normalised flow that counts 1 (paper: 1)
    objective.first_weight = 1.0  # weight of the noisiest level, where sampling starts, over that of the others
    objective.draws = 1  # levels and noises with which each pair of a batch is seen

    config.pairs = pairs = ConfigDict()  # warps (see diffmatch_jax.data.warps.Warps) of training and of evaluation
    pairs.size = 256  # side of the pairs, pixels; the truth has this resolution
    pairs.shares = (0.5, 0.25, 0.25)  # fractions of homographies, affine maps, thin-plate splines
    pairs.corner = 2 / 3  # homographies: largest shift of a corner, halves of the side
    pairs.rotation = 15.0  # affine maps: degrees
    pairs.stretch = (0.75, 1.25)  # affine maps: factors along two axes
    pairs.shift = 0.25  # affine maps: halves of the side
    pairs.frame_rotation = 0.0  # degrees, to either side, by which every warp is rotated as well
    pairs.frame_zoom = 0.0  # ln of the largest zoom, in and out, by which every warp is zoomed as well
    pairs.photometric = 0.5  # fraction of training pictures that are changed in colour, contrast, blur and noise
    pairs.elastic = 0.0  # fraction of training pairs with elastic discontinuities
    pairs.objects = 0.0  # fraction of training pairs with a moving pasted object
    pairs.listed = ""  # "PHOTOGRAPHS:CSV": folder and list of fixed training pairs, instead of warps ("" = warps)
    pairs.coco = ""  # "ANNOTATIONS:FOLDER": COCO's JSON file and images, whose objects are pasted ("" = others' pieces)

    config.pretraining = pretraining = ConfigDict()  # task "backbone"
    pretraining.widths = (16, 32, 64, 128)  # channels of the four blocks (VGG-16: 64, 128, 256, 512)
    pretraining.size = 128  # side of its training pairs, pixels

    config.stage2 = stage2 = ConfigDict()  # task "stage2"
    stage2.stage1 = ""  # directory of the run whose predictions are refined (its averaged weights, frozen)
    stage2.stage1_config = ""  # that run's config, as JSON: written when training starts, which then needs no directory
    stage2.from_stage1 = False  # start from its weights; both stages must have one model and as much evidence
    stage2.degraded = 0.5  # fraction of training pairs that start from a degraded truth instead
    stage2.size = 0  # side of the crops of the grid that are trained on, cells (0 = the whole grid)

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3  # released: 3e-5 and 1e-4, constant
    config.optimizer.schedule = "warmup_cosine"
    config.optimizer.clip_norm = 1.0
    config.ema.decay = 0.995
    config.train.batch_size = 16

    config.sampler = sampler = ConfigDict()
    sampler.hypotheses = 4  # flows sampled for a pair
    sampler.estimate = "mean"  # the flow: "mean" of the last predictions | "first", the mean of the first ones
    sampler.confidence = 3.0  # standard deviation of the flow, pixels of the fine image, at which confidence is 1/2
    sampler.num = 8  # held-out pairs that `sample` matches

    config.evaluate = evaluate = ConfigDict()
    evaluate.num = 64  # held-out warps
    evaluate.batch_size = 8  # of them at once

    return config
