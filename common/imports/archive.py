"""The zip archive that PyTorch writes: entries are found and read in place, never extracted and never inflated."""

import collections
import contextlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import InputError, input_error, nearest

_LEGACY_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")  # the number with which PyTorch's format before 1.6 begins
_CHUNK_BYTES = 1 << 24
_SHOWN = 200
AGAIN = "download it again, or write it again with torch.save"
_CONVERT = (
    "convert it once where PyTorch is installed: "
    "torch.save(torch.load(OLD, map_location='cpu', weights_only=True), NEW)"
)


class Archive(NamedTuple):
    """An open checkpoint: `entries` by their names below the archive's one top folder."""

    path: Path
    num_bytes: int
    zip: zipfile.ZipFile
    entries: dict[str, zipfile.ZipInfo]


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[Archive]:
    """Opens a zip-format checkpoint; raises `InputError` for anything else, and for damage met while it is open."""
    path = existing_file(path)
    try:
        with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            num_bytes = os.fstat(stream.fileno()).st_size
            yield Archive(path, num_bytes, archive, _entries(path, archive))
    except InputError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError, OverflowError) as error:
        raise _unreadable(path, error) from None


def existing_file(path: str | os.PathLike) -> Path:
    """Returns `path` if it is a file; raises `InputError` otherwise."""
    path = Path(path)
    try:
        if path.is_dir():
            raise input_error(str(path), expected="a checkpoint file", got="a directory", fix="name the file in it")
        if not path.is_file():
            siblings = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
            close = nearest(path.name, siblings)
            fix = f'did you mean "{path.parent / close}"?' if close else "check the path"
            raise input_error(str(path), expected="a checkpoint file", got="nothing there", fix=fix)
    except OSError as error:
        raise input_error(
            str(path), expected="a readable file", got=error.strerror, fix="check its permissions"
        ) from None
    return path


def shown(text: object) -> str:
    """Returns a name or message from a file as one short line that is safe to print on a terminal."""
    text = str(text)
    return text if len(text) <= _SHOWN and text.isprintable() else repr(text[:_SHOWN])


def first_bytes(path: Path, count: int) -> bytes:
    """Returns the first `count` bytes of a file, fewer if it is shorter; raises `InputError` if it is not readable."""
    try:
        with path.open("rb") as stream:
            return stream.read(count)
    except OSError as error:
        raise input_error(
            str(path), expected="a readable file", got=error.strerror, fix="check its permissions"
        ) from None


def read(archive: Archive, name: str) -> np.ndarray:
    """Returns the bytes of an entry as writable uint8 `[N]`; its checksum is verified."""
    info = archive.entries.get(name)
    if info is None:
        raise input_error(str(archive.path), expected=f"an entry {shown(name)}", got="none of that name", fix=AGAIN)
    # PyTorch never compresses what is read here, so a small file cannot unfold into a large array.
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise input_error(
            str(archive.path),
            expected=f"entry {shown(name)} stored as it is, as PyTorch does",
            got=f"a compressed one of {info.file_size} bytes from {info.compress_size}",
            fix="write it again with torch.save",
        )
    if info.file_size > archive.num_bytes:
        raise input_error(
            str(archive.path),
            expected=f"entry {shown(name)} inside the file of {archive.num_bytes} bytes",
            got=f"{info.file_size} bytes",
            fix=AGAIN,
        )
    buffer = np.empty(info.file_size, np.uint8)
    position = 0
    with archive.zip.open(info) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            buffer[position : position + len(chunk)] = np.frombuffer(chunk, np.uint8)
            position += len(chunk)
    if position != info.file_size:
        raise EOFError(f"entry {name} ends early")
    return buffer


def _entries(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    for name, count in collections.Counter(each.filename for each in infos).items():
        if count > 1:
            raise input_error(str(path), expected="each entry once", got=f"{shown(name)} {count} times", fix=AGAIN)
    roots = [each.filename.removesuffix("data.pkl") for each in infos if each.filename.endswith("data.pkl")]
    roots = [root for root in roots if root == "" or root.endswith("/") and root.count("/") == 1]
    if len(roots) != 1:
        raise input_error(
            str(path),
            expected="a PyTorch checkpoint, a zip archive with one data.pkl",
            got=f"a zip archive with {len(roots) or 'none'}",
            fix="name a file written by torch.save",
        )
    for each in infos:
        if not each.filename.startswith(roots[0]):
            got = f"{shown(each.filename)} beside it"
            raise input_error(str(path), expected=f"every entry below {shown(roots[0])}", got=got, fix=AGAIN)
        if each.flag_bits & 1:
            raise input_error(str(path), expected="no encrypted entry", got=shown(each.filename), fix=AGAIN)
        # Each name is there twice, before the entry and in the table at the end; this raises where they differ.
        archive.open(each).close()
    return {each.filename.removeprefix(roots[0]): each for each in infos if each.filename.startswith(roots[0])}


def _unreadable(path: Path, error: Exception) -> InputError:
    start = first_bytes(path, 512)
    if start.startswith(b"PK\x03\x04"):
        return input_error(
            str(path), expected="a whole PyTorch checkpoint", got=f"a cut or damaged one ({shown(error)})", fix=AGAIN
        )
    if _LEGACY_MAGIC in start[:64] or start[257:262] == b"ustar":
        return input_error(
            str(path), expected="PyTorch's zip format", got="its legacy format from before version 1.6", fix=_CONVERT
        )
    what = f"a file that begins with {start[:12]!r}" if start else "an empty file"
    return input_error(str(path), expected="a PyTorch checkpoint", got=what, fix="name a file written by torch.save")
