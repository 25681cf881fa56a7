"""A training step as the product makes it, and a driver that runs it without the training loop."""

import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common.data.batches import Batches, make_batches
from common.method import Method
from common.training import settings as training_settings
from common.training.loop import compile_step, initial_state
from common.training.parallel import Backend, make_backend
from common.training.settings import Settings
from configs.gahb.base import base
from gahb.method import build


class Workload(NamedTuple):
    """A method with its settings and the source it trains on."""

    config: Any
    method: Method
    settings: Settings
    source: Any


def denoiser_config(*, num_kernels: int, num_blocks: int, size: int, batch_size: int, dtype: str = "float32"):
    """Returns the config of a UNet on random crops of the bundled photographs."""
    config = base()
    config.compute_dtype = dtype
    config.model.num_kernels = num_kernels
    config.model.num_blocks = num_blocks
    config.data.size = size
    config.train.batch_size = batch_size
    return config.lock()


def workload(config) -> Workload:
    """Returns what a config trains; opens its data."""
    method = build(config)
    source = method.sources()["train"]
    return Workload(config, method, training_settings.build(config, num_examples=len(source)), source)


def batches_for(work: Workload, placement: str) -> Batches:
    """Returns the batches of a run, "device" or "stream"."""
    return make_batches(
        work.source,
        batch_size=work.settings.batch_size,
        seed=work.settings.seed,
        augment=work.method.augment,
        placement=placement,
        workers=work.settings.loading["workers"],
    )


def constant_batches(batch: dict[str, np.ndarray]) -> Batches:
    """Returns batches that are all this one, which stays on the device: a step without any data pipeline."""
    count = len(next(iter(batch.values())))

    def assemble(resident, fetched, position, key):
        if position.shape[0] == count:
            return dict(resident)
        return {name: x[position] for name, x in resident.items()}

    def fetch(step, num_steps=1, rows=None):
        return {"examples": {"index": np.zeros((num_steps, count), np.int32)}}

    return Batches(batch, fetch, assemble, lambda step: np.zeros(count, np.int32), lambda: None, "device")


def first_batch(batches: Batches, batch_size: int) -> dict[str, np.ndarray]:
    """Returns the augmented batch of step 0."""
    fetched = jax.tree.map(lambda x: x[0], batches.fetch(0))
    position = np.arange(batch_size, dtype=np.int32)
    return jax.tree.map(np.asarray, batches.assemble(batches.resident, fetched, position, jax.random.key(0)))


class Steps:
    """Takes training steps one after the other, with no more of them in flight than the training loop allows.

    `step` is the number of the next one.
    """

    def __init__(self, run: Callable, state: Any, batches: Batches, backend: Backend):
        self.step = 0
        self.state = state
        self._run = run
        self._batches = batches
        self._resident = backend.place_resident(batches.resident)
        self._backend = backend

    def take(self, count: int, *, first: int | None = None) -> Any:
        """Takes `count` steps, from `first` if given, and returns the metrics of the last, maybe not yet computed."""
        if first is not None:
            self.step = first
        fetch, place, run, rows = self._batches.fetch, self._backend.place_fetched, self._run, self._backend.rows
        pending: list[Any] = []
        metrics = None
        for step in range(self.step, self.step + count):
            self.state, metrics = run(self.state, self._resident, place(fetch(step, 1, rows)))
            pending.append(metrics)
            while len(pending) > self._backend.run_ahead:
                jax.block_until_ready(pending.pop(0))
        self.step += count
        return metrics

    def take_parts(self) -> dict[str, float]:
        """Takes one step and returns the host's wall seconds for each part, and for the computation after it."""
        marks = [time.perf_counter()]

        def mark(value):
            marks.append(time.perf_counter())
            return value

        fetched = mark(self._batches.fetch(self.step, 1, self._backend.rows))
        placed = mark(self._backend.place_fetched(fetched))
        self.state, metrics = mark(self._run(self.state, self._resident, placed))
        mark(jax.block_until_ready(metrics))
        mark(jax.device_get(metrics))
        self.step += 1
        names = ("fetch", "place", "dispatch", "compute", "read metrics")
        return dict(zip(names, (b - a for a, b in itertools.pairwise(marks)), strict=True))


def make_steps(work: Workload, batches: Batches, *, parallel: str = "jit") -> Steps:
    """Returns the driver of a step that is compiled at the first call, over its own state."""
    backend = make_backend(parallel, batch_size=work.settings.batch_size)
    state = initial_state(work.method, work.settings, batches)()
    return Steps(compile_step(work.method, work.settings, batches, backend), on(backend, state), batches, backend)


def on(backend: Backend, state: Any) -> Any:
    """Returns a copy of a state on the devices, which a step may take over without harm to the original."""
    return backend.place_state(jax.tree.map(jnp.copy, state))
