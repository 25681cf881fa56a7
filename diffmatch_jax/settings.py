"""The settings of a config as records: plan, stages, objective, pairs."""

from common.errors import choice, input_error, within
from common.networks.unets import ADMUNet
from diffmatch_jax.data.pairs import PairConfig
from diffmatch_jax.model import released, unet
from diffmatch_jax.model.conditioning import ConditioningConfig
from diffmatch_jax.model.diffusion import Process, Variable
from diffmatch_jax.model.matcher import MatcherConfig
from diffmatch_jax.model.sampling import Stage
from diffmatch_jax.training import pretraining
from diffmatch_jax.training.stages import LossConfig, Stage2Training

VGG = "vgg16:"
GAIN = 8.0  # with which correlations are shown, less their mean
MIN_GROUP = 8  # channels of a group of a norm, at least
UNFITTED = 0.1  # normalised flow: scale of the variable without a fit
FIRST_SHARE = 0.5  # fraction of training draws at the noisiest level
LIKELIHOOD = 0.3  # weight of -log p(x_0), from which the variance is learned


def build_matcher_config(config, before=None) -> MatcherConfig:
    """Returns how the matcher of a config works; stage 2 follows the stage 1 of `before`, a config too, or none."""
    settings, sampler, pyramid = build_conditioning(config), config.sampler, config.features.pyramid
    if not pyramid.startswith(VGG):
        choice("config.features.pyramid", pyramid, ("embedded", "random", VGG + "FILE"))
    if not sampler.confidence > 0:
        got = sampler.confidence
        raise input_error("config.sampler.confidence", expected="a positive number of pixels", got=got, fix="use 3")
    if config.task == "stage1":
        return MatcherConfig(settings, first=build_stage(config, cells=settings.cells), confidence=sampler.confidence)
    first = None
    if before is not None:
        first, settings = build_stage(before, cells=settings.cells), shared_conditioning(config, before)
    second = build_stage(config, cells=settings.fine_cells)
    return MatcherConfig(settings, first, second, confidence=sampler.confidence)


def shared_conditioning(config, before) -> ConditioningConfig:
    """Returns the conditions of the stage 1 of `before`, which stage 2 shares.

    Raises `InputError` where the config of stage 2 contradicts; the features need not be repeated there.
    """
    settings, theirs = build_conditioning(config), build_conditioning(before)
    if (theirs.fine, theirs.released) != (settings.fine, settings.released):
        expected = f"that of stage 1: fine {theirs.fine}"
        got = f"fine {settings.fine}"
        raise input_error("config.features", expected=expected, got=got, fix="use the same fine and compat")
    ours, wanted = config.features.pyramid, before.features.pyramid
    if kind_of(ours) not in ("embedded", kind_of(wanted)):
        expected, fix = f'stage 1\'s, "{wanted}"', "leave it out, stage 1's is used"
        raise input_error("config.features.pyramid", expected=expected, got=f'"{ours}"', fix=fix)
    for name in config.conditioning:
        ours, wanted = config.conditioning[name], before.conditioning[name]
        if ours != wanted:
            fix = "leave it as stage 1 has it, or train another stage 1"
            raise input_error(f"config.conditioning.{name}", expected=f"{wanted}, as in stage 1", got=ours, fix=fix)
    return theirs


def build_conditioning(config) -> ConditioningConfig:
    """Returns the conditioning of a config."""
    section, is_theirs = config.conditioning, is_released(config)
    return ConditioningConfig(
        fine=config.features.fine,
        contrast=config.features.contrast,
        wide=section.wide,
        score=section.score,
        fit=section.fit,
        refine=section.refine,
        gain=0.0 if is_theirs else GAIN,
        released=is_theirs,
    )


def is_released(config) -> bool:
    """Returns whether a config asks for the released models' geometry."""
    return choice("config.features.compat", config.features.compat, ("", released.NAME)) == released.NAME


def build_process(config) -> Process:
    """Returns the noise levels of a config."""
    within("config.process.steps", config.process.steps, 1, 10_000)
    return Process.cosine(config.process.steps)


