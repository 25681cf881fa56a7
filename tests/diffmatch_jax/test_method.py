"""The method from config to matches: both stages by the command line, and what is refused, in words."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from common import config as configs
from common.checkpoint import Checkpoints, restore_params
from common.cli.dispatch import main
from common.errors import InputError
from common.training.step import TrainState
from configs.diffmatch_jax.base import base
from diffmatch_jax import api, method
from diffmatch_jax.__main__ import APP
from diffmatch_jax.commands.export import portable
from diffmatch_jax.evaluation.baselines import open_baselines
from diffmatch_jax.evaluation.datasets import flow_files
from diffmatch_jax.model import pair_match, weights

SMALL = {
    "features.pyramid": "random", "features.fine": 32,
    "model.channels": 8, "model.multipliers": (1,), "model.attention": (), "model.heads": 1,
    "process.steps": 2, "conditioning.fit": 2.0, "conditioning.refine": 1,
    "process.predict_variance": True,
    "pairs.size": 32, "pairs.photometric": 0.0, "pairs.shares": (0, 1, 0),
    "data.fit": "none", "data.size": 40,
    "train.steps": 2, "train.batch_size": 2, "train.log_every": 1, "checkpoint.every": 1, "ema.decay": 0.5,
    "optimizer.schedule": "constant", "sampler.hypotheses": 2, "sampler.num": 2, "evaluate.num": 2,
    "evaluate.batch_size": 2,
}  # fmt: skip


RELEASED = {
    "features.compat": "released",
    "conditioning.fit": 0.0,
    "conditioning.refine": 0,
    "process.predict_variance": False,
}


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


@pytest.fixture
def photographs(tmp_path):
    """A folder with two photographs, a list of three pairs in the original's format, and COCO's list of one object."""
    rng = np.random.default_rng(3)
    images = (rng.random((4, 40, 40, 3)) * 255).astype(np.uint8)
    np.savez(tmp_path / "images.npz", train=images, test=images[:2])
    for name in "ab":
        Image.fromarray((rng.random((80, 100, 3)) * 255).astype(np.uint8)).save(tmp_path / f"{name}.png")
    shift = [1, 0, 24, 0, 1, -12, 0, 0, 1]
    square = [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)]
    warps = [(0, [1, 0, 0.1, 0, 1, 0]), (1, [x for x, _ in square] + [y for _, y in square]), (2, shift)]
    lines = [["fname", "aff/tps/homo", *(f"t{i}" for i in range(1, 19))]]
    lines += [["ab"[kind % 2] + ".png", kind, *row, *[0] * (18 - len(row))] for kind, row in warps]
    (tmp_path / "pairs.csv").write_text("\n".join(",".join(map(str, line)) for line in lines) + "\n")
    triangle = {"iscrowd": 0, "area": 1800, "bbox": [10, 10, 60, 60], "segmentation": [[10, 10, 70, 10, 10, 70]]}
    listed = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, **triangle}]}
    (tmp_path / "instances.json").write_text(json.dumps(listed))
    return tmp_path


def test_training_on_a_list_of_pairs(photographs):
    """Two steps by the command line; what the step sees are the list's own pairs, with objects where asked for."""
    place = f"{photographs}:{photographs}/pairs.csv"
    told = {**SMALL, "data.source": f"npz:{photographs}/images.npz", "data.flip": False, "pairs.listed": place}
    words = [f"--config.{key}={value}" for key, value in told.items()]
    (photographs / "small.py").write_text("from configs.diffmatch_jax.base import base as get_config\n")
    workdir = photographs / "run"
    assert main(["train", "--config", str(photographs / "small.py"), "--workdir", str(workdir), *words], APP) == 0
    losses = [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 2 and np.isfinite(losses).all()

    made = method.build(config(**{**told, "pairs.objects": 1.0, "pairs.coco": ""}))
    plain = method.build(config(**told))
    train = plain.sources()["train"]
    assert len(train) == 3 and train.name(2) == "2/a.png" and len(plain.sources()["test"]) == 2
    np.testing.assert_allclose(train[2]["flow"], np.broadcast_to([-3.2, 1.6], (32, 32, 2)), atol=1e-5)  # of 240: 24, 12
    seen = jax.jit(plain.augment)(jax.random.key(1), train[2])
    for name, want in train[2].items():
        np.testing.assert_allclose(seen[name] * (255 if name in ("source", "target") else 1), want, atol=1e-4)
    pasted = jax.jit(made.augment)(jax.random.key(1), train[2])
    assert (np.abs(pasted["flow"] - train[2]["flow"]).max(-1) > 1e-3).any()


def test_training_with_objects_of_coco(photographs):
    place = f"{photographs}/instances.json:{photographs}"
    told = {"data.source": f"npz:{photographs}/images.npz", "pairs.coco": place, "pairs.objects": 1.0}
    made = method.build(config(**told))
    train = made.sources()["train"]
    element = train[1]
    assert set(element) == {"image", "object_image", "object_mask"} and len(train) == 4
    cover = element["object_mask"] / 255
    np.testing.assert_allclose(cover.mean(), 0.5 * (60 / 66) ** 2, rtol=0.05)  # half of the box, of 66 pixels
    plain = method.build(config(**{**told, "pairs.objects": 0.0, "pairs.coco": ""}))
    seen, without = (jax.jit(each.augment)(jax.random.key(2), element) for each in (made, plain))
    changed = np.abs(seen["flow"] - without["flow"]).max(-1) > 1e-3
    assert 0.005 < changed.mean() < 0.9


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pairs.listed": "folder"}, "config.pairs.listed: expected PHOTOGRAPHS:CSV, got folder"),
        ({"pairs.listed": "nowhere:pairs.csv"}, "nowhere: expected a directory, got no such directory"),
        ({"pairs.listed": "{0}:{0}/none.csv"}, "none.csv: expected a csv list of pairs, got No such file"),
        ({"pairs.listed": "{0}:{0}/instances.json"}, "instances.json: expected rows, got none"),
        ({"pairs.coco": "{0}/instances.json", "pairs.objects": 1.0}, "config.pairs.coco: expected ANNOTATIONS:FOLDER"),
        ({"pairs.coco": "{0}/instances.json:{0}"}, "config.pairs.objects: expected a share above 0, for the objects"),
    ],
)
def test_refused_sources(photographs, changes, words):
    told = {key: value.format(photographs) if isinstance(value, str) else value for key, value in changes.items()}
    with pytest.raises(InputError, match=words):
        method.build(config(**{"data.source": f"npz:{photographs}/images.npz", **told})).sources()


