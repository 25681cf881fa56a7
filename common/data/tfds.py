"""TensorFlow Datasets through their random-access data sources (ArrayRecord files), without TensorFlow.

A prepared data set is read by `tensorflow_datasets` with no TensorFlow installed if its files are `array_record` and
its images are stored encoded or as plain tensors. Decoding is ours, so that pixels do not depend on which decoder TFDS
finds. The JSON files of a data set are checked first, since TFDS trusts what they say: it imports the module of every
feature class that `features.json` names, and older forms of a feature may name files.
"""

import importlib.util
import itertools
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.data import images
from common.data.source import MAX_PIXELS, TEST_NAMES, BadRecordError, Element, Source, digest
from common.errors import InputError, input_error

FIELD = "config.data.source"
FILES = ("dataset_info.json", "features.json")

_FEATURES = "tensorflow_datasets.core.features."  # where all feature classes of TFDS are
_CLASS_KEYS = ("pythonClassName", "python_class_name", "type")  # protocol buffer in both spellings, older JSON
_NESTED_KEYS = ("json", "content")  # may hold JSON as a string
_FILE_KEYS = ("names_file", "labels")  # arguments of older features that name a file to read


def check_metadata(directory: Path) -> None:
    """Raises `InputError` for metadata in `directory` that are no JSON, or name code or files outside of TFDS's own.

    Call it after importing TFDS: classes of modules that are not imported by then are refused.
    """
    for name in FILES:
        _parsed(directory / name)
    for node in _dictionaries(_parsed(directory / "features.json")):
        for key in _CLASS_KEYS:
            if isinstance(node.get(key), str):
                _check_class(node[key], directory)
        for key in _FILE_KEYS:
            if isinstance(node.get(key), str):
                raise _distrusted(directory, "no names of files in features.json", f"{key} {node[key]!r}")
    for path in directory.iterdir():  # TFDS reads further files, such as names of classes
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise _distrusted(directory, "files", f"{path.name!r}, which is none")


def check_files(directory: Path, paths: list[str]) -> None:
    """Raises `InputError` unless all data files lie in `directory` itself and exist."""
    for path in map(Path, paths):
        if path.parent != directory:
            raise _distrusted(directory, "data files in the same folder as dataset_info.json", str(path))
        if not path.is_file():
            raise refused(f"the file {path}", "none", f"prepare {directory} again")


def _parsed(path: Path) -> Any:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise broken(path.parent, f"{path.name} that cannot be read ({type(error).__name__})") from None
    if not isinstance(value, dict):
        raise broken(path.parent, f"{path.name} without an object")
    return value


def _dictionaries(value: Any) -> Iterator[dict[str, Any]]:
    """Yields every object inside a JSON value, also those in strings that TFDS parses as JSON."""
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield value
            pending.extend(value.values())
            pending.extend(_json_or_none(value[key]) for key in _NESTED_KEYS if isinstance(value.get(key), str))
        elif isinstance(value, list):
            pending.extend(value)


def _json_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None  # TFDS cannot parse it either


def _check_class(name: str, directory: Path) -> None:
    module, _, _ = name.rpartition(".")
    if not (module.startswith(_FEATURES) and module in sys.modules):
        expected = "only feature classes of TFDS itself in features.json"
        raise _distrusted(directory, expected, repr(name))


def refused(expected: str, got: object, fix: str = "use another data set") -> InputError:
    """Returns the error for a data set of another kind than is read here."""
    return input_error(FIELD, expected=expected, got=got, fix=fix)


def broken(directory: Path, got: object) -> InputError:
    """Returns the error for a prepared data set that TFDS cannot read."""
    return refused("a data set prepared by TFDS", got, f"prepare {directory} again")


def _distrusted(directory: Path, expected: str, got: str) -> InputError:
    fix = f"do not use {directory} unless you trust its source, and prepare it again with TFDS's own features"
    return refused(expected, got, fix)


_BLOCK = 32  # records read at once, still encoded


