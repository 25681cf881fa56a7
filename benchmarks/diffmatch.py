"""Pairs a second of the dense matcher: inference by both stages, and a training step of each, with the making of pairs.

The networks of configs/diffmatch_jax/bsds.py and bsds_stage2.py, float32, on the photographs inside scikit-image; on an
accelerator the two of 121 million parameters of paper.py and paper_stage2.py, in float32 and in bfloat16. All weights
are random, VGG-16's too: no file is needed, and no time depends on them. FLOPs are those of matrix products and
convolutions, loops included; MFU is their share of what a large matrix product of the same type reached in the same
minutes. Then what drawing hypotheses costs beside as many calls of the jitted network, and whole matches of one pair by
image size. No goals: the numbers are for comparison.
"""

import importlib
import resource
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import flops, harness
from benchmarks.harness import Report, Seconds
from benchmarks.unet import Program, matrix_product, peak_bytes, program_bytes, row
from benchmarks.workload import on
from common import config as configs
from common.data.batches import make_batches
from common.method import Method, Variables
from common.training import settings as training_settings
from common.training.loop import compile_step, initial_state
from common.training.parallel import device_count, make_backend
from diffmatch_jax.commands.export import portable
from diffmatch_jax.method import build, model_of
from diffmatch_jax.model import backbone, conditioning, features, matcher
from diffmatch_jax.model.features import Prepared
from diffmatch_jax.model.matcher import MatcherConfig, Model, on_grid
from diffmatch_jax.model.sampling import draw
from diffmatch_jax.model.unet import inputs
from diffmatch_jax.settings import VGG, build_matcher_config

# Only for counting: the arithmetic that is asked for, independent of kernels and recomputation.
COUNTED = {"model.fused_attention": False, "train.remat": False}


class Settings(NamedTuple):
    """The experiments of both stages, what is changed in them, and sizes.

    `pairs` are matched at once, with so many `hypotheses`; `side` is that of the matrix product `[side, side]` whose
    speed stands for the peak; `sizes` (height, width) of the images of whole matches, ascending.
    """

    stage1: str = "bsds"
    stage2: str = "bsds_stage2"
    changes: Mapping[str, Any] = {"data.source": "photographs"}
    pairs: int = 4
    hypotheses: int = 4
    dtypes: tuple[str, ...] = ("float32",)
    side: int = 2048
    rounds: int = 5
    sizes: tuple[tuple[int, int], ...] = ((256, 256), (480, 640), (1000, 1500), (2000, 3000), (3000, 4000))


FULL = Settings()
ACCELERATOR = Settings(
    "paper",
    "paper_stage2",
    {"data.source": "photographs", "features.pyramid": VGG + "none, drawn at random"},
    hypotheses=3,
    dtypes=("float32", "bfloat16"),
    side=8192,
    rounds=10,
)
QUICK = Settings(
    changes={
        "data.source": "photographs",
        "data.size": 64,
        "features.fine": 32,
        "model.channels": 8,
        "model.multipliers": (1,),
        "model.attention": (),
        "model.heads": 1,
        "process.steps": 2,
        "pairs.size": 32,
        "pairs.photometric": 0.0,
        "pairs.shares": (0, 1, 0),
        "stage2.size": 8,
        "train.batch_size": 2,
    },
    pairs=2,
    hypotheses=2,
    side=64,
    rounds=1,
    sizes=((64, 64), (64, 80)),
)


class Stage(NamedTuple):
    """A stage's config, and the method that trains it, whose frozen weights are random."""

    config: Any
    method: Method


