"""Experiments by name, and packages of other projects that have the names of ours."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import configs
from common.cli import workdirs
from common.errors import InputError

ROOT = Path(__file__).parents[3]
SHIPPED = Path(configs.__file__).parent


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The current directory: one without any experiment."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "method", "name"),
    [
        ("photographs", "gahb", "gahb/photographs"),
        ("gahb/photographs", "gahb", "gahb/photographs"),
        ("gahb/photographs.py", "gahb", "gahb/photographs"),
        ("configs/gahb/photographs.py", "gahb", "gahb/photographs"),
        ("./configs/phase_bridge/spiral.py", "phase_bridge", "phase_bridge/spiral"),
        ("demo", "phase_bridge", "phase_bridge/demo"),
        ("demo", "diffmatch_jax", "diffmatch_jax/demo"),
        ("spiral", "gahb", "phase_bridge/spiral"),
    ],
)
def test_shipped_experiments_by_name(elsewhere, text, method, name):
    assert workdirs.find_experiment(text, method) == SHIPPED / f"{name}.py"


def test_a_file_comes_first(elsewhere):
    (elsewhere / "configs" / "gahb").mkdir(parents=True)
    for path in (Path("configs/gahb/photographs.py"), Path("photographs")):
        path.write_text("")
        assert workdirs.find_experiment(str(path), "gahb") == path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("photograph", "got no such file; did you mean gahb/photographs or gahb/photographs64?"),
        ("gahb/photograph", "did you mean gahb/photographs or gahb/photographs64?"),
        ("configs/gahb/photograph.py", "did you mean configs/gahb/photographs.py or configs/gahb/photographs64.py?"),
        ("demo", "got that of 2; did you mean diffmatch_jax/demo or phase_bridge/demo?"),
        ("celeba8", "did you mean gahb/celeba80"),
        ("base", "name a file, or one of bsds, "),
        ("/configs/gahb/photographs.py", "expected a Python file, got no such file"),
    ],
)
def test_unknown_experiments(elsewhere, text, message):
    with pytest.raises(InputError) as caught:
        workdirs.find_experiment(text, "gahb")
    assert str(caught.value).startswith(f"config file {text}: ") and message in str(caught.value)


def test_every_method_ships_experiments():
    assert {name.partition("/")[0] for name in workdirs._shipped()} == {"gahb", "diffmatch_jax", "phase_bridge"}
    assert not any(name.endswith(("/base", "/model")) for name in workdirs._shipped())


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A directory of packages, as an installation makes it."""
    place = tmp_path_factory.mktemp("site")
    for name in ("common", "configs", "gahb", "diffmatch_jax", "phase_bridge"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    return place


def run(installed, directory, *argv):
    environment = {**os.environ, "PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"}
    return subprocess.run([sys.executable, *argv], cwd=directory, env=environment, capture_output=True, text=True)


def test_an_installed_experiment_is_read_anywhere(installed, tmp_path):
    for text in ("photographs", "configs/gahb/photographs.py"):
        argv = ["-m", "gahb", "train", "--config", text, "--workdir", "run", "--config.noise.sigma_mxa=1"]
        done = run(installed, tmp_path, *argv)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == 'error: config.noise.sigma_mxa: unknown key; did you mean "config.noise.sigma_max"?\n'


@pytest.mark.parametrize("method", ["gahb", "diffmatch_jax", "phase_bridge"])
@pytest.mark.parametrize("foreign", ["common/__init__.py", "configs/__init__.py", "common.py"])
def test_a_foreign_package_is_named(installed, tmp_path, method, foreign):
    path = tmp_path / foreign
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    name = foreign.partition("/")[0].removesuffix(".py")
    message = f"{path}: expected the package `{name}` of ScoreBridge, which is in {installed}, got another one of that"
    done = run(installed, tmp_path, "-m", method, "--help")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {message} name; rename it, or run from another directory\n"
    done = run(installed, tmp_path, "-c", f"import {method}")
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(f"ImportError: {message}")


def test_a_folder_that_is_no_package_is_no_hindrance(installed, tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "common").mkdir()
    done = run(installed, tmp_path, "-m", "gahb", "--help")
    assert (done.returncode, done.stderr) == (0, "")
