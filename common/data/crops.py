"""Square crops of images of any sizes: random ones for training, a fixed set of them for measuring."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from common.data.fitted import Fitted
from common.data.source import Element, OnDevice, Source, digest, in_threads, stack
from common.errors import input_error


class Crops(Source):
    """One `size` x `size` crop of each image; in training its place is random, uniform over the image.

    Two random numbers, taken modulo the number of rows and columns where a crop can begin, decide its corner, so a bad
    image may be replaced by another one of any size; without them it is the middle of the image.
    """

    num_random = 2

    def __init__(self, images: Fitted, *, size: int):
        self._images = images
        self._size = size
        self.num_classes = images.num_classes
        self.fingerprint = digest("crops", images.fingerprint, size)

    def __repr__(self) -> str:
        return f"{self._images!r}.crops({self._size})"

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        return self._images.name(index)

    def read(self, index: Sequence[int], random: np.ndarray | None = None) -> dict[str, np.ndarray]:
        return stack(self._cut(index, random))

    def _cut(self, index: Sequence[int], random: np.ndarray | None) -> Iterator[Element]:
        size = self._size
        for number, element in enumerate(self._images.elements(index)):
            image = element["image"]
            places = np.asarray(image.shape[:2]) - size + 1
            row, column = (places - 1) // 2 if random is None else random[number] % places
            # A copy, since a view would keep the whole image in memory.
            yield {**element, "image": image[row : row + size, column : column + size].copy()}

    def fixed(self) -> "FixedCrops":
        return FixedCrops(self, self._images.shapes(), self._size)

    @property
    def nbytes(self) -> int | None:
        """Bytes of the images; None if their pixels cannot be numbered in int32."""
        total = int(self._images.shapes()[:, :2].prod(axis=1).sum())
        total *= self[0]["image"].nbytes // self._size**2
        return total if total < 2**31 else None

    def on_device(self) -> OnDevice:
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
        elements = [
            element
            for block in in_threads(lambda block: list(self._images.elements(block)), len(self))
            for element in block
        ]
        images = [element["image"] for element in elements]
        arrays = {
            "pixels": np.concatenate([image.reshape(-1) for image in images]),
            "start": np.cumsum([0] + [image.size for image in images[:-1]], dtype=np.int32),
            "shape": np.asarray([image.shape[:2] for image in images], np.int32),
            "others": {name: np.stack([each[name] for each in elements]) for name in elements[0] if name != "image"},
        }
        size, channels = self._size, images[0].shape[-1]

        def gather(arrays: Any, index: Any, random: Any) -> dict[str, Any]:
            shape = jnp.asarray(arrays["shape"])[index]
            row, column = jnp.moveaxis(random % (shape - size + 1), 1, 0)
            # Starts of the crops' pixel rows in the packed buffer, [B, size].
            rows = row[:, None] + jnp.arange(size, dtype=jnp.int32)
            places = rows * shape[:, 1:] + column[:, None]
            starts = jnp.asarray(arrays["start"])[index][:, None] + places * channels
            slices = jax.vmap(lambda start: jax.lax.dynamic_slice(arrays["pixels"], (start,), (size * channels,)))
            crops = slices(starts.reshape(-1)).reshape(-1, size, size, channels)
            return {**{name: jnp.asarray(array)[index] for name, array in arrays["others"].items()}, "image": crops}

        return OnDevice(arrays, gather)


class FixedCrops(Source):
    """All crops of the images on a grid of half a crop, in the order of the images, whose shapes are `[N, 3]`."""

    def __init__(self, crops: Crops, shapes: np.ndarray, size: int):
        self._crops = crops
        self._step = max(1, size // 2)
        lengths = shapes[:, :2]
        counts = np.where(lengths < size, 0, (lengths - size) // self._step + 1)
        self._first = (lengths - size - self._step * (counts - 1)) // 2  # what the grid leaves over lies on both sides
        self._across = counts[:, 1]
        self._ends = np.cumsum(counts.prod(axis=1))
        self.num_classes = crops.num_classes
        self.fingerprint = digest("fixed", crops.fingerprint)

    def __repr__(self) -> str:
        return f"{self._crops!r}.fixed()"

    def __len__(self) -> int:
        return int(self._ends[-1])

    def name(self, index: int) -> str:
        return f"crop {index} in {self._crops.name(int(np.searchsorted(self._ends, index, side='right')))}"

    def read(self, index: Sequence[int], random: np.ndarray | None = None) -> dict[str, np.ndarray]:
        del random
        index = np.asarray(index, np.int64)
        image = np.searchsorted(self._ends, index, side="right")
        place = index - np.where(image > 0, self._ends[image - 1], 0)
        grid = np.stack(np.divmod(place, self._across[image]), axis=-1)
        return self._crops.read(image, self._first[image] + self._step * grid)
