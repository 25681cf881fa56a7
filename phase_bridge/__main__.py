"""`python -m phase_bridge VERB ...`; nothing heavy is imported until a verb needs it."""

import sys

from common.cli.app import App, Verb, add_checkpoint, add_dry_run
from common.cli.dispatch import main
from common.cli.verbs.fidelity import FIDELITY


def _base():
    from configs.phase_bridge.base import base

    return base()


def _build(config):
    from phase_bridge.method import build

    return build(config)


def _import_weights(path, **how):
    from phase_bridge.import_weights import import_weights

    return import_weights(path, **how)


def _read_weights(path):
    from phase_bridge.method import SHELF

    return SHELF.read(path)[1:]


def _figures():
    from phase_bridge.figures import NAMES

    return NAMES


def _demo(app, request):
    from phase_bridge.commands import demo

    demo(app, request)


def _compare(app, request):
    from phase_bridge.compare import run

    run(app, request)


def _compare_arguments(parser):
    add_dry_run(parser, "and list the models")
    parser.add_argument("--only", metavar="NETWORK/SEED", help="train this one network and stop: denoiser/0, ...")


def _edit(app, request):
    from phase_bridge.commands import edit

    edit(app, request)


def _edit_arguments(parser):
    parser.add_argument("--num", type=int, default=4, metavar="N", help="held-out images (default: 4)")
    parser.add_argument("--nfe", type=int, default=100, metavar="N", help="network evaluations (default: 100)")
    parser.add_argument("--cells", type=int, default=8, metavar="N", help="cells a side of the painting (default: 8)")
    parser.add_argument(
        "--hole", type=float, default=0.5, metavar="X", help="fraction of the side it has (default: 0.5)"
    )
    add_dry_run(parser)
    add_checkpoint(parser)


def _export(app, request):
    from phase_bridge.commands import export

    export(app, request)


def _export_arguments(parser):
    parser.add_argument("--weights", metavar="FILE", required=True, help="where to write, FILE.npz")
    add_dry_run(parser)
    add_checkpoint(parser)


DEMO = Verb(
    "demo",
    "learn a spiral, interrupt, resume, measure, compare, draw",
    "Runs every verb as its own command on configs/phase_bridge/demo.py in DIR/phase_bridge, trains what bridges\n"
    "are compared with, and writes DIR/index.html and DIR/results.json.",
    lambda parser: None,
    _demo,
)

COMPARE = Verb(
    "compare",
    "train and measure networks along bridges, flow and diffusion on the same data and budget",
    "Trains the networks of config.compare.models with config.compare.seeds seeds, chooses one of equally many\n"
    "samplers for each path and number of evaluations, measures it on other samples, and writes\n"
    "DIR/results/compare-KEY.json, .md and figures. The same command goes on where it was stopped.",
    _compare_arguments,
    _compare,
)

GUIDE = Verb(
    "edit",
    "make images from coarse paintings and fill holes, with a model trained without either",
    "Takes held-out images as paintings of few cells and with a hole, and writes the images made from them to\n"
    "DIR/results/edited-step-N-seed-S-KEY.json and .npz.",
    _edit_arguments,
    _edit,
)

EXPORT = Verb(
    "export",
    "write a trained model as one small file, which phase_bridge.load opens",
    "Writes weights in half precision to FILE.npz, and config and checksum to FILE.json.",
    _export_arguments,
    _export,
)

APP = App(
    name="phase_bridge",
    summary="Phase-space stochastic bridges: train, resume, sample in few evaluations; what they are compared with.",
    base=_base,
    build=_build,
    import_weights=_import_weights,
    read_weights=_read_weights,
    figures=_figures,
    extra_verbs=(DEMO, COMPARE, GUIDE, FIDELITY, EXPORT),
    examples=(
        "demo --workdir runs/demo",
        "train --config configs/phase_bridge/spiral.py --workdir runs/spiral",
        "evaluate --workdir runs/spiral --config.evaluate.nfe='(3, 5)'",
        "sample --workdir runs/spiral --config.sampler.nfe=5",
        "figures --workdir runs/spiral",
        "compare --config configs/phase_bridge/spiral.py --workdir runs/spiral-compare",
        "edit --workdir runs/cifar10 --nfe 100",
        "describe --config configs/phase_bridge/cifar10.py",
        "export --workdir runs/faces32 --weights faces32.npz",
        "import-weights model.pt --workdir runs/authors",
    ),
)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], APP))
