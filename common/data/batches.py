"""Batches as a pure function of the step, gathered on the device or streamed from the host, identical in both ways."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common.arrays import to_unit
from common.config import CHOICES
from common.data.source import MAX_LENGTH, Source, generator, shuffled
from common.errors import at_least, choice, input_error

_RANDOM = 1  # the purpose of the random numbers of the examples
_NO_END = 2**40  # steps of a stream without a stated end

Augment = Callable[[jax.Array, Mapping[str, jax.Array]], Mapping[str, jax.Array]]


class Batches(NamedTuple):
    """The batches of a run; step t holds the examples number t * batch_size, ... of the endless shuffled sequence.

    `resident`: arrays that the step receives as an argument ({} when streaming).
    `fetch(step, num_steps=1, rows=None)`: what the host contributes, with a leading axis of `num_steps`: `step` uint32
    and `examples` for the `rows` of the global batch that this host wants (None: all). They hold `index` int32, the
    places in the source, and the examples themselves when streaming, otherwise `random`, which decides their crops.
    `assemble(resident, fetched of one step, position [b], augment_key)`: the batch, a pure function for use inside the
    jitted step: the augmented example arrays and `index`. `position` int32 are the examples' places in the global
    batch, so a shard assembles exactly its part.
    `indices(step)`: the places in the source of all examples of a step, int32 `[batch_size]`; reads nothing.
    `close()`: stops the threads. `placement` is "device" or "stream".
    """

    resident: Any
    fetch: Callable[..., dict[str, Any]]
    assemble: Callable[[Any, Mapping[str, Any], jax.Array, jax.Array], dict[str, jax.Array]]
    indices: Callable[[int], np.ndarray]
    close: Callable[[], None]
    placement: str


def example_keys(key: jax.Array, position: jax.Array) -> jax.Array:
    """Returns one key per example from its place in the global batch: no random number depends on the devices."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, position)


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
    _check(n, batch_size, placement, workers)
    if placement == "auto":
        size = source.nbytes
        placement = "device" if size is not None and size <= device_limit_bytes else "stream"

    def indices(step: int) -> np.ndarray:
        return shuffled(step * batch_size, (step + 1) * batch_size, n=n, seed=seed)

    def requests(step: int, rows: slice) -> dict[str, np.ndarray]:
        """Returns what decides the examples of a step: index and, where they need any, random numbers."""
        # For the whole batch, so that an example's numbers do not depend on the hosts it is spread over.
        request = {"index": indices(step)}
        if source.num_random:
            size = (batch_size, source.num_random)
            request["random"] = generator(seed, _RANDOM, step).randint(2**31 - 1, size=size, dtype=np.int32)
        return {name: array[rows] for name, array in request.items()}

    def read(step: int, rows: slice) -> dict[str, np.ndarray]:
        request = requests(step, rows)
        return {**source.read(**request), "index": request["index"]}

    if placement == "device":
        held, stream = source.on_device(), None
        arrays, at = held.arrays, requests
    else:
        end = _NO_END if num_steps is None else start_step + num_steps
        stream = _Stream(read, workers=workers, end=end)
        arrays, at = {}, stream.at

    def fetch(step: int, num_steps: int = 1, rows: slice | None = None) -> dict[str, Any]:
        steps = [at(step + number, rows or slice(None)) for number in range(num_steps)]
        examples = {name: _stacked([each[name] for each in steps]) for name in steps[0]}
        number = np.arange(step, step + num_steps, dtype=np.int64).astype(np.uint32)  # modulo 2**32
        return {"step": number, "examples": examples}

    def assemble(
        arrays: Any, fetched: Mapping[str, Any], position: jax.Array, augment_key: jax.Array
    ) -> dict[str, jax.Array]:
        examples = dict(fetched["examples"])
        index = examples.pop("index")
        if stream is None:
            examples = held.gather(arrays, index, examples.get("random"))
        if augment is not None:
            examples = jax.vmap(augment)(example_keys(augment_key, position), examples)
        return {**examples, "index": index}

    close = (lambda: None) if stream is None else stream.close
    return Batches(arrays, fetch, assemble, indices, close, placement)


def _check(n: int, batch_size: int, placement: str, workers: int) -> None:
    if not 1 <= n <= MAX_LENGTH:
        raise input_error(
            "config.data.source", expected=f"1 to {MAX_LENGTH} examples", got=n, fix="use another data set"
        )
    at_least({"config.train.batch_size": (batch_size, 1), "config.data.workers": (workers, 0)})
    choice("config.data.placement", placement, CHOICES["data.placement"])


def _stacked(arrays: list[np.ndarray]) -> np.ndarray:
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)


class _Stream:
    """Reads the steps ahead, in order, by Grain's threads; asked for another step, it starts again from there."""

    def __init__(self, read: Callable[[int, slice], dict[str, np.ndarray]], *, workers: int, end: int):
        self._read = read
        self._workers = workers
        self._end = end
        self._iterator: Any = None
        self._next: tuple[int, slice] | None = None

    def at(self, step: int, rows: slice) -> dict[str, np.ndarray]:
        if self._iterator is None or self._next != (step, rows):
            self._restart(step, rows)
        self._next = (step + 1, rows)
        try:
            iterator: Any = self._iterator
            return next(iterator)
        except BaseException:
            self.close()
            raise

    def _restart(self, step: int, rows: slice) -> None:
        import grain

        self.close()
        steps = grain.MapDataset.range(step, self._end if step < self._end else _NO_END)
        options = grain.ReadOptions(num_threads=self._workers, prefetch_buffer_size=2 * self._workers)
        self._iterator = iter(steps.map(lambda each: self._read(int(each), rows)).to_iter_dataset(options))

    def close(self) -> None:
        if self._iterator is not None:
            self._iterator.close()
        self._iterator, self._next = None, None


def flip_left_right(key: jax.Array, image: jax.Array) -> jax.Array:
    """Mirrors `[H, W, C]` left-right with probability 1/2."""
    return jnp.where(jax.random.bits(key, (), jnp.uint8) >= 128, image[:, ::-1], image)


def augment_images(*, flip: bool = False) -> Callable[[jax.Array, Mapping[str, jax.Array]], dict[str, jax.Array]]:
    """Returns the augmentation of one raw example: `image` becomes float32 in [0, 1], flipped if asked."""

    def augment(key: jax.Array, example: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        image = example["image"]
        return {**example, "image": to_unit(flip_left_right(key, image) if flip else image)}

    return augment
