"""Overheads around the computation, as ratios to the computation alone, on a training step of 50 ms or more.

- data: a step with real data over the same step with one constant batch. Goals: at most 1.02 with the data on the
  device, 1.05 streamed by Grain. Streaming is measured with full buffers, and refilling them is charged to it.
- loop: `common.training.loop.train` with recorder, checkpoints directory and a log line every 10 steps, over a bare
  loop of the same compiled step on the same batches. Goal: at most 1.02 between saves.
- checkpoint: steps with a save among them over the same steps without; what the save adds, in the foreground and
  beside the steps, over a minute of training. Goal: at most 1.01 when saving each minute.
- sampler: `gahb.sample` over as many calls of the jitted denoiser. Goal: at most 1.05.
- control: the step with a constant batch, compiled twice. How far from 1 it is, is what a ratio can be wrong by.
- pmap over jit on one device: goal of at most 1.03 on an accelerator, reported only on a CPU.
"""

import io
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks import harness
from benchmarks.harness import Goal, Report, Seconds
from benchmarks.workload import Steps, batches_for, constant_batches, denoiser_config, first_batch, make_steps, on
from benchmarks.workload import workload as make_workload
from common import config as configs
from common.checkpoint import Checkpoints
from common.errors import RunError
from common.io.metrics_log import Recorder
from common.training.loop import compile_step, initial_state, train
from common.training.parallel import make_backend
from gahb.method import build_network
from gahb.networks import denoiser
from gahb.networks import init as init_network
from gahb.sampling import sample

LOG_EVERY = 10
SAVE_EVERY_S = 60.0


class Settings(NamedTuple):
    """Sizes. `block` steps (a multiple of 10) are timed together, `rounds` times; `lead` steps before are not."""

    num_kernels: int = 32
    num_blocks: int = 3
    size: int = 48
    batch_size: int = 4  # doubled until a step takes `least_s`
    most_examples: int = 64
    least_s: float = 0.05
    rounds: int = 15
    block: int = 20
    lead: int = 6
    saves: int = 8
    sampler_iterations: int = 40
    sampler_batch: int = 4
    sampler_rounds: int = 15


FULL = Settings()
ACCELERATOR = Settings(64, 3, 80, batch_size=128, most_examples=2048, sampler_batch=64)
QUICK = Settings(4, 1, 16, 4, 4, 0.0, rounds=3, block=10, lead=2, saves=2, sampler_iterations=3, sampler_rounds=3)


def run(settings: Settings) -> Report:
    """Measures all of them and returns ratios and goals."""
    on_cpu = jax.default_backend() == "cpu"
    if settings is FULL and not on_cpu:
        settings = ACCELERATOR
    work = make_workload(config_for(settings, find_batch_size(settings)))
    samples: dict[str, list[Seconds]] = {}
    samples |= measure_data(work, rounds=settings.rounds, block=settings.block, lead=settings.lead)
    costs = host_costs(work, count=settings.rounds)
    samples |= measure_loop(work, rounds=settings.rounds, block=settings.block)
    saves = measure_saves(work, rounds=settings.saves, block=settings.block)
    samples |= {name: saves[name] for name in ("steps with a save", "steps without", "save call")}
    samples |= measure_sampler(
        num_kernels=settings.num_kernels,
        num_blocks=settings.num_blocks,
        size=settings.size,
        batch_size=settings.sampler_batch,
        iterations=settings.sampler_iterations,
        rounds=settings.sampler_rounds,
    )
    ratios = {
        name: harness.compare(name, samples[above], samples[below])
        for name, above, below in (
            ("data on the device / constant batch", "step, data on device", "step, constant batch"),
            ("data streamed / constant batch", "step, data streamed", "step, constant batch"),
            ("loop / bare steps", "step in the loop", "step, bare"),
            ("sampler / calls of the denoiser", "sampler, per call", "denoiser call"),
            ("pmap / jit", "step, pmap", "step, data on device"),
            ("control", "step, constant batch again", "step, constant batch"),
        )
    }
    added, ratio = save_overhead(samples["steps with a save"], samples["steps without"], every_s=SAVE_EVERY_S)
    step = harness.median(samples["step, bare"]).wall
    limits = (1.02, 1.05, 1.02, 1.05, None if on_cpu else 1.03, None)
    goals = [
        Goal(name, each["wall"], limit)
        for (name, each), limit in zip(ratios.items(), limits, strict=True)
        if limit is not None
    ]
    goals += [
        Goal("checkpoint each minute / none", ratio, 1.01),
        Goal("step, ms", 1e3 * step, 1e3 * FULL.least_s, at_least=True),
    ]
    save = [
        {"what": "the call returns after", "seconds": harness.median(samples["save call"]).wall},
        {"what": "added to the run in all", "seconds": added},
        {"what": "state, MB", "seconds": saves["bytes"] / 1e6},
    ]
    tables = {
        "ratios (wall, with the spread over pairs; cpu)": list(ratios.values()),
        "a save": save,
        "host time for one step, ms": costs,
    }
    return Report(configs.to_dict(work.config), work.settings.seed, samples, tables, goals)


