"""`generate`: one file of images, the same for the same experiment, readable as a source, never overwritten."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from common.cli.dispatch import main
from common.data.npz import open_npz
from common.data.source import ArraySource, load
from common.errors import RunError
from configs.gahb.base import base
from gahb.__main__ import APP
from gahb.datasets import synthetic
from gahb.experiments import generate

SMALL = {"synthetic.num_train": 9, "synthetic.num_test": 3, "data.size": 16}


def command(workdir, *more, **overrides):
    given = [f"--config.{key}={value}" for key, value in {**SMALL, **overrides}.items()]
    return main(["generate", "--config", "configs/gahb/disks.py", "--workdir", str(workdir), *more, *given], APP)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("set") / "inside"
    assert command(workdir) == 0
    return workdir


def wanted():
    config = base()
    config.data.source, config.data.size, config.data.flip = "disks", 16, False
    config.synthetic.num_train, config.synthetic.num_test = 9, 3
    return {split: load(source)["image"] for split, source in synthetic.build(config).items()}


def test_the_file_holds_the_images_of_the_source(written):
    opened = open_npz(written / "images.npz")
    for split, images in wanted().items():
        np.testing.assert_array_equal(load(opened[split])["image"], images)
    numbers = json.loads((written / "images.json").read_text())
    assert numbers["sources"]["train"]["num"] == 9 and numbers["shape"] == [16, 16, 1]
    assert numbers["type"] == "float32" and numbers["synthetic"]["disk"] == "smooth" and numbers["versions"]["jax"]
    for split, images in wanted().items():
        got = [numbers["statistics"][split][name] for name in ("min", "max", "mean")]
        np.testing.assert_allclose(got, [images.min(), images.max(), images.mean()], rtol=1e-5)
    with Image.open(written / "images.png") as sheet:
        assert sheet.size == (3 * (2 * 16 + 2) - 2, 2 * (2 * 16 + 2) - 2)


def test_again_changes_nothing_and_a_lost_file_comes_back(written, capsys):
    before = (written / "images.npz").read_bytes()
    assert command(written) == 0
    assert "already there" in capsys.readouterr().out
    (written / "images.npz").unlink()
    assert command(written) == 0
    assert (written / "images.npz").read_bytes() == before


@pytest.mark.parametrize(("key", "value"), [("synthetic.seed", 1), ("synthetic.num_test", 4), ("data.size", 24)])
def test_another_set_is_not_overwritten(written, capsys, key, value):
    before = (written / "images.npz").read_bytes()
    assert command(written, **{key: value}) == 2
    error = capsys.readouterr().err
    default = {"synthetic.seed": 0, **SMALL}[key]
    assert "expected no images, or those of this experiment" in error
    assert f"got others (there -> now): {key}: {default} -> {value}; choose" in error
    assert command(written, "--type", "uint8") == 2
    assert 'got others (there -> now): type: "float32" -> "uint8"; choose' in capsys.readouterr().err
    assert (written / "images.npz").read_bytes() == before


def test_bytes(tmp_path):
    assert command(tmp_path, "--type", "uint8") == 0
    with np.load(tmp_path / "images.npz") as arrays:
        assert arrays["train"].dtype == np.uint8
        np.testing.assert_array_equal(arrays["test"], np.round(wanted()["test"] * 255))


def test_foreign_files(tmp_path, written, capsys):
    shutil.copy(written / "images.npz", tmp_path / "images.npz")
    assert command(tmp_path) == 2
    assert "got only the arrays" in capsys.readouterr().err
    (tmp_path / "images.json").write_text("[]")
    assert command(tmp_path) == 2
    assert "expected the description of images" in capsys.readouterr().err


@pytest.mark.parametrize("more", [("--type", "float16"), ("--kind", "uint8")])
def test_wrong_flags(tmp_path, more, capsys):
    assert command(tmp_path / "none", *more) == 2
    assert capsys.readouterr().err.startswith("error: --")
    assert not (tmp_path / "none").exists()


def test_equal_images_give_equal_bytes_whatever_the_clock_says(tmp_path, monkeypatch):
    source = ArraySource({"image": np.arange(5 * 16, dtype=np.uint8).reshape(5, 4, 4, 1)})
    monkeypatch.setattr(generate, "_BLOCK", 2)
    for name, when in (("a", 1e9), ("b", 2e9)):
        monkeypatch.setattr("time.time", lambda when=when: when)
        generate.write_arrays(tmp_path / f"{name}.npz", {"train": source, "test": source}, "uint8")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz") as arrays:
        np.testing.assert_array_equal(arrays["test"], source.read(range(5))["image"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_other_types_are_converted(tmp_path):
    pixels = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4, 1)
    source = ArraySource({"image": pixels})
    statistics = generate.write_arrays(tmp_path / "images.npz", {"train": source}, "float32")
    with np.load(tmp_path / "images.npz") as arrays:
        np.testing.assert_array_equal(arrays["train"], pixels.astype(np.float32) / 255)
    assert statistics["train"] == {"min": 0.0, "max": float(np.float32(31) / 255), "mean": pytest.approx(15.5 / 255)}


def test_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(RunError, match="12288 bytes needed for the images, 5 free"):
        generate._check_room(tmp_path, 12 * 1024)


def test_failed_write_leaves_nothing(tmp_path):
    class Broken(ArraySource):
        def read(self, indices):
            raise RunError("stopped")

    with pytest.raises(RunError):
        generate.write_arrays(tmp_path / "images.npz", {"train": Broken({"image": np.zeros((2, 4, 4, 1))})}, "uint8")
    assert list(tmp_path.iterdir()) == []
