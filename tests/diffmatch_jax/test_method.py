"""The method from config to matches: both stages by the command line, and what is refused, in words."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from common import config as configs
from common.checkpoint import restore_params
from common.cli import main
from common.errors import InputError
from configs.diffmatch_jax.base import base
from diffmatch_jax import baselines, matcher, method, pretrained, shipped
from diffmatch_jax.__main__ import APP

SMALL = {
    "features.pyramid": "random", "features.fine": 32, "features.coarse": 16, "conditions.radius": 1,
    "model.channels": 8, "model.multipliers": (1,), "model.attention": (), "model.heads": 1,
    "process.steps": 2, "conditions.fit": 2.0, "variable.skip": True,
    "variable.learned_scale": True, "objective.likelihood": 0.3,
    "pairs.size": 32, "pairs.photometric": 0.0, "pairs.shares": (0, 1, 0),
    "data.fit": "none", "data.size": 40,
    "train.steps": 2, "train.batch_size": 2, "train.log_every": 1, "checkpoint.every": 1, "ema.decay": 0.5,
    "optimizer.schedule": "constant", "sampler.hypotheses": 2, "sampler.num": 2, "evaluate.num": 2,
    "evaluate.batch_size": 2,
}  # fmt: skip


def config(**changes):
    return configs.from_dict({}, base(), {**SMALL, **changes})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A trained stage 1, and a stage 2 on top of it."""
    root = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    images = (rng.random((4, 40, 40, 3)) * 255).astype(np.uint8)
    np.savez(root / "images.npz", train=images, test=images[:2])
    experiment = root / "small.py"
    experiment.write_text("from configs.diffmatch_jax.base import base as get_config\n")
    words = [f"--config.{key}={value}" for key, value in {**SMALL, "data.source": f"npz:{root}/images.npz"}.items()]
    second = ("--config.task=stage2", f"--config.stage2.stage1={root / 'one'}", "--config.stage2.size=8")
    for name, extra in (("one", ()), ("two", second)):
        argv = ["train", "--config", str(experiment), "--workdir", str(root / name), *words, *extra]
        assert main(argv, APP) == 0
    return root


def test_stages_and_their_weights(runs):
    one, two = matcher.load(runs / "one"), matcher.load(runs / "two")
    assert one.plan.second is None and two.plan.first == one.plan.first and two.plan.second is not None
    for got, name in ((two.weights.first, "one"), (two.weights.second, "two")):
        jax.tree.map(np.testing.assert_array_equal, got, restore_params(runs / name).params)
    # What is frozen goes along, from one to the other.
    jax.tree.map(
        np.testing.assert_array_equal, *(restore_params(runs / name).stats["pyramid"] for name in ("one", "two"))
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(two.weights.second))


def test_evaluation_and_match(runs, capsys):
    assert main(["evaluate", "--workdir", str(runs / "two")], APP) == 0
    path = runs / "two" / "results" / "evaluate-step-2-seed-0.json"
    told = json.loads(path.read_text())
    rows = {row["method"]: row["aepe"] for row in told["table"]}
    assert set(rows) == {"winner-take-all", "its median", "its fit", "model"}
    assert "rank_correlation_of_fit" in told  # null here: the cells of so small a pair all agree
    np.testing.assert_allclose(told["ratio"], rows["model"] / rows["winner-take-all"])
    assert told["nfe"] == 2 * 2 * 2 and -1 <= told["rank_correlation"] <= 1
    image = np.random.default_rng(1).random((20, 30, 3))
    found = matcher.match(image, image[:, ::-1], model=runs / "two", hypotheses=2)
    assert found.flow.shape == (20, 30, 2) and found.hypotheses.shape == (2, 16, 16, 2)


def test_the_match_command_writes_what_match_finds(runs, tmp_path):
    picture = (np.random.default_rng(2).random((20, 30, 3)) * 255).astype(np.uint8)
    for name, each in (("a", picture), ("b", picture[:, ::-1])):
        Image.fromarray(each).save(tmp_path / f"{name}.png")
    files = [str(tmp_path / f"{name}.png") for name in "ab"]
    words = ["--workdir", str(runs / "two"), "--hypotheses", "2", "--out", str(tmp_path / "out")]
    assert main(["match", *files, *words], APP) == 0
    found = matcher.match(picture, picture[:, ::-1], model=runs / "two", hypotheses=2)
    stored = np.load(tmp_path / "out" / "match.npz")
    np.testing.assert_allclose(stored["flow"], found.flow, atol=1e-4)
    drawn = np.asarray(Image.open(tmp_path / "out" / "warped.png"))
    np.testing.assert_allclose(drawn, baselines.warped(picture, found.flow), atol=1)


