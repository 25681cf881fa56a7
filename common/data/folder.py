"""Folders of image files, optionally with `train/` and `test/` inside: every file once, also where links repeat it."""

import hashlib
import logging
import os
import stat
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from common.data import images
from common.data.images import SUFFIXES
from common.data.source import MAX_PIXELS, TEST_NAMES, TRAIN_NAMES, BadRecordError, Element, Source, digest
from common.errors import InputError, input_error, listed

# Folders that programs leave beside the data, apart from those whose name starts with a dot.
_NO_DATA = ("__macosx", "__pycache__", "@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information")

# Kinds of files that are left out, as a message counts them: one, several.
_HIDDEN_FOLDER = ("hidden folder", "hidden folders")
_HIDDEN_FILE = ("hidden file", "hidden files")
_ENDING = ("file with another ending", "files with other endings")
_BROKEN = ("link that leads nowhere", "links that lead nowhere")
_REPEATED = ("link to what is read already", "links to what is read already")
_SPECIAL = ("entry that is no file", "entries that are no files")  # FIFOs, sockets, devices
_EMPTY = ("empty folder", "empty folders")
_UNREADABLE = ("folder that cannot be read", "folders that cannot be read")

Identity = tuple[int, int] | str

# Above this much the content of a file enters the fingerprint by its size and first bytes only.
_HASH_WHOLE = 256 * 2**20
_HASH_PART = 4096

_FIELD = "config.data.source"
_LOG = logging.getLogger(__name__)


class Listing:
    """Lists the image files below each of `roots`; a file that several of them reach belongs to one.

    `names` has the sorted paths for each root, relative to it, with `/`. Files and folders in the roots come first,
    what only links reach after them, root by root. A link to a folder around it is not followed. `ignore` names entries
    of the first root that are left out.
    """

    def __init__(self, roots: Sequence[Path], *, ignore: Sequence[str] = ()):
        self._ignore = {os.path.join(roots[0], name) for name in ignore}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._endings: Counter[str] = Counter()
        self._read: set[Identity] = set()
        self._links: list[tuple[int, str, str]] = []  # root, path, name
        found: list[list[str]] = [[] for _ in roots]
        around = set().union(*(_folders_around(os.fspath(root)) for root in roots))
        for number, root in enumerate(roots):
            found[number] += self._walk(number, os.fspath(root), "")
        while self._links:
            pending, self._links = sorted(self._links, key=lambda link: (link[0], link[2].split("/"))), []
            for number, path, name in pending:
                found[number] += self._follow(number, path, name, around)
        self.names = [sorted(names, key=lambda name: name.split("/")) for names in found]

    def left_out(self) -> list[str]:
        """Returns what was left out, kind by kind, such as "2 files with other endings (.txt)"."""
        counted = []
        for kind, count in self._counts.items():
            shown = f" ({listed(sorted(self._endings))})" if kind == _ENDING else ""
            counted.append(f"{count} {kind[count > 1]}{shown}")
        return counted

    def _walk(self, number: int, folder: str, prefix: str) -> list[str]:
        """Returns the names of the images below a folder without its links, which are noted for later."""
        names, pending = [], [(folder, prefix)]
        while pending:
            folder, prefix = pending.pop()
            try:
                if not self._is_new(folder, os.stat(folder)):
                    self._counts[_REPEATED] += 1
                    continue
                with os.scandir(folder) as entries:
                    entries = sorted(entries, key=lambda entry: entry.name)
            except OSError:
                self._counts[_UNREADABLE] += 1
                continue
            if prefix and not entries:
                self._counts[_EMPTY] += 1
            for entry in entries:
                if entry.path in self._ignore:
                    continue
                name = prefix + entry.name
                if is_hidden(entry.name):
                    self._counts[_HIDDEN_FOLDER if entry.is_dir(follow_symlinks=False) else _HIDDEN_FILE] += 1
                elif entry.is_symlink():
                    self._links.append((number, entry.path, name))
                elif entry.is_dir(follow_symlinks=False):
                    pending.append((entry.path, f"{name}/"))
                else:
                    names += self._file(entry.path, name)
        return names

    def _follow(self, number: int, path: str, name: str, around: set[Identity]) -> list[str]:
        try:
            target = os.stat(path)
        except OSError:  # dangling, or a loop of links
            self._counts[_BROKEN] += 1
            return []
        if not stat.S_ISDIR(target.st_mode):
            return self._file(path, name)
        if _identity(path, target) in around | _folders_around(os.path.dirname(path)):
            self._counts[_REPEATED] += 1
            return []
        return self._walk(number, path, f"{name}/")

    def _file(self, path: str, name: str) -> list[str]:
        """Returns `[name]` for an image that is read for the first time, otherwise notes why not."""
        try:
            status = os.stat(path)
        except OSError:
            self._counts[_BROKEN] += 1
            return []
        ending = os.path.splitext(name)[1].lower()
        if not stat.S_ISREG(status.st_mode):
            self._counts[_SPECIAL] += 1
        elif ending not in SUFFIXES:
            self._counts[_ENDING] += 1
            self._endings[printable(ending) or "none"] += 1
        elif not self._is_new(path, status):
            self._counts[_REPEATED] += 1
        else:
            return [name]
        return []

    def _is_new(self, path: str, status: os.stat_result) -> bool:
        identity = _identity(path, status)
        new = identity not in self._read
        self._read.add(identity)
        return new


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder of this name is not meant as data."""
    return name.startswith(".") or name.casefold() in _NO_DATA


def _identity(path: str, status: os.stat_result) -> Identity:
    """Returns what is the same for all names of a file or folder; some file systems number nothing."""
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _folders_around(path: str) -> set[Identity]:
    """Returns the identities of a folder and of all that contain it."""
    real = Path(os.path.realpath(path))
    return {_identity(os.fspath(folder), os.stat(folder)) for folder in (real, *real.parents)}


def printable(text: str) -> str:
    """Returns a text on one line: control characters and bytes that are no UTF-8 are escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