def test_stages_and_their_weights(runs):
    one, two = api.load(runs / "one"), api.load(runs / "two")
    assert one.config.second is None and two.config.first == one.config.first and two.config.second is not None
    for got, name in ((two.weights.first, "one"), (two.weights.second, "two")):
        jax.tree.map(np.testing.assert_array_equal, got, restore_params(runs / name).params)
    # What is frozen goes along, from one to the other.
    jax.tree.map(
        np.testing.assert_array_equal, *(restore_params(runs / name).stats["pyramid"] for name in ("one", "two"))
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(two.weights.second))


def test_evaluation_and_match(runs, capsys):
    assert main(["evaluate", "--workdir", str(runs / "two")], APP) == 0
    (path,) = (runs / "two" / "results").glob("evaluate-step-2-seed-0-*.json")
    told = json.loads(path.read_text())
    rows = {row["method"]: row["aepe"] for row in told["table"]}
    assert set(rows) == {"winner-take-all", "its median", "its fit", "its fit, refined", "model"}
    assert "rank_correlation_of_fit" in told  # null here: the cells of so small a pair all agree
    np.testing.assert_allclose(told["ratio"], rows["model"] / rows["winner-take-all"])
    assert told["nfe"] == 2 * 2 * 2 and -1 <= told["rank_correlation"] <= 1
    image = np.random.default_rng(1).random((20, 30, 3))
    found = api.match(image, image[:, ::-1], model=runs / "two", hypotheses=2)
    assert found.flow.shape == (20, 30, 2) and found.hypotheses.shape == (2, 16, 16, 2)


