"""TensorFlow Datasets through their random-access data sources (ArrayRecord files), without TensorFlow.

A prepared data set is read by `tensorflow_datasets` with no TensorFlow installed if its files are `array_record` and
its images are stored encoded or as plain tensors. Decoding is ours, so that pixels do not depend on which decoder TFDS
finds.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.data import images, splits
from common.data.source import BadRecordError, Element, Source, digest
from common.data.wrappers import Subset
from common.errors import input_error

_FIELD = "config.data.source"
_TEST_SPLITS = ("test", "validation", "val")
_CHUNK = 1024  # records whose headers are read at once


class TfdsImages:
    """The feature `image` of one split of a prepared data set, with `labels` also its feature `label`.

    A label outside the stated classes, such as -1 in a test set that keeps them secret, makes a bad record.
    """

    def __init__(self, builder: Any, split: str, *, labels: bool = False):
        import tensorflow_datasets as tfds

        feature = builder.info.features["image"]
        self._encoded = isinstance(feature, tfds.features.Image)
        decoders = {"image": tfds.decode.SkipDecoding()} if self._encoded else None
        self._records = builder.as_data_source(split=split, decoders=decoders)
        self._label = f"{builder.info.full_name}/{split}"
        self._known: dict[int, str] = {}
        info = builder.info.splits[split]
        files = sorted((path.name, path.stat().st_size) for path in map(Path, info.filepaths))
        ends = self._raw([0, len(self) - 1])
        self.fingerprint = digest("tfds", self._label, len(self), files, *ends)
        self.num_classes: int | None = None
        if labels:
            self.num_classes = builder.info.features["label"].num_classes
            self.fingerprint = digest("labelled", self.fingerprint, self.num_classes)
        self._shapes = self._find_shapes(feature.shape)

    def _read(self, indices: Sequence[int]) -> list[Any]:
        return self._records.__getitems__([int(index) for index in indices])

    def _raw(self, indices: Sequence[int]) -> list[Any]:
        return [record["image"] for record in self._read(indices)]

    def _find_shapes(self, stated: tuple[int | None, ...]) -> np.ndarray:
        if None not in stated:
            return np.broadcast_to(np.asarray(stated, np.int64), (len(self), 3))
        shapes = []
        for start in range(0, len(self), _CHUNK):
            for offset, raw in enumerate(self._raw(range(start, min(start + _CHUNK, len(self))))):
                found = images.header(raw) if self._encoded else images.Header(np.shape(raw))
                shapes.append(found.shape)
                if found.reason:
                    self._known[start + offset] = found.reason
        return np.asarray(shapes, np.int64)

    def __repr__(self) -> str:
        return f"TfdsImages({self._label}, {len(self)}, {self.fingerprint})"

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Element:
        return self.read([index])[0]

    def read(self, indices: Sequence[int]) -> list[Element]:
        elements = []
        for index, record in zip(indices, self._read(indices), strict=True):
            raw = record["image"]
            try:
                element = {"image": images.decode(raw) if self._encoded else np.asarray(raw)}
            except ValueError as error:
                raise BadRecordError(self.name(index), str(error)) from None
            if self.num_classes is not None:
                element["label"] = np.asarray(record["label"], np.int32)
                if not 0 <= element["label"] < self.num_classes:
                    raise BadRecordError(self.name(index), f"label {element['label']} of {self.num_classes} classes")
            elements.append(element)
        return elements

    def name(self, index: int) -> str:
        return f"{self._label}[{index}]"

    def known_bad(self) -> Mapping[int, str]:
        return self._known

    def shapes(self) -> np.ndarray:
        return self._shapes


def open_named(name: str, *, directory: str, seed: int, labels: bool = False) -> dict[str, Source]:
    """Returns train and test images of the prepared data set NAME or NAME/CONFIG that lies under `directory`.

    Raises `InputError` if TFDS is missing, does not know the name, or the data set is not prepared as ArrayRecord.
    """
    tfds = _import(name)
    try:
        builder = tfds.builder(name, data_dir=directory or None)
    except tfds.core.DatasetNotFoundError:
        raise input_error(
            _FIELD,
            expected="tfds:NAME with a data set that TFDS knows or that lies prepared in config.data.directory",
            got=f"tfds:{name}",
            fix="check the spelling at tensorflow.org/datasets, or set config.data.directory",
        ) from None
    except (ValueError, KeyError) as error:
        raise input_error(
            _FIELD, expected="tfds:NAME or tfds:NAME/CONFIG", got=f"tfds:{name}", fix=_line(error)
        ) from None
    if not (Path(builder.data_dir) / "dataset_info.json").exists():
        depth = 1 + name.split(":")[0].count("/")
        raise input_error(
            _FIELD,
            expected=f"a prepared data set in {builder.data_dir}",
            got="none",
            fix="prepare it once where TensorFlow is installed: "
            f"tfds build {name} --file_format=array_record --data_dir={Path(builder.data_dir).parents[depth]}",
        )
    return _open(builder, f"tfds:{name}", seed, labels)


def open_prepared(directory: str | Path, *, seed: int, labels: bool = False) -> dict[str, Source]:
    """Returns train and test images of the prepared data set in DIR (.../NAME/[CONFIG/]VERSION).

    Raises `InputError` if TFDS is missing or DIR does not hold `dataset_info.json`, `features.json` and their files.
    """
    directory = Path(directory).expanduser()
    tfds = _import(f"prepared:{directory}")
    missing = [name for name in ("dataset_info.json", "features.json") if not (directory / name).is_file()]
    if missing:
        below = sorted(path.parent for path in directory.glob("*/dataset_info.json")) if directory.is_dir() else []
        raise input_error(
            _FIELD,
            expected="prepared:DIR with dataset_info.json, features.json and *.array_record-* files in it",
            got=f"{directory} without {' and '.join(missing)}",
            fix=f"use prepared:{below[0]}" if below else "give the folder of the version, such as .../cifar10/3.0.2",
        )
    try:
        builder = tfds.builder_from_directory(directory)
    except Exception as error:  # noqa: BLE001  whatever TFDS meets in a broken directory is the user's to mend
        raise input_error(
            _FIELD, expected="a data set prepared by TFDS", got=_line(error), fix=f"prepare {directory} again"
        ) from None
    return _open(builder, f"prepared:{directory}", seed, labels)


def _import(what: str) -> Any:
    for package in ("tensorflow_datasets", "array_record", "importlib_resources"):
        if importlib.util.find_spec(package) is None:
            raise input_error(
                _FIELD,
                expected="the packages tensorflow-datasets, array_record and importlib_resources",
                got=f"{what}, but no {package}",
                fix="pip install 'scorebridge[tfds]'",
            )
    import tensorflow_datasets as tfds

    return tfds


def _open(builder: Any, what: str, seed: int, labels: bool) -> dict[str, Source]:
    stored = builder.info.file_format
    if stored is None or stored.value != "array_record":
        raise input_error(
            _FIELD,
            expected="a data set stored as array_record",
            got=f"{what} stored as {stored.value if stored else 'unknown'}",
            fix="prepare it with --file_format=array_record",
        )
    if "image" not in builder.info.features:
        raise input_error(
            _FIELD,
            expected="a feature 'image'",
            got=f"{what} with {sorted(builder.info.features)}",
            fix="use another data set",
        )
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
        raise input_error(
            _FIELD, expected="a split 'train'", got=f"{what} with {sorted(found)}", fix="use another data set"
        )
    for path in (path for info in found.values() for path in info.filepaths):
        if not Path(path).is_file():
            raise input_error(_FIELD, expected=f"the file {path}", got="none", fix=f"prepare {what} again")
    try:
        train = TfdsImages(builder, "train", labels=labels)
        for name in _TEST_SPLITS:
            if name in found and found[name].num_examples:
                return {"train": train, "test": TfdsImages(builder, name, labels=labels)}
    except ImportError as error:
        raise input_error(
            _FIELD,
            expected="a data set that is read without TensorFlow",
            got=f"{what} ({_line(error)})",
            fix="install tensorflow",
        ) from None
    first, second = splits.hold_out(len(train), seed=seed)
    return {"train": Subset(train, first, label="train"), "test": Subset(train, second, label="test")}


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