class TfdsImages(Source):
    """The feature `image` of one split of a prepared data set, with `labels` also its feature `label`.

    A record that is damaged, has another shape than stated, or a label outside the stated classes, such as -1 in a test
    set that keeps them secret, is a bad record. Raises `InputError` for data files that are damaged as a whole.
    """

    def __init__(self, builder: Any, split: str, *, labels: bool = False, max_pixels: int = MAX_PIXELS):
        import tensorflow_datasets as tfds

        feature = builder.info.features["image"]
        self._encoded = isinstance(feature, tfds.features.Image)
        self._stated = _stated_shape(feature, encoded=self._encoded)
        self._max_pixels = max_pixels
        decoders = {"image": tfds.decode.SkipDecoding()} if self._encoded else None
        info = builder.info.splits[split]
        self._files = [(Path(each.filename), each.skip, each.take) for each in info.file_instructions]
        self._ends = np.cumsum([take for _, _, take in self._files])
        for each in info.file_instructions:
            _check_length(Path(each.filename), each.examples_in_shard)
        self._records = builder.as_data_source(split=split, decoders=decoders)
        self._label = f"{builder.info.full_name}/{split}"
        files = sorted((path.name, path.stat().st_size) for path in map(Path, info.filepaths))
        self.fingerprint = digest("tfds", self._label, len(self), files, *map(self._end, (0, len(self) - 1)))
        if labels:
            self.num_classes = builder.info.features["label"].num_classes
            self.fingerprint = digest("labelled", self.fingerprint, self.num_classes)
        self._shapes = self._find_shapes()

    def _record(self, index: int) -> Mapping[str, Any]:
        """Returns one record, image still encoded; raises `BadRecordError` that names the file and the place in it."""
        try:
            return self._records[index]
        except Exception as error:  # noqa: BLE001  from the file, or from parsing what the record holds
            reason = f"damaged {self._place(index)} ({_cause(error)})"
            raise BadRecordError(self.name(index), reason) from None

    def _all_of(self, indices: Sequence[int] | np.ndarray) -> Iterator[Mapping[str, Any] | BadRecordError]:
        """Yields the records at `indices`, several read at once, which is three times as fast as one by one."""
        for start in range(0, len(indices), _BLOCK):
            block = [int(index) for index in indices[start : start + _BLOCK]]
            try:
                yield from self._records.__getitems__(block)
            except Exception:  # noqa: BLE001  a damaged one: read one by one to identify it
                for index in block:
                    try:
                        yield self._record(index)
                    except BadRecordError as error:
                        yield error

    def _place(self, index: int) -> str:
        """Returns which record of which file the record `index` of the split is."""
        file = int(np.searchsorted(self._ends, index, side="right"))
        path, skip, take = self._files[file]
        return f"record {index - (self._ends[file] - take) + skip} of {path.name}"

    def _end(self, index: int) -> Any:
        try:
            return self._record(index)["image"]
        except BadRecordError as error:
            return error.reason

    def _find_shapes(self) -> np.ndarray:
        if None not in self._stated:
            return np.broadcast_to(np.asarray(self._stated, np.int64), (len(self), 3))
        shapes = []
        for record in self._all_of(range(len(self))):
            if isinstance(record, BadRecordError):
                shapes.append((0, 0, 0))
            elif self._encoded:
                shapes.append(images.header(record["image"], max_pixels=self._max_pixels).shape)
            else:
                shapes.append(record["image"].shape)
        return np.asarray(shapes, np.int64)

    def __repr__(self) -> str:
        return f"TfdsImages({self._label}, {len(self)}, {self.fingerprint})"

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Element:
        return self._decoded(index, self._record(index))

    def elements(self, indices: Sequence[int] | np.ndarray) -> Iterator[Element | BadRecordError]:
        for index, record in zip(indices, self._all_of(indices), strict=True):
            try:
                yield record if isinstance(record, BadRecordError) else self._decoded(index, record)
            except BadRecordError as error:
                yield error

    def _decoded(self, index: int, record: Mapping[str, Any]) -> Element:
        try:
            element = {"image": self._image(record["image"])}
        except ValueError as error:
            raise BadRecordError(self.name(index), str(error)) from None
        if self.num_classes is not None:
            element["label"] = np.asarray(record["label"], np.int32)
            if not 0 <= element["label"] < self.num_classes:
                raise BadRecordError(self.name(index), f"label {element['label']} of {self.num_classes} classes")
        return element

    def _image(self, raw: Any) -> np.ndarray:
        image = images.decode(raw, max_pixels=self._max_pixels) if self._encoded else np.asarray(raw)
        if any(want not in (None, got) for want, got in zip(self._stated, image.shape, strict=True)):
            raise ValueError(f"expected shape {list(self._stated)} as in features.json, got {list(image.shape)}")
        if image.dtype == np.uint8:
            return image
        image = image.astype(np.float32)
        if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
            raise ValueError(f"expected numbers in [0, 1], got {image.min():g} to {image.max():g}")
        return image

    def name(self, index: int) -> str:
        return f"{self._label}[{index}]"

    def shapes(self) -> np.ndarray:
        """Returns the shapes of the images, int64 `[N, 3]`, zeros where unreadable."""
        return self._shapes


