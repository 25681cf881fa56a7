"""From the data section of a config to the training and the test source."""

import difflib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from common.config import CHOICES
from common.data.fitted import Crops, Fitted, SkipBudget
from common.data.npz import MAX_ARRAY_MB, open_npz
from common.data.source import MAX_PIXELS, BadRecordError, Element, Source, choose, digest, hold_out
from common.errors import at_least, choice, input_error

# Images of up to this much memory stay decoded; a folder below it is decoded when it is opened.
_CACHE_BYTES = 512 * 2**20

_KINDS = ("photographs", "folder:DIR", "npz:FILE", "tfds:NAME", "prepared:DIR")


class DataConfig(NamedTuple):
    """The data section of a config; configs/base.py describes each field."""

    source: str
    directory: str = ""
    size: int = 32
    channels: int = 1
    fit: str = "crop"
    square: int = 0
    half: int = 0
    subset: int = 0
    labels: bool = False
    split_seed: int = 0
    drop_duplicates: bool = False
    skip_bad: int = 0
    max_pixels: int = MAX_PIXELS
    max_array_mb: int = MAX_ARRAY_MB


def build(config: Any) -> dict[str, Source]:
    """Returns {"train": Source, "test": Source} for the `data` section of a config; see `sources`."""
    return sources(DataConfig(**{name: getattr(config, name) for name in DataConfig._fields}))


def sources(config: DataConfig) -> dict[str, Source]:
    """Returns {"train": Source, "test": Source} with elements {"image": uint8 or float32 [size, size, channels]}.

    With labels=True elements also have {"label": int32 []}, the class of the image from 0 on.
    With fit="crop" a training example is a random crop of an image, so an epoch is one pass over the images; the test
    source has crops at fixed places. With fit="pad" elements also have {"size": int32 [2]}, how many rows and columns
    of `image` are the picture. Halves, subsets and the removal of near-duplicates concern the training images only.
    Raises `InputError` for everything that can be known without decoding a large data set.
    """
    images: dict[str, Any]
    opened, images, budget = _split(config)
    # Older versions chose other images as a half, as a subset and to hold out.
    is_whole = "test" in opened and not (config.drop_duplicates or config.half or config.subset)
    earlier = (_earlier_fingerprint(config, opened["train"]),) if is_whole else ()
    if config.drop_duplicates:
        images["train"] = images["train"].subset(_distinct(config, images["train"]))
    if config.half or config.subset:
        chosen = choose(len(images["train"]), half=config.half, subset=config.subset, seed=config.split_seed)
        images["train"] = images["train"].subset(chosen)
    for each in images.values():
        _count_bad(config, each, budget)
    if config.fit == "crop":
        crops = {name: Crops(each, size=config.size) for name, each in images.items()}
        images = {"train": crops["train"], "test": crops["test"].fixed()}
    images["train"].earlier_fingerprints = earlier
    return images


def held_out(config: Any) -> Source:
    """Returns the test source of the `data` section of a config alone: training images are neither read nor counted."""
    config = DataConfig(**{name: getattr(config, name) for name in DataConfig._fields})
    _, images, budget = _split(config, only="test")
    _count_bad(config, images["test"], budget)
    return Crops(images["test"], size=config.size).fixed() if config.fit == "crop" else images["test"]


def _split(config: DataConfig, only: str = "") -> tuple[dict[str, Source], dict[str, Fitted], SkipBudget]:
    """Returns the images as stored and as fitted, by split, and the budget of their bad records.

    only: the one split that is needed, if the data have it.
    """
    _check(config)
    budget = SkipBudget(config.skip_bad)
    opened = _open(config)
    needed = {only: opened[only]} if only in opened else opened
    images = {name: _fitted(config, raw, budget) for name, raw in needed.items()}
    if "test" not in images:
        first, second = hold_out(len(images["train"]), seed=config.split_seed)
        images = {"train": images["train"].subset(first), "test": images["train"].subset(second)}
    return opened, images, budget


