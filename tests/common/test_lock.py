"""One writer, on every system: what is no lock file is refused, and without POSIX locks everything else still works."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from common.checkpoint import store
from common.checkpoint.store import only_writer
from common.errors import InputError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    return tmp_path / "run" / "checkpoints" / ".lock"


@pytest.fixture
def windows(monkeypatch):
    """The module as Windows imports it: no fcntl, and msvcrt's locks, which belong to an open file and a byte."""
    held = {}

    def locking(descriptor, mode, count):
        byte = (os.fstat(descriptor).st_ino, os.lseek(descriptor, 0, os.SEEK_CUR))
        assert (mode, count) == (2, 1)
        # A file that was closed has lost its lock; the next one that is opened has its number.
        if held.get(byte, descriptor) != descriptor and os.path.exists(f"/proc/self/fd/{held[byte]}"):
            raise PermissionError(13, "Permission denied")
        held[byte] = descriptor

    monkeypatch.setattr(store, "fcntl", None)
    monkeypatch.setattr(store, "msvcrt", types.SimpleNamespace(locking=locking, LK_NBLCK=2), raising=False)
    return held


def test_the_second_writer_learns_who_is_the_first(path):
    with only_writer(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
        for _ in range(2):  # asking takes nothing from the holder
            with pytest.raises(InputError, match=rf"no other run that writes here, got one with pid {os.getpid()} on"):
                only_writer(path).__enter__()
    with only_writer(path):
        pass
    assert path.read_text() == ""


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="the stand-in for Windows needs Linux's /proc")
def test_the_same_with_the_locks_of_windows(path, windows):
    test_the_second_writer_learns_who_is_the_first(path)
    ((_, byte),) = windows
    assert byte > 1000  # behind the text, which others must be able to read


@pytest.mark.parametrize("content", [b"[]", b"null", b"7", b"\xff", b"{", b'{"pid": 1}', b"[" * 5000, b"{}" * 9999])
def test_an_unreadable_holder_is_still_a_holder(path, content):
    with only_writer(path):
        path.write_bytes(content)
        with pytest.raises(InputError, match="got one that has just started; wait for it"):
            only_writer(path).__enter__()


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (os.mkdir, "a directory"),
        (os.mkfifo, "a FIFO or another special file"),
        (lambda path: os.symlink(path.parent, path), "a directory"),
        (lambda path: os.symlink("/dev/null", path), "a FIFO or another special file"),
    ],
)
def test_what_is_no_lock_file_is_named(path, make, kind):
    make(path)
    with pytest.raises(InputError) as error:
        only_writer(path).__enter__()
    assert str(error.value) == f"{path}: expected a lock file, or none, got {kind}; remove it"


def test_a_system_without_any_locks_is_warned_of_and_used(path, monkeypatch, caplog):
    monkeypatch.setattr(store, "fcntl", None)
    monkeypatch.setattr(store, "msvcrt", None, raising=False)
    with only_writer(path), only_writer(path):
        pass
    assert caplog.messages == [f"{path}: this file system has no locks; do not start a second run here"] * 2


def test_nothing_that_windows_lacks_is_needed_to_read_models(tmp_path):
    """In a process without the modules of POSIX: a run is trained and loaded, and the package's matcher opened."""
    program = f"""
import sys
for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix_ipc", "syslog", "readline"):
    sys.modules[name] = None
import gahb, phase_bridge, diffmatch_jax, common.cli.dispatch, gahb.__main__
assert common.cli.dispatch.main(
    ["train", "--config", "tests/gahb/tiny.py", "--workdir", {str(tmp_path)!r}], gahb.__main__.APP
) == 0
import numpy as np
np.save({str(tmp_path / "out.npy")!r}, gahb.load_denoiser({str(tmp_path)!r})(np.full((1, 8, 8, 1), 0.5, np.float32)))
from diffmatch_jax.api import load
load()
print("done")
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0 and run.stdout.endswith("done\n"), run.stderr
    assert np.isfinite(np.load(tmp_path / "out.npy")).all()
