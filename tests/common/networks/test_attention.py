"""Attention against its formula, whole and in blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.networks import blocks
from common.networks.blocks import SelfAttention, attend


def inputs(length=12, heads=3, size=8, dtype=jnp.float32):
    return (
        3 * jax.random.normal(key, (2, length, heads, size), dtype) for key in jax.random.split(jax.random.key(0), 3)
    )


def formula(q, k, v):
    q, k, v = (np.asarray(each, np.float64) for each in (q, k, v))
    logits = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), v)


@pytest.mark.parametrize("fused", [False, True])
def test_formula(fused):
    q, k, v = inputs()
    np.testing.assert_allclose(attend(q, k, v, fused=fused), formula(q, k, v), atol=1e-5)


def test_half_precision_keeps_a_wide_softmax():
    q, k, v = inputs(dtype=jnp.bfloat16)
    out = attend(q, k, v)
    assert out.dtype == jnp.bfloat16
    # What remains is the rounding of weights and result to 8 bits.
    np.testing.assert_allclose(out.astype(jnp.float32), formula(q, k, v), atol=0.05)
    text = str(jax.make_jaxpr(attend)(q, k, v))
    assert "f32[2,3,12,12] = exp" in text


def test_blocks_of_queries_are_the_whole(monkeypatch):
    q, k, v = inputs()
    whole, pullback = jax.vjp(attend, q, k, v)
    want = pullback(whole)
    _, forward = jax.jvp(attend, (q, k, v), (q, k, v))
    monkeypatch.setattr(blocks, "_BLOCK", 4)
    assert "scan" in str(jax.make_jaxpr(attend)(q, k, v))
    np.testing.assert_allclose(attend(q, k, v), whole, atol=1e-5)
    for got, each in zip(jax.vjp(attend, q, k, v)[1](whole), want, strict=True):
        np.testing.assert_allclose(got, each, atol=1e-4)
    np.testing.assert_allclose(jax.jvp(attend, (q, k, v), (q, k, v))[1], forward, atol=1e-4)
    monkeypatch.setattr(blocks, "_BLOCK", 5)  # does not divide 12
    np.testing.assert_array_equal(attend(q, k, v), whole)


def test_the_platforms_kernel_is_for_what_it_can(monkeypatch):
    asked = []

    def kernel(q, k, v):
        asked.append(q.shape)
        return q

    def compiled(*arrays, **how):
        return jax.jit(lambda *arrays: attend(*arrays, **how))(*arrays)

    monkeypatch.setattr(blocks, "_fused", kernel)
    half = tuple(inputs(dtype=jnp.bfloat16))
    want = compiled(*half)
    assert not asked  # no such device here
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_array_equal(compiled(*half), want)  # asked for, but run on a CPU after all
    assert set(asked) == {(2, 12, 3, 8)}
    asked.clear()
    compiled(*half, fused=False)
    compiled(*inputs())  # float32
    compiled(*inputs(size=6, dtype=jnp.bfloat16))
    compiled(*inputs(size=136, dtype=jnp.bfloat16))
    assert not asked


def test_self_attention_by_its_parts():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 8))
    branch = SelfAttention(2, 1e-5, last_gain=1.0)
    variables = branch.init(jax.random.key(1), x)
    params = variables["params"]
    normed = np.asarray(x, np.float64).reshape(2, 12, 2, 4)
    normed = (normed - normed.mean((1, 3), keepdims=True)) / np.sqrt(normed.var((1, 3), keepdims=True) + 1e-5)
    rows = normed.reshape(2, 12, 8) @ np.asarray(params["qkv"]["kernel"])[0, 0] + np.asarray(params["qkv"]["bias"])
    q, k, v = np.moveaxis(rows.reshape(2, 12, 3, 2, 4), 2, 0)
    mixed = formula(q, k, v).reshape(2, 12, 8)
    want = mixed @ np.asarray(params["proj"]["kernel"])[0, 0] + np.asarray(params["proj"]["bias"])
    np.testing.assert_allclose(branch.apply(variables, x), want.reshape(x.shape), atol=1e-5)
