"""Random crops of images of any sizes, as a source with random access."""

from typing import Any

import numpy as np

from common.data.order import MAX_LENGTH, epoch_key, hashed, permuted, words
from common.data.source import Element, Resident, Source, digest, num_classes, read, read_all, shapes_of
from common.errors import input_error

_USE = 201  # keeps the order of places apart from other orders made of the same seed


class Crops:
    """Every `size` x `size` crop of every image exactly once, in a seeded random order.

    The places (image, row, column) are numbered through and element i is place `permuted(i)`, so any run of elements is
    a uniform draw over all crops of all images, without repetition, and nothing is stored. The length is the number of
    places; beyond 2**31 - 1 it is that, and element i is an independent uniform draw, a hash of (seed, i).
    Images below `size` and unreadable ones (`shapes` zero) have no place; `InputError` if no image has one. What else
    an element has, such as its class, its crops have too.
    """

    def __init__(self, source: Source, *, size: int, seed: int):
        self._source = source
        self._size = size
        self._seed = seed
        shapes = shapes_of(source)
        rows, columns = (np.maximum(shapes[:, axis] - size + 1, 0) for axis in (0, 1))
        self._images = np.flatnonzero(rows * columns)
        if len(self._images) == 0:
            largest = int(shapes[:, :2].min(axis=1).max(initial=0))
            raise input_error(
                "config.data.size", expected=f"at most {largest}, the images' size", got=size, fix="use less"
            )
        self._shapes = shapes[self._images]
        self._ends = np.cumsum(rows[self._images] * columns[self._images])
        self._total = int(self._ends[-1])
        self._channels = int(read(source, [int(self._images[0])])[0]["image"].shape[-1])
        self.fingerprint = digest("crops", source.fingerprint, size, seed)

    def __repr__(self) -> str:
        return f"{self._source!r}.crops({self._size}, seed={self._seed})"

    def __len__(self) -> int:
        return min(self._total, MAX_LENGTH)

    def __getitem__(self, index: int) -> Element:
        if not 0 <= index < len(self):
            raise IndexError(f"{self!r}: index {index} is outside [0, {len(self)})")
        return self.read([index])[0]

    def read(self, indices: Any) -> list[Element]:
        indices = np.asarray(indices, np.uint32)
        if self._total <= MAX_LENGTH:
            places = permuted(indices, n=len(self), key=epoch_key(self._seed, _USE)).astype(np.int64)
        else:
            high, low = (hashed(*words(self._seed), indices, word).astype(np.uint64) for word in (1, 2))
            places = ((high << np.uint64(32) | low) % np.uint64(self._total)).astype(np.int64)
        which = np.searchsorted(self._ends, places, side="right")
        place = places - np.where(which > 0, self._ends[which - 1], 0)
        across = self._shapes[which, 1] - self._size + 1
        needed, inverse = np.unique(which, return_inverse=True)
        pictures = read(self._source, [int(index) for index in self._images[needed]])
        return [
            {**pictures[picture], "image": self._crop(pictures[picture]["image"], int(row), int(column))}
            for picture, row, column in zip(inverse, place // across, place % across, strict=True)
        ]

    def _crop(self, image: np.ndarray, row: int, column: int) -> np.ndarray:
        # A bad image is replaced by another one, whose size may differ: wrap the place into it.
        row, column = (
            start % (length - self._size + 1) for start, length in zip((row, column), image.shape, strict=False)
        )
        return image[row : row + self._size, column : column + self._size]

    def name(self, index: int) -> str:
        return f"{self!r}[{index}]"

    def shapes(self) -> np.ndarray:
        return np.broadcast_to(np.asarray((self._size, self._size, self._channels), np.int64), (len(self), 3))

    @property
    def num_classes(self) -> int | None:
        return num_classes(self._source)

    @property
    def nbytes(self) -> int | None:
        """Bytes of the images; None if their pixels cannot be numbered in int32."""
        total = int((self._shapes[:, 0] * self._shapes[:, 1]).sum()) * self._channels
        total *= read(self._source, [int(self._images[0])])[0]["image"].itemsize
        return total if total < 2**31 else None

    def resident(self) -> Resident:
        """Packs the images one after the other, rows on rows without padding, and gathers the rows of a crop.

        Of the layouts tried (padded stack, tall atlas, single pixels, a loop) this one was the fastest or near it at
        every batch and crop size, and it wastes nothing on images of two orientations.
        """
        import jax
        import jax.numpy as jnp

        if self.nbytes is None:
            raise input_error(
                "config.data.placement", expected="'stream' for so many pixels", got="'device'", fix="use 'stream'"
            )
        elements = read_all(self._source, self._images)
        images = [element["image"] for element in elements]
        others = {name: np.stack([each[name] for each in elements]) for name in elements[0] if name != "image"}
        arrays = {
            "pixels": np.concatenate([image.reshape(-1) for image in images]),
            "start": np.cumsum([0] + [image.size for image in images[:-1]], dtype=np.int32),
            "ends": self._ends.astype(np.uint32),
            "across": (self._shapes[:, 1] - self._size + 1).astype(np.uint32),
            "shape": np.asarray([image.shape[:2] for image in images], np.int32),
        }
        size, channels, total = self._size, self._channels, self._total
        low, high = (int(word) for word in epoch_key(self._seed, _USE))

        def take(arrays: Any, indices: Any) -> dict[str, Any]:
            key = (jnp.uint32(low), jnp.uint32(high))
            places = permuted(indices, n=total, key=key, xp=jnp)
            which = jnp.searchsorted(arrays["ends"], places, side="right", method="scan_unrolled")
            place = places - jnp.where(which > 0, arrays["ends"][which - 1], 0).astype(jnp.uint32)
            across = arrays["across"][which]
            height, width = arrays["shape"][which, 0], arrays["shape"][which, 1]
            row = (place // across).astype(jnp.int32) % (height - size + 1)
            column = (place % across).astype(jnp.int32) % (width - size + 1)
            # Starts of the crops' pixel rows in the packed buffer, [B, size].
            rows = row[:, None] + jnp.arange(size, dtype=jnp.int32)
            starts = arrays["start"][which][:, None] + (rows * width[:, None] + column[:, None]) * channels
            slices = jax.vmap(lambda start: jax.lax.dynamic_slice(arrays["pixels"], (start,), (size * channels,)))
            crops = slices(starts.reshape(-1)).reshape(-1, size, size, channels)
            return {**{name: array[which] for name, array in arrays["others"].items()}, "image": crops}

        held = sum(array.nbytes for array in (*arrays.values(), *others.values()))
        return Resident({**arrays, "others": others}, take, held)
