"""Every experiment is complete, builds, and trains at reduced size."""

import ast
import importlib
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import config as configs
from common.cli.dispatch import main
from common.io.metrics_log import read_metrics
from configs.base import base as shared
from configs.base import prepared

pytestmark = pytest.mark.usefixtures("quick_compilation")

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted(
    path
    for path in (ROOT / "configs").glob("*/*.py")
    if path.stem not in ("base", "model", "migrations", "__init__") and (ROOT / path.parent.name / "method.py").exists()
)
FIXED_KEYS = (
    "seed",
    "parallel",
    "compute_dtype",
    "train.steps",
    "train.batch_size",
    "train.log_every",
    "checkpoint.every",
    "checkpoint.keep",
)

# Smaller in every way, on data made here.
REDUCED = {
    "data.fit": "none",
    "data.size": "8",
    "data.square": "0",
    "train.steps": "2",
    "train.batch_size": "4",
    "train.log_every": "1",
    "checkpoint.every": "2",
}
SMALLER = {
    "diffmatch_jax": {
        "data.fit": "pad",
        "features.pyramid": "random",
        "features.fine": "32",
        "conditioning.wide": "0",
        "model.channels": "8",
        "model.multipliers": "(1,)",
        "model.num_blocks": "1",
        "model.attention": "()",
        "model.heads": "1",
        "pairs.size": "16",
        "pairs.photometric": "0.0",
        "pairs.shares": "(0, 1, 0)",
        "pretraining.size": "16",
        "pretraining.widths": "(4, 4, 4, 4)",
        "stage2.size": "0",
        "stage2.from_stage1": "false",
        "optimizer.warmup": "1",
    },
    "gahb": {"evaluate.panel_size": "0", "model.num_kernels": "2", "model.num_blocks": "1"},
    "phase_bridge": {
        "data.channels": "1",
        "model.channels": "8",
        "model.multipliers": "(1,)",
        "model.num_blocks": "1",
        "model.attention": "()",
        "model.heads": "1",
        "model.width": "4",
        "model.depth": "1",
        "optimizer.warmup": "1",
    },
}
# What training does not read.
UNTRAINED = ("seed", "checkpoint", "evaluate", "sampler", "study", "classes", "compare", "synthetic")
BUILT = {"diffmatch_jax": {"features.pyramid": "random", "stage2.from_stage1": False}}
COUNTS = {
    "diffmatch_jax/paper": 121_153_794,
    "diffmatch_jax/paper_stage2": 121_153_794,
    "gahb/celeba80": 7_659_264,
    "gahb/photographs": 114_496,
    "phase_bridge/spiral_released": 333_828,
    "phase_bridge/cifar10": 56_405_891,
    "phase_bridge/afhqv2": 62_765_699,
    "phase_bridge/imagenet64": 295_136_451,
}


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def load(path: Path, overrides=None):
    module = importlib.import_module(f"configs.{path.parent.name}.base")
    return configs.load(path, overrides, module.base())


def kind(path: Path):
    """Returns what decides through which code the training of a reduced experiment goes: switches, and zeros."""
    whole = configs.to_dict(load(path, {**REDUCED, **SMALLER[path.parent.name]}))
    whole["data"]["source"] = load(path).data.source.startswith("toy:")
    return path.parent.name, *(
        (section, key, value if isinstance(value, str) and not value[:1].isdigit() else bool(value))
        for section, values in sorted(whole.items())
        if section not in UNTRAINED
        for key, value in (sorted(values.items()) if isinstance(values, dict) else [("", values)])
        if "compute_dtype" not in (section, key)
    )


def each_kind_once():
    """Yields all experiments; slow are those whose training goes through the same code as that of one before.

    Every compute type of a method is seen too, though not with every kind.
    """
    seen = set()
    for path in EXPERIMENTS:
        new = {kind(path), (path.parent.name, load(path).compute_dtype)} - seen
        marks = [] if new else [pytest.mark.slow]
        seen |= new
        yield pytest.param(path, id=name(path), marks=marks)


def test_there_are_experiments():
    assert {"gahb/photographs", "gahb/celeba80", "gahb/cifar10_gray", "gahb/bsds", "phase_bridge/cifar10"} <= set(
        map(name, EXPERIMENTS)
    )


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_complete_and_described(path):
    config = load(path)
    assert config.method == path.parent.name
    flat = configs.diff({}, config)
    for key in FIXED_KEYS:
        assert any(line.startswith(f"{key}: (absent) -> ") for line in flat), key
    card = ast.get_docstring(ast.parse(path.read_text()))
    assert f"python -m {config.method} train" in card and f"--config configs/{name(path)}.py" in card
    for word in ("Data:", "Hardware:", "Network:"):
        assert word in card, word


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_builds(path):
    # Where weights of others are needed, which may not be here, random ones of the same kind take their place.
    config = load(path, BUILT.get(path.parent.name))
    method = importlib.import_module(f"{config.method}.method").build(config)
    batch = {key: jnp.zeros((2, *x.shape), x.dtype) for key, x in method.example().items()}
    variables = jax.eval_shape(method.init, jax.random.key(0), batch)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables.params))
    assert count == COUNTS.get(name(path), count) > 0


@pytest.mark.parametrize(
    ("experiment", "classes", "count"), [("cifar10", 10, 56_405_891 + 2_816), ("imagenet64", 1000, 295_904_451)]
)
def test_the_paper_s_networks_with_classes(experiment, classes, count):
    overrides = {"data.labels": True, "model.num_classes": classes}
    config = load(ROOT / "configs" / "phase_bridge" / f"{experiment}.py", overrides)
    method = importlib.import_module("phase_bridge.method").build(config)
    batch = {key: jnp.zeros((2, *x.shape), x.dtype) for key, x in method.example().items()}
    params = jax.eval_shape(method.init, jax.random.key(0), batch).params
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


@pytest.mark.parametrize("path", list(each_kind_once()))
def test_two_steps(path, tmp_path):
    channels = 3 if path.parent.name == "diffmatch_jax" else 1
    images = np.random.default_rng(0).random((24, 8, 8, channels), np.float32)
    labels = np.arange(24) % 3
    np.savez(tmp_path / "images.npz", train=images, test=images[:4], train_labels=labels, test_labels=labels[:4])
    overrides = {**REDUCED, **SMALLER[path.parent.name]}
    if not load(path).data.source.startswith("toy:"):
        overrides["data.source"] = f"npz:{tmp_path}/images.npz"
    app = importlib.import_module(f"{path.parent.name}.__main__").APP
    argv = ["train", "--config", str(path), "--workdir", str(tmp_path / "run")]
    assert main([*argv, *(f"--config.{key}={value}" for key, value in overrides.items())], app) == 0
    records = read_metrics(tmp_path / "run")
    assert [each["step"] for each in records] == [1, 2]
    assert all(math.isfinite(each["loss"]) for each in records)


def test_prepared_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCOREBRIDGE_DATA", raising=False)
    assert prepared("x/1.0") == "prepared:data/x/1.0"
    (tmp_path / "data" / "x" / "1.0").mkdir(parents=True)
    monkeypatch.setenv("SCOREBRIDGE_DATA", str(tmp_path / "elsewhere"))
    assert prepared("x/1.0") == "prepared:data/x/1.0"
    (tmp_path / "elsewhere" / "x" / "1.0").mkdir(parents=True)
    assert prepared("x/1.0") == f"prepared:{tmp_path}/elsewhere/x/1.0"


def test_bases_are_fresh_each_time():
    first = shared()
    first.train.steps = 3
    first.data.size = 5
    assert (shared().train.steps, shared().data.size) == (1000, 32)
