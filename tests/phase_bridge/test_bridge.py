"""The bridge's closed forms against integrated moment equations, against each other, and in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from common.errors import InputError
from phase_bridge import bridge
from phase_bridge.bridge import Bridge
from phase_bridge.conditioning import stroke

BRIDGES = st.builds(
    Bridge,
    p=st.floats(0.5, 6),
    correlation=st.floats(-0.95, 0.95),
    varx=st.floats(0.2, 5),
    varv=st.floats(0.2, 12),
)
TIMES = np.array([0, 1e-5, 1e-3, 0.01, 0.1, 0.25, 0.4, 0.5, 0.632, 0.75, 0.9, 0.99, 0.999, 0.9999])
PUBLISHED = Bridge()


def integrated_moments(b, times):
    """Integrates the moments of (x, v) given x1 = 1 under the control, with Var(v | x) by its own equation."""

    def slope(t, y):
        c_x, c_v, xx, xv, vv, rest = y
        s = 1 - t
        on_x, on_v, noise = -4 / s**2, -4 / s, (b.p * s) ** 2
        return [
            c_v,
            on_x * (c_x - 1) + on_v * c_v,
            2 * xv,
            vv + on_x * xx + on_v * xv,
            2 * (on_x * xv + on_v * vv) + noise,
            2 * (on_v - xv / xx) * rest + noise,
        ]

    c = b.correlation * np.sqrt(b.varx * b.varv)
    start = [0, 0, b.varx, c, b.varv, b.varv * (1 - b.correlation**2)]
    return solve_ivp(slope, (0, times[-1]), start, "DOP853", t_eval=times, rtol=1e-13, atol=1e-20).y


@settings(max_examples=25, deadline=None)
@given(b=BRIDGES)
@example(b=PUBLISHED)
@example(b=Bridge(2, 0.99, 1, 12))
def test_closed_forms_equal_the_integrated_moments(b):
    times = TIMES[TIMES < 0.9995]
    c_x, c_v, xx, xv, vv, rest = integrated_moments(b, times)
    got = bridge.covariance(b, times)
    spread = np.sqrt(xx * vv)
    np.testing.assert_allclose(bridge.mean_coefficients(b, times), [c_x, c_v], rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(got[0], xx, rtol=1e-9)
    np.testing.assert_allclose(got[2], vv, rtol=1e-9)
    np.testing.assert_allclose(got[1] / spread, xv / spread, rtol=0, atol=1e-9)
    np.testing.assert_allclose(bridge.cholesky(b, times)[2] ** 2, rest, rtol=1e-9)
    np.testing.assert_allclose(bridge.score_coefficient(b, times), -1 / np.sqrt(rest), rtol=1e-9)


@settings(max_examples=15, deadline=None)
@given(b=BRIDGES, x0=st.floats(-3, 3), v0=st.floats(-3, 3), x1=st.floats(-3, 3))
def test_mean_follows_the_control_from_any_start(b, x0, v0, x1):
    def slope(t, m):
        return [m[1], bridge.control(b, m, np.array([x1]), t)[0]]

    times = TIMES[(TIMES > 0) & (TIMES < 0.9995)]
    want = solve_ivp(slope, (0, times[-1]), [x0, v0], "DOP853", t_eval=times, rtol=1e-12, atol=1e-13).y
    got = bridge.mean(b, times, np.full(len(times), x0), np.full(len(times), v0), np.full(len(times), x1))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-9 * (1 + abs(x0) + abs(v0) + abs(x1)))


@settings(max_examples=40, deadline=None)
@given(p=st.floats(0.5, 6), correlation=st.floats(-0.8, 0.8), varx=st.floats(0.5, 4), varv=st.floats(0.5, 4))
@example(p=3.0, correlation=-0.2, varx=1.0, varv=1.0)
@example(p=2.875, correlation=-0.78125, varx=1.0, varv=4.0)
@example(p=4.0, correlation=-0.75, varx=2.0, varv=4.0)
def test_float32_keeps_six_digits(p, correlation, varx, varv):
    b, t = Bridge(p, correlation, varx, varv), TIMES.astype(np.float32)
    t = np.concatenate([t, np.float32([0.99999])])
    quantities = {
        "covariance": lambda t: bridge.covariance(b, t)[0::2],
        "cholesky": lambda t: bridge.cholesky(b, t)[0::2],
        "mean": lambda t: bridge.mean_coefficients(b, t),
        "sde": lambda t: bridge.force_scale(b, t, kind="sde"),
        "published": lambda t: bridge.force_scale(b, t, kind="ode"),
        "consistent": lambda t: bridge.force_scale(b, t, kind="ode", sign=-1),
        "estimate": lambda t: bridge.estimate_coefficients(b, t, kind="ode")[:2],
    }
    for name, quantity in quantities.items():
        # The float32 number of each time is the time: what is asked is what the formulas lose, not its rounding.
        want, got = np.asarray(quantity(t.astype(float))), np.asarray(quantity(jnp.asarray(t)))
        assert got.dtype == np.float32
        if name == "estimate":
            # That of the velocity changes sign, where digits are those of the estimate: beside the other coefficient.
            # Strong noise makes both differences of far larger terms: five digits; the published bridge keeps all.
            size, atol = np.abs(want).max(0), 2e-7 if b == Bridge(3.0, -0.2, 1.0, 1.0) else 1e-5
            np.testing.assert_allclose(got / size, want / size, rtol=2e-6, atol=atol, err_msg=name)
        elif name == "consistent":
            # Both its parts nearly vanish at once for a few bridges: beside the published one, 2.5 times as large.
            size = bridge.force_scale(b, t.astype(float), kind="ode")
            np.testing.assert_allclose(got / size, want / size, rtol=0, atol=4e-7, err_msg=name)
        else:
            np.testing.assert_allclose(got, want, rtol=1e-6, err_msg=name)
    spread = np.sqrt(np.prod(bridge.covariance(b, t.astype(float))[0::2], axis=0))
    off = bridge.covariance(b, jnp.asarray(t))[1] - bridge.covariance(b, t.astype(float))[1]
    assert np.abs(off / spread).max() < 1e-6


@settings(max_examples=25, deadline=None)
@given(b=BRIDGES, kind=st.sampled_from(bridge.KINDS), seed=st.integers(0, 999))
def test_data_estimate_inverts_the_force(b, kind, seed):
    rng = np.random.default_rng(seed)
    x1, noise = rng.normal(size=(len(TIMES), 3)), rng.normal(size=(len(TIMES), 6))
    m = b.perturb(x1, noise, TIMES)
    f = bridge.force(b, x1, noise, TIMES, kind=kind)
    np.testing.assert_allclose(bridge.data_estimate(b, m, f, TIMES, kind=kind), x1, rtol=0, atol=1e-9)
    size = np.abs(f).max(-1, keepdims=True) + 4 / (1 - TIMES[:, None]) ** 2
    back = bridge.force_from_data(b, m, x1, TIMES, kind=kind)
    np.testing.assert_allclose(back / size, f / size, rtol=0, atol=1e-13)
    if kind == "sde":
        np.testing.assert_allclose(bridge.control(b, m, x1, TIMES) / size, f / size, rtol=0, atol=1e-13)
    z = bridge.force_scale(b, TIMES, kind=kind)[:, None]
    scaled = bridge.target(b, x1, noise, TIMES, kind=kind)
    np.testing.assert_allclose(scaled * z, f, rtol=1e-12)


@settings(max_examples=25, deadline=None)
@given(b=BRIDGES, kind=st.sampled_from(bridge.KINDS))
def test_force_scale_is_the_spread_of_the_noise(b, kind):
    ones, nothing = np.ones((len(TIMES), 1)), np.zeros((len(TIMES), 1))
    along_x = bridge.force(b, nothing, np.concatenate([ones, nothing], 1), TIMES, kind=kind)
    along_v = bridge.force(b, nothing, np.concatenate([nothing, ones], 1), TIMES, kind=kind)
    z = bridge.force_scale(b, TIMES, kind=kind, sign=-1)
    np.testing.assert_allclose(np.hypot(along_x, along_v)[:, 0], z * (1 - TIMES), rtol=1e-11)
    if kind == "ode":
        score = bridge.diffusion(b, TIMES) ** 2 / 2 * bridge.score_coefficient(b, TIMES)
        drift = bridge.force(b, nothing, np.concatenate([nothing, ones], 1), TIMES, kind="sde")[:, 0]
        np.testing.assert_allclose(along_v[:, 0], drift - score, rtol=1e-9)
        published = bridge.force_scale(b, TIMES, kind="ode")
        want = np.hypot(along_x[:, 0], drift + score) / (1 - TIMES)
        np.testing.assert_allclose(published, want, rtol=1e-9)


def test_limits_of_the_published_bridge():
    assert bridge.force_scale(PUBLISHED, 0.0, kind="sde") == pytest.approx(4 * np.sqrt(1.6), rel=1e-14)
    published = 4 * np.sqrt(1.6 + 9 / 4 + 81 / (64 * 0.96))
    assert bridge.force_scale(PUBLISHED, 0.0, kind="ode") == pytest.approx(published, rel=1e-14)
    s = 1e-8
    limits = {("sde", 1): 12, ("ode", 1): 16.5, ("ode", -1): 7.5}
    for (kind, sign), limit in limits.items():
        z = bridge.force_scale(PUBLISHED, 1 - s, kind=kind, sign=sign)
        assert z * np.sqrt(s) == pytest.approx(limit / np.sqrt(3), rel=1e-6)
    assert bridge.covariance(PUBLISHED, 0.0) == pytest.approx((1, -0.2, 1), rel=1e-14)
    assert (1 - 0.41) ** 2 / bridge.estimate_coefficients(PUBLISHED, 0.41, kind="ode")[0] == pytest.approx(
        2.34, abs=5e-3
    )


def test_draws_have_the_moments():
    b, n = Bridge(2.0, 0.4, 1.5, 3.0), 200_000
    m = b.perturb(jnp.full((n, 1), 0.7), jax.random.normal(jax.random.key(0), (n, 2)), 0.3)
    x, v = np.asarray(m, float).T
    xx, xv, vv = bridge.covariance(b, 0.3)
    c_x, c_v = bridge.mean_coefficients(b, 0.3)
    assert x.mean() == pytest.approx(0.7 * c_x, abs=5 * np.sqrt(xx / n))
    assert v.mean() == pytest.approx(0.7 * c_v, abs=5 * np.sqrt(vv / n))
    error = 5 * np.sqrt(2 / n)
    np.testing.assert_allclose(np.cov(x, v)[[0, 0, 1], [0, 1, 1]], [xx, xv, vv], rtol=0, atol=error * max(xx, vv))
    x, v = np.asarray(b.prior(jax.random.key(1), (n, 1)), float).T
    want = [b.varx, b.correlation * np.sqrt(b.varx * b.varv), b.varv]
    np.testing.assert_allclose(np.cov(x, v)[[0, 0, 1], [0, 1, 1]], want, rtol=0, atol=error * b.varv)


def test_velocity_given_position_is_the_regression_of_the_joint_draw():
    t, x1 = np.array([0.2, 0.6, 0.95]), np.array([[0.5], [-1.0], [0.3]])
    noise = np.random.default_rng(0).normal(size=(3, 2))
    m = PUBLISHED.perturb(x1, noise, t)
    _, c_x, c_v, slope, std = stroke(np.zeros((1, 1)), fraction=1.0).rows(PUBLISHED, t).T[..., None]
    got = c_v * x1 + slope * (m[:, :1] - c_x * x1) + std * noise[:, 1:]
    np.testing.assert_allclose(m[:, 1:], got, rtol=1e-12)


def test_one_key_a_sample_makes_draws_independent_of_the_batch():
    keys = jax.random.split(jax.random.key(0), 6)
    whole = PUBLISHED.prior(keys, (6, 4, 4, 3))
    assert whole.shape == (6, 4, 4, 6)
    np.testing.assert_array_equal(whole[2:5], PUBLISHED.prior(keys[2:5], (3, 4, 4, 3)))


def test_a_time_on_the_host_is_not_rounded_to_float32():
    x1, t = jnp.ones((2, 3)), 0.9999
    got = bridge.force(PUBLISHED, x1, jnp.ones((2, 6)), t, kind="ode")
    want = bridge.force(PUBLISHED, np.ones((2, 3)), np.ones((2, 6)), t, kind="ode")
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=3e-7)
    traced = jax.jit(lambda t: bridge.force(PUBLISHED, x1, jnp.ones((2, 6)), t, kind="ode"))
    np.testing.assert_allclose(traced(jnp.float32(t)), want, rtol=1e-3)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"p": 0}, "bridge.p: expected a positive number, at most 1e[+]06, got 0"),
        ({"varx": -1.0}, "bridge.varx: expected a positive number"),
        ({"varv": float("nan")}, "bridge.varv: expected a finite number"),
        ({"correlation": 1.0}, "bridge.correlation: expected a number between -1 and 1"),
        ({"correlation": "-0.2"}, "bridge.correlation: expected a finite number"),
    ],
)
def test_impossible_bridges_are_refused(numbers, message):
    with pytest.raises(InputError, match=message):
        Bridge(**numbers)


def test_unknown_kinds_are_refused():
    with pytest.raises(InputError, match='kind: expected one of "sde", "ode", got "od"; did you mean "ode"?'):
        bridge.force_scale(PUBLISHED, 0.5, kind="od")
