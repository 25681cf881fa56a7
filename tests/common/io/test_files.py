"""Files that appear whole or not at all, also where their writer is killed or is not alone."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.errors import InputError
from common.io.files import read_json, write_atomically

ROOT = Path(__file__).resolve().parents[3]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_killed_writer_leaves_nothing_once_the_file_is_written_again(tmp_path):
    path = tmp_path / "rows.npz"
    path.write_bytes(b"old")
    code = (
        "import os, signal, sys; from common.io import files\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_atomically(sys.argv[1], bytes(100_000))"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL and path.read_bytes() == b"old"
    assert names(tmp_path) == [".rows.npz.partial", "rows.npz"]
    write_atomically(path, b"new")
    assert names(tmp_path) == ["rows.npz"] and path.read_bytes() == b"new"


def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = write_atomically(tmp_path / "a.json", b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        write_atomically(path, b"new")
    assert error.value.filename == str(path)
    assert names(tmp_path) == ["a.json"] and path.read_bytes() == b"old"


def test_writers_of_one_file_do_not_mix(tmp_path):
    path = tmp_path / "a.bin"
    contents = {bytes([i]) * (1000 + 37 * i) for i in range(8)}
    write_atomically(path, min(contents))
    with ThreadPoolExecutor(8) as pool:
        pending = [pool.submit(write_atomically, path, content) for content in contents for _ in range(20)]
        while not all(each.done() for each in pending):
            assert path.read_bytes() in contents
        for each in pending:
            each.result()
    assert path.read_bytes() in contents and names(tmp_path) == ["a.bin"]


def test_what_lies_in_the_way_of_the_temporary_file_is_not_followed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"precious")
    (tmp_path / ".a.json.partial").symlink_to(elsewhere)
    with pytest.raises(OSError):
        write_atomically(tmp_path / "a.json", b"new")
    assert elsewhere.read_bytes() == b"precious" and not (tmp_path / "a.json").exists()


def test_an_integer_beyond_the_digits_that_python_reads_is_said_in_our_words(tmp_path):
    (tmp_path / "a.json").write_text('{"seed": ' + "9" * 5000 + "}")
    with pytest.raises(InputError) as error:
        read_json(tmp_path / "a.json", expected="readable JSON", fix="restore it")
    got = "expected readable JSON, got an integer of thousands of digits; restore it"
    assert str(error.value) == f"{tmp_path / 'a.json'}: {got}"
