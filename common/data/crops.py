"""Square crops of images of any sizes: random ones for training, a fixed set of them for measuring."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from common.data.fitted import Fitted
from common.data.source import Element, OnDevice, Source, digest, in_threads, stack
from common.errors import input_error


class _OfImages(Source):
    """What both kinds of crops share."""

    def __init__(self, images: Fitted, *, size: int):
        self._images = images
        self._size = size
        self.num_classes = images.num_classes
        self.fingerprint = digest(type(self).__name__, images.fingerprint, size)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._images!r}, {self._size})"

    def __getitem__(self, index: int) -> Element:
        if not 0 <= index < len(self):
            raise IndexError(f"{self!r}: index {index} is outside [0, {len(self)})")
        return {name: array[0] for name, array in self.read([index]).items()}

    def _cut(self, element: Element, corner: Any) -> Element:
        """Cuts out one crop; `corner` (row, column) is taken modulo the number of places.

        So a bad image may be replaced by another one of any size.
        """
        image, size = element["image"], self._size
        row, column = np.asarray(corner) % (np.asarray(image.shape[:2]) - size + 1)
        # A copy, since a view would keep the whole image in memory.
        return {**element, "image": image[row : row + size, column : column + size].copy()}


class Crops(_OfImages):
    """One `size` x `size` crop of each image; in training its place is random, uniform over the image.

    Two random numbers, taken modulo the number of rows and columns where a crop can begin, decide its corner; without
    them it is the middle of the image.
    """

    num_random = 2

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        return self._images.name(index)

    def read(self, index: Sequence[int], random: np.ndarray | None = None) -> dict[str, np.ndarray]:
        return stack(self._crops(index, random))

    def _crops(self, index: Sequence[int], random: np.ndarray | None) -> Iterator[Element]:
        for number, element in enumerate(self._images.elements(index)):
            middle = (np.asarray(element["image"].shape[:2]) - self._size) // 2
            yield self._cut(element, middle if random is None else random[number])

    def fixed(self) -> "FixedCrops":
        return FixedCrops(self._images, size=self._size)

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


class FixedCrops(_OfImages):
    """All `size` x `size` crops of the images on a grid of half a crop, in the order of the images."""

    def __init__(self, images: Fitted, *, size: int):
        super().__init__(images, size=size)
        self._step = max(1, size // 2)
        lengths = images.shapes()[:, :2]
        counts = np.where(lengths < size, 0, (lengths - size) // self._step + 1)
        self._first = (lengths - size - self._step * (counts - 1)) // 2  # what the grid leaves over lies on both sides
        self._across = counts[:, 1]
        self._ends = np.cumsum(counts.prod(axis=1))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def name(self, index: int) -> str:
        return f"crop {index} in {self._images.name(int(np.searchsorted(self._ends, index, side='right')))}"

    def read(self, index: Sequence[int], random: np.ndarray | None = None) -> dict[str, np.ndarray]:
        del random
        return stack(self._crops(np.asarray(index, np.int64)))

    def _crops(self, index: np.ndarray) -> Iterator[Element]:
        image = np.searchsorted(self._ends, index, side="right")
        place = index - np.where(image > 0, self._ends[image - 1], 0)
        grid = np.stack(np.divmod(place, self._across[image]), axis=-1)
        corners = self._first[image] + self._step * grid
        last, element = -1, {}
        for which, corner in zip(image.tolist(), corners, strict=True):
            if which != last:  # several crops of one image: it is read once
                last, element = which, self._images[which]
            yield self._cut(element, corner)