class ImageFiles(Source):
    """The image files `names` below the folder `root`, in that order, decoded when asked for.

    With `labels` the first folder of a name is the class of the image; classes are numbered by name, or by their place
    in `classes` (those of the training images). Raises `InputError` for images without a class, or of others.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        *,
        max_pixels: int = MAX_PIXELS,
        labels: bool = False,
        classes: Sequence[str] = (),
    ):
        self._root = root
        self._names = list(names)
        self._max_pixels = max_pixels
        with ThreadPoolExecutor() as pool:
            sizes = list(pool.map(self._size, self._names))
            whole = sum(sizes) <= _HASH_WHOLE
            headers = list(pool.map(self._header, self._names))
            contents = list(pool.map(lambda name, size: self._content(name, size, whole=whole), self._names, sizes))
        self._shapes = np.asarray([header.shape for header in headers], np.int64).reshape(-1, 3)
        pairs = zip(map(os.fsencode, self._names), contents, strict=True)
        self.fingerprint = digest("files", *(part for pair in pairs for part in pair))
        self.classes, self._labels = (), None
        if labels:
            self.classes, self._labels = _classes(root, self._names, classes)
            self.num_classes = len(self.classes)
            self.fingerprint = digest("labelled", self.fingerprint, *map(os.fsencode, self.classes))

    def _size(self, name: str) -> int:
        try:
            return (self._root / name).stat().st_size
        except OSError:
            return 0

    def _header(self, name: str) -> images.Header:
        return images.header(self._root / name, max_pixels=self._max_pixels)

    def _content(self, name: str, size: int, *, whole: bool) -> str:
        try:
            with (self._root / name).open("rb") as file:
                hashed = hashlib.file_digest(file, "sha256").digest() if whole else file.read(_HASH_PART)
        except OSError as error:
            hashed = f"unreadable: {error.errno}".encode()
        return digest(hashed, size)

    def __repr__(self) -> str:
        return f"ImageFiles({printable(self._root.name)}, {len(self)}, {self.fingerprint})"

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Element:
        try:
            element = {"image": images.decode(self._root / self._names[index], max_pixels=self._max_pixels)}
        except ValueError as error:
            raise BadRecordError(self.name(index), str(error)) from None
        return element if self._labels is None else {**element, "label": self._labels[index]}

    def name(self, index: int) -> str:
        return printable(f"{self._root.name}/{self._names[index]}")

    def shapes(self) -> np.ndarray:
        """Returns the shapes of the images, int64 `[N, 3]`, zeros where unreadable."""
        return self._shapes


def _classes(root: Path, names: Sequence[str], classes: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns the names of the classes and the class of each image, int32 `[N]`."""
    folders = [name.partition("/")[0] if "/" in name else "" for name in names]
    if "" in folders:
        raise input_error(
            "config.data.labels",
            expected=f"every image in a folder that names its class, {printable(str(root))}/CLASS/...",
            got=printable(names[folders.index("")]),
            fix="move it into one, or set config.data.labels=False",
        )
    known = tuple(classes or sorted(set(folders)))
    if unknown := sorted({*folders} - {*known}):
        raise input_error(
            "config.data.labels",
            expected=f"the classes of the training images ({listed(map(printable, known))}) in {printable(str(root))}",
            got=listed(map(printable, unknown)),
            fix="remove them, or add them to the training images",
        )
    number = {name: index for index, name in enumerate(known)}
    return known, np.asarray([number[folder] for folder in folders], np.int32)