def test_a_stage_2_does_without_its_stage_1(runs, tmp_path, capsys):
    """It matches, measures, is exported and resumed with what it keeps, and a new run is refused in words."""
    own = shutil.copytree(runs / "two", tmp_path / "two")
    whole = matcher.load(runs / "two")
    stored = configs.read(own, base())
    config_of_stage1 = json.loads(stored.stage2.stage1_config)
    assert config_of_stage1["model"]["channels"] == 8 and "data" not in config_of_stage1
    first = runs / "one"
    first.rename(runs / "elsewhere")
    try:
        model = matcher.load(own)
        assert model.plan == whole.plan
        jax.tree.map(np.testing.assert_array_equal, model.weights.first, whole.weights.first)
        assert main(["evaluate", "--workdir", str(own), "--dry-run"], APP) == 0
        assert main(["export", "--workdir", str(own)], APP) == 0
        kept = restore_params(own).stats
        shapes = jax.eval_shape(lambda: method.build(stored).init(jax.random.key(0), {})).stats
        jax.tree.map(lambda got, want: np.testing.assert_equal(got.shape, want.shape), shapes, kept)
        # Another stage 1 in its place changes nothing: resumed from step 1, the run ends where it did.
        first.mkdir()
        configs.write({**configs.to_dict(configs.read(runs / "elsewhere", base())), "model": {"channels": 16}}, first)
        shutil.rmtree(own / "checkpoints" / "2")
        assert main(["train", "--workdir", str(own)], APP) == 0
        jax.tree.map(np.testing.assert_array_equal, restore_params(own), restore_params(runs / "two"))
        shutil.rmtree(own / "checkpoints")
        capsys.readouterr()
        assert main(["train", "--workdir", str(own)], APP) == 2
        assert f"workdir {first}: expected checkpoints" in capsys.readouterr().err
    finally:
        shutil.rmtree(first, ignore_errors=True)
        (runs / "elsewhere").rename(first)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "stage3"}, "config.task: expected one of"),
        ({"features.pyramid": "resnet"}, "config.features.pyramid: expected one of"),
        ({"features.compat": "old"}, "config.features.compat"),
        ({"model.multipliers": (1, 1, 1, 1)}, "config.model.multipliers: expected a grid divisible by 8"),
        ({"model.heads": 3}, "config.model.heads: expected a divisor of 8"),
        ({"model.attention": (2,)}, "config.model.attention: expected levels from 0 to 0"),
        ({"process.schedule": "sigmoid"}, "config.process.schedule"),
        ({"objective.penalty": "huber"}, "config.objective.penalty"),
        ({"sampler.estimate": "best"}, "config.sampler.estimate"),
        ({"sampler.confidence": 0.0}, "config.sampler.confidence"),
        ({"objective.pooled": True, "train.accumulate": 2}, "config.train.accumulate: expected 1 with objective"),
        ({"evaluate.num": 0}, "config.evaluate.num"),
        ({"task": "stage2", "stage2.degraded": 1.5}, "config.stage2.degraded"),
        ({"task": "stage2", "stage2.size": 99}, "config.stage2.size: expected 0 to 16 cells"),
        ({"task": "stage2", "stage2.stage1": "nowhere"}, "nowhere"),
    ],
)
def test_refusals(changes, words):
    with pytest.raises(InputError, match=words):
        method.build(config(**changes)).init(jax.random.key(0), {})


def test_other_features_than_stage_1(runs):
    with pytest.raises(InputError, match="config.features: expected those of stage 1: fine 32"):
        method.build(config(**{"task": "stage2", "stage2.stage1": str(runs / "one"), "features.fine": 48}))


def test_other_conditions_than_stage_1(runs):
    """Stage 2 looks where stage 1 looks, so another choice would be ignored."""
    second = {"task": "stage2", "stage2.stage1": str(runs / "one")}
    for name, value in (("radius", 2), ("gain", 1.0), ("score", True)):
        with pytest.raises(InputError, match=f"config.conditions.{name}: expected .*, as in stage 1, got {value}"):
            method.build(config(**second, **{f"conditions.{name}": value}))


def test_exported_stages_are_the_same_matcher(runs, tmp_path):
    """What `export` writes is what the package would read, in half precision."""
    for name in ("one", "two"):
        task = {"one": "stage1", "two": "stage2"}[name]
        words = ["export", "--workdir", str(runs / name), "--output", str(tmp_path / f"{task}.npz")]
        assert main(words, APP) == 0
    model, own = pretrained.read(tmp_path), matcher.load(runs / "two")
    assert model.plan == own.plan
    for got, want in zip(jax.tree.leaves(model.weights[1:]), jax.tree.leaves(own.weights[1:]), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-6)
    told = (tmp_path / "stage2.json").read_text()
    for damage in (lambda path: path.write_text(told[:-2]), lambda path: path.unlink()):
        damage(tmp_path / "stage2.json")
        with pytest.raises(InputError, match="stage2.json: expected the config of stage2.npz"):
            pretrained.read(tmp_path)
    (tmp_path / "stage2.npz").unlink()
    assert pretrained.read(tmp_path).plan == matcher.load(runs / "one").plan
    (tmp_path / "stage1.npz").unlink()
    with pytest.raises(InputError, match="stage1.npz: expected weights of a matcher"):
        pretrained.read(tmp_path)


def test_a_package_without_its_second_stage_is_refused(tmp_path, monkeypatch):
    for name in ("stage1.npz", "stage1.json"):
        shutil.copy(shipped.DIRECTORY / name, tmp_path)
    assert pretrained.read(tmp_path).plan.second is None
    monkeypatch.setattr(shipped, "DIRECTORY", tmp_path)
    with pytest.raises(InputError, match="stage2.npz: expected weights of a matcher, got no such file; install"):
        pretrained.read(tmp_path)
