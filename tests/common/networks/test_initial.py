"""One draw for all weights: the distributions that the layers state, and the structure of Flax's own initialisation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.networks import layers
from common.networks.layers import Scaled, initialise

pytestmark = pytest.mark.usefixtures("quick_compilation")


class Mixed(nn.Module):
    @nn.compact
    def __call__(self, x, offset):
        kernel = self.param("kernel", layers.fan_in((x.shape[-1], 300), 2.0), (x.shape[-1], 300))
        glorot = self.param("glorot", layers.xavier((3, 3, 10, 20)), (3, 3, 10, 20))
        ones = self.param("ones", layers.constant(1.0), (7,))
        normal = self.param("normal", layers.normal((40, 50), 3.0), (40, 50))
        shifted = self.param("shifted", Scaled(0.5, mean=2.0), (1000,))
        fixed = self.variable("stats", "fixed", lambda: Scaled(4.0, True)(self.make_rng("params"), (5000,))).value
        return x @ kernel + glorot.sum() + ones.sum() + normal.sum() + fixed.sum() + shifted.sum() + offset


class Foreign(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x @ self.param("kernel", layers.constant(3.0), (2, 2)) + nn.Dense(2)(x)


INPUTS = (jnp.ones((1, 100)), jnp.zeros(()))


def check(params, stats):
    for name, bound in (("kernel", 0.2), ("glorot", (6 / (9 * 30)) ** 0.5)):
        each = np.asarray(params[name])
        assert bound * 0.98 < np.abs(each).max() <= bound
        assert each.std() == pytest.approx(bound / 3**0.5, rel=0.05)
        assert abs(each.mean()) < 5 * bound / each.size**0.5
    np.testing.assert_array_equal(params["ones"], 1)
    assert params["normal"].std() == pytest.approx(3, rel=0.1) and params["normal"].max() > 7
    assert 1.5 <= params["shifted"].min() < 1.52 and 2.48 < params["shifted"].max() <= 2.5
    assert stats["fixed"].std() == pytest.approx(4, rel=0.1)


def test_the_distributions_are_those_of_flax():
    variables = initialise(Mixed(), jax.random.key(0), *INPUTS)
    check(*variables)
    own = jax.jit(Mixed().init)(jax.random.key(0), *INPUTS)
    check(own["params"], own["stats"])
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables._asdict()) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), own
    )


def test_traced_or_not():
    here = initialise(Mixed(), jax.random.key(3), *INPUTS)
    traced = jax.jit(lambda key: initialise(Mixed(), key, *INPUTS))(jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, here, traced)
    other = initialise(Mixed(), jax.random.key(4), *INPUTS)
    assert (other.params["kernel"] != here.params["kernel"]).mean() > 0.99
    assert np.unique(np.concatenate([here.params["kernel"].ravel() / 0.2])).size > 0.99 * here.params["kernel"].size


def test_leaves_of_other_layers_are_theirs():
    variables = initialise(Foreign(), jax.random.key(0), jnp.ones((1, 2)))
    own = Foreign().init(jax.random.key(0), jnp.ones((1, 2)))["params"]
    jax.tree.map(np.testing.assert_array_equal, variables.params, own)
    assert variables.stats == {}
