"""Batches as a pure function of the step, gathered on the device or streamed from the host, identical in both ways."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common.data.order import MAX_LENGTH, epoch_key, permuted
from common.data.source import Source, fetch, nbytes, resident
from common.errors import input_error

__all__ = ["Batches", "epoch_key", "example_keys", "make_batches", "permuted"]

_BLOCK = 4096  # places whose order is computed at once on the host
_NO_END = 2**40  # steps of a stream without a stated end

Augment = Callable[[jax.Array, Mapping[str, jax.Array]], Mapping[str, jax.Array]]


class Batches(NamedTuple):
    """The batches of a run; step t holds the examples number t * batch_size, ... of the endless shuffled sequence.

    `resident`: arrays that the step receives as an argument ({} when streaming).
    `fetch(step, num_steps=1, rows=None)`: what the host contributes, with a leading axis of `num_steps`: `epoch` and
    `offset` (uint32, of the step's first example) and, when streaming, `examples` for the `rows` of the global batch
    that this host wants (None: all).
    `assemble(resident, fetched of one step, position [b], augment_key)`: the batch, a pure function for use inside the
    jitted step: the augmented example arrays and `index` int32 `[b]`, the places in the source. `position` int32 are
    the examples' places in the global batch, so a shard assembles exactly its part.
    `close()`: stops the threads. `placement` is "device" or "stream"; `num_examples` the length of the source.
    """

    resident: Any
    fetch: Callable[..., dict[str, Any]]
    assemble: Callable[[Any, Mapping[str, Any], jax.Array, jax.Array], dict[str, jax.Array]]
    close: Callable[[], None]
    placement: str
    num_examples: int


def example_keys(key: jax.Array, position: jax.Array) -> jax.Array:
    """Returns one key per example from its place in the global batch, so that draws do not depend on the devices."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, position)


def start_of(step: int, *, batch_size: int, n: int) -> tuple[int, int]:
    """Returns (epoch modulo 2**32, offset in the epoch) of the first example of a step, computed in exact integers."""
    epoch, offset = divmod(step * batch_size, n)
    return epoch % 2**32, offset


def indices_of(epoch: Any, offset: Any, position: Any, *, n: int, seed: int, xp: Any = np) -> Any:
    """Returns the source indices, int32 `[b]`, of the examples at `position` of the batch that starts in `epoch`.

    `offset` is the place of its first example in that epoch. Each epoch has its own order; a batch may reach into the
    next epochs.
    """
    place = xp.asarray(offset, dtype=xp.uint32) + xp.asarray(position, dtype=xp.uint32)
    epochs = xp.asarray(epoch, dtype=xp.uint32) + place // xp.uint32(n)
    key = epoch_key(seed, epochs, xp=xp)
    return permuted(place % xp.uint32(n), n=n, key=key, xp=xp).astype(xp.int32)


@functools.lru_cache(maxsize=32)
def _block_of_order(block: int, n: int, seed: int) -> np.ndarray:
    epoch, offset = start_of(block, batch_size=_BLOCK, n=n)
    return indices_of(epoch, offset, np.arange(_BLOCK), n=n, seed=seed)


def host_indices(step: int, rows: slice, *, batch_size: int, n: int, seed: int) -> np.ndarray:
    """Returns the source indices of `rows` of a step's global batch; the host's twin of `indices_of`."""
    start, stop = step * batch_size + rows.start, step * batch_size + rows.stop
    blocks = range(start // _BLOCK, (stop - 1) // _BLOCK + 1)
    order = np.concatenate([_block_of_order(block, n, seed) for block in blocks])
    return order[start - blocks[0] * _BLOCK :][: stop - start]


def make_batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    augment: Augment | None = None,
    placement: str = "auto",
    device_limit_bytes: int = 2**31,
    workers: int = 2,
    start_step: int = 0,
    num_steps: int | None = None,
) -> Batches:
    """Returns the batches of a run over `source`; see `Batches`.

    `augment(key, example)` makes the final arrays of one example and runs inside the step. `placement`: "device" keeps
    the whole source on the device, "stream" reads it with `workers` threads, "auto" picks by `device_limit_bytes`.
    Streaming prefetches at most up to step `start_step + num_steps`. Raises `InputError` for impossible values.
    """
    n = len(source)
    if not 1 <= n <= MAX_LENGTH:
        raise input_error(
            "config.data.source", expected=f"1 to {MAX_LENGTH} examples", got=n, fix="use another data set"
        )
    if batch_size < 1:
        raise input_error("config.train.batch_size", expected="at least 1", got=batch_size, fix="raise it")
    if placement not in ("auto", "device", "stream"):
        raise input_error(
            "config.data.placement", expected="'auto', 'device' or 'stream'", got=repr(placement), fix="use one"
        )
    if workers < 0:
        raise input_error("config.data.workers", expected="0 or more threads", got=workers, fix="use 2")
    if placement == "auto":
        size = nbytes(source)
        placement = "device" if size is not None and size <= device_limit_bytes else "stream"
    if placement == "device":
        held = resident(source)
        arrays, take, stream = held.arrays, held.take, None
    else:
        end = _NO_END if num_steps is None else start_step + num_steps
        arrays, take = {}, None
        stream = _Stream(source, batch_size=batch_size, seed=seed, workers=workers, end=end)

    def fetch_steps(step: int, num_steps: int = 1, rows: slice | None = None) -> dict[str, Any]:
        starts = [start_of(step + number, batch_size=batch_size, n=n) for number in range(num_steps)]
        epoch, offset = (np.asarray(values, np.uint32) for values in zip(*starts, strict=True))
        fetched: dict[str, Any] = {"epoch": epoch, "offset": offset}
        if stream is not None:
            start, stop, _ = (rows or slice(None)).indices(batch_size)
            examples = [stream.at(step + number, slice(start, stop)) for number in range(num_steps)]
            fetched["examples"] = {name: _stacked([one[name] for one in examples]) for name in examples[0]}
        return fetched

    def assemble(
        arrays: Any, fetched: Mapping[str, Any], position: jax.Array, augment_key: jax.Array
    ) -> dict[str, jax.Array]:
        index = indices_of(fetched["epoch"], fetched["offset"], position, n=n, seed=seed, xp=jnp)
        examples = fetched["examples"] if take is None else take(arrays, index)
        if augment is not None:
            examples = jax.vmap(augment)(example_keys(augment_key, position), examples)
        return {**examples, "index": index}

    return Batches(
        resident=arrays,
        fetch=fetch_steps,
        assemble=assemble,
        close=(lambda: None) if stream is None else stream.close,
        placement=placement,
        num_examples=n,
    )


def _stacked(arrays: list[np.ndarray]) -> np.ndarray:
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)


