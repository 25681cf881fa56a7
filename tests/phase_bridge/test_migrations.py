"""What runs of version 1 stored, in the keys and values of today, and what of it has no meaning any more."""

import json

import pytest

from common import config as configs
from common import migrations
from common.errors import InputError
from configs.phase_bridge.base import base
from phase_bridge import method
from phase_bridge.bridge import Bridge

OBJECTIVE = {
    "process": "bridge", "sigma_data": 0.5, "kind": "ode", "normaliser": "released", "recipe": "released", "inputs": "",
    "output": "", "label": "", "weight": "", "times": "", "first": 1e-5, "last": 0.999, "level_mean": -1.2,
    "level_std": 1.2, "level_least": 0.004, "level_most": 160.0, "coupling": 0,
}  # fmt: skip
SAMPLER = {
    "num": 64, "batch_size": 64, "nfe": 20, "label": -1, "kind": "", "rule": "", "order": -1, "corrector": "",
    "grid": "", "power": 2.0, "last_time": 0.0, "largest": 80.0, "smallest": 0.002, "level_power": 7.0,
}  # fmt: skip


def stored(objective=(), sampler=()):
    """Returns the values of an experiment as release 0.1.0 wrote them."""
    values = configs.to_dict(base())
    values["model"] |= {"network": "mlp", "width": 4, "depth": 1}
    return values | {
        "config_version": 1, "objective": {**OBJECTIVE, **dict(objective)}, "sampler": {**SAMPLER, **dict(sampler)},
    }  # fmt: skip


def setup_of(tmp_path, **changes):
    (tmp_path / configs.FILE_NAME).write_text(json.dumps(stored(**changes)))
    return method.build_setup(configs.read(tmp_path, base(), training=True))


def test_the_released_recipe_is_the_force(tmp_path, capsys):
    setup = setup_of(tmp_path, objective={"output": "preconditioned", "kind": "sde"}, sampler={"rule": "euler"})
    assert setup.objective.name == "force" and setup.process == Bridge() and setup.kind == "sde"
    assert setup.sampler.solver == "euler_maruyama" and setup.sampler.schedule == ()
    assert "has no more" not in capsys.readouterr().err


def test_the_improved_recipe_is_a_denoiser_at_the_bridge_s_levels(tmp_path):
    sampler = {"rule": "data", "order": 1, "corrector": "on", "grid": "remaining", "last_time": 0.9}
    setup = setup_of(tmp_path, objective={"recipe": "improved", "times": "log_normal"}, sampler=sampler)
    assert setup.objective.name == "denoiser" and setup.kind == "ode"
    assert (setup.sampler.solver, setup.sampler.degree, setup.sampler.corrector) == ("data_multistep", 1, True)
    assert dict(setup.sampler.schedule) == {"kind": "power_to_1", "last": 0.9}
    config = configs.read(tmp_path, base())
    assert config.objective.noise == "log_normal"


@pytest.mark.parametrize(
    ("process", "rule", "objective", "solver", "degree"),
    [
        ("flow", "ab2", "velocity", "ab", 1),
        ("flow", "", "velocity", "midpoint", None),
        ("edm", "dpmpp_3m", "denoiser", "dpmpp", 2),
        ("edm", "heun", "denoiser", "heun", None),
    ],
)
def test_other_processes(tmp_path, process, rule, objective, solver, degree):
    """Whatever recipe stood beside them, which meant nothing for these."""
    for recipe in ("released", "improved"):
        setup = setup_of(tmp_path, objective={"process": process, "recipe": recipe}, sampler={"rule": rule})
        assert (setup.objective.name, setup.process.name) == (objective, process)
        assert (setup.sampler.solver, setup.sampler.degree) == (solver, degree)


@pytest.mark.parametrize(
    "objective",
    [{"process": "cld"}, {"normaliser": "consistent"}, {"inputs": "scaled"}, {"output": "data"}, {"label": "noise"},
     {"times": "log_uniform"}, {"recipe": "improved", "output": "force"}],
)  # fmt: skip
def test_what_has_no_meaning_any_more_is_refused(objective):
    with pytest.raises(
        InputError, match="config.json: expected an experiment of this version, got .*; use the version"
    ):
        migrations.upgraded(stored(objective=objective), "config.json")


def test_values_of_this_version_stay():
    values = configs.stamped(base())
    assert migrations.upgraded(values, "config.json") == configs.to_dict(base())
