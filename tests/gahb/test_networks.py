"""Bias-free networks: homogeneity, statistics, extents, initial weights; all on tiny widths."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.method import Variables
from gahb.networks import BFCNN, BFCNNRF, RECEPTIVE_FIELDS, UNet, apply, convolve, double, halve, init, kernel_sizes

pytestmark = pytest.mark.usefixtures("quick_compilation")

run = jax.jit(apply, static_argnums=0, static_argnames="train")

NETWORKS = {
    "unet": UNet(num_kernels=4, num_blocks=1, gain_init="unit"),
    "bf_cnn": BFCNN(num_kernels=4, num_layers=5, gain_init="unit"),
    "bf_cnn_rf": BFCNNRF(num_kernels=4, receptive_field=13, gain_init="unit"),
}
each_network = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
# The third is the second with other kernel sizes and takes long to compile.
two_networks = pytest.mark.parametrize("network", [NETWORKS["unet"], NETWORKS["bf_cnn"]], ids=["unet", "bf_cnn"])


@functools.cache
def setting(network, seed=0):
    """A network with running deviations that are neither one nor those of the batch, and a batch of noisy images."""
    key_v, key_s, key_y = jax.random.split(jax.random.key(seed), 3)
    y = 0.5 + jax.random.normal(key_y, (4, 8, 8, 1)) * jnp.array([0.1, 0.3, 0.5, 1.0])[:, None, None, None]
    variables = init(network, key_v, y)
    leaves, tree = jax.tree.flatten(variables.stats)
    drawn = jax.random.uniform(key_s, (len(leaves),), minval=0.7, maxval=1.4)
    stats = jax.tree.unflatten(tree, [leaf * scale for leaf, scale in zip(leaves, drawn, strict=True)])
    return Variables(variables.params, stats), y


def rel(got, want):
    return float(jnp.abs(got - want).max() / jnp.abs(want).max())


@each_network
@settings(max_examples=8, deadline=None)
@given(power=st.integers(-12, 12), factor=st.floats(0.01, 100))
def test_homogeneous_in_evaluation(network, power, factor):
    variables, y = setting(network)
    residual, _ = run(network, variables, y)
    np.testing.assert_array_equal(run(network, variables, 2.0**power * y)[0], 2.0**power * residual)
    with jax.enable_x64(True):
        variables, y = jax.tree.map(lambda x: x.astype(jnp.float64), (variables, y))
        assert rel(run(network, variables, factor * y)[0], factor * run(network, variables, y)[0]) < 1e-10


@two_networks
def test_training_equals_evaluation_when_the_running_deviation_is_the_batch_s(network):
    with jax.enable_x64(True):
        variables, y = jax.tree.map(lambda x: x.astype(jnp.float64), setting(network))
        trained, stats = run(network, variables, y, train=True)
        batch_sd = jax.tree.map(lambda new, old: (new - 0.9 * old) / 0.1, stats, variables.stats)
        evaluated, same = run(network, Variables(variables.params, batch_sd), y)
        assert rel(evaluated, trained) < 1e-10
        jax.tree.map(np.testing.assert_array_equal, same, batch_sd)
        assert rel(run(network, variables, y)[0], trained) > 0.01


@two_networks
def test_frozen_is_evaluation_in_value_and_gradient(network):
    variables, y = setting(network)
    traces = []

    @functools.partial(jax.jit, static_argnames="train")
    def value_and_gradient(params, stats, frozen, train):
        traces.append(train)

        def loss(params):
            residual, updated = apply(network, Variables(params, stats), y, train=train, frozen=frozen)
            return jnp.sum(residual**3), (residual, updated)

        (_, side), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return side, gradient

    (frozen, stats), gradient = value_and_gradient(*variables, jnp.array(True), train=True)
    (moving, updated), _ = value_and_gradient(*variables, jnp.array(False), train=True)
    (evaluated, _), reference = value_and_gradient(*variables, None, train=False)
    assert traces == [True, False]
    assert rel(frozen, evaluated) < 1e-6
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max()), gradient, reference
    )
    jax.tree.map(np.testing.assert_array_equal, stats, variables.stats)
    plain, plainly_updated = run(network, variables, y, train=True)
    assert rel(moving, plain) < 1e-5
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5), updated, plainly_updated)
    assert all(np.all(a != b) for a, b in zip(jax.tree.leaves(updated), jax.tree.leaves(stats), strict=True))


def test_evaluation_computes_no_statistics():
    network = NETWORKS["bf_cnn"]
    variables, y = setting(network)
    assert "reduce" not in str(jax.make_jaxpr(functools.partial(apply, network))(variables, y))
    assert "reduce" in str(jax.make_jaxpr(functools.partial(apply, network, train=True))(variables, y))


@two_networks
def test_statistics_over_an_axis_are_those_of_the_whole_batch(network):
    with jax.enable_x64(True):
        variables, y = jax.tree.map(lambda x: x.astype(jnp.float64), setting(network))
        split = y.reshape(2, 2, *y.shape[1:])

        @functools.partial(jax.jit, static_argnums=0)
        def value_and_gradient(network, variables, y):
            def loss(params):
                residual, stats = apply(network, Variables(params, variables.stats), y, train=True)
                return jnp.square(residual).sum((1, 2, 3)).mean(), (residual, stats)

            return jax.value_and_grad(loss, has_aux=True)(variables.params)

        (value, (residual, stats)), gradient = value_and_gradient(network, variables, y)
        parallel = functools.partial(value_and_gradient, network.clone(axis_name="batch"))
        (values, (residuals, all_stats)), gradients = jax.vmap(parallel, in_axes=(None, 0), axis_name="batch")(
            variables, split
        )
        assert rel(residuals.reshape(residual.shape), residual) < 1e-10
        assert float(values.mean()) == pytest.approx(float(value), rel=1e-10)
        jax.tree.map(lambda got, want: np.testing.assert_allclose(got[0], want, rtol=1e-10), all_stats, stats)
        jax.tree.map(lambda got: np.testing.assert_array_equal(got[0], got[1]), all_stats)
        jax.tree.map(lambda got, want: np.testing.assert_allclose(got.mean(0), want, atol=1e-9), gradients, gradient)


def test_paper_size():
    image = jax.ShapeDtypeStruct((1, 80, 80, 1), jnp.float32)
    variables = jax.eval_shape(lambda key, y: init(UNet(), key, y), jax.random.key(0), image)
    sizes = [(path[-1].key, math.prod(leaf.shape)) for path, leaf in jax.tree_util.tree_leaves_with_path(variables)]
    assert sum(size for name, size in sizes if name != "running_sd") == 7_659_264
    assert sum(size for name, size in sizes if name == "gain") == 2_688
    assert sum(size for name, size in sizes if name == "running_sd") == 2_688


def extent(network, size):
    """Height and width of the part of the input that moves one output pixel, by propagating positive weights."""
    y = jnp.ones((1, size, size, network.channels))
    variables = init(network, jax.random.key(0), y)
    positive = Variables(jax.tree.map(jnp.ones_like, variables.params), variables.stats)
    centre = jax.grad(lambda y: run(network, positive, y)[0][0, size // 2, size // 2, 0])(y)[0, ..., 0]
    return tuple(int((centre.sum(axis) > 0).sum()) for axis in (1, 0))


@pytest.mark.parametrize("field", RECEPTIVE_FIELDS)
def test_receptive_field_of_the_cnn(field):
    assert extent(BFCNNRF(num_kernels=1, receptive_field=field, gain_init="unit"), 51) == (field, field)


def test_receptive_field_of_the_unet():
    assert extent(UNet(num_kernels=1, num_blocks=1, gain_init="unit"), 32) == (18, 18)
    assert extent(UNet(num_kernels=1, num_blocks=2, gain_init="unit"), 64) == (44, 44)


def test_convolutions_against_plain_loops():
    rng = np.random.default_rng(0)
    x, kernel, stretch = (rng.normal(size=s).astype(np.float32) for s in ((2, 4, 6, 3), (3, 3, 3, 5), (2, 2, 3, 5)))
    want = np.zeros((2, 4, 6, 5))
    for n, o, c in np.ndindex(2, 5, 3):
        want[n, ..., o] += scipy.signal.correlate2d(x[n, ..., c], kernel[..., c, o], mode="same")
    np.testing.assert_allclose(convolve(x, kernel), want, atol=1e-5)

    want = np.zeros((2, 8, 12, 5))
    for i, j, a, b in np.ndindex(4, 6, 2, 2):
        want[:, 2 * i + a, 2 * j + b] = x[:, i, j] @ stretch[a, b]
    np.testing.assert_allclose(double(x, stretch), want, atol=1e-5)

    want = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    np.testing.assert_allclose(halve(jnp.asarray(x)), want, atol=1e-6)


@two_networks
def test_remat_changes_memory_not_numbers(network):
    variables, y = setting(network)

    def loss(network, params, frozen):
        return jnp.square(apply(network, Variables(params, variables.stats), y, train=True, frozen=frozen)[0]).sum()

    saving = network.clone(remat=True)
    jaxpr = str(jax.make_jaxpr(jax.grad(functools.partial(loss, saving)))(variables.params, False))
    assert jaxpr.count("remat") >= 3
    drawn = init(saving, jax.random.key(1), y)
    jax.tree.map(np.testing.assert_array_equal, drawn, init(network, jax.random.key(1), y))
    gradient = jax.jit(jax.grad(loss, argnums=1), static_argnums=0)
    got, want = (gradient(n, variables.params, jnp.array(False)) for n in (saving, network))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max()), got, want)


def test_half_precision_keeps_parameters_and_fine_noise():
    network = UNet(num_kernels=8, num_blocks=1, gain_init="unit")
    y = 0.6 + 2 / 255 * jax.random.normal(jax.random.key(0), (2, 16, 16, 1))
    variables = init(network.clone(dtype=jnp.bfloat16), jax.random.key(1), y)
    # A first layer that sees no mean, as one that estimates noise.
    kernel = variables.params["encoder_0"]["conv_0"]["kernel"]
    variables.params["encoder_0"]["conv_0"]["kernel"] = kernel - kernel.mean((0, 1))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    half, stats = run(network.clone(dtype=jnp.bfloat16), variables, y, train=True)
    full, _ = run(network, variables, y, train=True)
    assert half.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(stats)} == {jnp.dtype("float32")}
    # bfloat16 resolves 0.6 to 1/512, half the noise here: an input rounded to it would leave an error of 10 %.
    error = jnp.linalg.norm(half - full) / jnp.linalg.norm(full)
    assert 1e-4 < error < 0.015


def test_initial_weights():
    y = jnp.zeros((1, 8, 8, 1))
    network = UNet(num_kernels=32, num_blocks=2)
    params = init(network, jax.random.key(3), y).params
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        size = leaf.shape[0] * leaf.shape[1] if leaf.ndim == 4 else 0
        block, name = path[0].key, path[-1].key
        if name == "gain":
            want = 2 / 576
        else:
            want = math.sqrt(2 / (size * leaf.shape[3 if block.startswith("upsample") else 2]))
        assert float(np.std(leaf)) == pytest.approx(want, rel=5 / math.sqrt(2 * leaf.size))
        assert abs(float(np.mean(leaf))) < 5 * want / math.sqrt(leaf.size)
    unit = init(network.clone(gain_init="unit"), jax.random.key(3), y).params
    assert all(np.all(leaf == 1) for path, leaf in jax.tree_util.tree_leaves_with_path(unit) if path[-1].key == "gain")


def test_flax_own_initialisation_has_the_same_distribution():
    network, y = BFCNN(num_kernels=16, num_layers=3), jnp.zeros((1, 4, 4, 1))
    theirs = jax.jit(network.init)(jax.random.key(0), y)
    ours = init(network, jax.random.key(0), y)
    assert jax.tree.structure(theirs["params"]) == jax.tree.structure(ours.params)
    jax.tree.map(np.testing.assert_array_equal, theirs["stats"], ours.stats)
    for a, b in zip(jax.tree.leaves(theirs["params"]), jax.tree.leaves(ours.params), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert float(np.std(a)) == pytest.approx(float(np.std(b)), rel=5 * math.sqrt(2 / a.size))


def test_first_layer_linear_is_linear():
    y = jnp.ones((1, 4, 4, 1))
    for linear in (True, False):
        network = BFCNN(num_kernels=2, num_layers=2, first_layer_linear=linear)
        variables = init(network, jax.random.key(0), y)
        odd = np.allclose(run(network, variables, -y)[0], -run(network, variables, y)[0], atol=1e-6)
        assert odd == linear


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        (UNet(num_kernels=2), (1, 12, 16, 1), "y: expected height and width divisible by 8, got 12x16"),
        (UNet(num_kernels=2), (1, 16, 16, 3), r"y: expected \[B, H, W, 1\], got \[1, 16, 16, 3\]"),
        (BFCNN(num_kernels=2), (16, 16, 1), r"y: expected \[B, H, W, 1\]"),
        (BFCNNRF(num_kernels=2, conditional=True), (1, 8, 8, 3), r"y: expected \[B, H, W, 4\]"),
        (
            BFCNNRF(num_kernels=2, receptive_field=7),
            (1, 8, 8, 1),
            "receptive_field: expected one of 5, 9, 13, 23, 43, got 7",
        ),
        (BFCNN(gain_init="one"), (1, 8, 8, 1), 'gain_init: expected "released" or "unit", got \'one\''),
    ],
)
def test_mistakes_are_named(network, shape, message):
    with pytest.raises(InputError, match=message):
        init(network, jax.random.key(0), jnp.zeros(shape))


def test_nine_pixels_are_the_released_eight():
    assert kernel_sizes(9) == kernel_sizes(8)
    assert [layer for layer, size in enumerate(kernel_sizes(9)) if size == 3] == [0, 8, 16, 20]


def gradients(network, variables, y):
    """Returns loss, gradients and updated statistics of a training pass, compiled."""

    def loss(params):
        residual, stats = apply(network, Variables(params, variables.stats), y, train=True)
        return jnp.square(residual).sum(), stats

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables.params)


@two_networks
def test_recomputing_activations_changes_no_value(network):
    variables, y = setting(network)
    (loss, stats), grads = gradients(network, variables, y)
    (loss_r, stats_r), grads_r = gradients(network.clone(remat=True), variables, y)
    assert float(loss_r) == pytest.approx(float(loss), rel=1e-5)
    for got, want in zip(jax.tree.leaves((grads_r, stats_r)), jax.tree.leaves((grads, stats)), strict=True):
        assert rel(got, want) < 1e-4
    recomputed = jax.make_jaxpr(lambda v: gradients(network.clone(remat=True), v, y))(variables)
    assert "remat" in str(recomputed) or "checkpoint" in str(recomputed)


@two_networks
def test_half_the_bits_come_close_with_parameters_and_statistics_in_float32(network):
    variables, y = setting(network)
    half = network.clone(dtype=jnp.bfloat16)
    full, coarse = run(network, variables, y)[0], run(half, variables, y)[0]
    # bfloat16 has 8 bits of mantissa: an error of some 2^-8 per layer, and one that is really there.
    assert 1e-5 < rel(coarse, full) < 0.03
    assert coarse.dtype == jnp.float32
    (_, stats), grads = gradients(half, variables, y)
    (_, _), grads_full = gradients(network, variables, y)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((grads, stats, init(half, jax.random.key(0), y))))
    # Single entries of so small a network move by tenths where rectifiers flip; a step takes the whole direction.
    got, want = (jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(each)]) for each in (grads, grads_full))
    assert 0.99 < jnp.vdot(got, want) / (jnp.linalg.norm(got) * jnp.linalg.norm(want)) < 1 - 1e-7
    assert float(jnp.linalg.norm(got)) == pytest.approx(float(jnp.linalg.norm(want)), rel=0.05)
