"""Bad input through the real command line: one line, exit code 2, no traceback, nothing compiled or written."""

import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common import config as configs
from configs.gahb.photographs import get_config

ROOT = Path(__file__).parents[2]
PHOTOGRAPHS = ("--config", "configs/gahb/photographs.py")


def run(*argv, **environment):
    """Runs `python -m gahb ...` as a user would."""
    command = [sys.executable, "-m", "gahb", *map(str, argv)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    )


def refused(*argv, **environment) -> str:
    """Runs a command that must be refused; returns its one line without `error: `."""
    done = run(*argv, **environment)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr[len("error: ") : -1]


def test_dry_run_checks_and_writes_nothing(tmp_path):
    done = run("train", *PHOTOGRAPHS, "--workdir", tmp_path / "run", "--dry-run", "--config.train.steps=200")
    assert (done.returncode, done.stderr) == (0, "")
    assert "run: 200 steps of 8 examples" in done.stdout and "model: 114,496 parameters" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_missing_config_file(tmp_path):
    message = refused("train", "--config", "configs/gahb/photograph.py", "--workdir", tmp_path)
    assert message == (
        "config file configs/gahb/photograph.py: expected a Python file, got no such file; "
        "did you mean configs/gahb/photographs.py or configs/gahb/photographs64.py?"
    )


def test_misspelt_key(tmp_path):
    message = refused("train", *PHOTOGRAPHS, "--workdir", tmp_path, "--config.train.stpes=3")
    assert message == 'config.train.stpes: unknown key; did you mean "config.train.steps"?'


def test_misspelt_key_in_a_file(tmp_path):
    path = tmp_path / "experiment.py"
    body = "    config.noise.sigma_mxa = 3.0\n    return config\n"
    path.write_text(f"from configs.gahb.base import base\n\n\ndef get_config():\n    config = base()\n{body}")
    message = refused("train", "--config", path, "--workdir", tmp_path / "run")
    assert message == 'config.noise.sigma_mxa: unknown key; did you mean "config.noise.sigma_max"?'


def test_wrong_type(tmp_path):
    message = refused("train", *PHOTOGRAPHS, "--workdir", tmp_path, "--config.train.batch_size=eight")
    assert message == (
        "config.train.batch_size: expected a whole number (int), got 'eight' (str); write it without quotes or point"
    )


def test_misspelt_choice(tmp_path):
    message = refused("train", *PHOTOGRAPHS, "--workdir", tmp_path, "--config.parallel=pmpa")
    assert message == 'config.parallel: expected one of "jit", "pmap", got "pmpa"; did you mean "pmap"?'


def test_size_not_divisible_by_the_pooling(tmp_path):
    message = refused(
        "train", *PHOTOGRAPHS, "--workdir", tmp_path, "--config.data.size=30", "--config.model.num_blocks=3"
    )
    assert message == "config.data.size: expected a multiple of 8, got 30; use 32 or set model.num_blocks=1"


def test_batch_not_divisible_by_devices(tmp_path):
    message = refused(
        "train",
        *PHOTOGRAPHS,
        "--workdir",
        tmp_path,
        "--config.train.batch_size=6",
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )
    assert message == "config.train.batch_size: expected a multiple of 4 (4 devices), got 6; use 8 or 4"
    assert list(tmp_path.iterdir()) == []


def test_unwritable_workdir(tmp_path):
    (tmp_path / "file").write_text("")
    message = refused("train", *PHOTOGRAPHS, "--workdir", tmp_path / "file" / "run")
    assert message == (
        f"workdir {tmp_path}/file/run: expected a directory, got {tmp_path}/file, a file; choose another --workdir"
    )
    # The one file system that refuses even its owner and the super-user.
    message = refused("train", *PHOTOGRAPHS, "--workdir", "/proc/run")
    assert message.startswith("workdir /proc/run: expected a directory that can be written, got ")


def test_workdir_of_another_config(tmp_path):
    other = get_config()
    other.train.batch_size = 64
    other.data.workers = 7
    configs.write(other, tmp_path)
    message = refused("train", *PHOTOGRAPHS, "--workdir", tmp_path)
    assert message == (
        f"workdir {tmp_path}: expected the experiment it already holds, got another: train.batch_size: 64 -> 8; "
        "choose a new --workdir, or keep these keys as they were"
    )


def test_workdir_without_a_run(tmp_path):
    for verb in ("sample", "evaluate"):
        message = refused(verb, "--workdir", tmp_path)
        assert message.startswith(f"workdir {tmp_path}: expected the config.json of a run, got none")


def test_workdir_without_a_checkpoint(tmp_path):
    configs.write(get_config(), tmp_path)
    assert refused("evaluate", "--workdir", tmp_path).startswith(f"workdir {tmp_path}: expected checkpoints")


def test_empty_folder(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    message = refused("train", *PHOTOGRAPHS, "--workdir", tmp_path / "run", f"--config.data.source=folder:{folder}")
    assert "expected image files" in message and str(folder) in message and "got none" in message


@pytest.fixture
def folder_with_truncated_image(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)
    for name in "abcd":
        Image.fromarray(pixels).save(folder / f"{name}.png")
    whole = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(whole[: len(whole) // 2])
    return folder


def test_folder_with_truncated_image(tmp_path, folder_with_truncated_image):
    source = f"--config.data.source=folder:{folder_with_truncated_image}"
    small = ("--config.evaluate.panel_size=32", "--dry-run")
    message = refused("train", *PHOTOGRAPHS, "--workdir", tmp_path / "run", source, *small)
    assert "b.png" in message and "config.data.skip_bad" in message

    done = run("train", *PHOTOGRAPHS, "--workdir", tmp_path / "run", source, *small, "--config.data.skip_bad=1")
    assert done.returncode == 0, done.stderr
    assert "b.png" in done.stderr and "Traceback" not in done.stderr


def test_nan_in_npz(tmp_path):
    images = np.zeros((5, 32, 32, 1), np.float32)
    images[3, 1, 2] = np.nan
    np.savez(tmp_path / "images.npz", train=images, test=np.zeros((2, 32, 32, 1), np.float32))
    source = f"--config.data.source=npz:{tmp_path}/images.npz"
    message = refused("train", *PHOTOGRAPHS, "--workdir", tmp_path / "run", source, "--config.data.fit=none")
    assert "images.npz['train'][3]" in message and "NaN" in message


class Hostile:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_hostile_weights(tmp_path):
    trace = tmp_path / "trace"
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({"weight": Hostile(trace)}, protocol=2))
        archive.writestr("model/version", "3\n")
    message = refused("import-weights", tmp_path / "model.pt", "--workdir", tmp_path / "run")
    assert "model.pt" in message and "system" in message
    assert not trace.exists() and not (tmp_path / "run").exists()


def test_legacy_weights(tmp_path):
    # The first of the pickles of which torch.save made a file before version 1.6.
    (tmp_path / "model.pt").write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2))
    message = refused("import-weights", tmp_path / "model.pt", "--workdir", tmp_path / "run")
    assert "model.pt" in message and "zip" in message