def _earlier_fingerprint(config: DataConfig, raw: Any) -> str:
    """Returns what versions with another order of the examples called the training data, all images of `raw`."""
    size, channels = config.size, config.channels
    label = {
        "crop": f"channels({channels})",
        "resize": f"resize({config.square}, {size}, {channels})",
        "pad": f"shrink({size}, {channels})",
        "none": f"size({size}, {channels})",
    }[config.fit]
    fitted = digest("mapped", raw.fingerprint, label)
    if config.fit == "crop":
        return digest("crops", fitted, size, 2 * config.split_seed)
    return digest("padded", fitted, size) if config.fit == "pad" else fitted


def _check(config: DataConfig) -> None:
    choice("config.data.fit", config.fit, CHOICES["data.fit"])
    for field, value, allowed in (("channels", config.channels, (1, 3)), ("half", config.half, (0, 1, 2))):
        if value not in allowed:
            raise input_error(f"config.data.{field}", expected=f"one of {allowed}", got=value, fix="use one of them")
    least = {"size": 1, "square": 0, "subset": 0, "skip_bad": 0, "max_pixels": 1, "max_array_mb": 1}
    at_least({f"config.data.{name}": (getattr(config, name), value) for name, value in least.items()})
    if config.square and config.fit != "resize":
        raise input_error(
            "config.data.square", expected="0 unless config.data.fit='resize'", got=config.square, fix="set it to 0"
        )


def _open(config: DataConfig) -> dict[str, Source]:
    kind, _, where = config.source.partition(":")
    if kind == "photographs" and not where:
        if config.labels:
            fix = "use a data set with classes, or set config.data.labels=False"
            raise input_error(
                "config.data.labels", expected="False for photographs, which have no classes", got=True, fix=fix
            )
        from common.data.photographs import open_photographs

        return dict(open_photographs(channels=config.channels))
    if kind == "npz" and where:
        return open_npz(where, labels=config.labels, max_array_mb=config.max_array_mb)
    encoded = {"labels": config.labels, "max_pixels": config.max_pixels}
    if kind == "folder" and where:
        from common.data.folder import open_folder

        return open_folder(where, **encoded)
    if kind in ("tfds", "prepared") and where:
        from common.data.tfds import open_named, open_prepared

        prepared = kind == "prepared"
        return open_prepared(where, **encoded) if prepared else open_named(where, directory=config.directory, **encoded)
    near = difflib.get_close_matches(config.source, _KINDS, n=1, cutoff=0.0)[0]
    raise input_error(
        "config.data.source", expected=f"one of {', '.join(_KINDS)}", got=config.source, fix=f"did you mean {near}?"
    )


def _fitted(config: DataConfig, raw: Any, budget: SkipBudget) -> Fitted:
    """Returns the images of one split as `fit` wants them; raises for what is wrong with all of them."""
    shapes = raw.shapes()
    known = shapes[:, 0] > 0
    if config.channels == 3 and known.any() and (shapes[known, 2] == 1).all():
        raise input_error(
            "config.data.channels", expected="1, as the images are gray", got=3, fix="set config.data.channels=1"
        )
    wrong = _wrong_sizes(config, shapes)
    if known.any() and wrong[known].all():
        height, width, _ = shapes[known][0]
        field, got = ("square", config.square) if config.fit == "resize" else ("size", config.size)
        raise input_error(
            f"config.data.{field}",
            expected=f"a size that fits the images, which have {height}x{width} pixels",
            got=got,
            fix="set another one, or config.data.fit='resize'",
        )
    fit, label = _fit(config)
    return Fitted(raw, fit, label=label, budget=budget, cache_bytes=_CACHE_BYTES)