def run(settings: Settings) -> Report:
    """Measures each compute type and returns one row for each program."""
    if settings is FULL and jax.default_backend() != "cpu":
        settings = ACCELERATOR
    samples: dict[str, list[Seconds]] = {}
    rows, ratios, whole = [], [], []
    for dtype in settings.dtypes:
        stages, counted = stages_for(settings, dtype), stages_for(settings, dtype, **COUNTED)
        model = model_for(stages)
        programs = {f"inference, both stages, {dtype}": inference(model, plan_for(counted), settings)}
        for i in (0, 1):
            programs[f"training step, stage {i + 1}, {dtype}"] = training_step(stages[i], counted[i].method)
        pairs = (settings.pairs, *(each.config.train.batch_size for each in stages))
        devices = (1, device_count(), device_count())
        product = matrix_product(side=settings.side, dtype=dtype, seed=stages[0].config.seed)
        drawing, calling = (f"{each}, {dtype}" for each in names(model.config, settings))
        blocks = {name: each.block for name, each in programs.items()}
        blocks |= dict(zip((drawing, calling), sampling(model, settings), strict=True))
        taken = harness.alternate(blocks | {f"matrix product, {dtype}": product.block}, rounds=settings.rounds)
        samples |= taken
        # The best of them, for it is a roof.
        peak = product.flops / min(each.wall for each in taken[f"matrix product, {dtype}"])
        rows += [
            row(name, each, taken[name], several=several, peak=peak * many, unit="pair")
            for (name, each), several, many in zip(programs.items(), pairs, devices, strict=True)
        ]
        ratios.append(harness.compare(f"{drawing} / {calling}", taken[drawing], taken[calling]))
        whole += [matched(model, size, dtype=dtype, rounds=settings.rounds) for size in settings.sizes]
    if (used := peak_bytes()) is not None:
        rows.append({**dict.fromkeys(rows[0]), "what": "most in use on the device", "MiB": used / 2**20})
    reported = {**settings._asdict(), "stages": [portable(each.config) for each in stages]}
    return Report(
        reported,
        stages[0].config.seed,
        samples,
        {"throughput": rows, "sampler / network calls": ratios, "match": whole},
        [],
    )


def config_for(settings: Settings, experiment: str, dtype: str, **more: Any):
    """Returns the config of an experiment with the changes, features in the same compute type."""
    chosen = importlib.import_module(f"configs.diffmatch_jax.{experiment}").get_config()
    types = {"compute_dtype": dtype, "features.compute_dtype": dtype}
    return configs.from_dict(chosen.to_dict(), chosen, {**types, **settings.changes, **more})


def stages_for(settings: Settings, dtype: str, **more: Any) -> tuple[Stage, Stage]:
    """Returns both stages, the second trained on what the first, as it is drawn, predicts."""
    first = config_for(settings, settings.stage1, dtype, **more)
    # It is found by its directory, and nothing but its config is read before the weights.
    with tempfile.TemporaryDirectory() as directory:
        configs.write(first, directory)
        second = config_for(settings, settings.stage2, dtype, **more, **{"stage2.stage1": directory})
        one, two = build(first), build(second)
    draw_first = init_for(first)
    return Stage(first, one._replace(init=draw_first)), Stage(second, two._replace(init=init_for(second, draw_first)))


def init_for(config, first: Callable | None = None) -> Callable:
    """Returns a method's `init` that reads no weights: the pyramid's are random, and stage 1's are made by `first`."""
    alone = {"features.pyramid": "embedded", "stage2.stage1": "", "stage2.from_stage1": False}
    trained = build(configs.from_dict(config.to_dict(), config, alone)).init
    widths = features.VGG_WIDTHS if config.features.pyramid.startswith(VGG) else backbone.WIDTHS

    def init(key, batch):
        stats = {"pyramid": backbone.init(key, widths)}
        if first is not None:
            stats["stage1"] = first(key, batch).params
        return Variables(trained(key, batch).params, stats)

    return init


def plan_for(stages: tuple[Stage, Stage]) -> MatcherConfig:
    """Returns how the matcher of both stages works."""
    return build_matcher_config(stages[1].config, stages[0].config)


def model_for(stages: tuple[Stage, Stage]) -> Model:
    """Returns the matcher of both stages."""
    config, method = stages[1]
    return model_of(config, jax.jit(method.init)(jax.random.key(config.seed), {}), stages[0].config)


def images_for(model: Model, settings: Settings) -> Prepared:
    """Returns prepared images of uniform noise in [0, 1], one for each pair."""
    keys, sides = (
        jax.random.split(jax.random.key(1)),
        (model.config.conditioning.fine, model.config.conditioning.coarse),
    )
    return Prepared(
        *(jax.random.uniform(key, (settings.pairs, side, side, 3)) for key, side in zip(keys, sides, strict=True))
    )


