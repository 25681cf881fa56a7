"""One writer per directory: a lock that disappears with the process that holds it, however it ends."""

import contextlib
import datetime
import errno
import json
import logging
import os
import pathlib
import socket
from collections.abc import Iterator

from common.errors import input_error

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    try:
        import msvcrt
    except ImportError:
        msvcrt = None

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
# Windows lets nobody else read a locked byte, so the one that is locked lies behind the name of the holder.
_LOCKED_BYTE = 1 << 30
_HOLDER_BYTES = 4096
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def only_writer(path: pathlib.Path) -> Iterator[None]:
    """Holds the lock file at `path`; raises `InputError` that names the process that already does.

    The file stays when the lock is released: removing it could take it from under a process that has just opened it.
    """
    if path.exists() and not path.is_file():
        kind = "a directory" if path.is_dir() else "a FIFO or another special file"
        raise input_error(str(path), expected="a lock file, or none", got=kind, fix="remove it")
    with open(path, "a+", encoding="utf-8") as file:
        try:
            _acquire(file.fileno())
        except BlockingIOError:
            raise input_error(
                f"workdir {path.parent.parent}",
                expected="no other run that writes here",
                got=_holder(path),
                fix="wait for it, stop it, or choose another workdir",
            ) from None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            _log.warning("%s: this file system has no locks; do not start a second run here", path)
        file.truncate(0)
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        file.write(json.dumps(holder))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _acquire(descriptor: int) -> None:
    """Locks an open file until it is closed; raises BlockingIOError if another process has locked it."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif msvcrt is not None:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(error.errno, error.strerror) from None
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def _holder(path: pathlib.Path) -> str:
    try:
        with path.open("rb") as file:
            holder = json.loads(file.read(_HOLDER_BYTES))
        return f"one with pid {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # the holder may be writing this just now
        return "one that has just started"