def open_folder(root: str | Path, *, labels: bool = False, max_pixels: int = MAX_PIXELS) -> dict[str, Source]:
    """Returns train and test images: the sub-folders `train` and `test` (or `val`), else all as `train`.

    Names of splits are read in any case, also `training`, `testing`, `valid`, `validation`. A folder with `test` and
    no `train` holds its other images for training. With `labels` the next folder below is an image's class:
    `train/CLASS/...`, or `CLASS/...` without splits; classes are numbered in the order of their names. Links are
    followed, each file is read once, and what is left out is logged. An image with more than `max_pixels` pixels is a
    bad record. Raises `InputError` if the folder does not exist, has no image, or an image has no class.
    """
    root = Path(os.path.expanduser(root))
    if not root.is_dir():
        shown = printable(f"folder:{root}")
        raise input_error(_FIELD, expected="folder:DIR with an existing folder", got=shown, fix="check the path")
    inside = _inside(root)
    train_name, test_name = (
        _split_folder(root, inside, TRAIN_NAMES),
        _split_folder(root, inside, TEST_NAMES),
    )
    others = [name for name in _named(inside, TEST_NAMES) if name != test_name]  # validation beside test images
    if train_name:
        roots, ignore = [root / train_name], []
        others = [name for name in inside if name not in (train_name, test_name)]
    else:
        roots, ignore = [root], _named(inside, TEST_NAMES)
    if test_name:
        roots.append(root / test_name)
    listing = Listing(roots, ignore=ignore)
    _report(root, listing, others)
    for folder, names in zip(roots, listing.names, strict=True):
        if not names:
            raise _no_images(folder, listing, test=None if train_name else test_name)
    train = ImageFiles(roots[0], listing.names[0], max_pixels=max_pixels, labels=labels)
    if test_name:
        classes = train.classes
        test = ImageFiles(roots[1], listing.names[1], max_pixels=max_pixels, labels=labels, classes=classes)
        return {"train": train, "test": test}
    return {"train": train}


def _inside(root: Path) -> list[str]:
    """Returns the folders and the images directly in `root`, without hidden ones."""
    try:
        entries = sorted(root.iterdir())
    except OSError as error:
        shown = printable(f"folder:{root}")
        raise input_error(
            _FIELD,
            expected="a folder that can be read",
            got=f"{shown} ({error.strerror})",
            fix="change its permissions",
        ) from None
    return [
        path.name
        for path in entries
        if not is_hidden(path.name) and (path.is_dir() or path.suffix.lower() in images.SUFFIXES)
    ]


def _named(inside: Sequence[str], groups: Sequence[Sequence[str]]) -> list[str]:
    """Returns what one of the names in `groups` means, in any case."""
    return [name for name in inside if any(name.casefold() in group for group in groups)]


def _split_folder(root: Path, inside: Sequence[str], groups: Sequence[Sequence[str]]) -> str | None:
    """Returns the folder of a split, of the first of `groups` that has one; `InputError` if it has several."""
    for group in groups:
        if len(folders := _named(inside, [group])) > 1:
            raise input_error(
                _FIELD,
                expected=f"one folder {group[0]}/ in {printable(str(root))}",
                got=" and ".join(f"{name}/" for name in folders),
                fix="merge or rename them",
            )
        if folders:
            return folders[0]
    return None


def _report(root: Path, listing: Listing, others: Sequence[str]) -> None:
    """Logs in one line what was left out; `others` are folders and images beside those of the splits."""
    left_out = listing.left_out()
    if others:
        left_out.append(f"{len(others)} beside the folders of the splits ({listed(map(printable, others))})")
    if left_out:
        _LOG.warning("folder:%s: left out %s", printable(str(root)), ", ".join(left_out))


def _no_images(folder: Path, listing: Listing, *, test: str | None) -> InputError:
    """Returns the error for a folder without images; `test` is the folder of test images inside it, if any."""
    shown = printable(str(folder))
    left_out = ", ".join(listing.left_out())
    fix = f"put training images there, or use folder:{shown}/{test}" if test else "check the path, or put images there"
    return input_error(
        _FIELD,
        expected=f"image files ({', '.join(images.SUFFIXES)}) in {shown}",
        got="none" + f" (left out: {left_out})" * bool(left_out),
        fix=fix,
    )
