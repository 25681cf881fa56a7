"""From the data section of a config to the training and the test source."""

import difflib
from typing import Any, NamedTuple

import numpy as np

from common.data import duplicates, splits
from common.data.crops import Crops
from common.data.source import BadRecordError, Source, name_of, shapes_of
from common.data.wrappers import Cached, Mapped, Padded, SkipBad, SkipBudget, Subset, good_records
from common.errors import input_error

# Elements of up to this much memory stay decoded; a folder below it is decoded when it is opened.
_CACHE_BYTES = 512 * 2**20

_KINDS = ("photographs", "folder:DIR", "npz:FILE", "tfds:NAME", "prepared:DIR")


class Settings(NamedTuple):
    """The data section of a config; configs/base.py says what each field means."""

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
    max_pixels: int = 100_000_000
    max_array_mb: int = 2048


def build(config: Any) -> dict[str, Source]:
    """Returns {"train": Source, "test": Source} for the `data` section of a config; see `sources`."""
    return sources(
        Settings(
            source=config.source,
            directory=config.directory,
            size=config.size,
            channels=config.channels,
            fit=config.fit,
            square=config.square,
            half=config.half,
            subset=config.subset,
            labels=config.labels,
            split_seed=config.split_seed,
            drop_duplicates=config.drop_duplicates,
            skip_bad=config.skip_bad,
            max_pixels=config.max_pixels,
            max_array_mb=config.max_array_mb,
        )
    )


def sources(settings: Settings) -> dict[str, Source]:
    """Returns {"train": Source, "test": Source} with elements {"image": uint8 or float32 [size, size, channels]}.

    With labels=True elements also have {"label": int32 []}, the class of the image from 0 on.
    With fit="pad" elements also have {"size": int32 [2]}, how many rows and columns of `image` are the picture.
    Halves, subsets and the removal of near-duplicates concern the training images only, and whole images: crops come
    after. Raises `InputError` for everything that can be known without decoding a large data set.
    """
    _check(settings)
    raw = _open(settings)
    budget = SkipBudget(settings.skip_bad)
    return {split: _fit(settings, raw[split], budget, split) for split in ("train", "test")}


def _check(settings: Settings) -> None:
    for field, value, allowed in (
        ("fit", settings.fit, ("crop", "resize", "pad", "none")),
        ("channels", settings.channels, (1, 3)),
        ("half", settings.half, (0, 1, 2)),
    ):
        if value not in allowed:
            raise input_error(
                f"config.data.{field}", expected=f"one of {allowed}", got=repr(value), fix="use one of them"
            )
    for field, value, least in (
        ("size", settings.size, 1),
        ("square", settings.square, 0),
        ("subset", settings.subset, 0),
        ("skip_bad", settings.skip_bad, 0),
        ("max_pixels", settings.max_pixels, 1),
        ("max_array_mb", settings.max_array_mb, 1),
    ):
        if value < least:
            raise input_error(f"config.data.{field}", expected=f"at least {least}", got=value, fix="raise it")
    if settings.square and settings.fit != "resize":
        raise input_error(
            "config.data.square", expected="0 unless config.data.fit='resize'", got=settings.square, fix="set it to 0"
        )


def _open(settings: Settings) -> dict[str, Source]:
    kind, _, where = settings.source.partition(":")
    how = {"seed": settings.split_seed, "labels": settings.labels}
    if kind == "photographs" and not where:
        if settings.labels:
            fix = "use a data set with classes, or set config.data.labels=False"
            raise input_error(
                "config.data.labels", expected="False for photographs, which have no classes", got=True, fix=fix
            )
        from common.data.photographs import open_photographs

        return open_photographs(channels=settings.channels)
    if kind == "folder" and where:
        from common.data.folder import open_folder

        return open_folder(where, max_pixels=settings.max_pixels, **how)
    if kind == "npz" and where:
        from common.data.npz import open_npz

        return open_npz(where, max_array_mb=settings.max_array_mb, **how)
    if kind == "tfds" and where:
        from common.data.tfds import open_named

        return open_named(where, directory=settings.directory, max_pixels=settings.max_pixels, **how)
    if kind == "prepared" and where:
        from common.data.tfds import open_prepared

        return open_prepared(where, max_pixels=settings.max_pixels, **how)
    near = difflib.get_close_matches(settings.source, _KINDS, n=1, cutoff=0.0)[0]
    raise input_error(
        "config.data.source", expected=f"one of {', '.join(_KINDS)}", got=settings.source, fix=f"did you mean {near}?"
    )