def config_for(settings: Settings, batch_size: int):
    """Returns the config of the step that is timed."""
    return denoiser_config(
        num_kernels=settings.num_kernels, num_blocks=settings.num_blocks, size=settings.size, batch_size=batch_size
    )


def find_batch_size(settings: Settings) -> int:
    """Returns the smallest doubled batch size with which a step takes long enough."""

    def seconds_at(batch_size: int) -> float:
        work = make_workload(config_for(settings, batch_size))
        steps = make_steps(work, batches_for(work, "device"))
        block = harness.timed(lambda: steps.take(1))
        return harness.median(harness.alternate({"step": block}, rounds=5)["step"]).wall

    # A tenth more, so that the step is still long enough when the machine is faster later.
    return harness.calibrate(
        seconds_at, start=settings.batch_size, least=1.1 * settings.least_s, most=settings.most_examples
    )


def measure_data(work, *, rounds: int, block: int, lead: int) -> dict[str, list[Seconds]]:
    """Returns the times of a step with a constant batch (twice), with data on the device (jit, pmap) and streamed."""
    resident, streamed = batches_for(work, "device"), batches_for(work, "stream")
    constant = constant_batches(first_batch(resident, work.settings.batch_size))
    drivers = {
        "step, constant batch": make_steps(work, constant),
        "step, constant batch again": make_steps(work, constant),
        "step, data on device": make_steps(work, resident),
        "step, data streamed": make_steps(work, streamed),
        "step, pmap": make_steps(work, resident, parallel="pmap"),
    }

    def steady(steps: Steps) -> Callable[[], Seconds]:
        # The untimed lead empties this one's prefetch buffers and lets the one before refill its own.
        return harness.timed(lambda: steps.take(block), before=lambda: steps.take(lead), per=block)

    try:
        return harness.alternate({name: steady(steps) for name, steps in drivers.items()}, rounds=rounds)
    finally:
        streamed.close()


def host_costs(work, *, count: int) -> list[dict[str, Any]]:
    """Returns the median host time of each part of a step, in ms, when every step is waited for."""
    rows = []
    for placement in ("device", "stream"):
        batches = batches_for(work, placement)
        try:
            steps = make_steps(work, batches)
            jax.block_until_ready(steps.take(2))
            parts = [steps.take_parts() for _ in range(count)]
        finally:
            batches.close()
        medians = {name: 1e3 * statistics.median(part[name] for part in parts) for name in parts[0]}
        rows.append({"data": placement, **medians})
    return rows


