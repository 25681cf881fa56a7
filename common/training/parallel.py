"""Devices and hosts: the only module that knows how many there are.

Two back ends run the same step. "jit": one program over a mesh with one axis, `batch`; the state is replicated, the
batch is sharded, and a statistic over the batch is the statistic of the whole batch. "pmap": one program per device
with the axis name `batch`; the step averages gradients over it.
"""

import contextlib
import functools
import itertools
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from common.errors import InputError, RunError, input_error, one_line
from common.method import PyTree

AXIS = "batch"


class Backend(NamedTuple):
    """Execution of a step on this machine's devices.

    `axis_name` goes to the step; `positions()` gives the places of the batch that the traced program computes; `rows`
    is the part of the global batch that this host loads. `run_ahead` is the number of calls that may be in flight,
    `unroll` whether loops over training steps are better written out.
    """

    name: str
    num_devices: int
    axis_name: str | None
    rows: slice
    run_ahead: int
    unroll: bool
    positions: Callable[[], jax.Array]
    compile: Callable[[Callable], Callable]  # step over [k, ...] -> compiled, donates the state of a single process
    place_state: Callable[[PyTree], PyTree]  # one copy -> on the devices
    place_resident: Callable[[PyTree], PyTree]
    place_fetched: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    local: Callable[[PyTree], PyTree]  # one copy on this host's first device, without a transfer


class RowBackend(NamedTuple):
    """Execution, on this process's devices, of a function whose result rows each depend on one row of its input.

    Each device computes its part of the rows with the same program and without the others, so the number of devices
    changes no bit of a row. `compile` takes `function(whole, rows) -> rows` on trees of arrays.
    """

    num_devices: int
    run_ahead: int
    place: Callable[[PyTree], PyTree]  # one copy -> on every device
    place_rows: Callable[[PyTree], PyTree]  # [num_devices * b, ...] -> b on each device
    compile: Callable[[Callable], Callable]


def rows(num_devices: int | None = None) -> RowBackend:
    """Returns the `RowBackend` over this process's first `num_devices` devices (default: all)."""
    devices = jax.local_devices()[:num_devices]
    # On the host platform, several programs in flight wait for the same few threads.
    run_ahead = 0 if devices[0].platform == "cpu" else 1
    if len(devices) == 1:
        place = functools.partial(jax.device_put, device=devices[0])
        return RowBackend(1, run_ahead, place, place, jax.jit)
    mesh = jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)

    def compile_rows(function):
        # Not left to the partitioner: it may choose other programs, and collectives, for other numbers of devices.
        return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P(AXIS), check_vma=False))

    return RowBackend(
        num_devices=len(devices),
        run_ahead=run_ahead,
        place=functools.partial(jax.device_put, device=NamedSharding(mesh, P())),
        place_rows=functools.partial(jax.device_put, device=NamedSharding(mesh, P(AXIS))),
        compile=compile_rows,
    )


def is_first_process() -> bool:
    """Returns whether this host writes the files that all hosts read."""
    return jax.process_index() == 0


def device_count() -> int:
    """Returns the number of devices over all hosts."""
    return jax.device_count()


def device_name() -> str:
    """Returns number and kind of the devices, e.g. "4 x NVIDIA H100"."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def platform_error(error: BaseException) -> InputError | None:
    """Returns what is wrong with the environment variable JAX_PLATFORMS if that has caused `error`, otherwise None."""
    chosen = os.environ.get("JAX_PLATFORMS")
    if not chosen or not (_is_of_platform(error) or _no_devices()):
        return None
    reason = one_line(error)
    return input_error(
        "JAX_PLATFORMS (environment variable)",
        expected='a platform that JAX can use here, such as "cpu"',
        got=f'"{chosen}"' + (f" ({reason})" if reason else ""),
        fix="unset it, and JAX chooses the best one there is; for a GPU or TPU install JAX with its extra, e.g. "
        "`pip install 'jax[cuda13]'`",
    )


def _is_of_platform(error: BaseException) -> bool:
    return "Unable to initialize backend" in str(error)


def _no_devices() -> bool:
    try:
        jax.devices()
    except (RuntimeError, AssertionError):  # the latter where the platform's plugin is not installed
        return True
    return False


@contextlib.contextmanager
def explain_memory(batch_size: int, accumulate: int) -> Iterator[None]:
    """Raises `RunError` with ways to need less memory where the devices' memory does not suffice."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise RunError(
            f"out of device memory with config.train.batch_size={batch_size} ({str(error).splitlines()[0][:200]}); set "
            f"config.train.accumulate={2 * accumulate} (the same steps, in smaller pieces), config.train.remat=True, "
            "config.data.placement=stream (the data stay on the host), or a smaller batch"
        ) from error


def enable_compilation_cache() -> None:
    """Keeps compiled programs between runs, in `JAX_COMPILATION_CACHE_DIR` or the user's cache directory.

    A cached program is trusted input, so a directory made here is readable by its owner alone. Where none can be made
    a note says so.
    """
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    path = pathlib.Path(chosen or os.path.join(base, "scorebridge", "xla"))
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        print(
            f"note: {path}: cannot keep compiled programs here ({error.strerror}); JAX_COMPILATION_CACHE_DIR chooses "
            "another directory",
            file=sys.stderr,
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(path))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def check_batch(batch_size: int, accumulate: int) -> None:
    """Raises `InputError` unless every micro-batch divides evenly over all devices."""
    count = jax.device_count()
    if batch_size % (count * accumulate):
        unit = f"{count} device{'s' * (count > 1)}" + (f" x {accumulate} micro-batches" if accumulate > 1 else "")
        lower = batch_size // (count * accumulate) * count * accumulate
        raise input_error(
            "config.train.batch_size",
            expected=f"a multiple of {count * accumulate} ({unit})",
            got=batch_size,
            fix=f"use {lower + count * accumulate}" + (f" or {lower}" if lower else ""),
        )


