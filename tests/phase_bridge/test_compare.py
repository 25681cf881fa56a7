"""The comparison at a small size: everyone is trained and measured once, resumed, tabulated and drawn."""

import json

import numpy as np
import pytest
from scipy import stats

from common import config as configs
from common.cli.dispatch import main
from configs.phase_bridge.faces32 import get_config as get_faces
from configs.phase_bridge.spiral import get_config as get_spiral
from phase_bridge import compare, method
from phase_bridge.__main__ import APP
from phase_bridge.compare_models import (
    CANDIDATES,
    GROUPS,
    MODELS,
    NETWORKS,
    PATHS,
    paired,
    sampler_of,
    split_name,
    title_of,
    usual,
    words_of,
)
from phase_bridge.evaluation import quality
from phase_bridge.sampling import times_of
from phase_bridge.solvers import make_steps
from phase_bridge.toy import draw, toy

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = {
    "model.width": 8, "model.depth": 1, "train.steps": 4, "train.batch_size": 128, "train.log_every": 2,
    "optimizer.warmup": 1, "checkpoint.every": 2, "evaluate.num": 200, "compare.nfe": "(2, 3)", "compare.seeds": 2,
    "compare.models": "('denoiser/edm', 'denoiser/agm-ode', 'velocity-ot/flow')", "compare.tune": False,
}  # fmt: skip
ARGV = ["compare", "--config", "configs/phase_bridge/spiral.py", *(f"--config.{k}={v}" for k, v in SMALL.items())]


