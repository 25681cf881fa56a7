"""What a config says, as the values that everything else computes with: plan, stages, objective, pairs."""

from common.errors import choice, input_error
from diffmatch_jax.model import conditioning as looking
from diffmatch_jax.model import released
from diffmatch_jax.model.diffusion import Process, Variable
from diffmatch_jax.model.matcher import Plan
from diffmatch_jax.model.sampling import Stage
from diffmatch_jax.model.unet import build as build_network
from diffmatch_jax.training import pretraining
from diffmatch_jax.training.objective import PENALTIES
from diffmatch_jax.training.stages import Goal, Making, Second

VGG = "vgg16:"


def build_plan(config, before=None) -> Plan:
    """Returns how the matcher of a config works; stage 2 follows the stage 1 of `before`, a config too, or none."""
    look, sampler, pyramid = build_look(config), config.sampler, config.features.pyramid
    if not pyramid.startswith(VGG):
        choice("config.features.pyramid", pyramid, ("embedded", "random", VGG + "FILE"))
    if not sampler.confidence > 0:
        got = sampler.confidence
        raise input_error("config.sampler.confidence", expected="a positive number of pixels", got=got, fix="use 3")
    if config.task == "stage1":
        return Plan(look, first=build_stage(config, cells=look.cells), confidence=sampler.confidence)
    first = None
    if before is not None:
        first, look = build_stage(before, cells=look.cells), shared_look(config, before)
    second = build_stage(config, cells=look.fine_cells)
    return Plan(look, first, second, confidence=sampler.confidence, rounds=sampler.rounds)


def shared_look(config, before) -> looking.Settings:
    """Returns the conditions of the stage 1 of `before`, which stage 2 shares.

    Raises `InputError` for what the config of stage 2 says otherwise; which features they are need not be repeated.
    """
    look, theirs = build_look(config), build_look(before)
    if (theirs.fine, theirs.coarse, theirs.released) != (look.fine, look.coarse, look.released):
        expected = f"those of stage 1: fine {theirs.fine}, coarse {theirs.coarse}"
        got = f"fine {look.fine}, coarse {look.coarse}"
        raise input_error("config.features", expected=expected, got=got, fix="use the same")
    ours, wanted = config.features.pyramid, before.features.pyramid
    if kind_of(ours) not in ("embedded", kind_of(wanted)):
        expected, fix = f'stage 1\'s, "{wanted}"', "leave it out, stage 1's is used"
        raise input_error("config.features.pyramid", expected=expected, got=f'"{ours}"', fix=fix)
    for name in config.conditions:
        ours, wanted = config.conditions[name], before.conditions[name]
        if ours != wanted:
            fix = "leave it as stage 1 has it, or train another stage 1"
            raise input_error(f"config.conditions.{name}", expected=f"{wanted}, as in stage 1", got=ours, fix=fix)
    return theirs


def build_look(config) -> looking.Settings:
    """Returns what the conditions of a config are."""
    sides, told = config.features, config.conditions
    return looking.Settings(
        fine=sides.fine,
        coarse=sides.coarse,
        contrast=sides.contrast,
        radius=told.radius,
        wide=told.wide,
        score=told.score,
        soft=told.soft,
        median=told.median,
        fit=told.fit,
        refine=told.refine,
        gain=told.gain,
        released=is_released(config),
    )


def is_released(config) -> bool:
    """Returns whether a config asks for the released models' geometry."""
    return choice("config.features.compat", config.features.compat, ("", released.NAME)) == released.NAME


def build_process(config, *, keep: str = "") -> Process:
    """Returns the noise levels of a config, or those of them that are kept."""
    schedules = {"cosine": Process.cosine, "linear": Process.linear}
    chosen = schedules[choice("config.process.schedule", config.process.schedule, schedules)]
    return chosen(config.process.steps, keep=keep or None)


def build_variable(config) -> Variable:
    """Returns what a config diffuses."""
    told = config.variable
    return Variable(
        scale=told.scale,
        residual=told.residual,
        shrunk=told.shrunk,
        skip=told.skip,
        learned_scale=told.learned_scale,
        coherence=told.coherence,
    )


def build_stage(config, *, cells: int) -> Stage:
    """Returns the stage that a config trains, as it is sampled."""
    return Stage(
        network=build_network(config, cells=cells),
        variable=build_variable(config),
        process=build_process(config, keep=config.process.keep),
        kind=config.objective.kind,
        eta=config.sampler.eta,
        rule=config.sampler.rule,
        estimate=config.sampler.estimate,
        clip=1.0 if is_released(config) else None,
    )


def build_goal(config) -> Goal:
    """Returns what a config minimises."""
    goal = config.objective
    return Goal(
        process=build_process(config),
        variable=build_variable(config),
        kind=goal.kind,
        penalty=choice("config.objective.penalty", goal.penalty, PENALTIES),
        scale=goal.scale,
        epsilon=goal.epsilon,
        first_share=goal.first_share,
        first_weight=goal.first_weight,
        draws=goal.draws,
        pooled=goal.pooled,
        likelihood=goal.likelihood,
        dropout=config.model.dropout > 0,
        alignment=released.ALIGNMENT if is_released(config) else "half_pixel",
    )


def build_making(config, *, plain: bool = False) -> Making:
    """Returns how a config makes pairs; `plain` ones are warped only, and in the same way for every config."""
    made = config.pairs
    settings = {"size": made.size, "warps": pretraining.build_warps(config), "supersample": made.supersample}
    if plain:
        return Making(flip=False, **settings)
    photometric = pretraining.build_photometric(config) if made.photometric else None
    return Making(
        flip=config.data.flip, photometric=photometric, elastic=made.elastic, objects=made.objects, **settings
    )


def build_second(config, plan: Plan) -> Second:
    """Returns how a config trains stage 2."""
    goal = config.stage2
    if not 0 <= goal.degraded <= 1:
        got = goal.degraded
        raise input_error("config.stage2.degraded", expected="a share from 0 to 1", got=got, fix="use 0.5")
    if goal.from_stage1 and not goal.stage1:
        fix = "add stage2.stage1=DIR, or use false"
        raise input_error("config.stage2.from_stage1", expected="false without a stage 1", got=True, fix=fix)
    if not 0 <= goal.size <= plan.look.fine_cells:
        expected = f"0 to {plan.look.fine_cells} cells"
        raise input_error("config.stage2.size", expected=expected, got=goal.size, fix="use 0 for the whole grid")
    if goal.size and plan.look.released:
        # Outermost centres coincide: a part of the grid lies elsewhere in the truth than the same part of that.
        fix = "use 0 for the whole grid"
        raise input_error("config.stage2.size", expected="0 with features.compat", got=goal.size, fix=fix)
    if goal.size and config.pairs.size % plan.look.fine_cells:
        expected = f"a multiple of {plan.look.fine_cells}, to train on crops"
        raise input_error("config.pairs.size", expected=expected, got=config.pairs.size, fix="use features.fine")
    if goal.size:
        build_network(config, cells=goal.size)
    return Second(degraded=goal.degraded, noise=goal.noise, size=goal.size)


def kind_of(pyramid: str) -> str:
    """Returns the kind of the pyramid that a config names, whatever its file."""
    return VGG if pyramid.startswith(VGG) else pyramid