def make_backend(name: str, *, batch_size: int) -> Backend:
    """Returns the "jit" or "pmap" back end over all devices; `batch_size` must divide by their number."""
    # In the order of processes, so that each one loads consecutive rows; `make_mesh` may order by the network.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    mesh = Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))
    rows = rows_of(NamedSharding(mesh, P(AXIS)).addressable_devices_indices_map((batch_size,)), batch_size)
    # On the host platform, collectives of several programs in flight can deadlock.
    on_cpu = devices[0].platform == "cpu"
    run_ahead = 0 if on_cpu and len(devices) > 1 else 1
    functions = {"jit": _jit, "pmap": _pmap}[name](mesh, batch_size)
    # In a loop the host's gradient convolutions ran twenty times slower (jax 0.10), so there loops are unrolled.
    return Backend(name=name, num_devices=len(devices), rows=rows, run_ahead=run_ahead, unroll=on_cpu, **functions)


def rows_of(index_map: Mapping[Any, Any], batch_size: int) -> slice:
    """Returns the rows that the devices of `index_map` (device -> its part of the batch) hold together.

    Raises:
      ValueError: they are not consecutive.
    """
    spans = sorted(index[0].indices(batch_size)[:2] for index in index_map.values())
    if any(stop != start for (_, stop), (start, _) in itertools.pairwise(spans)):
        raise ValueError(f"expected consecutive rows on the devices of one process, got {spans}")
    return slice(spans[0][0], spans[-1][1])


def _jit(mesh: Mesh, batch_size: int) -> dict[str, Any]:
    """Returns the fields of a `Backend` that are functions, and its axis, for one program over all devices."""
    replicated, sharded = NamedSharding(mesh, P()), NamedSharding(mesh, P(AXIS))
    stacked = NamedSharding(mesh, P(None, AXIS))

    def positions():
        position = jnp.arange(batch_size, dtype=jnp.int32)
        return position if mesh.size == 1 else jax.lax.with_sharding_constraint(position, sharded)

    def place_fetched(fetched):
        if mesh.size == 1:
            return fetched  # jit's own way of passing host arrays is the fastest
        return {
            name: jax.tree.map(lambda x, s=stacked if name == "examples" else replicated: _global(x, s), value)
            for name, value in fetched.items()
        }

    def place(tree):
        return jax.tree.map(lambda x: _global(x, replicated), tree)

    return {
        "axis_name": None,
        "positions": positions,
        "compile": lambda step: jax.jit(step, donate_argnums=_donated(), out_shardings=replicated),
        "place_state": place,
        "place_resident": place,
        "place_fetched": place_fetched,
        "local": lambda tree: jax.tree.map(lambda x: x.addressable_data(0), tree),
    }


def _pmap(mesh: Mesh, batch_size: int) -> dict[str, Any]:
    """Returns the fields of a `Backend` that are functions, and its axis, for one program per device."""
    per_device, here = batch_size // mesh.size, jax.local_device_count()

    def positions():
        return jax.lax.axis_index(AXIS) * per_device + jnp.arange(per_device, dtype=jnp.int32)

    def copies(x):
        x = np.asarray(x)
        # Made on the devices once: pmap would copy an unmapped argument from the host at every call.
        return _global(np.broadcast_to(x, (here, *x.shape)), NamedSharding(mesh, P(AXIS)))

    def place_fetched(fetched):
        def split(x):  # [k, b, ...] -> [devices, k, b / devices, ...]
            return np.swapaxes(x.reshape(x.shape[0], here, per_device, *x.shape[2:]), 0, 1)

        return {
            name: jax.tree.map(split if name == "examples" else (lambda x: np.broadcast_to(x, (here, *x.shape))), value)
            for name, value in fetched.items()
        }

    def compile_step(step):
        run = jax.pmap(step, axis_name=AXIS, donate_argnums=_donated(), devices=list(mesh.devices.flat))

        def call(state, resident, fetched):
            state, metrics = run(state, resident, fetched)
            return state, jax.tree.map(lambda x: x.addressable_data(0)[0], metrics)

        return call

    return {
        "axis_name": AXIS,
        "positions": positions,
        "compile": compile_step,
        "place_state": lambda tree: jax.tree.map(copies, tree),
        "place_resident": lambda tree: jax.tree.map(copies, tree),
        "place_fetched": place_fetched,
        "local": lambda tree: jax.tree.map(lambda x: x.addressable_data(0)[0], tree),
    }


def _donated() -> tuple[int, ...]:
    # With several processes the state before a step must outlive it: a process that is lost in between spoils the
    # state after it.
    return (0,) if jax.process_count() == 1 else ()


def _global(x, sharding: NamedSharding) -> jax.Array:
    """Returns `x` (this host's part of it, along a sharded axis) as one array over all hosts."""
    if jax.process_count() == 1:
        return jax.device_put(x, sharding)
    return jax.make_array_from_process_local_data(sharding, np.asarray(x))
