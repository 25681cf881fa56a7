"""`match` and `load`: two images in, dense flow and confidence out, with the shipped weights or those of a run."""

import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from jaxtyping import Real

from common import config as configs
from common.arrays import AnyArray
from common.errors import input_error
from common.io import packed
from common.method import Variables
from common.training import parallel
from configs.diffmatch_jax.base import base
from diffmatch_jax import method
from diffmatch_jax.model import matcher, weights
from diffmatch_jax.model.matcher import Model
from diffmatch_jax.model.pair_match import Match

SHA256 = {
    "stage1": "60d04df46a00954b8076e70b423efbcdf96b6ad03992d7c48e3403754512d257",
    "stage2": "53627cf4574f09095185661ea99bdca7c8825f387078f47213cca712fc3fb7f3",
}


def match(
    source: Real[AnyArray, "..."],
    target: Real[AnyArray, "..."],
    *,
    model: "Model | str | os.PathLike | None" = None,
    key: jax.Array | None = None,
    hypotheses: int = 4,
    search: bool = True,
    full_size: bool = True,
    source_mask: Any = None,
    target_mask: Any = None,
) -> Match:
    """Finds for every pixel of `target` its place in `source`.

    The first call of a process compiles and prints a note: 15 to 60 s on two CPU cores, a few seconds where an
    earlier process left programs in the cache directory (`JAX_COMPILATION_CACHE_DIR`, or scorebridge/xla in the
    user's).
    Programs serve any number of pairs and hypotheses up to the next power of two. Time and memory grow with the pixels
    only in the enlargement and in the last step on the images' own pixels (`full_size`): besides programs and features,
    a result holds 44 bytes a pixel of the target, and that step about 60 more while it lasts. At most 8 pairs are in
    work at once.

    Args:
      source, target: images `[H, W]`, `[H, W, 1]` or `[H, W, 3]`, bytes or floats in [0, 1], of any two sizes, or
        batches of them with a first axis `[B, ...]`.
      model: what `load` returned, the directory of a trained run, None for the weights that come with the package, or
        a `Model` of your own, `Model(MatcherConfig(ConditioningConfig(...)), Weights(pyramid))`, whose pyramid may be
        any function.
      key: a key or seed that decides the noise of the hypotheses, the same for all pairs of a batch, so that a batch
        equals its single pairs; or one key for each pair `[B]`; None is 0.
      hypotheses: flows sampled for each pair.
      search: whether rotations and zooms of the source are tried where few matches of the images as they are agree
        (`model.frames`; for models with a fit).
      full_size: whether the flow of the matcher's grid is refined on the images' own pixels (`model.native`; likewise).
      source_mask, target_mask: `[H, W]` or `[B, H, W]`, True where an image counts; None leaves out uniform frames.

    Returns:
      A `Match`.

    Raises:
      InputError: images, masks or a key that cannot be used.

    >>> result = diffmatch_jax.match(source, target)  # doctest: +SKIP
    """
    model = model if isinstance(model, Model) else load(model)
    options = {"key": key, "hypotheses": hypotheses, "search": search, "full_size": full_size}
    masks = {"source_mask": source_mask, "target_mask": target_mask}
    request = matcher.checked(source, target, model=model, **options, **masks)
    _keep_programs()
    return matcher.run(model, request)


def load(workdir: str | os.PathLike | None = None, *, ema: bool = True, step: int | None = None) -> Model:
    """Returns the matcher of a trained run, or the one that comes with the package; raises `InputError`.

    >>> matcher = load()  # of the package
    >>> load("runs/matcher")  # doctest: +SKIP
    """
    if workdir is None:
        return _shipped()
    if not isinstance(workdir, str | os.PathLike):
        got, fix = type(workdir).__name__, "give what diffmatch_jax.load returned, or a directory"
        raise input_error("model", expected="a Model, the directory of a run, or None", got=got, fix=fix)
    return method.load(workdir, ema=ema, step=step)


@functools.cache
def _keep_programs() -> None:
    """Turns the cache of compiled programs on, unless the user chose one; prints that the first call compiles."""
    settings: Any = jax.config  # its attributes are made when it runs
    if settings.jax_compilation_cache_dir is None and settings.jax_enable_compilation_cache:
        parallel.enable_compilation_cache()
        compilation_cache.reset_cache()  # what was compiled before had none
    note = "note: diffmatch_jax compiles its programs on the first call, 15 to 60 s; they are kept for later processes"
    print(note, file=sys.stderr)


@functools.cache
def _shipped() -> Model:
    return read()


def read(directory: str | Path = weights.DIRECTORY) -> Model:
    """Returns the matcher of the files in `directory`, both stages or the first alone; raises `InputError`.

    In the directory of the package nothing may be missing.
    """
    directory = Path(directory)
    ours = directory == weights.DIRECTORY
    parts = {}
    for stage in SHA256 if ours else ("stage1", "stage2"):
        path = directory / f"{stage}.npz"
        if path.is_file():
            parts[stage] = _params_of(path), _config_of(path)
        elif ours or stage == "stage1":
            fix = "install the package again, or give model=DIR, the directory of a trained run"
            raise input_error(str(path), expected="weights of a matcher", got="no such file", fix=fix)
    first, config = parts["stage1"]
    stats = {"pyramid": method.pyramid_params(config.features.pyramid)}
    if "stage2" not in parts:
        return method.model_of(config, Variables(first, stats))
    second, refining = parts["stage2"]
    return method.model_of(refining, Variables(second, {**stats, "stage1": first}), config)


def read_variables(path: str | Path) -> Variables:
    """Returns the variables of the training run of which `export` wrote `path`; raises `InputError`.

    A stage has its frozen weights beside its own: the features', and those of a `stage1.npz` in the same directory for
    stage 2. A file without config is that of a backbone.
    """
    path = Path(path)
    params = _params_of(path)
    if "out_conv" not in params and not path.with_suffix(".json").exists():
        return Variables({"pyramid": params}, {})
    config, first = _config_of(path), path.with_name("stage1.npz")
    stats = {"pyramid": method.pyramid_params(config.features.pyramid)}
    if config.task == "stage2" and first.is_file():
        stats["stage1"] = _params_of(first)
    return Variables(params, stats)


def _params_of(path: Path) -> Any:
    known = {**SHA256, "backbone": weights.BACKBONE_SHA256} if path.parent == weights.DIRECTORY else {}
    return packed.load(path, sha256=known.get(path.stem))


def _config_of(path: Path):
    """Returns the config beside a file of weights; raises `InputError`."""
    path = path.with_suffix(".json")
    try:
        return configs.from_stored(json.loads(path.read_text(encoding="utf-8")), base(), path)
    except (OSError, json.JSONDecodeError) as error:
        got = error.strerror if isinstance(error, OSError) else error
        raise input_error(
            str(path), expected=f"the config of {path.stem}.npz", got=got, fix="export it again"
        ) from None
