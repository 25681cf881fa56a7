"""`python -m gahb VERB ...`; nothing heavy is imported until a verb needs it."""

import sys

from common.cli.app import App, Verb, add_checkpoint, add_dry_run
from common.cli.dispatch import main


def _base():
    from configs.gahb.base import base

    return base()


def _build(config):
    from gahb.method import build

    return build(config)


def _import_weights(path, **how):
    from gahb.import_weights import import_weights

    return import_weights(path, **how)


def _read_weights(path):
    from gahb.method import SHELF

    return SHELF.read(path)[1:]


def _figures():
    from gahb.figures import NAMES

    return NAMES


def _demo(app, request):
    from gahb.experiments.demo import run

    run(app, request)


def _study(app, request):
    from gahb.experiments.study import run

    run(app, request)


def _study_arguments(parser):
    add_dry_run(parser, "and list the pairs")
    parser.add_argument("--only", metavar="N/HALF", help="train this one model and stop: 100/2, control/1, ...")
    parser.add_argument(
        "--measure-only", action="store_true", help="train nothing, measure the models that are trained"
    )


def _classes(app, request):
    from gahb.experiments.classes import run

    run(app, request)


def _generate(app, request):
    from gahb.experiments.generate import run

    run(app, request)


def _generate_arguments(parser):
    parser.add_argument("--type", default="float32", metavar="T", help='"float32" in [0, 1] (default) or "uint8"')


def _restore(app, request):
    from gahb.experiments.restore import run

    run(app, request)


def _trained_arguments(parser):
    add_dry_run(parser)
    add_checkpoint(parser)


def _export_arguments(parser):
    parser.add_argument(
        "--weights", metavar="FILE", help="write the weights there instead, FILE.npz, in half precision"
    )
    _trained_arguments(parser)


def _export(app, request):
    from gahb.export import run

    run(app, request)


EXPORT = Verb(
    "export",
    "write a trained denoiser as one file",
    "Writes DIR/export/denoiser-SIZE-KEY.jax, a program with its weights inside, for any batch size, on CPU, GPU\n"
    "and TPU; or with --weights the file that gahb.load_denoiser opens.",
    _export_arguments,
    _export,
)


def _analyse(app, request):
    from gahb.experiments.analyse import run

    run(app, request)


def _analyse_arguments(parser):
    parser.add_argument("--levels", default="0.04,0.1,0.2", metavar="A,B", help="noise, for images in [0, 1]")
    parser.add_argument("--images", type=int, default=2, metavar="N", help="held-out images (default: 2)")
    parser.add_argument("--size", type=int, default=0, metavar="N", help="their side, pixels (default: as in training)")
    parser.add_argument("--top", type=int, default=20, metavar="K", help="eigenvectors of each (default: 20)")
    parser.add_argument("--probes", type=int, default=64, metavar="N", help="random probes of each trace (default: 64)")
    parser.add_argument("--block", type=int, default=2, metavar="N", help="vectors at a time; more on an accelerator")
    _trained_arguments(parser)


ANALYSE = Verb(
    "analyse",
    "find the bases in which a trained denoiser shrinks held-out images",
    "Writes the leading eigenvectors of its Jacobian, traces and risk to\n"
    "DIR/results/eigenbasis-step-N-seed-S-KEY.json and .npz.",
    _analyse_arguments,
    _analyse,
)

DEMO = Verb(
    "demo",
    "train on photographs, interrupt, resume, evaluate, sample, draw",
    "Runs every verb as its own command on configs/gahb/photographs.py in DIR/gahb, and writes DIR/index.html\n"
    "and DIR/results.json.",
    lambda parser: None,
    _demo,
)

STUDY = Verb(
    "study",
    "train and compare pairs of models on training sets of growing size",
    "Trains two models on disjoint sets of each size in config.study.sizes, measures each pair, each model over its\n"
    "training time and beside score machines, and writes DIR/results/study-*, times-* and machines-*-KEY.json and\n"
    ".npz. The same command goes on where it was stopped.",
    _study_arguments,
    _study,
)

CLASSES = Verb(
    "classes",
    "train a denoiser for each of several classes and compare it with the best possible",
    "Trains one model for each class in config.classes.names (C^alpha images, disks, sinusoids, multiples of\n"
    "one image, the images of data.source and their shuffled pixels), measures its slope, error and eigenvectors, and\n"
    "writes DIR/results/classes-NAME-KEY.json and .npz. The same command goes on where it was stopped.",
    lambda parser: add_dry_run(parser, "and list the classes"),
    _classes,
)

GENERATE = Verb(
    "generate",
    "write the images of an experiment to one file",
    "Writes DIR/images.npz (arrays train and test), a sheet of some of them, images.png, and images.json.\n"
    "The file serves as --config.data.source=npz:DIR/images.npz.",
    _generate_arguments,
    _generate,
)

RESTORE = Verb(
    "restore",
    "solve linear inverse problems on held-out images",
    "Measures images as config.evaluate.restore says (inpainting, super-resolution, random pixels, random basis,\n"
    "low frequencies), samples them given the measurement, and writes DIR/results/restore-step-N-seed-S-KEY.json\n"
    "and .npz.",
    _trained_arguments,
    _restore,
)

APP = App(
    name="gahb",
    summary="Blind bias-free denoisers: train, resume, denoise and sample; their generalisation and their eigenbases.",
    base=_base,
    build=_build,
    import_weights=_import_weights,
    read_weights=_read_weights,
    figures=_figures,
    extra_verbs=(DEMO, ANALYSE, STUDY, CLASSES, GENERATE, RESTORE, EXPORT),
    examples=(
        "demo --workdir runs/demo",
        "train --config configs/gahb/photographs.py --workdir runs/photographs",
        "train --config configs/gahb/photographs.py --workdir runs/short --config.train.steps=300",
        "evaluate --workdir runs/photographs",
        "sample --workdir runs/photographs --config.sampler.num=4",
        "analyse --workdir runs/photographs --levels 0.1,0.2 --top 50",
        "restore --workdir runs/photographs --config.evaluate.restore.size=64",
        "figures --workdir runs/photographs",
        "study --config configs/gahb/study_faces20.py --workdir runs/study_faces20",
        "classes --config configs/gahb/classes32.py --workdir runs/classes32",
        "generate --config configs/gahb/calpha.py --workdir runs/calpha-set --config.synthetic.num_train=500",
        "describe --config configs/gahb/celeba80.py",
        "import-weights model.pt --workdir runs/authors",
    ),
)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], APP))
