"""Compilation of the programs that a user waits for at the first call."""

import functools
from collections.abc import Callable

import jax


@functools.cache
def quick(function: Callable, *static_argnames: str) -> Callable:
    """Returns `function` jitted; on CPUs with the first of LLVM's levels of optimisation.

    Compilation takes a quarter less time, and as long as most of the work is matrix products and convolutions, which
    are libraries' code, a call takes no longer. Other backends keep their own level.
    """
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    return jax.jit(function, static_argnames=static_argnames, compiler_options=options)
