"""Every key of the `phase_bridge` experiments, with its unit and default (the paper's, where the paper gives one)."""

from ml_collections import ConfigDict

from configs import base as shared
from configs.phase_bridge.model import model


def base() -> ConfigDict:
    """Returns the shared keys plus the bridge's; lock it (`config.lock()`) after changing what you need."""
    config = shared.base()
    config.method = "phase_bridge"
    config.model = model()

    config.data.source = "toy:spiral"  # also "toy:mixture" | "toy:checkerboard" | "toy:moons" | "toy:product": points
    config.data.points = 0  # toy: different training points (0 = fresh ones in every step; published: 5000)
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
    objective.name = "force"  # "force" (the paper's) | "denoiser" (serves every path) | "velocity" (flow matching)
    objective.process = "bridge"  # the path: "bridge" | "flow" (straight) | "edm" | "cld" (diffusion in phase space)
    objective.sigma_data = 0.5  # standard deviation of the data's coordinates (images in [-1, 1]: 0.5)
    objective.kind = "ode"  # force: of the probability flow ("ode") or of the stochastic process ("sde")
    objective.output = ""  # force: "" = force / z | "preconditioned": the same over 1 - t
    objective.weight = ""  # force: "" = "reciprocal", 1 / (1 - t) | "ones" | "reciprocalinv", 1 / t
    objective.noise = ""  # denoiser: noise levels: "uniform" times of the path | "log_normal" (edm's) | "log_uniform"
    objective.first = 1e-5  # "uniform": first and last time of training
    objective.last = 0.999
    objective.level_mean = -1.2  # "log_normal": of ln(noise level), for data of standard deviation 0.5
    objective.level_std = 1.2
    objective.level_least = 0.004  # "log_uniform": smallest and largest noise level over sigma_data
    objective.level_most = 160.0
    objective.label_dropout = 0.0  # probability that a class is left out in training, for classifier-free guidance
    objective.coupling = 0  # velocity: noise and data are paired by optimal transport in groups of so many (0 = not)

    config.sampler = sampler = ConfigDict()
    sampler.num = 64  # samples
    sampler.batch_size = 64  # of them at once
    sampler.nfe = 20  # network evaluations
    sampler.label = -1  # models of classes: the class of all samples (-1 = all equally likely)
    sampler.process = ""  # the path: "" = objective.process; a denoiser serves "bridge" | "flow" | "edm" | "cld"
    sampler.kind = ""  # bridge: "" = objective.kind | "ode" (probability flow) | "sde" (stochastic)
    sampler.solver = ""  # "" = the path's default (a bridge's: "unipc"; force: "gddim") | of phase_bridge/solvers.py
    sampler.degree = -1  # of the polynomial that multistep solvers extrapolate (-1 = the solver's own)
    sampler.corrector = ""  # "" = the solver's own | "on": each step is corrected by the next evaluation | "off"
    sampler.schedule = (
        ""  # "" = the path's | "levels" | "uniform" | "power" | "power_from_0" | "power_to_1" | "quadratic"
    )
    sampler.last = 0.0  # time of the last evaluation (0 = the usual one for this nfe, published for "ode")
    sampler.power = 0.0  # "power...": order of the roots that are equally spaced (0 = 2)
    sampler.sigma_max = 0.0  # "levels": from this noise level (0 = 80), data units ...
    sampler.sigma_min = 0.0  # ... to this (0 = 0.002) ...
    sampler.rho = 0.0  # ... with their roots of this order equally spaced (0 = 7)

    config.evaluate = evaluate = ConfigDict()
    evaluate.nfe = (3, 5, 10, 20)  # evaluations at which samples are measured
    evaluate.num = 10000  # samples and held-out examples that are compared
    evaluate.batch_size = 10000  # of them at once
    evaluate.repeats = 3  # sets of samples, and of data for the noise floor
    evaluate.features = "random"  # for the Frechet distance: "random" | "pixels" | "inception:FILE"

    config.compare = compare = ConfigDict()  # of `python -m phase_bridge compare`
    compare.models = ("main",)  # "main" | "one_denoiser" (groups), and names, of phase_bridge/compare_models.py
    compare.seeds = 3  # training seeds
    compare.nfe = (1, 2, 3, 5, 8, 10, 20, 50)
    compare.exact = False  # toy:mixture: the exact denoiser in place of networks, which compares the paths alone
    compare.tune = True  # choose each sampler's settings for each nfe on the first seed's model
    compare.tune_num = 3000  # samples by which they are chosen

    return config