def only(directory, pattern):
    """Returns the one path in `directory` that matches."""
    (path,) = directory.glob(pattern)
    return path


def test_the_match_command_writes_what_match_finds(runs, tmp_path):
    picture = (np.random.default_rng(2).random((20, 30, 3)) * 255).astype(np.uint8)
    for name, each in (("a", picture), ("b", picture[:, ::-1])):
        Image.fromarray(each).save(tmp_path / f"{name}.png")
    files = [str(tmp_path / f"{name}.png") for name in "ab"]
    words = ["--workdir", str(runs / "two"), "--hypotheses", "2", "--out", str(tmp_path / "out")]
    assert main(["match", *files, *words], APP) == 0
    found = api.match(picture, picture[:, ::-1], model=runs / "two", hypotheses=2)
    stored = np.load(only(tmp_path / "out", "match-*.npz"))
    np.testing.assert_allclose(stored["flow"], found.flow, atol=1e-4)
    assert json.loads(only(tmp_path / "out", "match-*.json").read_text())["step"] == 2
    flow, known = flow_files.read_flo(only(tmp_path / "out", "flow-*.flo"))
    np.testing.assert_array_equal(flow, stored["flow"])
    assert known.all()
    drawn = np.asarray(Image.open(only(tmp_path / "out", "warped-*.png")))
    np.testing.assert_allclose(drawn, pair_match.warped(picture, found.flow), atol=1)
    # Columns of 2.6 inches at 200 dots: four of the match, three of the hypotheses, whose means' differences are below.
    sizes = [Image.open(only(tmp_path / "out", f"{name}-*.png")).size for name in ("match", "hypotheses")]
    height = 2 * (0.94 * 2.6 * 20 / 30 + 0.2)
    np.testing.assert_allclose(sizes, [(2080, 200 * (height + 0.25)), (1560, 200 * height)], atol=1)


def test_the_match_command_takes_a_gray_png_and_a_colour_jpeg(runs, tmp_path):
    rng = np.random.default_rng(4)
    Image.fromarray((rng.random((24, 36)) * 255).astype(np.uint8)).save(tmp_path / "a.png")
    Image.fromarray((rng.random((20, 30, 3)) * 255).astype(np.uint8)).save(tmp_path / "b.jpg", quality=95)
    gray, colour = (np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.jpg"))
    assert gray.shape == (24, 36) and colour.shape == (20, 30, 3)
    words = ["--workdir", str(runs / "two"), "--hypotheses", "2", "--out", str(tmp_path / "out")]
    assert main(["match", str(tmp_path / "a.png"), str(tmp_path / "b.jpg"), *words], APP) == 0
    found = api.match(gray, colour, model=runs / "two", hypotheses=2)
    stored = np.load(only(tmp_path / "out", "match-*.npz"))
    np.testing.assert_allclose(stored["flow"], found.flow, atol=1e-4)
    drawn = np.asarray(Image.open(only(tmp_path / "out", "warped-*.png")))
    np.testing.assert_allclose(drawn, pair_match.warped(gray[..., None], found.flow)[..., 0], atol=1)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.nonsense=1"], "error: --config.nonsense: expected none with this verb, got one"),
        (["--config", "base.py"], "error: --config: expected none with this verb, got one"),
        (["--step", "3"], "error: --step: expected a run in --workdir, got none"),
        (["--no-ema"], "error: --no-ema: unknown flag"),
        (["--hypotheses", "0"], "error: --hypotheses: expected at least 1, got 0"),
        (["--seed", str(2**70)], "error: --seed: expected 0 to 2**32 - 1"),
        ([], "a.png: expected an image file, got no such file"),
    ],
)
def test_the_match_command_refuses(tmp_path, capsys, flags, words):
    assert main(["match", str(tmp_path / "a.png"), "b.png", "--out", str(tmp_path / "out"), *flags], APP) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_stage_2_does_without_its_stage_1(runs, tmp_path, capsys):
    """It matches, measures, is exported and resumed with what it keeps, and a new run is refused in words."""
    own = shutil.copytree(runs / "two", tmp_path / "two")
    whole = api.load(runs / "two")
    stored = configs.read(own, base())
    config_of_stage1 = json.loads(stored.stage2.stage1_config)
    assert config_of_stage1["model"]["channels"] == 8 and "data" not in config_of_stage1
    first = runs / "one"
    first.rename(runs / "elsewhere")
    try:
        model = api.load(own)
        assert model.config == whole.config
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
        ({"sampler.estimate": "best"}, "config.sampler.estimate"),
        ({"process.steps": 10**8}, "config.process.steps: expected 1 to 10000, got 100000000"),
        ({"sampler.confidence": 0.0}, "config.sampler.confidence"),
        (
            RELEASED | {"train.accumulate": 2},
            "config.train.accumulate: expected 1 with features.compat",
        ),
        ({"features.compat": "released"}, "config.conditioning.refine: expected 0"),
        ({"evaluate.num": 0}, "config.evaluate.num"),
        ({"task": "stage2", "stage2.degraded": 1.5}, "config.stage2.degraded"),
        ({"task": "stage2", "stage2.from_stage1": True}, "config.stage2.from_stage1: expected false without a stage 1"),
        ({"task": "stage2", "stage2.size": 99}, "config.stage2.size: expected 0 to 16 cells"),
        (
            RELEASED | {"task": "stage2", "stage2.size": 8},
            "config.stage2.size: expected 0 with features.compat, got 8",
        ),
        ({"task": "stage2", "stage2.stage1": "nowhere"}, "nowhere"),
    ],
)
def test_refusals(changes, words):
    with pytest.raises(InputError, match=words):
        method.build(config(**changes)).init(jax.random.key(0), {})


