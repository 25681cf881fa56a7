"""Denoisers read from runs and from the package, for scripts."""

import os

import jax
from jax.tree_util import Partial

from gahb import method
from gahb.networks import denoiser


def load_denoiser(workdir: str | os.PathLike, *, ema: bool = True, step: int | None = None) -> Partial:
    """Returns the denoiser that was trained (or imported) in `workdir`: averaged weights if there are any, newest step.

    workdir: directory of a run; or the name of a denoiser that comes with the package, such as "photographs", or a file
    written by `export --weights`, which hold one set of weights in half precision. Needs no data and no optimizer. Its
    input is that of `gahb.denoiser`. Raises `InputError` if the directory holds no readable checkpoint, and for an
    unknown name, with those that are known.

    >>> x_hat = load_denoiser("runs/x")(y)  # doctest: +SKIP
    """
    network, variables = method.load(workdir, ema=ema, step=step)
    # On the device once, instead of with every call.
    return denoiser(jax.tree.map(jax.numpy.asarray, variables), network)
