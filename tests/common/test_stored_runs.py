"""Runs of earlier releases are loaded, sampled and resumed by this version."""

import importlib
import io
import json
import lzma
import shutil
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest

from common import config as configs
from common.checkpoint import restore_variables
from common.cli.dispatch import main
from common.io.metrics_log import read_metrics
from tests.common.make_runs import write_images

pytestmark = pytest.mark.usefixtures("quick_compilation")

FILES = sorted((Path(__file__).parent / "data_runs").glob("*/*.tar.xz"))


@pytest.fixture(params=FILES, ids=lambda path: f"{path.parent.name}-{path.name.partition('.')[0]}")
def run(request, tmp_path):
    """Returns (method, app, work directory, arguments that name its data) of a stored run."""
    method = request.param.name.partition(".")[0]
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(request.param.read_bytes()))) as archive:
        archive.extractall(tmp_path / "run", filter="data")
    write_images(tmp_path)
    kind, _, name = json.loads((tmp_path / "run" / "config.json").read_text())["data"]["source"].partition(":")
    data = [f"--config.data.source=npz:{tmp_path}/{name}"] if kind == "npz" else []
    return method, importlib.import_module(f"{method}.__main__").APP, tmp_path / "run", data


def test_there_is_a_run_of_every_method():
    assert {path.name for path in FILES} == {f"{name}.tar.xz" for name in ("gahb", "phase_bridge", "diffmatch_jax")}
    assert all(path.stat().st_size < 60_000 for path in FILES)


def test_a_stored_run_is_loaded_sampled_and_resumed(run, capsys):
    method, app, workdir, data = run
    before, step = restore_variables(workdir, ema=False)
    assert step == 4 and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(before))
    assert configs.read(workdir, app.base()).method == method
    for verb in ("evaluate", "sample"):
        assert main([verb, "--workdir", str(workdir), "--dry-run", *data], app) == 0, capsys.readouterr().err
    if method != "diffmatch_jax":  # its smallest task has nothing to sample
        assert main(["sample", "--workdir", str(workdir), *data], app) == 0, capsys.readouterr().err
        assert list((workdir / "samples").glob("*.npz"))
    copied = shutil.copytree(workdir, workdir.with_name("copy"))
    assert main(["train", "--workdir", str(workdir), *data], app) == 0, capsys.readouterr().err
    assert "trained to step 4 of 4" in capsys.readouterr().out
    argv = ["train", "--workdir", str(copied), "--config.train.steps=6", *data]
    assert main([*argv, "--dry-run"], app) == 0, capsys.readouterr().err
    assert main(argv, app) == 0, capsys.readouterr().err
    assert [each["step"] for each in read_metrics(copied)] == [2, 4, 6]
    after, step = restore_variables(copied, ema=False)
    assert step == 6
    assert any(
        not np.array_equal(*each) for each in zip(*map(jax.tree.leaves, (before.params, after.params)), strict=True)
    )
    assert json.loads((copied / "config.json").read_text())["config_version"] >= 1