def _needed(config: DataConfig) -> tuple[int, str]:
    """Returns the height and width that images must have, at least but for fit="none", and the text for an error."""
    if config.fit == "none":
        return config.size, f"expected {config.size}x{config.size} pixels"
    least = {"crop": config.size, "resize": max(1, config.square), "pad": 1}[config.fit]
    return least, f"expected at least {least}x{least} pixels"


def _wrong_sizes(config: DataConfig, shapes: np.ndarray) -> np.ndarray:
    """Returns which images do not fit, bool `[N]`, by their shapes `[N, 3]` alone; those of unknown shape do not."""
    side, _ = _needed(config)
    return np.any(shapes[:, :2] != side if config.fit == "none" else shapes[:, :2] < side, axis=1)


def _fit(config: DataConfig) -> tuple[Callable[[np.ndarray], dict[str, np.ndarray]], str]:
    """Returns the function that `fit` names, of one image, and its label; images that do not fit are a `ValueError`."""
    from common.data.images import as_channels, central_square, resize, shrink

    size, square, channels = config.size, config.square, config.channels

    def whole(image: np.ndarray) -> dict[str, np.ndarray]:
        return {"image": as_channels(image, channels)}

    def resized(image: np.ndarray) -> dict[str, np.ndarray]:
        # The order of the paper's preparation: resize the bytes of each channel, then take the mean.
        return {"image": as_channels(resize(central_square(image, square), size), channels)}

    def padded(image: np.ndarray) -> dict[str, np.ndarray]:
        image = as_channels(shrink(image, size), channels)
        height, width = image.shape[:2]
        padding = ((0, size - height), (0, size - width), (0, 0))
        return {"image": np.pad(image, padding), "size": np.asarray((height, width), np.int32)}

    function, label = {
        "crop": (whole, f"channels({channels})"),
        "resize": (resized, f"resize({square}, {size}, {channels})"),
        "pad": (padded, f"pad({size}, {channels})"),
        "none": (whole, f"size({size}, {channels})"),
    }[config.fit]

    def fit(image: np.ndarray) -> dict[str, np.ndarray]:
        if _wrong_sizes(config, np.asarray([image.shape]))[0]:
            raise ValueError(f"{_needed(config)[1]}, got {image.shape[0]}x{image.shape[1]}")
        return function(image)

    return fit, label


def _count_bad(config: DataConfig, images: Fitted, budget: SkipBudget) -> None:
    """Counts the bad records that can be known now: all of a few files, which are decoded; else by their sizes."""
    shapes = images.shapes()
    pixels = shapes[:, :2].prod(axis=1).sum() if config.fit == "crop" else len(images) * config.size**2
    if config.source.startswith(("folder:", "photographs")) and pixels * config.channels <= _CACHE_BYTES:
        images.scan()  # fills the cache and finds every damaged file before anything else starts
        return
    bad = np.flatnonzero(_wrong_sizes(config, shapes))
    wrong, unreadable = bad[shapes[bad, 0] > 0].tolist(), bad[shapes[bad, 0] == 0]
    budget.count(
        *(BadRecordError(images.name(i), f"{_needed(config)[1]}, got {shapes[i, 0]}x{shapes[i, 1]}") for i in wrong),
        *(record for record in images.records(unreadable) if isinstance(record, BadRecordError)),
    )


def _distinct(config: DataConfig, images: Fitted) -> np.ndarray:
    """Returns the places of the images without an earlier near-duplicate, by the authors' rule.

    Images to be cropped or padded have any size: there the largest central squares, resized to 80 pixels, are compared.
    """

    from common.data.duplicates import block_means, distinct
    from common.data.images import central_square, resize

    def vector(element: Element) -> np.ndarray:
        image = element["image"]
        if config.fit == "pad":
            image = image[: element["size"][0], : element["size"][1]]
        if config.fit in ("crop", "pad"):
            image = resize(central_square(image), 80)
        return block_means(image[None])[0]

    good, vectors = images.scan(vector)
    return good[distinct(np.stack(vectors))]
