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
    features.fine = 256  # sides of the two images whose features are taken, pixels (paper: 512, 256); stage 1 works on
    features.coarse = 128  # fine / 8 cells a side, stage 2 on fine / 2
    features.contrast = 0.0  # fraction of a side over which local contrast is normalised first (paper: 0, not)
    features.compat = ""  # "" | "released": the released models' geometry
    features.compute_dtype = "float32"  # of the pyramid

    config.conditions = conditions = ConfigDict()  # what the denoisers are told, beside the initial flow
    conditions.radius = 4  # cells around the initial flow whose correlations are given, to each side
    conditions.wide = 0  # cells: also the largest correlations in squares of so many, as far around (0 = none)
    conditions.score = False  # also the winner's correlation, and the share of the patch in a softmax of all
    conditions.soft = 0.0  # temperature of a soft argmax around the winner, as the initial flow (0 = the winner)
    conditions.median = 0  # side of the median filter of the initial flow, odd (0 = none); look-ups follow it
    conditions.fit = 0.0  # cells around (one deviation) of a robust affine fit to mutual winners, instead (0 = none)
    conditions.refine = 0  # rounds that make the flow finer before stage 2, by matches near where it leads (0 = none)
    conditions.gain = 8.0  # patches are shown as so many times their distance from their mean (released: 0, as is)

    config.model = model = ConfigDict()
    model.channels = 24  # of the first level (paper: 128)
    model.multipliers = (1, 2, 3)  # of the channels, by level; each level halves the grid once more (paper: 1, 2, 3, 4)
    model.num_blocks = 1  # blocks a level (paper: 3)
    model.attention = (2,)  # levels at which blocks attend (paper: 2, 3)
    model.heads = 4  # of the attention
    model.min_group = 8  # least channels in a group of a norm, of which there are up to 32 (paper: 1)
    model.dropout = 0.0  # probability that a block's activation is dropped while training
    model.fused_attention = True  # the platform's kernel, in bfloat16 on a GPU; without forward-mode derivatives

    config.process = process = ConfigDict()  # noise levels
    process.schedule = "cosine"  # "cosine" | "linear"
    process.steps = 5  # levels of training
    process.keep = ""  # levels of sampling: "" = all | "2" | "ddim2" | ... (diffusion.kept_levels)

    config.variable = variable = ConfigDict()  # what is diffused: flow / scale, or (flow - initial flow) / scale
    variable.scale = 0.1  # normalised flow; with conditions.fit or refine a cell, 8 or 2 / features.fine (released: 1)
    variable.residual = True  # the released models: False
    variable.shrunk = True  # the network sees sqrt(ab) x_t, which has no noise at the noisiest level; released: False
    variable.skip = False  # and predicts what is to be added to it, so that hypotheses differ unless it learns better
    variable.learned_scale = False  # and how wrong that may be, so that hypotheses differ as much; needs a skip
    variable.coherence = 0.0  # cells over which the noise is alike, so that hypotheses are smooth too (0 = white)

    config.objective = objective = ConfigDict()
    objective.kind = "diffusion"  # "diffusion" | "regression" (the same network in one evaluation, without noise)
    objective.penalty = "charbonnier"  # "charbonnier" | "squared" (released)
    objective.scale = 0.02  # normalised flow that counts 1
    objective.epsilon = 0.1  # charbonnier: below it errors count squared, in units of `scale`
    objective.first_share = 0.5  # share of draws at the noisiest level, where sampling starts (the rest is uniform)
    objective.first_weight = 1.0  # how much more than others these draws count
    objective.draws = 1  # levels and noises with which each pair of a batch is seen
    # Of several devices under parallel=pmap each takes the mean over its own part, as the released training does.
    objective.pooled = False  # mean over the batch's valid pixels (released), not of each pair's mean
    objective.likelihood = 0.0  # weight of -log p(x_0), from which the learned scale learns (0.3; 0 without one)

    config.pairs = pairs = ConfigDict()  # warps (see diffmatch_jax.data.warps.Warps) of training and of evaluation
    pairs.size = 256  # side of the pairs, pixels; the truth has this resolution
    pairs.shares = (0.5, 0.25, 0.25)  # of homographies, affine maps, thin-plate splines
    pairs.corner = 2 / 3  # homographies: largest shift of a corner, halves of the side
    pairs.rotation = 15.0  # affine maps: degrees
    pairs.stretch = (0.75, 1.25)
    pairs.shift = 0.25  # halves of the side
    pairs.control = 0.2  # splines: deviation of the control points, halves of the side
    pairs.window = (0.7, 0.8)  # share of the image's shorter side that a pair shows
    pairs.supersample = 1  # positions averaged along each side of a pixel; 2 where windows are larger than `size`
    pairs.photometric = 0.5  # share of training pictures that are changed in colour, contrast, blur and noise
    pairs.elastic = 0.0  # share of training pairs with elastic discontinuities
    pairs.objects = 0.0  # share of training pairs with a moving pasted object
    pairs.listed = (
        ""  # "PHOTOGRAPHS:CSV": folder and list of fixed pairs, in the place of warps in training ("" = none)
    )
    pairs.coco = (
        ""  # "ANNOTATIONS:FOLDER": COCO's JSON file and images, whose objects are pasted ("" = pieces of others)
    )

    config.photometric = photometric = ConfigDict()  # changes of these pictures (see diffmatch_jax.data.augment)
    photometric.brightness = 0.15  # added: at most
    photometric.contrast = 0.4  # ln of the factor: at most
    photometric.fade = 0.2  # share of them that lose most of their contrast
    photometric.gamma = 0.4  # ln of the exponent: at most
    photometric.saturation = 0.5  # away from factor 1: at most
    photometric.hue = 20.0  # degrees: at most
    photometric.blur = 1.0  # standard deviation, pixels: at most (2 at most)
    photometric.noise = 0.4  # standard deviation: at most
    photometric.noisy = 0.5  # share of them with noise

    config.pretraining = pretraining = ConfigDict()  # task "backbone"
    pretraining.widths = (16, 32, 64, 128)  # channels of the four blocks (VGG-16: 64, 128, 256, 512)
    pretraining.size = 128  # side of its training pairs, pixels
    pretraining.window = (0.35, 0.8)  # share of the image's shorter side that these show
    pretraining.supersample = 2  # positions a pixel averages along each side
    pretraining.temperature = 0.07  # at first: of cosines, learned for each stride

    config.stage2 = stage2 = ConfigDict()  # task "stage2"
    stage2.stage1 = ""  # directory of the run whose predictions are refined (its averaged weights, frozen)
    stage2.stage1_config = ""  # what that run was, as JSON: filled in once training starts, which needs it no more then
    stage2.from_stage1 = False  # start from its weights; both stages must have one model and as much evidence
    stage2.degraded = 0.5  # share of training pairs that start from a degraded truth instead
    stage2.noise = 0.01  # degraded truth: size of its errors, normalised flow (diffmatch_jax.model.conditioning.degraded)
    stage2.size = 0  # side of the crops of the grid that are trained on, cells (0 = the whole grid)

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3  # released: 3e-5 and 1e-4, constant
    config.optimizer.schedule = "warmup_cosine"
    config.optimizer.clip_norm = 1.0
    config.ema.decay = 0.995
    config.train.batch_size = 16

    config.sampler = sampler = ConfigDict()
    sampler.hypotheses = 4  # flows drawn for a pair
    sampler.rounds = 1  # how often stage 2 refines the flow
    sampler.rule = "ddim"  # over the levels; or "heun", "midpoint", "rk4": for the probability flow, more evaluations
    sampler.eta = 0.0  # noise added on the way of "ddim": 0 = none ... 1
    sampler.estimate = "mean"  # of the last predictions: "mean" | "median"; or "first" (mean of the first ones)
    sampler.confidence = 3.0  # spread of the flow, pixels of the fine image, at which confidence is 1/2
    sampler.num = 8  # held-out pairs that `sample` draws

    config.evaluate = evaluate = ConfigDict()
    evaluate.num = 64  # held-out warps
    evaluate.batch_size = 8  # of them at once

    return config