def test_it_goes_on_where_it_stopped(tmp_path, capsys):
    argv = [*ARGV, "--workdir", str(tmp_path)]
    assert main([*argv, "--only", "denoiser/1"], APP) == 0, capsys.readouterr().err
    assert [path.name for path in (tmp_path / "models").rglob("trained.json")] == ["trained.json"]
    assert main(argv, APP) == 0, capsys.readouterr().err
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "models").rglob("trained.json")}
    assert len(before) == 4  # two networks, two seeds: a denoiser is trained once for all paths
    (path,) = (tmp_path / "results").glob("compare-*.json")
    numbers = json.loads(path.read_text())
    assert numbers["seeds"] == 2 and numbers["floor"]["beyond"] == 0
    assert numbers["floor"]["recall"] > 0.8 and numbers["floor"]["frechet"] is None
    edm = [row for row in numbers["rows"] if row["model"] == "denoiser/edm"]
    assert [row["nfe"] for row in edm] == [2, 3]
    measured = [
        json.loads((tmp_path / "results" / f"{name}.json").read_text()) for name in numbers["measured"]["denoiser/edm"]
    ]
    each = [own["rows"][1]["w2"] for own in measured]
    assert edm[1]["seeds"]["w2"] == each and each[0] != each[1]
    assert edm[1]["w2"] == pytest.approx(np.mean(each)) and edm[1]["w2_deviation"] == pytest.approx(
        np.std(each, ddof=1)
    )
    text = path.with_suffix(".md").read_text()
    assert "| denoiser, bridge's levels; EDM |" in text and text.count("| data against data |") == 5 and "±" in text
    assert text.count("paired by seed") == 5 and "| velocity, optimal-transport pairs; flow | " in text
    for name in ("compare", "compare-samples"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 1000
    assert main(argv, APP) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert len(list((tmp_path / "results").glob("measured-*.json"))) == 6
    assert main([*argv, "--config.train.steps=6"], APP) == 2
    assert "expected the comparison it already holds, got another: train.steps: 4 -> 6" in capsys.readouterr().err


def test_settings_are_chosen_by_the_distance_on_other_samples(tmp_path, capsys):
    few = [each for each in ARGV if "compare." not in each]
    models = "--config.compare.models=('velocity/flow',)"
    argv = [*few, "--workdir", str(tmp_path), models, "--config.compare.nfe=(2,)"]
    assert main([*argv, "--config.compare.seeds=1"], APP) == 0, capsys.readouterr().err
    found = json.loads(next((tmp_path / "results").glob("settings-velocity-along-flow-*.json")).read_text())
    assert len(found["tried"]) == len(CANDIDATES["flow"])
    best = min(found["tried"], key=lambda row: row["w2"])
    assert words_of(found["chosen"]["2"]) == best["sampler"]
    (path,) = (tmp_path / "results").glob("measured-velocity-along-flow-0-*.json")
    (row,) = json.loads(path.read_text())["rows"]
    assert row["sampler"] == best["sampler"] and row["w2"] != best["w2"]


def test_dry_run_and_mistakes(tmp_path, capsys):
    argv = [*ARGV, "--workdir", str(tmp_path / "none")]
    assert main([*argv, "--dry-run"], APP) == 0
    assert "velocity-ot/flow: velocity, optimal-transport pairs; flow, 2 seed(s)" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()
    for change, message in (
        ("compare.models=('agm',)", "config.compare.models"),
        ("compare.models=('velocity-ot/edm',)", "config.compare.models"),
        ("compare.seeds=0", "config.compare.seeds: expected at least 1"),
        ("compare.nfe=()", "config.compare.nfe: expected numbers above 0"),
        ("compare.exact=true", "config.compare.exact: expected false for toy:spiral"),
    ):
        assert main([*argv, f"--config.{change}"], APP) == 2
        assert message in capsys.readouterr().err
    assert main([*argv, "--only", "denoiser/7"], APP) == 2
    assert "--only" in capsys.readouterr().err
    argv[2] = "configs/phase_bridge/mixture.py"
    assert main([*argv, "--config.compare.exact=true"], APP) == 2
    assert "config.compare.models: expected" in capsys.readouterr().err  # coupled pairs have no exact denoiser


@pytest.mark.parametrize("path", PATHS)
def test_every_path_has_as_many_candidates_that_can_be_sampled(path):
    assert len(CANDIDATES[path]) == len(CANDIDATES["edm"]) == 16
    assert len({words_of(each) for each in CANDIDATES[path]}) == 16
    config = configs.from_dict(get_spiral().to_dict())
    setup = method.build_setup(compare.along(compare.config_of(config, "denoiser", 0), path))
    for settings in CANDIDATES[path]:
        options = sampler_of(settings, sigma_data=1.1)
        schedule = options.pop("schedule")
        if "sigma_min" in schedule:
            assert schedule["sigma_min"] == pytest.approx(1.1 * settings["schedule"]["sigma_min"])
        for nfe in (1, 2, 5):
            times = times_of(setup.process, settings["solver"], schedule, nfe, kind=setup.kind)
            make_steps(setup.process, times, kind=setup.kind, **options)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_can_be_built(name):
    network, path = split_name(name)
    config = configs.from_dict(get_spiral().to_dict())
    own = method.build_setup(compare.along(compare.config_of(config, network, 3), path))
    assert own.objective.denoiser == (network.startswith("denoiser") or network == "velocity")
    assert own.process.name == PATHS[path].changes["sampler.process"] and title_of(name)
    for group in GROUPS.values():
        assert set(group) <= set(MODELS)
    assert set(NETWORKS[network].paths) <= set(PATHS)


def test_usual_settings_follow_the_evaluations():
    assert [usual("agm-ode", nfe)["schedule"]["last"] for nfe in (1, 5, 10, 20)] == [0.4, 0.6, 0.8, 0.9]
    assert [usual("edm", nfe)["schedule"]["sigma_min"] for nfe in (2, 5, 10, 50)] == [0.25, 0.08, 0.02, 0.005]
    assert usual("flow", 5)["solver"] == "ab"


def test_differences_are_paired_by_seed():
    """Seeds that move both models alike do not widen the interval; numbers of `scipy.stats.ttest_rel`."""
    shift = np.random.default_rng(0).normal(size=5)
    other = shift + [0.3, 0.31, 0.29, 0.3, 0.32]
    rows = [
        {"model": model, "nfe": nfe, "seeds": {"w2": list(values)}}
        for model, each in (("a", shift), ("b", other))
        for nfe, values in ((3, each), (5, 2 * each))
    ]
    first, _, found, double = paired(rows)
    assert first["against"]["w2"] == {"difference": 0, "low": 0, "high": 0}
    interval = stats.ttest_rel(other, shift).confidence_interval(0.95)
    assert found["against"]["w2"] == pytest.approx(
        {"difference": 0.304, "low": interval.low, "high": interval.high}, rel=1e-9
    )
    assert interval.low > 0.28 and double["against"]["w2"]["low"] == pytest.approx(2 * interval.low)
    single = [{**row, "seeds": {"w2": row["seeds"]["w2"][:1]}} for row in rows]
    assert paired(single)[2]["against"]["w2"] == {"difference": pytest.approx(0.3), "low": None, "high": None}


def test_measures_see_collapse_where_distances_do_not():
    """A tenth of the points, each ten times; half of all angles left out: recall and coverage fall."""
    points, data = draw("spiral", seed=0, count=2000), draw("spiral", seed=1, count=2000)
    honest = quality(points, data, toy("spiral"))
    repeated = quality(np.repeat(points[:200], 10, 0), data, toy("spiral"))
    assert honest.recall > 0.9 and honest.coverage > 0.8 and repeated.beyond == honest.beyond == 0
    assert repeated.recall < 0.5 * honest.recall and repeated.coverage < 0.7 * honest.coverage


def test_compared_without_training(tmp_path, capsys):
    argv = [
        "compare", "--config", "configs/phase_bridge/mixture.py", "--workdir", str(tmp_path),
        "--config.compare.seeds=1", "--config.compare.models=('velocity/flow',)", "--config.compare.nfe=(2, 10)",
        "--config.evaluate.num=500", "--config.compare.tune=false", "--config.compare.exact=true",
    ]  # fmt: skip
    assert main(argv, APP) == 0, capsys.readouterr().err
    (path,) = (tmp_path / "results").glob("compare-*.json")
    rows = {row["nfe"]: row["w2"] for row in json.loads(path.read_text())["rows"]}
    assert rows[2] > 2 * rows[10] and not (tmp_path / "models").exists()
    assert "the exact denoiser" in path.with_suffix(".md").read_text()


def test_images_are_tuned_on_the_training_split_which_is_also_the_floor(tmp_path):
    dark, bright = (np.full((12, 8, 8, 3), value, np.uint8) for value in (0, 255))
    np.savez(tmp_path / "images.npz", train=dark, test=bright)
    changes = {
        "data.source": f"npz:{tmp_path}/images.npz", "data.size": 8, "model.channels": 8, "model.multipliers": (1,),
        "data.channels": 3, "model.attention": (), "evaluate.num": 8, "evaluate.features": "pixels",
    }  # fmt: skip
    config = configs.from_dict(get_faces().to_dict(), overrides=changes)
    subject = compare.Subject(config, object(), 0.5, "edm")
    found = [subject.quality(np.ones((4, 8, 8, 3)), index=i)["frechet"] for i in (0, 1)]
    assert found == pytest.approx([0, 192], abs=1e-6)  # squared distance of white from black
    assert [each["frechet"] for each in subject.floor(8, 2)] == pytest.approx([192, 192])


def test_images_are_compared_by_features(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "images.npz", train=images, test=images)
    small = {
        "data.source": f"npz:{tmp_path}/images.npz", "data.size": 8, "model.channels": 8, "model.multipliers": "(1,)",
        "data.channels": 3, "model.attention": "()", "train.steps": 2, "train.batch_size": 4, "train.log_every": 1,
        "checkpoint.every": 2, "optimizer.warmup": 1, "compare.models": "('denoiser/edm',)", "compare.nfe": "(2,)",
        "compare.seeds": 1, "compare.tune": False, "evaluate.num": 8, "evaluate.batch_size": 8,
    }  # fmt: skip
    argv = ["compare", "--config", "configs/phase_bridge/faces32.py", "--workdir", str(tmp_path / "run")]
    assert main([*argv, *(f"--config.{k}={v}" for k, v in small.items())], APP) == 0, capsys.readouterr().err
    (path,) = (tmp_path / "run" / "results").glob("compare-*.json")
    (row,) = json.loads(path.read_text())["rows"]
    assert row["frechet"] > 0 and 0 <= row["recall"] <= 1 and row["beyond"] is None
    assert "Frechet distance of features" in path.with_suffix(".md").read_text()
    assert (tmp_path / "run" / "figures" / "compare-samples.png").stat().st_size > 500
