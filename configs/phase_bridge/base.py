"""Every key of the `phase_bridge` experiments, with its unit and default (the paper's, where the paper gives one)."""

from ml_collections import ConfigDict

from configs import base as shared
from configs.phase_bridge.model import model


def base() -> ConfigDict:
    """Returns the shared keys plus the bridge's; lock it (`config.lock()`) after changing what you need."""
    config = shared.base()
    config.method = "phase_bridge"
    config.model = model()

    config.data.source = "toy:spiral"  # also "toy:mixture" | "toy:checkerboard" | "toy:moons": points of the plane
    config.data.points = 0  # toy: different training points (0 = fresh ones for ever; published: 5000)
    config.data.channels = 3
    config.data.flip = False
    config.data.fit = "none"

    config.optimizer.name = "adamw"
    config.optimizer.schedule = "warmup_cosine"
    config.ema.decay = 0.9999

    config.bridge = bridge = ConfigDict()
    bridge.p = 3.0  # diffusion of the velocity at t = 0: g(t) = p (1 - t)
    bridge.correlation = -0.2  # of position and velocity in the prior
    bridge.varx = 1.0  # variances in the prior
    bridge.varv = 1.0

    config.objective = objective = ConfigDict()
    objective.process = "bridge"  # "bridge" | "flow" (flow matching) | "edm" | "cld" (diffusion in phase space)
    objective.sigma_data = 0.5  # standard deviation of the data's coordinates (images in [-1, 1]: 0.5)
    objective.kind = "ode"  # bridge: the force of the probability flow ("ode") or of the stochastic process ("sde")
    objective.normaliser = "released"  # bridge: "released" | "consistent" (see phase_bridge.bridge.normaliser)
    objective.recipe = "released"  # bridge: "released" | "improved"; the next five keys change parts of it
    objective.inputs = ""  # "" = the recipe's | "state" | "scaled" | "statistic"
    objective.output = ""  # "" | "force" | "preconditioned" | "data"
    objective.label = ""  # "" | "remaining" | "noise"
    objective.weight = ""  # "" | "reciprocal" | "ones" | "reciprocalinv" | "data"
    objective.times = ""  # "" | "uniform" | "log_normal" | "log_uniform"; edm: "" = "log_normal"
    objective.first = 1e-5  # bridge, "uniform": first and last time of training
    objective.last = 0.999
    objective.level_mean = -1.2  # "log_normal": of ln(noise level), for data of standard deviation 0.5
    objective.level_std = 1.2
    objective.level_least = 0.004  # "log_uniform": smallest and largest noise level over sigma_data
    objective.level_most = 160.0
    objective.coupling = 0  # flow: noise and data are paired by optimal transport in groups of so many (0 = not)

    config.sampler = sampler = ConfigDict()
    sampler.num = 64  # samples
    sampler.batch_size = 64  # of them at once
    sampler.nfe = 20  # network evaluations
    sampler.label = -1  # models of classes: the class of all samples (-1 = all equally likely)
    sampler.kind = ""  # bridge: "" = objective.kind; with the data as output also the other one
    sampler.rule = ""  # bridge: "" = the recommended | "exponential" | "data" | "euler" | "splitting"; others: solver
    sampler.order = -1  # bridge: of extrapolation (-1 = the rule's own)
    sampler.corrector = ""  # bridge: "" = the rule's own | "on": each step is mended by the next evaluation | "off"
    sampler.grid = (
        ""  # bridge: "" = usual | "reversed_power" | "remaining" | "power" | "uniform" | "quadratic" | "levels"
    )
    sampler.power = 2.0  # of "reversed_power", "remaining" and "power"
    sampler.last_time = 0.0  # bridge: time of the last evaluation (0 = the usual one for this nfe, published for "ode")
    sampler.largest = 80.0  # "levels", edm, cld: noise levels from largest to smallest, data units ...
    sampler.smallest = 0.002
    sampler.level_power = 7.0  # ... their roots of this order equally spaced

    config.evaluate = evaluate = ConfigDict()
    evaluate.nfe = (3, 5, 10, 20)  # evaluations at which samples are measured
    evaluate.num = 10000  # samples and held-out examples that are compared
    evaluate.batch_size = 10000  # of them at once
    evaluate.repeats = 3  # draws of samples, and of data for the noise floor

    config.compare = compare = ConfigDict()  # of `python -m phase_bridge compare`
    compare.models = ("main",)  # "main" | "ablation" (groups), and names, of phase_bridge/entrants.py
    compare.seeds = 3  # training seeds
    compare.nfe = (1, 2, 3, 5, 8, 10, 20, 50)
    compare.exact = False  # toy:mixture: the exact denoiser for all instead of networks, which compares the paths alone
    compare.tune = True  # choose each sampler's settings for each nfe on the first seed's model

    return config
