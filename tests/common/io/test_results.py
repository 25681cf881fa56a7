"""Result files: what goes in comes out, with its origin."""

import importlib.metadata
import json
import subprocess

import jax
import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from common.io import results


def origin(step=3):
    return results.provenance(config_hash="ab", seed=1, step=step, device="1 x cpu", wall_s=1.23456, nfe=4)


def test_provenance_has_what_every_result_carries():
    record = origin()
    assert (record["config_hash"], record["seed"], record["step"], record["nfe"]) == ("ab", 1, 3, 4)
    assert (record["device"], record["wall_s"], record["config_changes"]) == ("1 x cpu", 1.235, [])
    assert record["versions"]["jax"] == jax.__version__ and record["versions"]["numpy"] == np.__version__
    assert set(record["versions"]) == {"python", "jax", "flax", "numpy", "scorebridge"}


def checkout(directory, monkeypatch):
    """A checkout with one commit in the place of that of the code."""
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", directory, *identity, *command], check=True)
    monkeypatch.setattr(results, "_ROOT", directory)
    results.git_state.cache_clear()
    return subprocess.run(["git", "-C", directory, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()


def test_provenance_names_the_commit_and_whether_files_differ_from_it(tmp_path, monkeypatch):
    (tmp_path / "code.py").write_text("x = 1")
    commit = checkout(tmp_path, monkeypatch)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert origin()["git"] == {"commit": commit, "dirty": False}
    (tmp_path / "notes").write_text("a file that Git does not know")
    results.git_state.cache_clear()
    assert origin()["git"] == {"commit": commit, "dirty": False}
    (tmp_path / "code.py").write_text("x = 2")
    results.git_state.cache_clear()
    assert origin()["git"] == {"commit": commit, "dirty": True}
    # Installed code lies in no checkout, even where a directory above it is one.
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(results, "_ROOT", tmp_path / "site-packages")
    results.git_state.cache_clear()
    assert origin()["git"] is None
    results.git_state.cache_clear()


def test_the_version_is_the_installed_one_or_that_of_the_checkout(tmp_path, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(results.importlib.metadata, "version", missing)
    monkeypatch.setattr(results, "_ROOT", tmp_path)
    assert results.version("scorebridge") == "unknown"
    (tmp_path / "setup.py").write_text('setup(\n    name="scorebridge",\n    version="1.2.3",\n)\n')
    assert results.version("scorebridge") == "1.2.3" and results.version("jax") == "unknown"
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'scorebridge'\nversion = '2.0'\n")
    assert results.version("scorebridge") == "2.0"
    monkeypatch.setattr(results.importlib.metadata, "version", lambda name: "3.0")
    assert results.version("scorebridge") == "3.0"


def test_round_trip(tmp_path):
    arrays = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "level": np.array([10.0, 25.0])}
    numbers = {**origin(), "psnr": np.float32(20.5), "curve": np.array([1.0, np.inf]), "n": np.int64(3), "t": (1, 2)}
    images = np.zeros((4, 8, 8, 1), np.float32)
    paths = results.write(tmp_path / "samples", "step-3", numbers=numbers, arrays=arrays, images=images)
    assert [path.name for path in paths] == ["step-3.npz", "step-3.png", "step-3.json"]
    stored, again = results.read(paths[-1])
    assert stored["psnr"] == 20.5 and stored["curve"] == [1.0, None] and stored["n"] == 3 and stored["t"] == [1, 2]
    assert stored["config_hash"] == "ab"
    for name, value in arrays.items():
        np.testing.assert_array_equal(again[name], value)
        assert again[name].dtype == value.dtype
    assert Image.open(paths[1]).size == (2 * 16 + 2, 2 * 16 + 2)
    assert "NaN" not in paths[-1].read_text() and "Infinity" not in paths[-1].read_text()


def test_without_arrays_and_images(tmp_path):
    (path,) = results.write(tmp_path, "numbers", numbers=origin(), arrays={})
    assert results.read(path) == (json.loads(path.read_text()), {})


def test_newest_is_by_step(tmp_path):
    for step in (9, 100, 20):
        results.write(tmp_path, f"evaluate-step-{step}", numbers=origin(step), arrays={})
    results.write(tmp_path, "other-step-999", numbers=origin(999), arrays={})
    assert results.newest(tmp_path, "evaluate").name == "evaluate-step-100.json"
    assert results.newest(tmp_path, "nothing") is None
    assert results.newest(tmp_path / "missing", "evaluate") is None


def test_damaged_files_are_named(tmp_path):
    (path, *_) = reversed(results.write(tmp_path, "a", numbers=origin(), arrays={"x": np.zeros(3)}))
    path.with_suffix(".npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(InputError, match=r"a.json: expected a readable result"):
        results.read(path)
    path.write_text("{")
    with pytest.raises(InputError, match=r"a.json: expected a readable result"):
        results.read(path)
    with pytest.raises(InputError, match=r"a.json: expected a result with its step"):
        results.newest(tmp_path, "a")


def test_objects_are_never_unpickled(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("{}")
    np.savez(path.with_suffix(".npz"), x=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="expected a readable result"):
        results.read(path)


def test_results_of_other_settings_stand_beside(tmp_path):
    settings = {"levels": [25.0], "config": {"sampler": {"nfe": 5}}, "ema": True}
    paths = results.write(tmp_path, "a", numbers={**origin(), "x": 1}, arrays={"y": np.ones(2)}, settings=settings)
    again = {"ema": True, "config": {"sampler": {"nfe": 5}}, "levels": (25.0,)}  # the same, in another order
    assert results.write(tmp_path, "a", numbers={**origin(), "x": 2}, arrays={"y": np.ones(2)}, settings=again) == paths
    assert results.read(paths[-1])[0]["x"] == 2 and results.read(paths[-1])[0]["settings"] == settings
    for other in ({**settings, "ema": False}, {**settings, "levels": [10.0]}, {**settings, "config": {}}):
        path = results.write(tmp_path, "a", numbers={**origin(), "x": 3}, arrays={}, settings=other)[-1]
        assert path == results.path_of(tmp_path, "a", other) and path not in paths
        assert results.read(paths[-1])[0]["x"] == 2
    assert len(list(tmp_path.glob("a-*.json"))) == 4
    assert len(results.key_of(settings)) == 8 and paths[-1].name == f"a-{results.key_of(settings)}.json"


def test_newest_is_the_highest_step_then_the_latest(tmp_path):
    for step, created, key in ((2, "2026-03", 1), (4, "2026-01", 2), (4, "2026-02", 3), (3, "2026-04", 4)):
        numbers = {**origin(step), "created": created}
        results.write(tmp_path, "evaluate", numbers=numbers, arrays={}, settings={"key": key})
    assert results.read_newest(tmp_path, "evaluate", verb="evaluate")[0]["settings"] == {"key": 3}
    assert [results.read_step(path) for path in results.all_of(tmp_path, "evaluate")] == [4, 4, 3, 2]
    (latest,) = results.latest_of_each(tmp_path, "evaluate")
    assert results.read(latest)[0]["settings"] == {"key": 4}
    with pytest.raises(results.NoResultError, match="expected samples, got none; run sample first"):
        results.read_newest(tmp_path, "step", verb="sample", what="samples")


def test_differences_between_settings():
    found = results.differences([{"a": 1, "c": {"x": 1, "y": 2}}, {"a": 1, "c": {"x": 3, "y": 2}}, {"a": 1}])
    assert found == [{"c.x": 1, "c.y": 2}, {"c.x": 3, "c.y": 2}, {"c.x": None, "c.y": None}]
    assert results.differences([{"a": 1}]) == [{}]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"3", b"\xff\xfe", b"[" * 10**5, b'{"a": ' * 10**5, b"1" * 10**5, b"\0" * 100],
    ids=["empty", "cut", "list", "null", "number", "bytes", "nested", "nested-objects", "digits", "zeros"],
)
def test_no_json_object_is_one_line(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    for read in (results.read, lambda path: results.newest(tmp_path, "a")):
        with pytest.raises(InputError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: expected a ") and len(str(caught.value)) < 500
        assert not isinstance(caught.value, results.NoResultError)


def test_huge_json_is_refused_unread(tmp_path):
    path = tmp_path / "a.json"
    with open(path, "wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match="expected a readable result, got 1099511627776 bytes, more than"):
        results.read(path)


def test_missing_arrays_and_fields_are_named(tmp_path):
    arrays = {"x": np.zeros(3), "y": np.ones((2, 2), np.float32)}
    path = results.write(tmp_path, "a", numbers={**origin(), "table": [{"psnr": 3.0}]}, arrays=arrays)[-1]
    beside = path.with_suffix(".npz")
    numbers, found = results.read(path)
    with pytest.raises(InputError, match=r'a.npz: expected "z", got only x, y'):
        found["z"]
    with pytest.raises(InputError, match=r'a.json: expected "gain", got only psnr'):
        numbers["table"][0]["gain"]
    np.savez(beside, x=np.zeros(3))
    with pytest.raises(InputError, match=r'a.npz: expected "y", got only x'):
        results.read(path)
    np.savez(beside, x=np.zeros(3), y=np.ones(4, np.float32))
    with pytest.raises(InputError, match=r"a.npz: y: expected .*'shape': \[2, 2\].*, got .*'shape': \[4\]"):
        results.read(path)
    np.save(tmp_path / "b.npy", np.zeros(3))
    (tmp_path / "b.npy").rename(beside)
    with pytest.raises(InputError, match=r"a.json: expected a readable result, got a.npz: File is not a zip file"):
        results.read(path)
    beside.unlink()
    with pytest.raises(InputError, match=r"a.json: expected a readable result, got a.npz: no such file"):
        results.read(path)


def test_every_flipped_byte_of_the_arrays_is_found(tmp_path):
    path = results.write(tmp_path, "a", numbers=origin(), arrays={"x": np.arange(8.0)})[-1]
    beside = path.with_suffix(".npz")
    whole, stored = beside.read_bytes(), results.read(path)[1]["x"]
    for position in range(len(whole)):
        beside.write_bytes(whole[:position] + bytes([whole[position] ^ 0x40]) + whole[position + 1 :])
        try:
            found = results.read(path)[1]
        except InputError:
            continue
        np.testing.assert_array_equal(found["x"], stored)  # a byte that means nothing, such as a date
