"""What `sample` and `evaluate` share: a trained run, its weights, and where a result came from."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from common import config as configs
from common.cli import workdirs
from common.cli.app import App, Request, print_lines

# Keys on which no result of given weights depends: how these were made, and how a computation is carried out.
IRRELEVANT = (
    "method",
    "seed",  # stands for itself in the settings
    "parallel",
    "data.placement",
    "data.workers",
    "data.device_limit_mb",
    "data.directory",
    "data.skip_bad",
    "data.max_pixels",
    "data.max_array_mb",
    "train.*",
    "optimizer.*",
    "ema.*",
    "checkpoint.*",
)


class Trained(NamedTuple):
    """A trained model, ready to be used: its method, variables and root key, and the words for its results.

    `settings` is what decides a result as far as the model and its config go: the weights by their hash, step and kind
    (`ema`), the seed, and the config but for `IRRELEVANT` keys.
    """

    method: Any
    variables: Any
    key: Any
    workdir: Path
    name: str
    step: int
    seed: int
    provenance: Callable[..., dict[str, Any]]
    settings: Mapping[str, Any] = MappingProxyType({"config": {}})


def load(app: App, request: Request, purpose: str) -> Trained | None:
    """Returns the model that `request` names, with a key for `purpose`; None after a dry run, which only checks.

    Raises:
      InputError: no run in the work directory, a config of another model, or no whole checkpoint.
    """
    config, workdir, changes = workdirs.of_trained(app, request)
    workdirs.check_writable(workdir)
    # Imported only now, which takes seconds: a mistyped command is refused at once.
    import jax

    from common import checkpoint
    from common.io import results
    from common.sampling import weights_digest
    from common.training import parallel
    from common.training.keys import Purpose, key_for

    method = app.build(config)
    variables, step = checkpoint.restore_variables(workdir, ema=not request.flags.no_ema, step=request.flags.step)
    if changes:
        print(f"note: the config differs from the run's: {', '.join(changes)}", file=sys.stderr)
    if request.flags.dry_run:
        if purpose == "EVALUATE":
            method.sources()
        print_lines(
            f"checked and writable: {workdir}, with a whole checkpoint of step {step}; nothing was compiled or written"
        )
        return None
    parallel.enable_compilation_cache()
    settings = {
        "weights": weights_digest(variables),
        "step": step,
        "ema": not request.flags.no_ema,
        "seed": config.seed,
        "config": config_settings(config),
    }
    variables = jax.tree.map(jax.numpy.asarray, variables)

    def provenance(wall_s: float, nfe: int | None) -> dict[str, Any]:
        return results.provenance(
            config_hash=configs.digest(config),
            config_changes=changes,
            seed=config.seed,
            step=step,
            device=parallel.device_name(),
            wall_s=wall_s,
            nfe=nfe,
        )

    key = key_for(jax.random.key(config.seed), Purpose[purpose])
    name = f"step-{step}-seed-{config.seed}"
    return Trained(method, variables, key, workdir, name, step, config.seed, provenance, settings)


def config_settings(config, ignore: Sequence[str] = IRRELEVANT) -> dict[str, Any]:
    """Returns a config's keys and values, as nested plain values, without those of `ignore`.

    `ignore` holds dotted keys, or `section.*` for all keys of a section.
    """
    values = configs.to_dict(config)
    for key in ignore:
        *sections, name = key.removesuffix(".*").split(".")
        place = values
        for each in sections:
            place = place[each]
        place.pop(name, None)
    return values


def without(settings: Mapping[str, Any], *sections: str) -> dict[str, Any]:
    """Returns `settings` of a model without sections of the config that a command does not read."""
    kept = {name: each for name, each in settings["config"].items() if name not in sections}
    return {**settings, "config": kept}


def fingerprints(sources: Mapping[str, Any]) -> dict[str, str]:
    """Returns by split what the data are, for the settings of a result: a directory may hold others the next time."""
    return {split: source.fingerprint for split, source in sources.items()}


def timed(what: str, function: Callable, *args) -> tuple[Any, float]:
    """Returns the result of `function(*args)`, whose arrays are on the host, and the seconds it took.

    `what`, if given, names the computation, which is said to compile.
    """
    from common.io.progress import compiling

    if what:
        compiling(what)
    start = time.perf_counter()
    result = function(*args)
    return result, time.perf_counter() - start
