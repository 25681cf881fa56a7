"""The residual perceptron: size, zero start, embeddings, and that every option counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from phase_bridge.mlp import EMBEDDINGS, ResidualMLP, embed


def made(key=0, **options):
    network = ResidualMLP(2, **options)
    x, time = jax.random.normal(jax.random.key(key), (5, 4)), jnp.linspace(0.1, 0.9, 5)
    return network, network.init(jax.random.key(1), x, time), x, time


def test_the_papers_size():
    _, variables, _, _ = made(width=128, depth=20)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 333_828


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_begins_at_zero_and_depends_on_time_afterwards(embedding):
    network, variables, x, time = made(width=8, depth=2, embedding=embedding)
    assert np.all(network.apply(variables, x, time) == 0)
    moved = jax.tree.map(lambda leaf: leaf + 0.1, variables)
    assert np.abs(network.apply(moved, x, time) - network.apply(moved, x, time + 0.05)).min() > 1e-4


def test_one_time_for_all_and_positions_on_a_grid():
    network, variables, x, time = made(width=8, depth=1)
    moved = jax.tree.map(lambda leaf: leaf + 0.1, variables)
    scalar = network.apply(moved, x, 0.3)
    np.testing.assert_array_equal(scalar, network.apply(moved, x, jnp.full(5, 0.3)))
    grid = network.apply(moved, jnp.broadcast_to(x[:, None, None], (5, 3, 2, 4)), time)
    np.testing.assert_allclose(grid[:, 1, 1], network.apply(moved, x, time), rtol=1e-6)


def test_the_equation():
    network, variables, x, time = made(width=6, depth=1)
    variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)
    layers = [variables["params"][f"layer_{i}"] for i in range(3)]
    silu = lambda z: z / (1 + np.exp(-z))  # noqa: E731
    e = np.log(time)[:, None]

    def linear(i, h):
        return np.concatenate([h, e], -1) @ layers[i]["kernel"] + layers[i]["bias"]

    h = silu(linear(0, x))
    h = silu(h + linear(1, h))
    np.testing.assert_allclose(network.apply(variables, x, time), linear(2, h), rtol=2e-6, atol=1e-6)


def test_labels_and_precision_change_the_result():
    network, _, x, time = made(width=8, depth=1)
    labels = jax.nn.one_hot(jnp.arange(5) % 3, 3)
    variables = jax.tree.map(lambda leaf: leaf + 0.1, network.init(jax.random.key(0), x, time, labels))
    one, other = (network.apply(variables, x, time, each) for each in (labels, labels[::-1]))
    assert np.abs(one - other)[0].min() > 1e-4
    half = ResidualMLP(2, width=8, depth=1, dtype=jnp.bfloat16).apply(variables, x, time, labels)
    assert half.dtype == jnp.float32 and 0 < np.abs(half - one).max() < 0.05


def test_initial_weights_fill_the_interval_of_the_fan_in():
    _, variables, _, _ = made(width=64, depth=1)
    for i, fan_in in ((0, 5), (1, 65)):
        kernel = np.asarray(variables["params"][f"layer_{i}"]["kernel"])
        assert kernel.shape[0] == fan_in
        assert 0.95 * fan_in**-0.5 < np.abs(kernel).max() <= fan_in**-0.5


def test_sinusoids():
    features = embed(jnp.asarray([0.25]), kind="sinusoidal", num_frequencies=2, highest=2.0)
    np.testing.assert_allclose(features[0], [2**-0.5, 0, 2**-0.5, -1], atol=1e-6)
    with pytest.raises(InputError, match='embedding: expected one of "log", "raw", "sinusoidal", got "sinus"'):
        embed(jnp.ones(1), kind="sinus")
    with pytest.raises(InputError, match="frequencies: expected at least one"):
        embed(jnp.ones(1), kind="sinusoidal", num_frequencies=0)
