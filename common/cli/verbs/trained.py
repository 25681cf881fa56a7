"""What `sample` and `evaluate` share: a trained run, its weights, and where a result came from."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from common import config as configs
from common.cli import workdirs
from common.cli.app import App, Request, print_lines


class Trained(NamedTuple):
    """A trained model, ready to be used: its method, variables and root key, and the words for its results."""

    method: Any
    variables: Any
    key: Any
    workdir: Path
    name: str
    step: int
    seed: int
    provenance: Callable[..., dict[str, Any]]


def load(app: App, request: Request, purpose: str) -> Trained | None:
    """Returns the model that `request` names, with a key for `purpose`; None after a dry run, which only checks.

    Raises:
      InputError: no run in the work directory, a config of another model, or no whole checkpoint.
    """
    config, workdir, changes = workdirs.of_trained(app, request)
    workdirs.check_writable(workdir)
    # Only now what takes seconds to import: a typo is told at once.
    import jax

    from common import checkpoint
    from common.io import results
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
    return Trained(method, variables, key, workdir, name, step, config.seed, provenance)


def timed(function: Callable, *args) -> tuple[Any, float]:
    """Returns the result of `function(*args)`, whose arrays are on the host, and the seconds it took."""
    start = time.perf_counter()
    result = function(*args)
    return result, time.perf_counter() - start