def _stated_shape(feature: Any, *, encoded: bool) -> tuple[int | None, ...]:
    """Returns the shape of the images in the description, None where it varies; `InputError` for other features."""
    shape, kind = feature.shape, feature.np_dtype
    is_image = isinstance(shape, tuple) and len(shape) == 3 and shape[2] in (1, 3, None)
    if is_image and (encoded or np.dtype(kind) == np.uint8 or np.issubdtype(kind, np.floating)):
        return shape
    raise refused(
        "a feature 'image' of shape [H, W, 1] or [H, W, 3], uint8 or floating point in [0, 1]", f"{feature!r}"
    )


def _check_length(path: Path, count: int) -> None:
    """Raises `InputError` unless a file holds `count` records; a truncated one is read as one without records."""
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        reader = ArrayRecordReader(os.fspath(path))
        stored = reader.num_records()
        reader.close()
    except Exception as error:  # noqa: BLE001
        stored = _cause(error)
    if stored != count:
        raise refused(
            f"{count} records in {path}, as dataset_info.json says",
            stored or "none (a truncated or damaged file)",
            "copy or prepare it again",
        )


def open_named(name: str, *, directory: str, labels: bool = False, max_pixels: int = MAX_PIXELS) -> dict[str, Source]:
    """Returns train and test images of the prepared data set NAME or NAME/CONFIG that lies under `directory`.

    Raises `InputError` if TFDS is missing, does not know the name, or the data set is not prepared as ArrayRecord.
    """
    tfds = _import(name)
    for metadata in _metadata_of(name, tfds.core.utils.file_utils.list_data_dirs(directory or None)):
        check_metadata(metadata)
    try:
        builder = tfds.builder(name, data_dir=directory or None)
    except tfds.core.DatasetNotFoundError:
        raise refused(
            "tfds:NAME with a data set that TFDS knows or that lies prepared in config.data.directory",
            f"tfds:{name}",
            "check the spelling at tensorflow.org/datasets, or set config.data.directory",
        ) from None
    except (ValueError, KeyError) as error:
        raise refused("tfds:NAME or tfds:NAME/CONFIG", f"tfds:{name}", _line(error)) from None
    except Exception as error:  # noqa: BLE001  TFDS raises different errors for broken metadata
        raise broken(Path(directory, name.replace(":", "/")), _line(error)) from None
    if not (Path(builder.data_dir) / "dataset_info.json").exists():
        depth = 1 + name.split(":")[0].count("/")
        raise refused(
            f"a prepared data set in {builder.data_dir}",
            "none",
            "prepare it once where TensorFlow is installed: "
            f"tfds build {name} --file_format=array_record --data_dir={Path(builder.data_dir).parents[depth]}",
        )
    return _open(builder, f"tfds:{name}", labels=labels, max_pixels=max_pixels)


