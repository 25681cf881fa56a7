"""The matcher that comes with the package: `weights/stageN.npz` and, beside each, the config it was trained with."""

import json
from pathlib import Path

from common import config as configs
from common.errors import input_error
from common.method import Variables
from configs.diffmatch_jax.base import base
from diffmatch_jax import method, shipped
from diffmatch_jax.matcher import Model

SHA256 = {
    "stage1": "60d04df46a00954b8076e70b423efbcdf96b6ad03992d7c48e3403754512d257",
    "stage2": "53627cf4574f09095185661ea99bdca7c8825f387078f47213cca712fc3fb7f3",
}


def read(directory: str | Path = shipped.DIRECTORY) -> Model:
    """Returns the matcher of the files in `directory`, both stages or the first alone; raises `InputError`.

    In the directory of the package nothing may be missing.
    """
    directory = Path(directory)
    ours = directory == shipped.DIRECTORY
    parts = {}
    for stage in SHA256 if ours else ("stage1", "stage2"):
        path = directory / f"{stage}.npz"
        if path.is_file():
            params = shipped.load(path, sha256=SHA256[stage] if ours else None)
            parts[stage] = params, _config_of(path)
        elif ours or stage == "stage1":
            fix = "install the package again, or give model=DIR, the directory of a trained run"
            raise input_error(str(path), expected="weights of a matcher", got="no such file", fix=fix)
    first, config = parts["stage1"]
    stats = {"pyramid": method.pyramid_params(config.features.pyramid)}
    if "stage2" not in parts:
        return method.model_of(config, Variables(first, stats))
    second, refining = parts["stage2"]
    return method.model_of(refining, Variables(second, {**stats, "stage1": first}), config)


def _config_of(weights: Path):
    """Returns the config beside a file of weights; raises `InputError`."""
    path = weights.with_suffix(".json")
    try:
        return configs.from_dict(json.loads(path.read_text(encoding="utf-8")), base())
    except (OSError, json.JSONDecodeError) as error:
        got = error.strerror if isinstance(error, OSError) else error
        raise input_error(str(path), expected=f"the config of {weights.name}", got=got, fix="export it again") from None