def test_other_features_than_stage_1(runs):
    with pytest.raises(InputError, match="config.features: expected that of stage 1: fine 32"):
        method.build(config(**{"task": "stage2", "stage2.stage1": str(runs / "one"), "features.fine": 64}))


def test_entrants_of_several_hypotheses(runs):
    """One run with different numbers of hypotheses, each a row with a name, title and record of its own."""
    two = runs / "two"
    one, three, plain = open_baselines(f"run:{two}@1,a=run:{two}@3,a=run:{two}", 2)
    assert [each.name for each in (one, three, plain)] == ["two@1", "a@3", "a"]
    assert [each.title for each in (one, three, plain)] == ["two, 1 hypothesis", "a, 3 hypotheses", "a"]
    for each, hypotheses in ((one, 1), (three, 3), (plain, 2)):
        told = {"nfe": 2 * 2 * hypotheses, "hypotheses": hypotheses, "weights": str(two), "step": 2}
        assert each.described == told and each.identity["hypotheses"] == hypotheses
    image = np.random.default_rng(1).random((20, 30, 3))
    for each, hypotheses in ((one, 1), (plain, 2)):
        found = api.match(image, image[:, ::-1], model=two, hypotheses=hypotheses)
        np.testing.assert_array_equal(each.matcher(image, image[:, ::-1])[0], found.flow)
    (shipped,) = open_baselines("match@8")
    assert shipped.name == "match@8" and shipped.title == "this model, 8 hypotheses"
    assert shipped.described["nfe"] == api.load().config.nfe(8) and shipped.described["step"] is None
    with pytest.raises(InputError, match="--methods: expected each name once"):
        open_baselines(f"run:{two}@1,two=run:{two}@1")


def test_other_conditions_than_stage_1(runs):
    """Stage 2 looks where stage 1 looks, so another choice would be ignored."""
    second = {"task": "stage2", "stage2.stage1": str(runs / "one")}
    for name, value in (("wide", 2), ("fit", 4.0), ("score", True)):
        with pytest.raises(InputError, match=f"config.conditioning.{name}: expected .*, as in stage 1, got {value}"):
            method.build(config(**second, **{f"conditioning.{name}": value}))


