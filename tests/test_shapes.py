"""The shapes in signatures of public functions are true: jaxtyping checks them here, and nowhere at run time."""

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.tree_util import Partial

import gahb
import phase_bridge
from common.metrics.psnr import psnr
from diffmatch_jax.model.pair_match import covisible

KEY = jax.random.key(0)
BYTES = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8, 1)
HALVE = Partial(lambda y: y / 2)
MIXTURE = phase_bridge.mixture(phase_bridge.Bridge(), [[-0.5, 0.0], [0.5, 0.0]], [0.5, 0.5], 0.1)


def checked(function: Callable[..., Any], *args: Any, **options: Any) -> int:
    """Calls a function under its annotations; returns how many arrays they describe, raises `TypeError` for another."""
    hints = typing.get_type_hints(function)
    with jaxtyping.jaxtyped("context"):
        bound = inspect.signature(function).bind(*args, **options).arguments
        count = sum(_agrees(name, value, hints.get(name)) for name, value in bound.items())
        return count + _agrees("the result", function(*args, **options), hints.get("return"))


def _agrees(name, value, hint) -> int:
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        hints = typing.get_type_hints(type(value))
        return sum(_agrees(f"{name}.{field}", getattr(value, field), hints[field]) for field in value._fields)
    of = typing.get_args(hint) if typing.get_origin(hint) in (tuple, typing.Union, types.UnionType) else (hint,)
    if typing.get_origin(hint) is tuple and Ellipsis not in of:
        return sum(_agrees(name, each, inner) for each, inner in zip(value, of, strict=True))
    of = [each for each in of if isinstance(each, type)]
    if not any(issubclass(each, jaxtyping.AbstractArray) for each in of):
        return 0
    if not any(isinstance(value, each) for each in of):
        raise TypeError(f"{name}: {hint} is no {type(value).__name__} {np.shape(value)}")
    return 1


@pytest.mark.parametrize(
    ("arrays", "function", "args", "options"),
    [
        (3, psnr, (BYTES, BYTES + np.uint8(1)), {}),
        (3, psnr, (jnp.zeros((2, 3)), np.ones((2, 3), np.float32)), {}),
        (8, gahb.psnr_curve, (HALVE, BYTES, [0.1, 0.2], KEY), {}),
        (9, gahb.psnr_curve, (HALVE, BYTES / 255, [0.1], KEY), {"noise": np.ones((1, *BYTES.shape))}),
        (4, gahb.eigenbasis.top_k, (HALVE, BYTES[0], 3), {"method": "dense"}),
        (5, gahb.eigenbasis.top_singular, (HALVE, jnp.zeros((1, 8, 8, 1)), 3), {"method": "dense"}),
        (2, gahb.eigenbasis.jacobian, (HALVE, jnp.zeros((2, 3, 1))), {}),
        (1, gahb.implied_sigma, (HALVE, jnp.ones((2, 3, 1))), {}),
        (2, gahb.metrics.squared_distances, (HALVE, HALVE, BYTES, [0.1], KEY), {}),
        (2, gahb.metrics.clustered_error, (np.ones((3, 2)), np.arange(2)), {}),
        (3, gahb.metrics.oracle_mse, (np.ones((3, 2)), np.ones(4)), {}),
        (3, gahb.reference.fit, (BYTES,), {}),
        (1, gahb.reference.dct, ((4, 4, 1),), {}),
        (2, gahb.operators.project, (gahb.operators.super_resolution(2), jnp.ones((1, 4, 4, 1))), {}),
        (3, covisible, (np.zeros((4, 5, 2)), np.zeros((4, 5, 2))), {}),
        (1, phase_bridge.sample, (MIXTURE, KEY, (3, 2)), {"nfe": 2}),
        (2, phase_bridge.log_likelihood, (MIXTURE, jnp.zeros((3, 2)), KEY), {"rtol": 1e-2, "atol": 1e-2}),
        (1, phase_bridge.schedule, (phase_bridge.Bridge(), 5), {}),
    ],
)
def test_the_annotations_describe_what_goes_in_and_comes_out(arrays, function, args, options):
    assert checked(function, *args, **options) == arrays


@pytest.mark.parametrize(
    ("function", "args", "name"),
    [
        (psnr, (np.zeros((2, 3)), np.zeros((3, 3))), "image"),
        (gahb.psnr_curve, (HALVE, BYTES[0], [0.1], KEY), "images"),
        (gahb.eigenbasis.top_k, (HALVE, BYTES[0, 0], 3), "y"),
        (gahb.metrics.clustered_error, (np.ones((3, 2), int), np.arange(2)), "values"),
        (phase_bridge.log_likelihood, (MIXTURE, jnp.float32(0), KEY), "x"),
    ],
)
def test_other_shapes_disagree_with_the_annotations(function, args, name):
    with pytest.raises(TypeError, match=f"^{name}: "):
        checked(function, *args)
