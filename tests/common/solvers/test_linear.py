"""The loop over a table of numbers against the same arithmetic written out, and the weights of multistep rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from common.solvers import linear
from common.solvers.grids import power, uniform
from common.solvers.linear import Steps
from common.solvers.multistep import adaptive, gauss_legendre, lagrange, tails, weights
from common.solvers.runge_kutta import RK4, integrate


def random_steps(rng, n=5, k=2, q=3, c=2):
    draw = rng.normal
    return Steps(
        times=np.sort(rng.uniform(size=n)),
        history=draw(size=(n, 1 + k)),
        estimate=draw(size=(n, 1 + k)),
        transition=draw(size=(n, k, k)),
        weights=draw(size=(n, q, k)),
        noise=draw(size=(n, k, c)),
        before=draw(size=(n, k, k)),
        before_noise=draw(size=(n, k, 1)),
    )


def test_the_loop_does_what_it_says():
    rng = np.random.default_rng(0)
    steps, m, z = random_steps(rng), rng.normal(size=(4, 3, 6)), rng.normal(size=(5, 2, 4, 3, 6))

    def field(m, t):
        return jnp.sin(m[..., :3]) * t + m[..., 3:]

    def noise(keys, n, which, like):
        return jnp.asarray(z)[n, which][..., : like.shape[-1]]

    with jax.enable_x64(True):
        got = jax.jit(linear.run, static_argnames=("field", "noise", "store_states", "store_estimates"))(
            field, steps, None, jnp.asarray(m), noise=noise, store_states=True, store_estimates=True
        )
    past, states = [np.zeros((4, 3, 3))] * 3, [m]
    for n, t in enumerate(steps.times):
        parts = m.reshape(4, 3, 2, 3)
        parts = np.einsum("ij,abjc->abic", steps.before[n], parts)
        parts += np.einsum("ij,abjc->abic", steps.before_noise[n], z[n, 0][..., :3].reshape(4, 3, 1, 3))
        seen = np.concatenate([np.asarray(field(parts.reshape(4, 3, 6), t))[:, :, None], parts], 2)
        past = [np.einsum("j,abjc->abc", steps.history[n], seen), *past[:-1]]
        estimate = np.einsum("j,abjc->abc", steps.estimate[n], seen)
        parts = np.einsum("ij,abjc->abic", steps.transition[n], parts)
        parts += np.einsum("jk,jabc->abkc", steps.weights[n], np.stack(past))
        parts += np.einsum("ij,abjc->abic", steps.noise[n], z[n, 1].reshape(4, 3, 2, 3))
        m = parts.reshape(4, 3, 6)
        states.append(m)
        np.testing.assert_allclose(got.estimates[n], estimate, rtol=1e-5, atol=1e-5 * np.abs(estimate).max())
    np.testing.assert_allclose(got.states, states, rtol=1e-5, atol=1e-5 * np.abs(states).max())
    np.testing.assert_array_equal(got.state, got.states[-1])
    np.testing.assert_array_equal(got.estimate, got.estimates[-1])


def test_noise_of_a_sample_does_not_depend_on_the_batch():
    keys, like = jax.random.split(jax.random.key(0), 5), jax.ShapeDtypeStruct((5, 2, 4), jnp.float32)
    whole = linear.normal_noise(keys, 3, 1, like)
    part = linear.normal_noise(keys[2:4], 3, 1, jax.ShapeDtypeStruct((2, 2, 4), jnp.float32))
    np.testing.assert_array_equal(whole[2:4], part)
    others = [linear.normal_noise(keys, *at, like) for at in ((3, 0), (4, 1), (1, 3))]
    assert all((whole != other).any() for other in others)


def test_keep_last_leaves_the_state_of_the_last_evaluation():
    steps = linear.keep_last(random_steps(np.random.default_rng(1)))
    field = lambda m, t: m[..., :2]  # noqa: E731
    seen = linear.run(field, steps._replace(before=None, before_noise=None), jax.random.split(jax.random.key(0), 3),
                      jnp.ones((3, 4)), store_states=True)  # fmt: skip
    np.testing.assert_array_equal(seen.states[-1], seen.states[-2])


def test_tables_are_checked():
    steps = random_steps(np.random.default_rng(2))
    with pytest.raises(InputError, match=r"steps.noise: expected finite numbers, got row 2 is not"):
        spoiled = steps.noise.copy()
        spoiled[2] = np.inf
        linear.check(steps._replace(noise=spoiled))
    with pytest.raises(InputError, match=r"steps.weights: expected 5 rows, got 4"):
        linear.check(steps._replace(weights=steps.weights[:4]))


def test_quadrature_is_exact_for_polynomials():
    nodes, shares = gauss_legendre([0.0, 1.0], [2.0, 0.5], 5)
    np.testing.assert_allclose(np.sum(nodes**9 * shares, -1), [2**10 / 10, (0.5**10 - 1) / 10], rtol=1e-13)
    points, at = np.array([0.1, 0.5, 0.7]), np.linspace(0, 1, 5)
    np.testing.assert_allclose((points**2) @ lagrange(points, at), at**2, atol=1e-14)


def adams_bashforth(t, end, order, corrector):
    """Returns the rule for dx/dt = F(x, t): k = 1, nothing but the field is remembered."""
    nodes, shares = gauss_legendre(t, end, 8)
    count, one = len(t), np.ones((len(t), 1, 1))
    rows = np.broadcast_to([1.0, 0.0], (count, 2))
    found = weights(t, nodes, shares[..., None], order=order, corrector=corrector, transition=one)
    return Steps(t, rows, rows, one, found)


def test_weights_are_those_of_adams_and_bashforth():
    t = uniform(0, 1, 10)
    steps = adams_bashforth(t[:-1], t[1:], 2, False)
    np.testing.assert_allclose(steps.weights[5, :, 0] / 0.1, [23 / 12, -16 / 12, 5 / 12], rtol=1e-12)
    np.testing.assert_allclose(steps.weights[0, :, 0] / 0.1, [1, 0, 0], atol=1e-14)
    # Mended by Adams-Moulton: (5, 8, -1)/12 in place of (3, -1)/2 in the step before, then (3, -1)/2 itself.
    mended = adams_bashforth(t[:-1], t[1:], 1, True).weights[5, :, 0] / 0.1
    np.testing.assert_allclose(mended, [3 / 2 + 5 / 12, -1 / 2 + 8 / 12 - 3 / 2, -1 / 12 + 1 / 2], rtol=1e-12)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("corrector", [False, True])
def test_measured_order_of_multistep_rules(order, corrector):
    def field(x, t):
        return -2 * x**2 + jnp.cos(2 * t)

    errors = []
    with jax.enable_x64(True):
        x = jnp.array([[1.0], [0.2]])
        exact, _ = integrate(field, x, uniform(0, 1, 2000), rule=RK4)
        for n in (160, 320):
            # Steps grow from nothing, so the first ones, of low order, do no harm.
            t = power(0, 1, n, order=2)
            steps = adams_bashforth(t[:-1], t[1:], order, corrector)
            errors.append(np.abs(linear.run(field, steps, None, x).state - exact).max())
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order + 1 + corrector, abs=0.15)


def test_weights_are_checked():
    with pytest.raises(InputError, match="order: expected a whole number"):
        adams_bashforth(np.array([0.0]), np.array([1.0]), -1, False)
    with pytest.raises(InputError, match="corrector: expected no step of length zero"):
        adams_bashforth(np.array([0.0, 0.0]), np.array([0.0, 1.0]), 1, True)


@pytest.mark.parametrize("distance", [1.0, 1e-3, 1e-8])
def test_adaptive_quadrature_near_a_singularity(distance):
    lower, upper = np.array([0.0, 0.5]), np.array([2.0, 0.6])
    nodes, weights = adaptive(lambda x: 1 / np.sqrt(x + distance), lower, upper)
    values = 1 / np.sqrt(nodes + distance)
    want = 2 * (np.sqrt(upper + distance) - np.sqrt(lower + distance))
    np.testing.assert_allclose((values * weights).sum(-1), want, rtol=1e-12)
    want = 2 * (np.sqrt(upper + distance)[:, None] - np.sqrt(nodes + distance))
    np.testing.assert_allclose(tails(values, weights), want, rtol=0, atol=1e-12)
