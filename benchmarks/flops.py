"""Counting the arithmetic of a program, loops included: XLA's own count takes the body of a loop once."""

import math
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def products(traced: Any) -> float:
    """Returns the FLOPs (2 per multiply-add) of all matrix products and convolutions of `jax.jit(f).trace(...)`.

    A scan counts as often as it runs, a choice with its costliest branch, a `while` once. What else is computed is not
    counted, nor the inside of a custom kernel, so attention should be traced without the fused one.
    """
    return _of(traced.jaxpr.jaxpr)


def _of(jaxpr: Jaxpr) -> float:
    return sum(map(_of_equation, jaxpr.eqns))


def _of_equation(equation: Any) -> float:
    kind, params = equation.primitive.name, equation.params
    if kind == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2.0 * math.prod(left[axis] for axis in contracted) * equation.outvars[0].aval.size
    if kind == "conv_general_dilated":
        # A place of the output sees the whole kernel; of its channels, one group's.
        kernel, outputs = equation.invars[1].aval, params["dimension_numbers"].rhs_spec[0]
        whole = 2.0 * equation.outvars[0].aval.size * kernel.size / kernel.shape[outputs]
        # Zeros put between the numbers of the input, as the gradient of a convolution with strides does, cost nothing.
        return whole / math.prod(params["lhs_dilation"])
    if kind == "custom_linear_solve":
        # Of its four programs the one that solves; the others are for its derivatives.
        return _of(params["jaxprs"].solve)
    inside = [_of(each) for each in jax.tree.leaves(list(params.values()), is_leaf=_is_program) if _is_program(each)]
    if kind == "cond":
        return max(inside)
    return sum(inside) * (params["length"] if kind == "scan" else 1)


def _is_program(value: Any) -> bool:
    return isinstance(value, (Jaxpr, ClosedJaxpr))