def inference(model: Model, counted: MatcherConfig, settings: Settings) -> Program:
    """Returns the matching of prepared images by both stages; the plan `counted` does the same arithmetic."""
    images, keys = images_for(model, settings), jax.random.split(jax.random.key(2), settings.pairs)
    arrays = model.weights, images, images, keys
    compiled = on_grid.lower(model.config, *arrays, settings.hypotheses).compile()
    arithmetic = flops.products(on_grid.trace(counted, *arrays, settings.hypotheses))
    return Program(harness.timed(lambda: compiled(*arrays)), arithmetic, program_bytes(compiled))


def training_step(stage: Stage, counted: Method) -> Program:
    """Returns the step that training takes, from photographs to parameters; `counted` does the same arithmetic."""
    config, method = stage
    source = method.sources()["train"]
    settings = training_settings.build(config, num_examples=len(source))
    backend = make_backend(settings.parallel, batch_size=settings.batch_size)
    batches = make_batches(
        source, batch_size=settings.batch_size, seed=settings.seed, augment=method.augment, placement="device"
    )
    state = on(backend, initial_state(method, settings, batches)())
    resident, fetched = backend.place_resident(batches.resident), backend.place_fetched(batches.fetch(0))
    arithmetic = flops.products(compile_step(counted, settings, batches, backend).trace(state, resident, fetched))
    compiled = compile_step(method, settings, batches, backend).lower(state, resident, fetched).compile()

    def step():
        nonlocal state
        state, metrics = compiled(state, resident, fetched)
        return state, metrics

    return Program(harness.timed(step), arithmetic, program_bytes(compiled))


def matched(model: Model, size: tuple[int, int], *, dtype: str, rounds: int) -> dict[str, Any]:
    """Returns the row of whole matches of one pair of images of `size` (height, width), from bytes to flow.

    "first s" is the first call, with what is compiled for this size. "MiB resident" is the most that this process has
    had so far, Python, libraries and programs included, so sizes must ascend.
    """
    height, width = size
    blocks = np.random.default_rng(0).integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    image = blocks.repeat(8, 0).repeat(8, 1)[:height, :width]
    block = harness.timed(lambda: matcher.match(image, np.roll(image, 8, 1), model=model))
    first = block()
    taken = harness.median([block() for _ in range(rounds)])
    return {
        "what": f"match, {width} x {height}, {dtype}",
        "first s": first.wall,
        "wall s": taken.wall,
        "CPU s": taken.cpu,
        "pairs/s": 1 / taken.wall,
        "MiB resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
    }


def names(matcher_config: MatcherConfig, settings: Settings) -> tuple[str, str]:
    """Returns what the times of drawing hypotheses and of the network alone are called."""
    return f"stage 1: {settings.hypotheses} hypotheses drawn", f"{matcher_config.first.nfe} network calls"


def sampling(model: Model, settings: Settings) -> tuple[Callable[[], Seconds], Callable[[], Seconds]]:
    """Returns blocks that draw hypotheses by stage 1 for known conditions, and call its network as often as they do."""
    matcher_config, params = model.config, model.weights.first
    keys = jax.random.split(jax.random.key(3), settings.pairs)

    @jax.jit
    def conditions_of(weights, images):
        of_images = conditioning.maps(weights.pyramid, images, matcher_config.conditioning).first
        return conditioning.stage1(of_images, of_images, matcher_config.conditioning).conditions

    conditions = conditions_of(model.weights, images_for(model, settings))
    repeated = jax.tree.map(lambda each: jnp.repeat(each, settings.hypotheses, axis=0), conditions)
    seen = inputs(jnp.zeros_like(repeated.flow), repeated, matcher_config.first.variable)
    time = jnp.full(seen.shape[:1], matcher_config.first.process.times[-1])
    drawn = jax.jit(draw, static_argnums=0, static_argnames="hypotheses")
    call = jax.jit(lambda params, seen, time: matcher_config.first.network.apply({"params": params}, seen, time))

    def calls():
        for _ in range(matcher_config.first.nfe):
            last = jax.block_until_ready(call(params, seen, time))
        return last

    return (
        harness.timed(
            lambda: drawn(matcher_config.first, params, conditions, hypotheses=settings.hypotheses, keys=keys)
        ),
        harness.timed(calls),
    )
