"""Forward pass and training step of the paper's UNet: 64 kernels, 3 blocks, 80x80, batch 8, float32.

On an accelerator the batch is the paper's, 512, in float32 and in bfloat16. Wall and CPU seconds, examples/s, counted
FLOPs (2 per multiply-add, counted by XLA in the program before it is compiled), and their share of what a large matrix
product of the same type reached in the same minutes (MFU). The forward pass is the denoiser in evaluation mode, the
step is the one that training takes, with a constant batch. No goals: the numbers are for comparison.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from benchmarks.harness import Report, Seconds
from benchmarks.workload import constant_batches, on
from common import config as configs
from common.training import settings as training_settings
from common.training.loop import compile_step, initial_state
from common.training.parallel import device_count, make_backend
from configs.gahb.celeba80 import get_config
from gahb.method import build, build_network
from gahb.networks import denoiser
from gahb.networks import init as init_network

NUM_EXAMPLES = 99_000  # half of CelebA, about: turns the config's epochs into steps, on which no time depends


class Settings(NamedTuple):
    """Sizes of the network and of the matrix product (`[side, side]`) whose speed stands for the peak."""

    num_kernels: int = 64
    num_blocks: int = 3
    size: int = 80
    batch_size: int = 8
    dtypes: tuple[str, ...] = ("float32",)
    side: int = 2048
    rounds: int = 10


FULL = Settings()
ACCELERATOR = Settings(batch_size=512, dtypes=("float32", "bfloat16"), side=8192, rounds=20)
QUICK = Settings(4, 1, 16, 4, ("float32",), side=64, rounds=2)


class Program(NamedTuple):
    """A compiled program: `block` times one call; `flops` of a call; `bytes` it needs (None if unknown)."""

    block: Any
    flops: float
    bytes: int | None


def run(settings: Settings) -> Report:
    """Measures each compute type and returns one row for each program."""
    if settings is FULL and jax.default_backend() != "cpu":
        settings = ACCELERATOR
    samples: dict[str, list[Seconds]] = {}
    rows = []
    for dtype in settings.dtypes:
        config = config_for(settings, dtype)
        programs = {
            f"forward, {dtype}": forward(config),
            f"training step, {dtype}": training_step(config),
            f"matrix product, {dtype}": matrix_product(side=settings.side, dtype=dtype, seed=config.seed),
        }
        taken = harness.alternate({name: each.block for name, each in programs.items()}, rounds=settings.rounds)
        samples |= taken
        # The best of them, for it is a roof.
        product = f"matrix product, {dtype}"
        peak = programs.pop(product).flops / min(each.wall for each in taken[product])
        rows += [
            row(name, each, taken[name], several=settings.batch_size, peak=peak * device_count())
            for name, each in programs.items()
        ]
    if (used := peak_bytes()) is not None:
        rows.append({**dict.fromkeys(rows[0]), "what": "most in use on the device", "MiB": used / 2**20})
    return Report(configs.to_dict(config), config.seed, samples, {"throughput": rows}, [])


def config_for(settings: Settings, dtype: str):
    """Returns the paper's experiment at the chosen size."""
    config = get_config()
    config.compute_dtype = dtype
    config.model.num_kernels = settings.num_kernels
    config.model.num_blocks = settings.num_blocks
    config.data.size = settings.size
    config.train.batch_size = settings.batch_size
    return config.lock()


def forward(config) -> Program:
    """Returns the denoiser in evaluation mode, on a batch."""
    network, images = build_network(config), images_for(config)
    denoise = denoiser(init_network(network, jax.random.key(config.seed), images), network)
    lowered = jax.jit(lambda denoise, y: denoise(y)).lower(denoise, images)
    compiled = lowered.compile()
    return Program(harness.timed(lambda: compiled(denoise, images)), count(lowered), program_bytes(compiled))


def training_step(config) -> Program:
    """Returns the step that training takes, with gradient, optimizer and metrics, on a constant batch."""
    method, settings = build(config), training_settings.build(config, num_examples=NUM_EXAMPLES)
    backend = make_backend(settings.parallel, batch_size=settings.batch_size)
    batches = constant_batches({"image": np.asarray(images_for(config))})
    state = on(backend, initial_state(method, settings, batches)())
    resident, fetched = backend.place_resident(batches.resident), backend.place_fetched(batches.fetch(0))
    lowered = compile_step(method, settings, batches, backend).lower(state, resident, fetched)
    compiled = lowered.compile()

    def step():
        nonlocal state
        state, metrics = compiled(state, resident, fetched)
        return state, metrics

    return Program(harness.timed(step), count(lowered), program_bytes(compiled))


def matrix_product(*, side: int, dtype: str, seed: int) -> Program:
    """Returns the product of two square matrices, on one device, in the precision that networks use."""
    a, b = jax.random.normal(jax.random.key(seed), (2, side, side), jnp.dtype(dtype))
    compiled = jax.jit(jnp.matmul).lower(a, b).compile()
    return Program(harness.timed(lambda: compiled(a, b)), 2.0 * side**3, program_bytes(compiled))


def images_for(config) -> jax.Array:
    """Returns a batch of uniform noise in [0, 1]."""
    shape = (config.train.batch_size, config.data.size, config.data.size, config.data.channels)
    return jax.random.uniform(jax.random.key(config.seed), shape)


def row(
    name: str, program: Program, taken: Sequence[Seconds], *, several: int, peak: float, unit: str = "example"
) -> dict[str, Any]:
    """Returns the numbers of one program that treats `several` of a unit; `peak` in FLOP/s."""
    middle = harness.median(taken)
    speed = program.flops / middle.wall
    return {
        "what": name,
        f"{unit}s": several,
        "wall s": middle.wall,
        "CPU s": middle.cpu,
        f"{unit}s/s": several / middle.wall,
        f"GFLOP/{unit}": program.flops / several / 1e9,
        "GFLOP/s": speed / 1e9,
        "peak GFLOP/s": peak / 1e9,
        "MFU": speed / peak,
        "MiB": None if program.bytes is None else program.bytes / 2**20,
    }


def count(lowered: Any) -> float:
    """Returns the FLOPs of a program that is not yet compiled."""
    return float(lowered.cost_analysis()["flops"])


def program_bytes(compiled: Any) -> int | None:
    """Returns the bytes that a program holds at once: arguments, results and what is temporary; None if unknown."""
    memory = compiled.memory_analysis()
    if memory is None:
        return None
    fixed = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return fixed + memory.temp_size_in_bytes


def peak_bytes() -> int | None:
    """Returns the most bytes in use so far on the first device; None where the platform does not tell."""
    stats = jax.local_devices()[0].memory_stats()
    return None if stats is None else stats.get("peak_bytes_in_use")
