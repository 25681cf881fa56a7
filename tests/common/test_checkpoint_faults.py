"""Damaged files, full disks, killed processes and second writers: each fault is injected for real."""

import asyncio
import gc
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import namedtuple
from pathlib import Path

import jax
import numpy as np
import pytest

from common.checkpoint import Checkpoints, check_resume, check_unlocked, restore_params
from common.errors import InputError, RunError
from common.training.step import TrainState

ROOT = Path(__file__).parents[2]
NOBODY = 65534


def make_state(step):
    # Values that look random, so that one flipped byte in a file cannot leave them as they are.
    values = np.random.default_rng(step).standard_normal((64, 32)).astype(np.float32)
    params = {"dense": {"kernel": values, "bias": values[0]}}
    return TrainState(
        np.int32(step), params, {"deviation": values[1]}, (), {"mu": values[2:4], "count": np.int32(step)}
    )


def opened(workdir, **changes):
    return Checkpoints(workdir, **{"config": {"seed": 0}, "keep": 3} | changes)


def save(workdir, *steps, **changes):
    with opened(workdir, **changes) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), {"step": step})


def assert_is_step(restored, step):
    assert (restored.step, restored.extra) == (step, {"step": step})
    jax.tree.map(np.testing.assert_array_equal, restored.state, make_state(step))


def folder(workdir, step):
    return workdir / "checkpoints" / str(step)


def flip(path, position=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if position is None else position] ^= 1
    path.write_bytes(data)


def data_file(workdir, step, values):
    """Returns the file that holds an array, and where in it."""
    for path in (folder(workdir, step) / "state").rglob("*"):
        if path.is_file() and (position := path.read_bytes().find(values.tobytes())) >= 0:
            return path, position
    raise AssertionError("stored nowhere as it is")


def flip_kernel(workdir, step):
    path, position = data_file(workdir, step, make_state(step).params["dense"]["kernel"])
    flip(path, position + 1000)


def run(code, **options):
    """Runs Python code in another process, with this module's helpers at hand."""
    prelude = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]\n"
    prelude += "from pathlib import Path\nfrom test_checkpoint_faults import *\n"
    return subprocess.Popen([sys.executable, "-c", prelude + code], text=True, **options)


def test_one_flipped_byte_is_found_and_the_step_before_is_used(tmp_path, caplog):
    save(tmp_path, 1, 2, 3)
    flip_kernel(tmp_path, 3)
    with opened(tmp_path) as checkpoints:
        with pytest.raises(
            InputError, match=r"3: expected a whole .*\(params/dense/kernel: checksum differs\); use another"
        ):
            checkpoints.restore(make_state(3), 3)
        assert_is_step(checkpoints.restore_latest(make_state(3)), 2)
        assert "checkpoints/3 is damaged (params/dense/kernel: checksum differs)" in caplog.text
        # The run goes on from step 2 and reaches step 3 again.
        assert checkpoints.steps() == [1, 2]
        assert checkpoints.save(3, make_state(3), {"step": 3})
        assert_is_step(checkpoints.restore_latest(make_state(3)), 3)
    assert (tmp_path / "checkpoints" / "3.damaged" / "state").is_dir()


def test_inference_falls_back_too_and_changes_nothing(tmp_path, caplog):
    save(tmp_path, 1, 2)
    flip_kernel(tmp_path, 2)
    with pytest.raises(InputError, match="a damaged one"):
        restore_params(tmp_path, step=2)
    np.testing.assert_array_equal(restore_params(tmp_path).stats["deviation"], make_state(1).stats["deviation"])
    assert "checkpoints/2 is damaged" in caplog.text
    assert folder(tmp_path, 2).is_dir()