def measure_loop(work, *, rounds: int, block: int) -> dict[str, list[Seconds]]:
    """Returns the times of a step in the training loop and in a bare loop, in blocks that take turns.

    The bare steps run when the loop asks for the first batch of a block: it has just logged, so nothing is in flight.
    Compilation, restoring and the save at the end are not in any block.
    """
    if block % LOG_EVERY:
        raise ValueError(f"block={block} is no multiple of {LOG_EVERY}, so steps would be in flight at its end")
    settings = work.settings._replace(
        steps=(rounds + 1) * block + 1, log_every=LOG_EVERY, preview_every=0, checkpoint_every=2**31, steps_per_call=1
    )
    batches = batches_for(work, "device")
    backend = make_backend(settings.parallel, batch_size=settings.batch_size)
    # One program for both sides, compiled before.
    compiled = compile_step(work.method, settings, batches, backend)
    bare_steps = Steps(compiled, on(backend, initial_state(work.method, settings, batches)()), batches, backend)
    loop, bare = [], []
    started: list[Seconds] = []
    running = False

    def fetch(step, *args, **kwargs):
        # Before the loop one example is fetched, to know the shapes.
        if running and step % block == 0:
            if started:
                loop.append(harness.since(started.pop(), harness.now(), per=block))
            bare.append(harness.timed(lambda: bare_steps.take(block, first=step), per=block)())
            started.append(harness.now())
        return batches.fetch(step, *args, **kwargs)

    def open_recorder(step):
        nonlocal running
        running = True
        return Recorder(workdir, total_steps=settings.steps, resume_step=step, stream=io.StringIO())

    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder)
        with _checkpoints(work, workdir) as checkpoints:
            train(
                work.method,
                settings,
                batches._replace(fetch=fetch),
                backend._replace(compile=lambda step: compiled),
                checkpoints=checkpoints,
                open_recorder=open_recorder,
                should_stop=lambda step: False,
                dump_dir=workdir,
            )
    # The first block of each warms up; the last bare one has no block of the loop after it.
    return {"step in the loop": loop[1:], "step, bare": bare[1 : len(loop)]}


def measure_saves(work, *, rounds: int, block: int) -> dict[str, Any]:
    """Returns the times of `block` steps after a save, which end when both are done, and of as many without one.

    Also the times of the calls that save, and the `bytes` that one saves.
    """
    batches = batches_for(work, "device")
    steps = make_steps(work, batches)
    backend = make_backend(work.settings.parallel, batch_size=work.settings.batch_size)
    calls: list[Seconds] = []

    with tempfile.TemporaryDirectory() as folder, _checkpoints(work, Path(folder)) as checkpoints:

        def with_save():
            start = harness.now()
            checkpoints.save(steps.step, backend.local(steps.state), {})
            calls.append(harness.since(start, harness.now()))
            metrics = jax.block_until_ready(steps.take(block))
            checkpoints.wait()
            return metrics

        samples = harness.alternate(
            {
                "steps with a save": harness.timed(with_save),
                "steps without": harness.timed(lambda: steps.take(block)),
            },
            rounds=rounds,
        )
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(backend.local(steps.state)))
    return {**samples, "save call": calls[1:], "bytes": size}


def save_overhead(with_save: list[Seconds], without: list[Seconds], *, every_s: float) -> tuple[float, float]:
    """Returns the median wall seconds that a save adds, and the run time with a save each `every_s` over without."""
    added = statistics.median(a.wall - b.wall for a, b in zip(with_save, without, strict=True))
    return added, (every_s + added) / every_s


def measure_sampler(
    *, num_kernels: int, num_blocks: int, size: int, batch_size: int, iterations: int, rounds: int
) -> dict[str, list[Seconds]]:
    """Returns the times of the sampler per call of the denoiser, and of the denoiser alone.

    The sampler calls the denoiser once before the first iteration, so it is compared to `iterations + 1` calls.
    """
    config = denoiser_config(num_kernels=num_kernels, num_blocks=num_blocks, size=size, batch_size=batch_size)
    with config.unlocked():
        config.model.gain_init = "unit"  # the released one gives almost nothing but zeros before training
    network, shape = build_network(config), (batch_size, size, size, config.data.channels)
    key = jax.random.key(config.seed)
    y = 0.5 + jax.random.normal(key, shape)
    denoise = denoiser(init_network(network, key, y), network)
    call = jax.jit(lambda denoise, y: denoise(y))
    nfe = iterations + 1

    def draw():
        # Bounds that no sample meets: all of them take every iteration.
        return sample(denoise, key, shape, sigma_L=1e-30, divergence=1e30, max_steps=iterations)

    def calls():
        x = y
        for _ in range(nfe):
            x = jax.block_until_ready(call(denoise, y))
        return x

    if (used := draw()[1]["nfe"]).min() != nfe:
        raise RunError(f"the sampler called the denoiser {used} times instead of {nfe}: the comparison would be unfair")
    return harness.alternate(
        {"sampler, per call": harness.timed(draw, per=nfe), "denoiser call": harness.timed(calls, per=nfe)},
        rounds=rounds,
    )


def _checkpoints(work, workdir: Path) -> Checkpoints:
    return Checkpoints(workdir, config=configs.to_dict(work.config), keep=work.settings.keep, data_fingerprint=None)
