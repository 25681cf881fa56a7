"""Folders of image files, optionally with `train/` and `test/` inside."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from common.data import images, splits
from common.data.source import BadRecordError, Element, Source, digest
from common.data.wrappers import Subset
from common.errors import input_error

# Above this much the content of a file enters the fingerprint by its size and first bytes only.
_HASH_WHOLE = 256 * 2**20
_HASH_PART = 4096


class ImageFiles:
    """The images of a folder and its sub-folders in the order of their paths, decoded when asked for.

    With `labels` every image lies in a sub-folder that names its class; classes are numbered by name, or by their
    place in `classes` (those of the training images). Raises `InputError` for images without a class, or of others.
    """

    def __init__(self, root: Path, *, field: str, labels: bool = False, classes: Sequence[str] = ()):
        self._root = root
        self._paths = sorted(
            path
            for path in (Path(base) / file for base, _, files in os.walk(root, followlinks=True) for file in files)
            if path.suffix.lower() in images.SUFFIXES and not path.name.startswith(".")
        )
        if not self._paths:
            raise input_error(
                field,
                expected=f"image files ({', '.join(images.SUFFIXES)}) in {root}",
                got="none",
                fix="check the path, or put images there",
            )
        names = [path.relative_to(root).as_posix() for path in self._paths]
        self.bytes_on_disk = sum(path.stat().st_size for path in self._paths)
        with ThreadPoolExecutor() as pool:
            headers = list(pool.map(images.header, self._paths))
            contents = list(pool.map(self._content, self._paths))
        self._shapes = np.asarray([header.shape for header in headers], np.int64).reshape(-1, 3)
        self._known = {index: header.reason for index, header in enumerate(headers) if header.reason}
        self.fingerprint = digest("files", *(part for pair in zip(names, contents, strict=True) for part in pair))
        self.classes, self._labels = (), None
        if labels:
            self.classes, self._labels = _classes(root, names, classes)
            self.fingerprint = digest("labelled", self.fingerprint, *self.classes)

    @property
    def num_classes(self) -> int | None:
        return len(self.classes) or None

    def _content(self, path: Path) -> str:
        with path.open("rb") as file:
            return digest(file.read(-1 if self.bytes_on_disk <= _HASH_WHOLE else _HASH_PART), path.stat().st_size)

    def __repr__(self) -> str:
        return f"ImageFiles({self._root.name}, {len(self)}, {self.fingerprint})"

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Element:
        try:
            element = {"image": images.decode(self._paths[index])}
        except ValueError as error:
            raise BadRecordError(self.name(index), str(error)) from None
        return element if self._labels is None else {**element, "label": self._labels[index]}

    def read(self, indices: Sequence[int]) -> list[Element]:
        return [self[int(index)] for index in indices]

    def name(self, index: int) -> str:
        return self._paths[index].relative_to(self._root.parent).as_posix()

    def known_bad(self) -> Mapping[int, str]:
        return self._known

    def shapes(self) -> np.ndarray:
        return self._shapes


def _classes(root: Path, names: Sequence[str], classes: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns the names of the classes and the class of each image, int32 `[N]`."""
    folders = [name.partition("/")[0] if "/" in name else "" for name in names]
    if "" in folders:
        raise input_error(
            "config.data.labels",
            expected=f"every image in a folder that names its class, {root}/CLASS/...",
            got=names[folders.index("")],
            fix="move it into one, or set config.data.labels=False",
        )
    known = tuple(classes or sorted(set(folders)))
    if unknown := sorted({*folders} - {*known}):
        listed = ", ".join(known[:5]) + ", ..." * (len(known) > 5)
        raise input_error(
            "config.data.labels",
            expected=f"the classes of the training images ({listed}) in {root}",
            got=", ".join(unknown[:5]),
            fix="remove them, or add them to the training images",
        )
    return known, np.asarray([known.index(folder) for folder in folders], np.int32)


def open_folder(root: str | Path, *, seed: int, labels: bool = False) -> dict[str, Source]:
    """Returns train and test images: the sub-folders `train` and `test` (or `val`), else a seeded tenth for testing.

    With `labels` the next folder below is an image's class: `train/CLASS/...`, or `CLASS/...` without splits; classes
    are numbered in the order of their names. Raises `InputError` if the folder does not exist, has no image, or an
    image has no class.
    """
    root = Path(root).expanduser()
    field = "config.data.source"
    if not root.is_dir():
        raise input_error(
            field, expected="folder:DIR with an existing folder", got=f"folder:{root}", fix="check the path"
        )
    inside = root / "train"
    files = ImageFiles(inside if inside.is_dir() else root, field=field, labels=labels)
    if inside.is_dir():
        for name in ("test", "val"):
            if (root / name).is_dir():
                test = ImageFiles(root / name, field=field, labels=labels, classes=files.classes)
                return {"train": files, "test": test}
    first, second = splits.hold_out(len(files), seed=seed)
    return {"train": Subset(files, first, label="train"), "test": Subset(files, second, label="test")}