class _Steps:
    """The host's examples of every step, as a random-access source for Grain."""

    def __init__(self, source: Source, *, batch_size: int, seed: int, rows: slice, start: int, end: int):
        self._source = source
        self._batch_size = batch_size
        self._seed = seed
        self._rows = rows
        self._start = start
        self._end = end

    def __repr__(self) -> str:
        return f"Steps({self._source!r}, {self._batch_size}, {self._seed}, {self._rows}, {self._start}, {self._end})"

    def __len__(self) -> int:
        return self._end - self._start

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        indices = host_indices(
            self._start + number, self._rows, batch_size=self._batch_size, n=len(self._source), seed=self._seed
        )
        return fetch(self._source, indices)


class _Stream:
    """Prefetches the steps in order; asked for another step, it starts again from there."""

    def __init__(self, source: Source, *, batch_size: int, seed: int, workers: int, end: int):
        self._steps = functools.partial(_Steps, source, batch_size=batch_size, seed=seed)
        self._workers = workers
        self._end = end
        self._iterator: Any = None
        self._next: tuple[int, slice] | None = None

    def at(self, step: int, rows: slice) -> dict[str, np.ndarray]:
        if self._iterator is None or self._next != (step, rows):
            self._restart(step, rows)
        self._next = (step + 1, rows)
        try:
            return next(self._iterator)
        except BaseException:
            self.close()
            raise

    def _restart(self, step: int, rows: slice) -> None:
        import grain

        self.close()
        end = self._end if step < self._end else _NO_END
        steps = grain.MapDataset.source(self._steps(rows=rows, start=step, end=end))
        options = grain.ReadOptions(num_threads=self._workers, prefetch_buffer_size=2 * self._workers)
        self._iterator = iter(steps.to_iter_dataset(options))

    def close(self) -> None:
        if self._iterator is not None:
            self._iterator.close()
        self._iterator, self._next = None, None
