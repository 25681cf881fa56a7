"""The image files below some folders: every file once, whatever links there are, and a count of what is left out."""

import os
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from common.data.images import SUFFIXES

# Folders that programs leave beside the data, apart from those whose name starts with a dot.
_NO_DATA = ("__macosx", "__pycache__", "@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information")

# What is left out, as a message counts it: one, several.
_HIDDEN_FOLDER = ("hidden folder", "hidden folders")
_HIDDEN_FILE = ("hidden file", "hidden files")
_ENDING = ("file with another ending", "files with other endings")
_BROKEN = ("link that leads nowhere", "links that lead nowhere")
_REPEATED = ("link to what is read already", "links to what is read already")
_SPECIAL = ("entry that is no file", "entries that are no files")  # FIFOs, sockets, devices
_UNREADABLE = ("folder that cannot be read", "folders that cannot be read")

Identity = tuple[int, int] | str


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
            endings = sorted(self._endings) if kind == _ENDING else []
            shown = f" ({', '.join(endings[:5])}{', ...' * (len(endings) > 5)})" if endings else ""
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
    """Whether a file or folder of this name is not meant as data."""
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
