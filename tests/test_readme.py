"""The README's commands and example are what the code can do."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data

from common.cli.dispatch import main
from gahb.__main__ import APP

pytestmark = pytest.mark.usefixtures("quick_compilation")

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_library_example_runs_on_a_run_of_ours(tmp_path):
    assert main(["train", "--config", str(ROOT / "tests/gahb/tiny.py"), "--workdir", str(tmp_path)], APP) == 0
    example = blocks("python")[0]
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    scope = {}
    exec(compile(example.replace("runs/demo/gahb", str(tmp_path)), "README.md", "exec"), scope)
    assert scope["restored"].shape == (1, 512, 512, 1)
    assert scope["samples"].shape == (4, 32, 32, 1)


def test_the_eigenbasis_example_runs():
    scope = {}
    exec(compile(blocks("python")[1], "README.md", "exec"), scope)
    np.testing.assert_allclose(scope["basis"].values, 1, atol=1e-5)
    assert scope["basis"].vectors.shape == (10, 32, 24, 1)


def test_the_bridge_example_has_both_modes_in_their_proportion():
    scope = {}
    exec(compile("import jax\n" + blocks("python")[2], "README.md", "exec"), scope)
    points = np.asarray(scope["points"])
    assert abs((points[:, 0] > 0).mean() - 0.7) < 0.06
    distance = np.minimum(*(np.linalg.norm(points - [x, 0], axis=1) for x in (-0.5, 0.5)))
    np.testing.assert_allclose(np.sqrt(np.square(distance).mean() / 2), 0.1, rtol=0.15)
    assert scope["info"]["nfe"] == 20


def test_the_matching_example_is_nearer_than_the_best_cells():
    scope = {}
    exec(compile(blocks("python")[3], "README.md", "exec"), scope)
    _, _, disparity = skimage.data.stereo_motorcycle()
    seen, found = np.isfinite(disparity), scope["found"]
    truth = np.stack([-disparity[seen], np.zeros(seen.sum())], -1)
    ours, winner = (np.linalg.norm(flow[seen] - truth, axis=-1).mean() for flow in (found.flow, found.winner))
    assert ours < 0.95 * winner < 10
    assert found.confidence.shape == (500, 741)


def commands():
    lines, methods = "".join(blocks("sh")).splitlines(), "gahb|phase_bridge|diffmatch_jax"
    return [line.split("#")[0].strip() for line in lines if re.match(f"python -m ({methods})", line)]


@pytest.mark.parametrize("command", commands())
def test_every_command_names_a_verb_and_flags_that_exist(command):
    _, _, method, verb, *words = shlex.split(command)
    if verb == "--help":
        return
    shown = subprocess.run(
        [sys.executable, "-m", method, verb, "--help"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for word in words:
        if word.startswith("--") and not word.startswith("--config."):
            assert word in shown
        if word.startswith("configs/"):
            assert (ROOT / word).is_file()


def test_every_make_target_it_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(
        re.findall(r"make ([a-z]+(?:-[a-z]+)*)", " ".join(blocks("sh")) + " ".join(re.findall("`.*?`", README)))
    )
    assert named
    assert named <= targets