def test_stage_2_may_start_from_the_weights_of_stage_1(runs, tmp_path):
    """If they have its shapes, which depend on what the stages see."""
    second = {"task": "stage2", "stage2.stage1": str(runs / "one"), "stage2.from_stage1": True}
    expected = r"config.stage2.from_stage1: expected a stage 1 of the same network and evidence: .* \(3, 3, "
    with pytest.raises(InputError, match=expected):
        method.build(config(**second)).init(jax.random.key(0), {})
    same = {"conditioning.fit": 0.0, "conditioning.refine": 0}
    # That of paper.py, but for its size: nothing but the patch is seen by either stage.
    seen = method.build(config(**same))
    variables = seen.init(jax.random.key(4), {})
    stored = configs.to_dict(config(**same))
    with Checkpoints(tmp_path, config=stored, keep=1) as checkpoints:
        state = TrainState(np.zeros((), np.int32), *variables, ema_params=(), opt_state=())
        checkpoints.save(0, state, {})
        checkpoints.wait()
    configs.write(stored, tmp_path)
    begun = method.build(config(**second | same | {"stage2.stage1": str(tmp_path)}))
    found = jax.jit(begun.init)(jax.random.key(5), {})
    jax.tree.map(np.testing.assert_array_equal, found.params, variables.params)
    fresh = method.build(config(**second | same | {"stage2.stage1": str(tmp_path), "stage2.from_stage1": False}))
    assert not np.array_equal(
        jax.tree.leaves(fresh.init(jax.random.key(5), {}).params)[0], jax.tree.leaves(found.params)[0]
    )
    argv = ["train", "--config", str(runs / "small.py"), "--workdir", str(tmp_path / "run")]
    told = {**SMALL, **second, **same, "stage2.stage1": str(tmp_path), "data.source": f"npz:{runs}/images.npz"}
    assert main([*argv, *(f"--config.{key}={value}" for key, value in told.items())], APP) == 0


def test_exported_stages_are_the_same_matcher(runs, tmp_path):
    """What `export` writes is what the package would read, in half precision."""
    for name in ("one", "two"):
        task = {"one": "stage1", "two": "stage2"}[name]
        words = ["export", "--workdir", str(runs / name), "--output", str(tmp_path / f"{task}.npz")]
        assert main(words, APP) == 0
    model, own = api.read(tmp_path), api.load(runs / "two")
    assert model.config == own.config
    for got, want in zip(jax.tree.leaves(model.weights[1:]), jax.tree.leaves(own.weights[1:]), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-6)
    told = (tmp_path / "stage2.json").read_text()
    for damage in (lambda path: path.write_text(told[:-2]), lambda path: path.unlink()):
        damage(tmp_path / "stage2.json")
        with pytest.raises(InputError, match="stage2.json: expected the config of stage2.npz"):
            api.read(tmp_path)
    (tmp_path / "stage2.npz").unlink()
    assert api.read(tmp_path).config == api.load(runs / "one").config
    (tmp_path / "stage1.npz").unlink()
    with pytest.raises(InputError, match="stage1.npz: expected weights of a matcher"):
        api.read(tmp_path)


def test_what_is_exported_names_no_directories():
    places = {
        "data.source": "prepared:/home/me/data/bsds500_images/1.0.0",
        "data.directory": "/home/me/data",
        "pairs.listed": "/home/me/pascal:/home/me/pairs.csv",
        "pairs.coco": "/home/me/coco/instances.json:/home/me/coco/train2017",
        "stage2.stage1": "/home/me/runs/matcher",
    }
    told = portable(config(**places))
    assert told["data"]["source"] == "prepared:bsds500_images/1.0.0"
    assert told["pairs"]["listed"] == "pascal:pairs.csv" and told["pairs"]["coco"] == "instances.json:train2017"
    assert "home" not in json.dumps(told)
    assert portable(config()) == configs.to_dict(config())


def test_a_package_without_its_second_stage_is_refused(tmp_path, monkeypatch):
    for name in ("stage1.npz", "stage1.json"):
        shutil.copy(weights.DIRECTORY / name, tmp_path)
    assert api.read(tmp_path).config.second is None
    monkeypatch.setattr(weights, "DIRECTORY", tmp_path)
    with pytest.raises(InputError, match="stage2.npz: expected weights of a matcher, got no such file; install"):
        api.read(tmp_path)
