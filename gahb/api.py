"""What a script calls without the command line: denoisers read from the directories of runs."""

import os

import jax
from jax.tree_util import Partial

from gahb import method
from gahb.denoisers import denoiser


def load_denoiser(workdir: str | os.PathLike, *, ema: bool = True, step: int | None = None) -> Partial:
    """Returns the denoiser that was trained (or imported) in `workdir`: averaged weights if there are any, newest step.

    Needs no data and no optimizer. Its input is that of `gahb.denoiser`. Raises `InputError` if the directory holds no
    readable checkpoint.

    >>> gahb.load_denoiser("runs/x")(noisy)  # doctest: +SKIP
    """
    network, variables = method.load(workdir, ema=ema, step=step)
    # On the device once, instead of with every call.
    return denoiser(jax.tree.map(jax.numpy.asarray, variables), network)
