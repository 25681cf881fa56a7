"""Feature vectors of images, from any source, by any network: computed in chunks, on all devices, resumable.

extractor = features.inception("inception-2015-12-05.pt")
store, whole = features.extract_to(directory, extractor, source)
frechet_distance(features.statistics(store, len(source)), read_statistics("cifar10-32x32.npz"))
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common.arrays import as_images
from common.data.source import Source
from common.errors import within
from common.io import row_store
from common.method import PyTree
from common.metrics import distances
from common.sampling import weights_digest
from common.training import parallel


class Extractor(NamedTuple):
    """A feature function: `apply(params, images [B, H, W, C]) -> [B, D]`, each row a function of its image alone.

    Images are bytes, or floats in [0, 1], as the source has them; others raise `InputError`. `identity` (plain JSON
    values) names the function.
    """

    apply: Callable[[PyTree, jax.Array], jax.Array]
    params: PyTree
    identity: Mapping[str, Any]


def inception(path: str | Path, *, resize: str = "tf1") -> Extractor:
    """Returns the 2048 features of the Frechet inception distance, with weights from a published file.

    `resize` must be that of the reference statistics: "tf1" for EDM's, "half_pixel" for pytorch-fid's. Raises
    `InputError`; see `common.networks.inception.load`.
    """
    from common.networks import inception as network

    params = network.load(path)
    identity = {"features": "inception-v3-2015-12-05", "resize": resize, "weights": weights_digest(params)}
    return Extractor(lambda params, images: network.features(params, images, resize=resize), params, identity)


def pixels() -> Extractor:
    """Returns the intensities themselves, in [0, 1]."""
    return Extractor(lambda params, images: _unit(images).reshape(len(images), -1), (), {"features": "pixels"})


def random_features(*, channels: int, seed: int = 0, widths: tuple[int, ...] = (64, 128, 256)) -> Extractor:
    """Returns the mean activations of a network with fixed random weights, which needs no file, `[B, sum(widths)]`.

    For images of `channels` channels and any size that survives a halving for each width. Distances on it rank
    samples less like people do than Inception's; they are for where no trained weights are at hand.
    """
    keys, kernels, inputs = jax.random.split(jax.random.key(seed), len(widths)), [], channels
    for key, width in zip(keys, widths, strict=True):
        kernels.append(jax.random.normal(key, (3, 3, inputs, width)) * (2 / (9 * inputs)) ** 0.5)
        inputs = width
    identity = {"features": "random", "seed": seed, "channels": channels, "widths": list(widths)}
    return Extractor(_random_apply, kernels, identity)


def _random_apply(kernels, images):
    x, found = 2 * _unit(images) - 1, []
    for kernel in kernels:
        layout = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=layout, precision="highest")
        x = jax.nn.relu(x)
        found.append(x.mean((1, 2)))
    return jnp.concatenate(found, -1)


def _unit(images: jax.Array) -> jax.Array:
    return jnp.asarray(as_images(images, "images"), jnp.float32)


def make_compute(extractor: Extractor, source: Source) -> row_store.Compute:
    """Returns `compute(indices [num_devices * B]) -> {"features": [..., D]}` over this process's devices."""
    rows, last = parallel.rows(), len(source) - 1
    compiled = rows.compile(lambda params, images: {"features": extractor.apply(params, images).astype(jnp.float32)})
    params = rows.place(extractor.params)

    def compute(indices: np.ndarray) -> Mapping[str, jax.Array]:
        # The last batch goes on beyond the end, and what it finds there is dropped.
        images = source.read(np.minimum(indices, last))["image"]
        as_images(images, "image")
        return compiled(params, rows.place_rows(images))

    return compute


def extract_to(
    directory: str | Path,
    extractor: Extractor,
    source: Source,
    *,
    num: int | None = None,
    batch_size: int = 64,
    chunk_rows: int = row_store.CHUNK_ROWS,
    should_stop: Callable[[], bool] = lambda: False,
    add: Callable[[int], object] = lambda count: None,
) -> tuple[row_store.Store, bool]:
    """Computes features of the first `num` images (default: all) that are not yet in `directory`.

    Each device takes `batch_size` images at once. Returns the store, whose array is `features`, and whether all are
    there; after a stop the same call goes on. Raises `InputError` if the directory holds features of another function
    or other images, or for more images than the source has.
    """
    num = len(source) if num is None else num
    within("num", num, 1, len(source), what=", the images there are")
    identity = {**extractor.identity, "images": source.fingerprint}
    batch_size = min(batch_size, num)
    store = row_store.Store(Path(directory), identity=identity, batch_size=batch_size, chunk_rows=chunk_rows)
    rows = parallel.rows()
    whole = row_store.fill(
        store,
        make_compute(extractor, source),
        num=num,
        batch_size=batch_size,
        num_devices=rows.num_devices,
        run_ahead=rows.run_ahead,
        should_stop=should_stop,
        add=add,
    )
    return store, whole


def extract(extractor: Extractor, source: Source, *, num: int | None = None, batch_size: int = 64) -> np.ndarray:
    """Returns the features of the first `num` images (default: all) in memory, `[num, D]` float32."""
    num = len(source) if num is None else num
    step = min(batch_size, num) * parallel.rows().num_devices
    return row_store.in_memory(make_compute(extractor, source), num=num, step=step)["features"]


def statistics(store: row_store.Store, num: int) -> distances.Moments:
    """Returns count, mean and scatter of the first `num` features, chunk by chunk."""
    return distances.merged(store.iterate("features", num))