def _fit(settings: Settings, raw: Source, budget: SkipBudget, split: str) -> Source:
    _check_shapes(settings, raw, budget)
    fitted = Cached(_mapped(settings, raw), limit_bytes=_CACHE_BYTES)
    pixels = shapes_of(fitted)[:, :2].prod(axis=1).sum()
    if settings.source.startswith("folder:") and pixels * settings.channels <= _CACHE_BYTES:
        for _ in good_records(fitted, budget):
            pass  # decoding once fills the cache and finds every damaged file before anything else starts
    chosen = np.arange(len(raw))
    if split == "train":
        if settings.drop_duplicates:
            chosen = _distinct(settings, fitted, budget)
        chosen = chosen[
            splits.choose(len(chosen), half=settings.half, subset=settings.subset, seed=settings.split_seed)
        ]
    if len(chosen) < len(raw):
        fitted = Subset(fitted, chosen, label=split)
    source = SkipBad(fitted, budget)
    if settings.fit == "crop":
        # The crops of both splits come from one rule, each with its own seed.
        return Crops(source, size=settings.size, seed=2 * settings.split_seed + (split == "test"))
    return Padded(source, settings.size, channels=settings.channels) if settings.fit == "pad" else source


def _check_shapes(settings: Settings, raw: Source, budget: SkipBudget) -> None:
    """Raises for what the sizes alone tell: first what is wrong with all images, then single bad ones."""
    shapes = shapes_of(raw)
    known = shapes[:, 0] > 0
    if settings.channels == 3 and known.any() and (shapes[known, 2] == 1).all():
        raise input_error(
            "config.data.channels", expected="1, as the images are gray", got=3, fix="set config.data.channels=1"
        )
    if settings.fit == "none":
        wrong = (shapes[:, :2] != settings.size).any(axis=1)
        needed = f"{settings.size}x{settings.size} pixels"
    elif settings.fit == "pad":
        return
    else:
        least = settings.size if settings.fit == "crop" else max(settings.square, 1)
        wrong = (shapes[:, :2] < least).any(axis=1)
        needed = f"at least {least}x{least} pixels"
    if known.any() and wrong[known].all():
        height, width, _ = shapes[known][0]
        field = "config.data.square" if settings.fit == "resize" else "config.data.size"
        raise input_error(
            field,
            expected=f"a size that fits the images, which have {height}x{width} pixels",
            got=settings.square if settings.fit == "resize" else settings.size,
            fix="set another one, or config.data.fit='resize'",
        )
    budget.note(
        *(
            BadRecordError(name_of(raw, index), f"expected {needed}, got {shapes[index, 0]}x{shapes[index, 1]}")
            for index in np.flatnonzero(wrong & known).tolist()
        )
    )


def _mapped(settings: Settings, raw: Source) -> Mapped:
    """Applies channels, and what `fit` says, to every image; images that do not fit are bad records."""
    from common.data import images

    size, square, channels = settings.size, settings.square, settings.channels

    def for_crops(image: np.ndarray) -> np.ndarray:
        if min(image.shape[:2]) < size:
            raise ValueError(f"expected at least {size}x{size} pixels, got {image.shape[0]}x{image.shape[1]}")
        return images.as_channels(image, channels)

    def resized(image: np.ndarray) -> np.ndarray:
        # The order of the paper's preparation: resize the bytes of each channel, then take the mean.
        return images.as_channels(images.resize(images.central_square(image, square), size), channels)

    def shrunk(image: np.ndarray) -> np.ndarray:
        return images.as_channels(images.shrink(image, size), channels)

    def unchanged(image: np.ndarray) -> np.ndarray:
        if image.shape[:2] != (size, size):
            raise ValueError(f"expected {size}x{size} pixels, got {image.shape[0]}x{image.shape[1]}")
        return images.as_channels(image, channels)

    function, label = {
        "crop": (for_crops, f"channels({channels})"),
        "resize": (resized, f"resize({square}, {size}, {channels})"),
        "pad": (shrunk, f"shrink({size}, {channels})"),
        "none": (unchanged, f"size({size}, {channels})"),
    }[settings.fit]
    shape = None if settings.fit in ("crop", "pad") else (size, size, channels)
    return Mapped(raw, lambda element: {**element, "image": function(element["image"])}, label=label, shape=shape)


def _distinct(settings: Settings, fitted: Source, budget: SkipBudget) -> np.ndarray:
    """Returns the indices of the images without an earlier near-duplicate, by the authors' rule.

    Images to be cropped or padded have any size: there the largest central squares, resized to 80 pixels, are compared.
    """
    from common.data import images

    kept, vectors = [], []
    for indices, elements in good_records(fitted, budget):
        if not indices:
            continue
        pictures = [element["image"] for element in elements]
        if settings.fit in ("crop", "pad"):
            pictures = [images.resize(images.central_square(picture), 80) for picture in pictures]
        kept.extend(indices)
        vectors.append(duplicates.block_means(np.stack(pictures)))
    return np.asarray(kept, np.int64)[duplicates.distinct(np.concatenate(vectors))]