def build_variable(config) -> Variable:
    """Returns the diffusion variable of a config: with a fit as initial flow, the distance from it in cells."""
    if is_released(config):
        if config.process.predict_variance or config.process.noise_correlation:
            got = f"{config.process.predict_variance} and {config.process.noise_correlation}"
            expected, fix = "no predict_variance and no noise_correlation with features.compat", "leave both out"
            raise input_error("config.process", expected=expected, got=got, fix=fix)
        return Variable(1.0, residual=False)
    section, fine = config.process, config.features.fine
    starts_from_fit, cell = (config.conditioning.fit, 8) if config.task == "stage1" else (config.conditioning.refine, 2)
    return Variable(
        scale=cell / fine if starts_from_fit else UNFITTED,
        residual=True,
        shrunk=True,
        skip=section.predict_variance,
        predict_variance=section.predict_variance,
        noise_correlation=section.noise_correlation,
    )


def build_stage(config, *, cells: int) -> Stage:
    """Returns the stage that a config trains, as it is sampled."""
    return Stage(
        network=build_network(config, cells=cells),
        variable=build_variable(config),
        process=build_process(config),
        kind=config.objective.kind,
        estimate=config.sampler.estimate,
        clip=1.0 if is_released(config) else None,
    )


def build_network(config, *, cells: int) -> ADMUNet:
    """Returns the U-Net of a config for a grid of `cells` a side; raises `InputError` for sizes that do not fit."""
    model = config.model
    return unet.build(
        cells=cells,
        channels=model.channels,
        multipliers=tuple(model.multipliers),
        num_blocks=model.num_blocks,
        attention=tuple(sorted(model.attention)),
        heads=model.heads,
        min_group=1 if is_released(config) else MIN_GROUP,
        predict_variance=config.process.predict_variance,
        fused_attention=model.fused_attention,
        compute_dtype=config.compute_dtype,
        remat=config.train.remat,
    )


def build_loss_config(config) -> LossConfig:
    """Returns the loss of a config."""
    section, is_theirs = config.objective, is_released(config)
    return LossConfig(
        process=build_process(config),
        variable=build_variable(config),
        kind=section.kind,
        penalty="squared" if is_theirs else "charbonnier",
        scale=section.scale,
        first_share=0.0 if is_theirs else FIRST_SHARE,
        first_weight=section.first_weight,
        draws=section.draws,
        pooled=is_theirs,
        likelihood=LIKELIHOOD if config.process.predict_variance else 0.0,
        alignment=released.ALIGNMENT if is_theirs else "half_pixel",
    )


def build_pair_config(config, *, plain: bool = False) -> PairConfig:
    """Returns how a config makes pairs; `plain` ones are warped only, and in the same way for every config."""
    made = config.pairs
    settings = {"size": made.size, "warps": pretraining.build_warps(config)}
    if plain:
        return PairConfig(flip=False, **settings)
    photometric = pretraining.build_photometric(config) if made.photometric else None
    return PairConfig(
        flip=config.data.flip, photometric=photometric, elastic=made.elastic, objects=made.objects, **settings
    )


def build_stage2_training(config, matcher_config: MatcherConfig) -> Stage2Training:
    """Returns how a config trains stage 2."""
    section = config.stage2
    if not 0 <= section.degraded <= 1:
        got = section.degraded
        raise input_error("config.stage2.degraded", expected="a share from 0 to 1", got=got, fix="use 0.5")
    if section.from_stage1 and not section.stage1:
        fix = "add stage2.stage1=DIR, or use false"
        raise input_error("config.stage2.from_stage1", expected="false without a stage 1", got=True, fix=fix)
    if not 0 <= section.size <= matcher_config.conditioning.fine_cells:
        expected = f"0 to {matcher_config.conditioning.fine_cells} cells"
        raise input_error("config.stage2.size", expected=expected, got=section.size, fix="use 0 for the whole grid")
    if section.size and matcher_config.conditioning.released:
        # Outermost centres coincide: a part of the grid lies elsewhere in the truth than the same part of that.
        fix = "use 0 for the whole grid"
        raise input_error("config.stage2.size", expected="0 with features.compat", got=section.size, fix=fix)
    if section.size and config.pairs.size % matcher_config.conditioning.fine_cells:
        expected = f"a multiple of {matcher_config.conditioning.fine_cells}, to train on crops"
        raise input_error("config.pairs.size", expected=expected, got=config.pairs.size, fix="use features.fine")
    if section.size:
        build_network(config, cells=section.size)
    return Stage2Training(degraded=section.degraded, size=section.size)


def kind_of(pyramid: str) -> str:
    """Returns the kind of the pyramid that a config names, without its file."""
    return VGG if pyramid.startswith(VGG) else pyramid
