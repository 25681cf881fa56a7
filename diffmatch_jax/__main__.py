"""`python -m diffmatch_jax VERB ...`; nothing heavy is imported until a verb needs it."""

import sys

from common.app import App
from common.cli import main


def _base():
    from configs.diffmatch_jax.base import base

    return base()


def _build(config):
    from diffmatch_jax.method import build

    return build(config)


def _import_weights(path, **how):
    from diffmatch_jax.import_weights import import_weights

    return import_weights(path, **how)


def _figures():
    from diffmatch_jax.figures import NAMES

    return NAMES


APP = App(
    name="diffmatch_jax",
    summary="Dense correspondence by diffusion: train both stages, match two images, measure, draw.",
    base=_base,
    build=_build,
    import_weights=_import_weights,
    figures=_figures,
    extra_verbs=(),
    examples=(
        "train --config configs/diffmatch_jax/bsds.py --workdir runs/matcher",
        "evaluate --workdir runs/matcher",
        "describe --config configs/diffmatch_jax/paper.py",
        "import-weights checkpoint.pt --workdir runs/authors",
    ),
)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], APP))
