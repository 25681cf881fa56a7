"""Files that are never half there, and JSON files that may be damaged."""

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from common.errors import input_error

try:
    import fcntl
except ImportError:  # Windows, which refuses to replace an open file instead
    fcntl = None

MAX_JSON_BYTES = 2**28  # no file of this package comes near; parsing more would take the memory of the machine


def write_atomically(path: str | os.PathLike, content: bytes) -> Path:
    """Writes a file of which only the old or the whole new content can ever be seen, and returns its path.

    A process that is killed meanwhile leaves `.NAME.partial`, which the next writer of the file replaces.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with _exclusive(temporary) as file:
            try:
                file.truncate(0)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                if fcntl is None:
                    file.close()
                os.replace(temporary, path)
            except BaseException:
                os.unlink(temporary)
                raise
    except OSError as error:
        # A failed write names no file by itself, and the temporary name means nothing to a user.
        error.filename = str(path)
        raise
    return path


def _exclusive(path: Path) -> BinaryIO:
    """Returns the open file at `path`, made if need be, once no other process writes to it."""
    while True:
        file = open(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666), "r+b")  # noqa: SIM115
        try:
            if fcntl is not None:
                with contextlib.suppress(OSError):  # of file systems without locks
                    fcntl.flock(file, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                # The process that held the lock has moved its file to where it belongs.
                if os.path.samestat(os.fstat(file.fileno()), os.stat(path, follow_symlinks=False)):
                    return file
        except BaseException:
            file.close()
            raise
        file.close()


def write_json(path: str | os.PathLike, values: Mapping[str, Any]) -> Path:
    """Writes plain JSON values as `write_atomically` does, indented, and returns the path."""
    return write_atomically(path, (json.dumps(values, indent=2) + "\n").encode())


def read_json(
    path: str | os.PathLike,
    *,
    expected: str,
    fix: str,
    object_hook: Callable[[dict[str, Any]], Any] | None = None,
) -> dict[str, Any]:
    """Returns the JSON object in a file; `object_hook` is applied to every object in it, as by `json.loads`.

    expected and fix: the words of the error for a file that is damaged, too large, too deeply nested or no object.

    Raises:
      FileNotFoundError: there is no such file.
      InputError: it holds no readable JSON object.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise ValueError("a directory" if path.is_dir() else "a pipe or a device")  # reading a pipe would block
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise ValueError(f"{size} bytes, more than {MAX_JSON_BYTES}")
        values = json.loads(path.read_bytes().decode(), object_hook=object_hook)
        if not isinstance(values, dict):
            raise ValueError(f"a JSON {type(values).__name__}")
        return values
    except FileNotFoundError:
        raise
    except RecursionError:
        got: object = "JSON that is nested too deeply"
    except MemoryError:
        got = "more than the memory holds"
    except OSError as error:
        got = error.strerror
    except ValueError as error:
        got = error if str(error) else "no JSON"
        if "integer string conversion" in str(got):  # Python's limit, and its advice to raise it
            got = "an integer of thousands of digits"
    raise input_error(str(path), expected=expected, got=got, fix=fix)
