"""`python -m diffmatch_jax VERB ...`; nothing heavy is imported until a verb needs it."""

import importlib
import sys

from common.cli.app import App, Verb
from common.cli.dispatch import main


def _base():
    from configs.diffmatch_jax.base import base

    return base()


def _build(config):
    from diffmatch_jax.method import build

    return build(config)


def _complete(config, workdir):
    from diffmatch_jax.method import complete

    return complete(config, workdir)


def _import_weights(path, **how):
    from diffmatch_jax.import_weights import import_weights

    return import_weights(path, **how)


def _read_weights(path):
    from diffmatch_jax.api import read_variables

    return read_variables(path), None


def _figures():
    from diffmatch_jax.figures.runs import NAMES

    return NAMES


def _arguments(module):
    """Returns the function that adds the flags of `diffmatch_jax.commands.MODULE`."""

    def add(parser):
        importlib.import_module(f"diffmatch_jax.commands.{module}").arguments(parser)

    return add


def _run(module):
    return lambda app, request: importlib.import_module(f"diffmatch_jax.commands.{module}").run(app, request)


MATCH = Verb(
    "match",
    "match two image files: flow, confidence and pictures",
    "Writes match-KEY.npz, .json and .png, flow-KEY.flo (Middlebury's format), warped-KEY.png and, of several\n"
    "hypotheses, hypotheses-KEY.png to --out DIR; KEY is a hash of images, weights and flags. Uses the weights\n"
    "that come with the package, or those of the run in --workdir.",
    _arguments("match"),
    _run("match"),
    reads_config=False,
)

BENCHMARK = Verb(
    "benchmark",
    "measure matchers on data sets with known flow",
    "Measures each method on each data set and corruption, and writes DIR/results/benchmark-KEY.json, tables and\n"
    "figures. The same command goes on where it was stopped.",
    _arguments("benchmark"),
    _run("benchmark"),
    reads_config=False,
)

EXPORT = Verb(
    "export",
    "write the weights of a run as one small file",
    "Writes DIR/export/TASK-KEY.npz in half precision, the form in which weights come with the package.",
    _arguments("export"),
    _run("export"),
)

DEMO = Verb(
    "demo",
    "train both stages on photographs, interrupt, resume, measure, match a real pair",
    "Runs every verb as its own command on configs/diffmatch_jax/demo.py and demo_stage2.py in DIR/diffmatch_jax,\n"
    "and writes DIR/index.html and DIR/results.json.",
    lambda parser: None,
    _run("demo"),
)

APP = App(
    name="diffmatch_jax",
    summary="Dense correspondence by diffusion: train both stages, match two images, measure, draw.",
    base=_base,
    build=_build,
    complete=_complete,
    import_weights=_import_weights,
    read_weights=_read_weights,
    figures=_figures,
    extra_verbs=(DEMO, MATCH, BENCHMARK, EXPORT),
    examples=(
        "demo --workdir runs/demo",
        "match a.jpg b.jpg --out runs/pair",
        "train --config configs/diffmatch_jax/bsds.py --workdir runs/matcher",
        "evaluate --workdir runs/matcher",
        "figures --workdir runs/matcher",
        "benchmark --workdir runs/benchmark --data stereo,warps",
        "export --workdir runs/matcher",
        "describe --config configs/diffmatch_jax/paper.py",
        "import-weights stage1.pt --workdir runs/released --config.features.pyramid=vgg16:vgg16-397923af.pth",
    ),
)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], APP))
