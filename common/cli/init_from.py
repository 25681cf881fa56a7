"""`--init-from`: a new run that starts from the parameters of another run, or of a file of weights."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from common import checkpoint
from common.checkpoint.manifest import named_leaves
from common.cli.app import App
from common.cli.workdirs import PARTIAL, run_of, split_init
from common.errors import input_error
from common.method import PyTree, Variables
from common.sampling import weights_digest
from common.training import hosts
from common.training.step import TrainState


class Source(NamedTuple):
    """Weights to start from: `variables`, the `average` of their parameters, and where they come from."""

    variables: Variables
    average: PyTree
    record: dict[str, Any]  # path, step, weights (their hash), partial; goes into config.json


class Start(NamedTuple):
    """The start of a run: `apply` puts the weights into its initial state; `record` and `lines` describe it."""

    apply: Callable[[TrainState], TrainState]
    record: dict[str, Any]
    lines: list[str]


def load(app: App, config: ConfigDict, spec: str) -> Source:
    """Returns the weights that `spec` names: of a run, a step `RUN/checkpoints/N`, or a file that the method imports.

    A file that ends in `.npz` is one of `export`, as they come with the package. Raises `InputError` for a path without
    any.
    """
    path, partial = split_init(spec)
    if path.is_dir():
        return _of_run(*run_of(path), path, partial)
    if not path.is_file():
        fix = "name the workdir of a run, or a file of weights"
        raise input_error(f"--init-from {path}", expected="a directory or a file", got="none of that name", fix=fix)
    if path.suffix.lower() == ".npz":
        variables, step = app.read_weights(path)
        return _source(variables, variables.params, path, step, partial)
    if hosts.process_count() > 1:
        fix = "make a run of it first: import-weights FILE --workdir DIR, then --init-from DIR"
        raise input_error(f"--init-from {path}", expected="a directory with several processes", got="a file", fix=fix)
    with tempfile.TemporaryDirectory(prefix="scorebridge-") as directory:
        app.import_weights(path, workdir=Path(directory) / "run", config=config, dry_run=False)
        return _of_run(Path(directory) / "run", None, path, partial)


def _of_run(workdir: Path, step: int | None, path: Path, partial: bool) -> Source:
    variables, step = checkpoint.restore_variables(workdir, ema=False, step=step)
    average = checkpoint.restore_params(workdir, step=step).params
    return _source(variables, average, path, step, partial)


def _source(variables: Variables, average: PyTree, path: Path, step: int | None, partial: bool) -> Source:
    weights = weights_digest((variables, average))
    return Source(variables, average, {"path": str(path), "step": step, "weights": weights, "partial": partial})


def fit(source: Source, template: TrainState) -> Start:
    """Returns how a run with states like `template` starts from `source`; optimizer and step are new.

    Raises `InputError` that lists every array that does not fit, unless the source may fit in part only.
    """
    wanted, given = _leaves(template.params, template.stats), _leaves(*source.variables)
    average = _leaves(source.average, {})
    different = {name for name in wanted.keys() & given.keys() if wanted[name].shape != given[name].shape}
    lines = [f"{name}: {_shape(given[name])} -> {_shape(wanted[name])}" for name in sorted(different)]
    lines += [f"{name}: only in this run" for name in sorted(wanted.keys() - given.keys())]
    lines += [f"{name}: only there" for name in sorted(given.keys() - wanted.keys())]
    path, partial = source.record["path"], source.record["partial"]
    if lines and not partial:
        raise input_error(
            f"--init-from {path}",
            expected="the arrays of this run",
            got=f"{len(lines)} that differ (there -> run): {', '.join(lines)}",
            fix=f"change the model, or take what fits: --init-from {path}{PARTIAL}",
        )
    taken = {name for name in wanted.keys() & given.keys() if name not in different}
    random = sorted(wanted.keys() - taken)
    if not any(name.startswith("params/") for name in taken):
        fix = "name weights of the same kind of model"
        raise input_error(f"--init-from {path}", expected="parameters that fit", got="none", fix=fix)

    def apply(state: TrainState) -> TrainState:
        def put(tree: PyTree, prefix: str, leaves: Mapping[str, Any]) -> PyTree:
            names = [f"{prefix}/{name}" for name in named_leaves(tree)]
            # Copies, because the state is donated and no buffer may be so twice.
            new = [
                np.array(leaves[name], leaf.dtype) if name in taken else np.array(leaf)
                for name, leaf in zip(names, jax.tree.leaves(tree), strict=True)
            ]
            return jax.tree.unflatten(jax.tree.structure(tree), new)

        return state._replace(
            params=put(state.params, "params", given),
            stats=put(state.stats, "stats", given),
            ema_params=put(state.ema_params, "params", average) if state.ema_params else state.ema_params,
        )

    step = source.record["step"]
    known = "" if step is None else f" (step {step})"
    line = f"starts from {path}{known}: {len(taken)} of {len(wanted)} arrays"
    if random:
        line += f"; random stay {', '.join(random)}"
    return Start(apply, {**source.record, **({"random": random} if partial else {})}, [line])


def _leaves(params: PyTree, stats: PyTree) -> dict[str, Any]:
    return named_leaves({"params": params, "stats": stats})


def _shape(leaf: Any) -> str:
    return f"[{', '.join(map(str, leaf.shape))}]"
