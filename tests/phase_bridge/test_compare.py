"""The comparison at a small size: everyone is trained and measured once, resumed, tabulated and drawn."""

import itertools
import json

import numpy as np
import pytest

from common import config as configs
from common.cli.dispatch import main
from common.errors import InputError
from configs.phase_bridge.cifar10 import get_config as get_cifar10
from configs.phase_bridge.spiral import get_config as get_spiral
from phase_bridge import compare
from phase_bridge.__main__ import APP
from phase_bridge.drawing import How, check
from phase_bridge.entrants import ENTRANTS, GROUPS, how_of, usual
from phase_bridge.method import build_recipe
from phase_bridge.recipes import RECIPES

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = {
    "model.width": 8, "model.depth": 1, "train.steps": 4, "train.batch_size": 128, "train.log_every": 2,
    "optimizer.warmup": 1, "checkpoint.every": 2, "evaluate.num": 200, "compare.nfe": "(2, 3)", "compare.seeds": 2,
    "compare.models": "('edm', 'flow-ot')", "compare.tune": False,
}  # fmt: skip
ARGV = ["compare", "--config", "configs/phase_bridge/spiral.py", *(f"--config.{k}={v}" for k, v in SMALL.items())]


def test_it_goes_on_where_it_stopped(tmp_path, capsys):
    argv = [*ARGV, "--workdir", str(tmp_path)]
    assert main([*argv, "--only", "edm/1"], APP) == 0, capsys.readouterr().err
    assert [path.name for path in (tmp_path / "models").rglob("trained.json")] == ["trained.json"]
    assert main(argv, APP) == 0, capsys.readouterr().err
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "models").rglob("trained.json")}
    assert len(before) == 4
    (path,) = (tmp_path / "results").glob("compare-*.json")
    numbers = json.loads(path.read_text())
    assert numbers["seeds"] == 2 and numbers["floor"]["beyond"] == 0
    edm = [row for row in numbers["rows"] if row["model"] == "edm"]
    assert {(row["sampler"], row["nfe"]) for row in edm} >= {("ddim", 2), ("heun", 3), ("ipndm", 3)}
    each = [
        next(
            row for row in json.loads((tmp_path / "results" / f"{name}.json").read_text())["rows"]
            if (row["sampler"], row["nfe"]) == ("ddim", 3)
        )["w2"]
        for name in numbers["measured"]["edm"]
    ]  # fmt: skip
    row = next(row for row in edm if (row["sampler"], row["nfe"]) == ("ddim", 3))
    assert row["w2"] == pytest.approx(np.mean(each)) and row["w2_deviation"] == pytest.approx(np.std(each, ddof=1))
    assert each[0] != each[1]
    text = path.with_suffix(".md").read_text()
    assert "| EDM |" in text and "| NFE 2 |" in text.replace("| model | NFE 2", "| NFE 2") and "±" in text
    for name in ("compare", "compare-samples"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 1000
    assert main(argv, APP) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert len(list((tmp_path / "results").glob("measured-*.json"))) == 4
    assert main([*argv, "--config.train.steps=6"], APP) == 2
    assert "expected the comparison it already holds, got another: train.steps: 4 -> 6" in capsys.readouterr().err


def test_settings_are_chosen_by_the_distance(tmp_path, capsys):
    few = [each for each in ARGV if "compare." not in each]
    argv = [*few, "--workdir", str(tmp_path), "--config.compare.models=('cld',)", "--config.compare.nfe=(2,)"]
    assert main([*argv, "--config.compare.seeds=1"], APP) == 0, capsys.readouterr().err
    found = json.loads(next((tmp_path / "results").glob("settings-cld-*.json")).read_text())
    for sampler in ("euler", "multistep"):
        tried = [row for row in found["tried"] if row["sampler"] == sampler]
        best = min(tried, key=lambda row: row["w2"])
        chosen = found["chosen"][sampler]["2"]
        assert len(tried) > 5 and all(best[name] == value for name, value in chosen.items())


def test_dry_run_and_mistakes(tmp_path, capsys):
    argv = [*ARGV, "--workdir", str(tmp_path / "none")]
    assert main([*argv, "--dry-run"], APP) == 0
    assert "flow-ot/1: flow matching, optimal-transport pairs" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()
    for change, message in (
        ("compare.models=('agm',)", "config.compare.models"),
        ("compare.seeds=0", "config.compare.seeds: expected at least 1"),
        ("compare.nfe=()", "config.compare.nfe: expected numbers above 0"),
    ):
        assert main([*argv, f"--config.{change}"], APP) == 2
        assert message in capsys.readouterr().err
    assert main([*argv, "--only", "edm/7"], APP) == 2
    assert "--only" in capsys.readouterr().err


@pytest.mark.parametrize("name", ENTRANTS)
def test_every_setting_can_be_sampled(name):
    entrant = ENTRANTS[name]
    process = entrant.changes["objective.process"]
    base = How(process=process, kind=entrant.changes.get("objective.kind", "ode"))
    for candidate in entrant.samplers:
        for settings in candidate.settings:
            how = how_of(base, settings, nfe=max(3, candidate.least), sigma_data=1.1)
            check(how)
            if "smallest" in settings:
                assert how.smallest == pytest.approx(1.1 * settings["smallest"])


def test_usual_settings_follow_the_evaluations():
    until = ENTRANTS["agm-ode"].samplers[0]
    assert [usual(until, nfe)["last_time"] for nfe in (1, 2, 20, 50)] == [0.4, 0.4, 0.8, 0.9]
    levels = ENTRANTS["edm"].samplers[0]
    assert [usual(levels, nfe)["smallest"] for nfe in (2, 5, 20)] == [0.25, 0.08, 0.005]
    assert [usual(levels, nfe)["largest"] for nfe in (2, 50)] == [3.0, 15.0]
    of_bridge = ENTRANTS["agm-improved"].samplers[2]
    assert of_bridge.name == "ode-levels" and usual(of_bridge, 50)["largest"] == 3.0
    assert usual(ENTRANTS["flow"].samplers[0], 5) == {"rule": "euler"}


def test_ablations_lead_from_one_recipe_to_the_other():
    order = GROUPS["ablation"]
    assert order[0] == "agm-ode" and "agm-improved" in order and set(GROUPS["main"]) < set(ENTRANTS)
    config = configs.from_dict(get_spiral().to_dict())
    steps = [build_recipe(compare.config_of(config, name, 0)) for name in (*order[:5], "agm-improved")]
    assert steps[0] == RECIPES["released"] and steps[-1] == RECIPES["improved"]
    for one, other in itertools.pairwise(steps):
        assert 1 <= sum(a != b for a, b in zip(one, other, strict=True)) <= 2
    with pytest.raises(InputError, match="config.data.source: expected points of the plane"):
        compare.build(get_cifar10())
