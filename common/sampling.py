"""Many samples: each is a function of the weights, the key and its own number, wherever and whenever it is drawn."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from common.data.source import Source
from common.errors import at_least, input_error
from common.io import row_store
from common.method import PyTree, Sampler, Variables
from common.training import parallel

TYPES = ("uint8", "float32")


def sample_keys(key: jax.Array, index: jax.Array) -> jax.Array:
    """Returns fold_in(key, index) for each of `index [B]`: the key of a sample depends on its number alone."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def make_compute(sampler: Sampler, variables: Variables, key: jax.Array, *, kind: str = "float32") -> row_store.Compute:
    """Returns `compute(indices [num_devices * B]) -> {name: [...]}` over this process's devices.

    `kind` "uint8" replaces the array `samples` by `images`, rounded to 0..255, where samples are images.
    """
    rows = parallel.rows()
    quantise = kind == "uint8" and sampler.to_unit is not None

    def draw(whole, index):
        variables, key = whole
        arrays = dict(sampler.draw(variables, sample_keys(key, index), index))
        if quantise and sampler.to_unit is not None:
            unit = sampler.to_unit(arrays.pop("samples"))
            arrays["images"] = jnp.round(jnp.clip(jnp.nan_to_num(unit), 0, 1) * 255).astype(jnp.uint8)
        return arrays

    compiled, whole = rows.compile(draw), rows.place((variables, key))
    return lambda indices: compiled(whole, rows.place_rows(indices.astype(np.int32)))


def draw(
    sampler: Sampler, variables: Variables, key: jax.Array, *, num: int, batch_size: int | None = None
) -> dict[str, np.ndarray]:
    """Returns the first `num` samples in memory, as `{"samples": [num, ...], ...}`.

    Each device draws `batch_size` of them at once (default: the sampler's). Raises `InputError` for numbers below 1.
    """
    batch_size = _check(num, sampler.batch_size if batch_size is None else batch_size)
    step = batch_size * parallel.rows().num_devices
    return row_store.in_memory(make_compute(sampler, variables, key), num=num, step=step)


def draw_to(
    directory: Path,
    sampler: Sampler,
    variables: Variables,
    key: jax.Array,
    *,
    num: int,
    identity: Mapping[str, Any],
    kind: str = "uint8",
    batch_size: int | None = None,
    chunk_rows: int = row_store.CHUNK_ROWS,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], Callable[[int], object]] = lambda done: lambda count: None,
) -> tuple[row_store.Store, bool]:
    """Draws samples 0 ... num - 1 that are not yet in `directory`; returns its store, and whether all are there.

    `identity` identifies the samples (see `identify`); a directory of others is refused. `progress(done)` is called
    once with the number that an earlier call has drawn, and returns a function that is called with the size of every
    further batch.
    Raises `InputError` for another identity or numbers below 1.
    """
    batch_size = _check(num, sampler.batch_size if batch_size is None else batch_size)
    store = row_store.Store(
        directory, identity={**identity, "type": kind}, batch_size=batch_size, chunk_rows=chunk_rows
    )
    missing = sum(store.rows(chunk, num) for chunk in store.missing(num))
    rows = parallel.rows()
    whole = missing == 0 or row_store.fill(
        store,
        make_compute(sampler, variables, key, kind=kind),
        num=num,
        batch_size=batch_size,
        num_devices=rows.num_devices,
        run_ahead=rows.run_ahead,
        should_stop=should_stop,
        add=progress(num - missing),
    )
    return store, whole


def identify(sampler: Sampler, variables: Variables, *, seed: int, step: int) -> dict[str, Any]:
    """Returns what decides the values of samples, as plain JSON values."""
    return {"weights": weights_digest(variables), "seed": seed, "step": step, "sampler": dict(sampler.settings)}


def weights_digest(variables: PyTree) -> str:
    """Returns a hash of names, types, shapes and values of all weights, 16 hexadecimal digits."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]:
        array = np.ascontiguousarray(leaf)
        total.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    return total.hexdigest()[:16]


class StoredSamples(Source):
    """The images that `draw_to` left in a directory, as a data source: `source[i]` is `{"image": [H, W, C]}`.

    Raises:
      InputError: the directory holds no samples, fewer than `num`, or none that are images.
    """

    def __init__(self, directory: Path, *, num: int):
        self._store = row_store.open_store(Path(directory))
        self._num = num
        missing = self._store.missing(num)
        if missing or "images" not in self._store.read(0):
            got = f"{len(missing)} files fewer" if missing else "samples that are no 8-bit images"
            fix = f"run sample --num {num} first"
            raise input_error(str(directory), expected=f"{num} images", got=got, fix=fix)
        self._kept: tuple[int, np.ndarray] = (-1, np.empty(0))
        self.fingerprint = hashlib.sha256(repr((self._store.identity, num)).encode()).hexdigest()[:32]

    def __repr__(self) -> str:
        return f"StoredSamples({self._num}, {self.fingerprint})"

    def __len__(self) -> int:
        return self._num

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not 0 <= index < self._num:
            raise IndexError(index)
        chunk, row = divmod(index, self._store.chunk_size)
        kept, images = self._kept  # read once: another thread may replace it
        if kept != chunk:
            images = self._store.read(chunk)["images"]
            self._kept = (chunk, images)
        return {"image": images[row]}


def _check(num: int, batch_size: int) -> int:
    at_least({"num": (num, 1), "batch_size": (batch_size, 1)})
    return min(num, batch_size)