def _metadata_of(name: str, roots: Sequence[str | Path]) -> list[Path]:
    """Returns the folders below `roots` that TFDS may read for a data set of this name, in any version."""

    def key(text: str) -> str:
        return re.sub("[^a-z0-9]", "", text.lower())  # TFDS reads CamelCase and snake_case alike

    wanted = {key(part) for part in re.split("[/:]", name)}
    folders = [
        folder for root in map(Path, roots) if root.is_dir() for folder in root.iterdir() if key(folder.name) in wanted
    ]
    found = [
        path.parent  # NAME/[CONFIG/]VERSION, with room for one more; unlike `**` these patterns follow links
        for folder in folders
        for pattern in ("features.json", "*/features.json", "*/*/features.json", "*/*/*/features.json")
        for path in folder.glob(pattern)
    ]
    return sorted(folder for folder in found if all((folder / file).is_file() for file in FILES))


def open_prepared(directory: str | Path, *, labels: bool = False, max_pixels: int = MAX_PIXELS) -> dict[str, Source]:
    """Returns train and test images of the prepared data set in DIR (.../NAME/[CONFIG/]VERSION).

    Raises `InputError` if TFDS is missing or DIR does not hold `dataset_info.json`, `features.json` and their files.
    """
    directory = Path(os.path.expanduser(directory))
    tfds = _import(f"prepared:{directory}")
    missing = [name for name in FILES if not (directory / name).is_file()]
    if missing:
        below = sorted(path.parent for path in directory.glob("*/dataset_info.json")) if directory.is_dir() else []
        raise refused(
            "prepared:DIR with dataset_info.json, features.json and *.array_record-* files in it",
            f"{directory} without {' and '.join(missing)}",
            f"use prepared:{below[0]}" if below else "give the folder of the version, such as .../cifar10/3.0.2",
        )
    check_metadata(directory)
    try:
        builder = tfds.builder_from_directory(directory)
    except Exception as error:  # noqa: BLE001  TFDS raises different errors for a broken directory
        raise broken(directory, _line(error)) from None
    return _open(builder, f"prepared:{directory}", labels=labels, max_pixels=max_pixels)


def _import(what: str) -> Any:
    for package in ("tensorflow_datasets", "array_record", "importlib_resources"):
        if importlib.util.find_spec(package) is None:
            raise refused(
                "the packages tensorflow-datasets, array_record and importlib_resources",
                f"{what}, but no {package}",
                "pip install 'scorebridge[tfds]'",
            )
    import tensorflow_datasets as tfds

    return tfds


def _open(builder: Any, what: str, *, labels: bool, max_pixels: int) -> dict[str, Source]:
    stored = builder.info.file_format
    if stored is None or stored.value != "array_record":
        raise refused(
            "a data set stored as array_record",
            f"{what} stored as {stored.value if stored else 'unknown'}",
            "prepare it with --file_format=array_record",
        )
    if "image" not in builder.info.features:
        raise refused("a feature 'image'", f"{what} with {sorted(builder.info.features)}")
    features = builder.info.features
    if labels and not ("label" in features and getattr(features["label"], "num_classes", None)):
        raise input_error(
            "config.data.labels",
            expected="a feature 'label' with a known number of classes",
            got=f"{what} with {sorted(features)}",
            fix="set config.data.labels=False, or use another data set",
        )
    found = builder.info.splits
    if "train" not in found or not found["train"].num_examples:
        raise refused("a split 'train'", f"{what} with {sorted(found)}")
    how = {"labels": labels, "max_pixels": max_pixels}
    try:
        check_files(Path(builder.data_dir), [os.fspath(path) for info in found.values() for path in info.filepaths])
        train = TfdsImages(builder, "train", **how)
        for name in itertools.chain(*TEST_NAMES):
            if name in found and found[name].num_examples:
                return {"train": train, "test": TfdsImages(builder, name, **how)}
    except InputError:
        raise
    except ImportError as error:
        raise refused(
            "a data set that is read without TensorFlow", f"{what} ({_line(error)})", "install tensorflow"
        ) from None
    except Exception as error:  # noqa: BLE001  such as names of files or numbers of records that make no sense
        raise broken(Path(builder.data_dir), _line(error)) from None
    return {"train": train}


def _cause(error: BaseException) -> str:
    """Returns the message of ArrayRecord without the numbers in brackets that follow it."""
    return _line(error).partition(" (")[0]


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