@pytest.mark.parametrize(
    "damage",
    ["flip", *(pytest.param(each, marks=pytest.mark.slow) for each in ("truncate", "empty", "delete"))],
)
def test_no_damaged_file_yields_wrong_values(tmp_path, damage):
    """Each file of a step in turn is damaged: it comes back exactly, or the step before does."""
    save(tmp_path / "whole", 1, 2)
    names = sorted(
        path.relative_to(tmp_path / "whole") for path in folder(tmp_path / "whole", 2).rglob("*") if path.is_file()
    )
    assert len(names) > 12 and {name.parts[2] for name in names} > {"manifest", "state"}
    fallen_back = set()
    for i, name in enumerate(names):
        workdir = tmp_path / str(i)
        shutil.copytree(tmp_path / "whole", workdir)
        path = workdir / name
        match damage:
            case "flip":
                flip(path) if path.stat().st_size else path.write_bytes(b"x")
            case "truncate":
                os.truncate(path, path.stat().st_size // 2)
            case "empty":
                os.truncate(path, 0)
            case "delete":
                path.unlink()
        with opened(workdir) as checkpoints:
            restored = checkpoints.restore_latest(make_state(2))
            assert_is_step(restored, restored.step)
            if restored.step == 1:
                fallen_back.add(name.parts[2])
    assert fallen_back >= {"manifest", "state"}


def test_a_missing_folder_falls_back(tmp_path):
    save(tmp_path, 1, 2)
    shutil.rmtree(folder(tmp_path, 2) / "state")
    with opened(tmp_path) as checkpoints:
        with pytest.raises(InputError, match=r"checkpoints/2: .*\(state: "):
            checkpoints.restore(make_state(2), 2)
        assert_is_step(checkpoints.restore_latest(make_state(2)), 1)


def test_a_renamed_step_is_not_taken_for_another(tmp_path):
    save(tmp_path, 1, 2)
    folder(tmp_path, 2).rename(folder(tmp_path, 5))
    with opened(tmp_path) as checkpoints:
        with pytest.raises(InputError, match="manifest: it belongs to step 2"):
            checkpoints.restore(make_state(2), 5)
        assert_is_step(checkpoints.restore_latest(make_state(2)), 1)


def test_an_altered_value_in_the_manifest_is_found(tmp_path):
    save(tmp_path, 1, 2)
    path = folder(tmp_path, 2) / "manifest" / "manifest.json"
    text = path.read_text()
    assert '"extra": {"step": 2}' in text
    path.write_text(text.replace('"extra": {"step": 2}', '"extra": {"step": 3}'))
    with opened(tmp_path) as checkpoints:
        with pytest.raises(InputError, match="manifest: its own checksum differs"):
            checkpoints.restore(make_state(2), 2)
        assert_is_step(checkpoints.restore_latest(make_state(2)), 1)


@pytest.mark.parametrize("manifests", [False, True])
def test_nothing_whole_is_an_error_and_not_a_new_run(tmp_path, manifests):
    save(tmp_path, 1, 2)
    for step in (1, 2):
        flip(folder(tmp_path, step) / "manifest" / "manifest.json") if manifests else flip_kernel(tmp_path, step)
    pattern = "expected at least one that is whole, got step 2 damaged .*, step 1 damaged"
    with opened(tmp_path) as checkpoints, pytest.raises(InputError, match=pattern):
        checkpoints.restore_latest(make_state(1))
    with pytest.raises(InputError, match=pattern):
        restore_params(tmp_path)
    assert folder(tmp_path, 1).is_dir() and folder(tmp_path, 2).is_dir()


def test_a_checkpoint_of_a_later_format_is_not_called_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr("common.checkpoint.manifest.FORMAT", 3)
    save(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(InputError, match="checkpoint of step 1: expected format 2 or an earlier one, got 3"):
        restore_params(tmp_path)


def test_no_space_is_told_before_writing(tmp_path, monkeypatch):
    save(tmp_path, 1)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 5000, 5000))
    with opened(tmp_path) as checkpoints:
        with pytest.raises(RunError) as caught:
            checkpoints.save(2, make_state(2), {})
        needed, free = (int(n.replace(",", "")) for n in re.findall(r"[\d,]+(?= bytes| free)", str(caught.value)))
        size = sum(x.nbytes for x in jax.tree.leaves(make_state(2)))
        assert size < needed < size + 2**21
        assert free == 5000
        assert "older ones are untouched (newest: step 1)" in str(caught.value)
        monkeypatch.undo()
        checkpoints.save(2, make_state(2), {"step": 2})
        assert_is_step(checkpoints.restore_latest(make_state(2)), 2)


@pytest.mark.parametrize(("place", "told"), [("site-packages/orbax/checkpoint/handlers.py", False), ("own.py", True)])
def test_a_second_write_that_fails_says_nothing_of_its_own(tmp_path, caplog, place, told):
    """Whether it ends before its event loop is closed is a matter of time; others' tasks keep their voice."""
    save(tmp_path, 1)
    names = {}
    exec(compile("async def write():\n    raise OSError('no space left')\n", place, "exec"), names)

    async def nobody_waits():
        asyncio.ensure_future(names["write"]())
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(nobody_waits())
    gc.collect()
    assert ("Task exception was never retrieved" in caplog.text) == told


