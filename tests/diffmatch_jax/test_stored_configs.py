"""Configs of version 1 are read under the names of today; a removed key must have had the value that is used today."""

import json

import pytest

from common import config as configs
from common.errors import InputError
from configs.diffmatch_jax.base import base
from diffmatch_jax import settings

# What version 1 stored of a stage 1, where it differs from today's keys.
OLD = {
    "method": "diffmatch_jax",
    "task": "stage1",
    "features": {"fine": 512, "coarse": 256, "compat": "", "contrast": 0.15, "pyramid": "random"},
    "conditions": {
        "fit": 4.0, "gain": 8.0, "median": 0, "radius": 4, "refine": 2, "score": True, "soft": 0.0, "wide": 4,
    },
    "variable": {
        "coherence": 3.0, "learned_scale": True, "residual": True, "scale": 8 / 512, "shrunk": True, "skip": True,
    },
    "objective": {"epsilon": 0.1, "first_share": 0.5, "likelihood": 0.3, "penalty": "charbonnier", "pooled": False},
    "process": {"keep": "", "schedule": "cosine", "steps": 5},
    "sampler": {"eta": 0.0, "rounds": 1, "rule": "ddim", "estimate": "first"},
    "photometric": {"blur": 1.0, "hue": 20.0},
    "pairs": {"window": [0.7, 0.8], "control": 0.2, "supersample": 1},
}  # fmt: skip


def stored(**changes):
    """Returns the old config with dotted keys changed."""
    values = json.loads(json.dumps(OLD))
    for key, value in changes.items():
        section, _, name = key.partition("__")
        values[section][name] = value
    return values


def test_old_names_and_constants():
    config = configs.from_stored(stored(), base(), "config.json")
    assert (config.conditioning.fit, config.conditioning.wide, config.conditioning.score) == (4.0, 4, True)
    assert (config.process.predict_variance, config.process.noise_correlation) == (True, 3.0)
    variable = settings.build_variable(config)
    assert (variable.scale, variable.skip, variable.residual, variable.shrunk) == (8 / 512, True, True, True)
    loss = settings.build_loss_config(config)
    assert (loss.penalty, loss.likelihood, loss.first_share, loss.pooled) == ("charbonnier", 0.3, 0.5, False)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("conditions__radius", 3),
        ("conditions__gain", 0.0),
        ("variable__scale", 0.1),
        ("variable__skip", False),
        ("objective__likelihood", 0.1),
        ("process__schedule", "linear"),
        ("sampler__eta", 1.0),
        ("features__coarse", 512),
        ("photometric__hue", 0.0),
    ],
)
def test_other_values_are_not_trained_further(tmp_path, capsys, key, value):
    """They can still be read, with a note; the weights that were trained with them would mean something else."""
    dotted = key.replace("__", ".")
    (tmp_path / "config.json").write_text(json.dumps(stored(**{key: value})))
    with pytest.raises(InputError, match=f"removed keys: {dotted}="):
        configs.read(tmp_path, base(), training=True)
    configs.read(tmp_path, base())
    assert f"{dotted}=" in capsys.readouterr().err
    (tmp_path / "config.json").write_text(json.dumps(stored()))
    assert configs.read(tmp_path, base(), training=True).conditioning.refine == 2


def test_the_released_models_have_constants_of_their_own():
    released = stored(
        features__compat="released", features__contrast=0.0, conditions__fit=0.0, conditions__refine=0,
        conditions__wide=0, conditions__score=False, conditions__gain=0.0, variable__scale=1.0,
        variable__residual=False, variable__shrunk=False, variable__skip=False, variable__learned_scale=False,
        variable__coherence=0.0, objective__penalty="squared", objective__first_share=0.0, objective__pooled=True,
        objective__likelihood=0.0,
    )  # fmt: skip
    config = configs.from_stored(released, base(), "config.json")
    variable = settings.build_variable(config)
    assert (variable.scale, variable.residual, variable.shrunk) == (1.0, False, False)
    assert settings.build_conditioning(config).alignment == "corner"
    with pytest.raises(InputError, match="config.process: expected no predict_variance and no noise_correlation"):
        settings.build_variable(configs.from_dict({}, config, {"process.predict_variance": True}))
