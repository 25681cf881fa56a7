"""`python -m diffmatch_jax export`: the weights of a run as one small file, in the form that ships with the package."""

import json
from pathlib import Path
from typing import Any

from common import config as configs
from common.checkpoint import restore_params
from common.cli import workdirs
from common.cli.app import App, Request, add_checkpoint, print_lines
from common.io import packed, results
from common.io.files import write_atomically
from common.sampling import weights_digest


def run(app: App, request: Request) -> None:
    """Writes `export/TASK-KEY.npz` of the run in `--workdir`, or `--output FILE`, and prints its size and checksum.

    For a stage of the matcher its config goes beside it, `.json`, from which `diffmatch_jax.api.read` builds it again.
    """
    resolved = workdirs.of_trained(app, request)
    flags, task = request.flags, resolved.config.task
    variables = restore_params(resolved.workdir, ema=not flags.no_ema, step=flags.step)
    name = results.name_of(task, {"weights": weights_digest(variables)})
    path = Path(flags.output) if flags.output else resolved.workdir / "export" / f"{name}.npz"
    weights = variables.params["pyramid"] if task == "backbone" else variables.params
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = packed.save(path, weights)
    if task != "backbone":
        described = json.dumps(portable(resolved.config), indent=2, sort_keys=True)
        write_atomically(path.with_suffix(".json"), described.encode())
    print_lines(f"wrote {path}, {path.stat().st_size / 2**20:.2f} MiB in half precision, sha256 {digest}")


def portable(config) -> dict[str, Any]:
    """Returns the values of a config without the directories of the machine where it was trained."""
    values = configs.to_dict(config)
    kind, _, where = values["data"]["source"].partition(":")
    source = f"{kind}:{'/'.join(Path(where).parts[-2:])}" if where else kind
    names = {of: ":".join(Path(each).name for each in values["pairs"][of].split(":")) for of in ("listed", "coco")}
    return {
        **values,
        "data": {**values["data"], "source": source, "directory": ""},
        "pairs": {**values["pairs"], **names},
        "stage2": {**values["stage2"], "stage1": "", "stage1_config": ""},
    }


def arguments(parser) -> None:
    """Adds the verb's flags."""
    parser.add_argument("--output", metavar="FILE", help="where to write (default: DIR/export/TASK-KEY.npz)")
    add_checkpoint(parser)
