"""One writer per directory: a lock that disappears with the process that holds it, however it ends."""

import contextlib
import datetime
import errno
import fcntl
import json
import logging
import os
import pathlib
import socket
from collections.abc import Iterator

from common.errors import input_error

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def only_writer(path: pathlib.Path) -> Iterator[None]:
    """Holds the lock file at `path`; raises `InputError` that names the process that already does.

    The file stays when the lock is released: removing it could take it from under a process that has just opened it.
    """
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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


def _holder(path: pathlib.Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"one with pid {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError):  # the holder may be writing these lines just now
        return "one that has just started"