@pytest.mark.parametrize("limit", [100, 4000])
def test_a_write_error_surfaces_and_leaves_the_older_checkpoints(tmp_path, limit):
    save(tmp_path, 1)
    code = f"""
import resource
workdir = Path({str(tmp_path)!r})
with opened(workdir) as checkpoints:
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
    assert checkpoints.save(2, make_state(2), {{}})
    for attempt in range(2):
        try:
            checkpoints.wait() if attempt == 0 else checkpoints.save(4, make_state(4), {{}})
            print("no error")
        except RunError as error:
            print(error)
        if attempt == 0:
            checkpoints.save(3, make_state(3), {{}})
    print(sorted(path.name for path in (workdir / "checkpoints").iterdir()))
    assert_is_step(checkpoints.restore_latest(make_state(1)), 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    checkpoints.save(5, make_state(5), {{"step": 5}})
    assert_is_step(checkpoints.restore_latest(make_state(1)), 5)
"""
    process = run(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, printed = process.communicate()
    assert (process.returncode, printed) == (0, "")
    first, second, files = output.splitlines()
    for step, message in ((2, first), (3, second)):
        assert re.match(rf"the checkpoint of step {step} could not be written: .*newest: step 1\)$", message)
    assert files == "['.lock', '1']"


def test_an_error_of_the_last_write_ends_the_run_but_hides_no_other_error(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise OSError("device gone")

    monkeypatch.setattr("common.checkpoint.store.write", fail)
    with (
        pytest.raises(RunError, match="step 1 could not be written: device gone; there are no older ones"),
        opened(tmp_path) as checkpoints,
    ):
        checkpoints.save(1, make_state(1), {})
    with pytest.raises(ZeroDivisionError), opened(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), {})
        raise ZeroDivisionError
    assert "step 1 could not be written: device gone" in caplog.text


def test_a_second_writer_is_told_who_holds_the_directory(tmp_path):
    with opened(tmp_path), pytest.raises(InputError) as caught, opened(tmp_path):
        pass
    assert re.search(
        rf"workdir {tmp_path}: .*got one with pid {os.getpid()} on {socket.gethostname()} since 20\d\d-\S+; wait",
        str(caught.value),
    )
    with opened(tmp_path):
        pass


def test_the_lock_disappears_with_its_holder(tmp_path):
    process = run(
        f"with opened(Path({str(tmp_path)!r})): print('held', flush=True); sys.stdin.read()",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"got one with pid {process.pid} on"), opened(tmp_path):
            pass
        assert json.loads((tmp_path / "checkpoints" / ".lock").read_text())["pid"] == process.pid
        process.kill()
        process.wait()
        with opened(tmp_path) as checkpoints:
            assert checkpoints.save(1, make_state(1), {})
    finally:
        process.kill()
        process.communicate()


def test_an_error_on_entering_releases_the_lock(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(InputError, match="seed: 0 -> 1"), opened(tmp_path, config={"seed": 1}):
        pass
    with opened(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]


def test_what_interrupted_writes_left_is_removed_at_the_start(tmp_path):
    save(tmp_path, 1)
    stale = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    shutil.copytree(folder(tmp_path, 1), stale)
    with opened(tmp_path) as checkpoints:
        assert not stale.exists()
        assert checkpoints.steps() == [1]


def blocked(path, what):
    """Puts something that is no step of ours at a path."""
    match what:
        case "file":
            path.write_text("in the way")
        case "link":
            path.symlink_to(path.parent / "nowhere")
        case "loop":
            path.symlink_to(path.name)
        case "folder":
            (path / "inside").mkdir(parents=True)
        case "link to a folder":
            (path.parent.parent / "kept").mkdir()
            (path.parent.parent / "kept" / "file").write_text("kept")
            path.symlink_to(path.parent.parent / "kept")
        case "pipe":
            os.mkfifo(path)


@pytest.mark.parametrize("what", ["file", "link", "loop", "folder", "link to a folder", "pipe"])
def test_a_damaged_step_is_set_aside_whatever_has_its_new_name(tmp_path, what):
    save(tmp_path, 1, 2)
    flip_kernel(tmp_path, 2)
    blocked(folder(tmp_path, "2.damaged"), what)
    with opened(tmp_path) as checkpoints:
        assert_is_step(checkpoints.restore_latest(make_state(2)), 1)
        assert checkpoints.steps() == [1]
    assert (folder(tmp_path, "2.damaged") / "state").is_dir()
    if what == "link to a folder":
        assert (tmp_path / "kept" / "file").read_text() == "kept"


@pytest.mark.parametrize("what", ["file", "link", "loop", "pipe"])
def test_what_is_named_like_a_step_but_is_none_does_not_stop_a_run(tmp_path, what):
    save(tmp_path, 1)
    blocked(folder(tmp_path, 2), what)
    with opened(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        assert checkpoints.save(2, make_state(2), {"step": 2})
        assert_is_step(checkpoints.restore_latest(make_state(2)), 2)
    assert os.path.lexists(folder(tmp_path, "2.damaged"))


@pytest.mark.parametrize(
    "name", ["0020", "٣٤", "２０", "abc", "+20", "2_0", " 20", "20.0", "1e2", "20.copy", "-1", "²"]
)
def test_folders_whose_names_are_no_steps_are_left_alone(tmp_path, name, caplog):
    save(tmp_path, 1, 2)
    shutil.copytree(folder(tmp_path, 2), folder(tmp_path, name))
    with opened(tmp_path, keep=1) as checkpoints:
        assert checkpoints.steps() == [1, 2]
        assert_is_step(checkpoints.restore_latest(make_state(2)), 2)
        checkpoints.save(3, make_state(3), {"step": 3})
    np.testing.assert_array_equal(restore_params(tmp_path).stats["deviation"], make_state(3).stats["deviation"])
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == sorted([".lock", "3", name])
    assert not caplog.records


def test_an_older_step_on_another_disk_is_unlinked_and_not_removed(tmp_path):
    save(tmp_path / "run", 1, 2, 3)
    (tmp_path / "disk").mkdir()
    moved = shutil.move(folder(tmp_path / "run", 1), tmp_path / "disk" / "1")
    folder(tmp_path / "run", 1).symlink_to(moved)
    with opened(tmp_path / "run") as checkpoints:
        assert_is_step(checkpoints.restore(make_state(1), 1), 1)
        checkpoints.save(4, make_state(4), {"step": 4})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3, 4]
    assert (tmp_path / "disk" / "1" / "manifest" / "manifest.json").is_file()


def test_an_old_step_that_cannot_be_removed_is_reported_and_stops_nothing(tmp_path, monkeypatch, caplog):
    save(tmp_path, 1)

    def fail(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("common.checkpoint.store._remove", fail)
    save(tmp_path, 2, keep=1)
    assert "the old checkpoint" in caplog.text and "checkpoints/1 cannot be removed: Operation not perm" in caplog.text
    monkeypatch.undo()
    with opened(tmp_path, keep=1) as checkpoints:
        assert_is_step(checkpoints.restore_latest(make_state(2)), 2)


@pytest.mark.parametrize("gone", ["", "checkpoints"])
def test_a_removed_directory_is_one_line_and_is_not_made_again(tmp_path, gone):
    workdir = tmp_path / "run"
    save(workdir, 1)
    with opened(workdir) as checkpoints:
        shutil.rmtree(workdir / gone)
        with pytest.raises(RunError) as caught:
            checkpoints.save(2, make_state(2), {})
    assert str(caught.value) == (
        f"the checkpoint of step 2 could not be written: No such file or directory ({workdir / 'checkpoints'})"
    )
    assert not (workdir / "checkpoints").exists()


@pytest.mark.parametrize(("what", "kind"), [("pipe", "a FIFO or another special file"), ("folder", "a directory")])
def test_a_lock_that_is_no_file_is_named(tmp_path, what, kind):
    save(tmp_path, 1)
    lock = folder(tmp_path, ".lock")
    lock.unlink()
    blocked(lock, what)
    message = f"{lock}: expected a lock file, or none, got {kind}; remove it"
    assert refused(tmp_path) == message
    # A dry run promises no more than the run keeps.
    with pytest.raises(InputError) as error:
        check_unlocked(tmp_path)
    assert str(error.value) == message


def test_a_damaged_step_is_reported_once(tmp_path, caplog):
    save(tmp_path, 1, 2)
    flip(folder(tmp_path, 2) / "manifest" / "manifest.json")
    check_resume(tmp_path, config={"seed": 0})
    with opened(tmp_path) as checkpoints:
        assert_is_step(checkpoints.restore_latest(make_state(2)), 1)
    assert sum("is damaged" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize(
    "content",
    [b"[" * 200_000, b'{"a":' * 200_000, b"\xff\xfe{", b"", b"null", b"[]", b'"text"', b"NaN", b"{}", b'{"sha256": 1}'],
    ids=["lists", "dicts", "utf-16", "empty", "null", "list", "text", "nan", "no keys", "no values"],
)
def test_a_manifest_that_is_none_is_damage(tmp_path, content):
    save(tmp_path, 1, 2)
    (folder(tmp_path, 2) / "manifest" / "manifest.json").write_bytes(content)
    with opened(tmp_path) as checkpoints:
        assert_is_step(checkpoints.restore_latest(make_state(2)), 1)
    assert (folder(tmp_path, "2.damaged")).is_dir()


@pytest.mark.parametrize("what", ["folder", "loop", "pipe"])
def test_a_manifest_that_is_no_file_is_damage(tmp_path, what):
    save(tmp_path, 1, 2)
    path = folder(tmp_path, 2) / "manifest" / "manifest.json"
    path.unlink()
    blocked(path, what)
    with opened(tmp_path) as checkpoints:
        assert_is_step(checkpoints.restore_latest(make_state(2)), 1)


def kill_trials(workdir, number):
    """Kills a process that saves all the time, once in the middle of a write and once at random, `number` times.

    The parent of all of them imports once and forks before JAX has started any thread.
    """
    code = f"""
import random, signal, time
workdir = Path({str(workdir)!r})
started = 0

def writer(step):
    with opened(workdir) as checkpoints:
        while True:
            step += 1
            checkpoints.save(step, make_state(step), {{"step": step}})

def verifier():
    with opened(workdir) as checkpoints:
        restored = checkpoints.restore_latest(make_state(0))
        if restored is not None:
            assert_is_step(restored, restored.step)
        assert restored is None or restored.step >= started, (restored.step, started)
        assert not temporary()

def temporary():
    return list((workdir / "checkpoints").glob("*tmp*"))

def forked(function, *arguments):
    child = os.fork()
    if child == 0:
        try:
            function(*arguments)
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    return child

random.seed(0)
for trial in range({number}):
    steps = [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdecimal()]
    started = max(steps, default=0)
    child = forked(writer, started)
    while not temporary():
        time.sleep(0.001)
    if trial % 2:
        time.sleep(random.uniform(0, 0.2))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print("left", len(temporary()), flush=True)
    assert os.waitstatus_to_exitcode(os.waitpid(forked(verifier), 0)[1]) == 0
"""
    process = run(code, stdout=subprocess.PIPE)
    output, _ = process.communicate()
    assert process.returncode == 0
    left = [int(line.split()[1]) for line in output.splitlines()]
    assert len(left) == number
    assert any(left), "no process was killed in the middle of a write"


def test_a_killed_writer_leaves_a_directory_from_which_the_run_resumes(tmp_path):
    kill_trials(tmp_path, 4)


@pytest.mark.slow
def test_many_killed_writers(tmp_path):
    kill_trials(tmp_path, 40)


def refused(workdir):
    try:
        with opened(workdir):
            return "entered"
    except InputError as error:
        return str(error)


def test_a_directory_that_cannot_be_made_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    message = refused(tmp_path / "file")
    assert re.match(rf"workdir {tmp_path}/file: expected a directory that can be written, got Not a directory", message)


def test_a_directory_without_permission_is_an_input_error():
    with tempfile.TemporaryDirectory() as name:  # unlike tmp_path, open to other users
        workdir = Path(name)
        save(workdir / "old", 1)
        (workdir / "new").mkdir()
        folders = [workdir, workdir / "old", workdir / "old" / "checkpoints", workdir / "new"]
        for path in folders:
            path.chmod(0o555)
        (workdir / "old" / "checkpoints" / ".lock").chmod(0o444)
        user = os.geteuid()
        if user == 0:  # permissions do not bind root
            os.seteuid(NOBODY)
        try:
            messages = [refused(workdir / each) for each in ("old", "new", "none")]
        finally:
            os.seteuid(user)
            for path in folders:
                path.chmod(0o755)
    for message in messages:
        assert re.match(
            r"workdir .*: expected a directory that can be written, got Permission denied \(.*; choose", message
        )
