"""Tables of the samplers: exact for data that are one point, and semigroups of the bridge's own moments."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from common.solvers.multistep import gauss_legendre, lagrange
from phase_bridge import bridge as bridges
from phase_bridge import phase_solvers as phase
from phase_bridge import released
from phase_bridge.bridge import Bridge
from phase_bridge.processes import CLD
from phase_bridge.solvers import make_steps

BRIDGES = st.builds(
    Bridge, p=st.floats(1, 5), correlation=st.floats(-0.8, 0.8), varx=st.floats(0.5, 3), varv=st.floats(0.5, 5)
)
TIMES = st.lists(st.floats(0, 0.999), min_size=2, max_size=7, unique=True).map(sorted)


# As unlike the published one as can be: the variance of the velocity may grow tenfold within 1e-4 of t = 0.
ANY_BRIDGE = st.builds(
    Bridge, p=st.floats(0.1, 15), correlation=st.floats(-0.95, 0.95), varx=st.floats(0.01, 20), varv=st.floats(0.01, 20)
)


def spread_out(times):
    """Keeps times that are 1e-4 apart in 1 - t, relatively: nobody takes steps of nothing."""
    kept = [times[0]]
    for t in times[1:]:
        if (1 - t) < (1 - kept[-1]) * (1 - 1e-4):
            kept.append(t)
    return np.array(kept if len(kept) > 1 else [times[0], (1 + times[0]) / 2])


def sigma(b, t):
    xx, xv, vv = bridges.covariance(b, t)
    return np.array([[xx, xv], [xv, vv]])


@settings(max_examples=25, deadline=None)
@given(b=BRIDGES, times=TIMES, kind=st.sampled_from(bridges.KINDS), order=st.integers(0, 3), corrector=st.booleans())
def test_data_rule_is_exact_where_the_data_are_one_point(b, times, kind, order, corrector):
    times = spread_out(times)
    make = phase.data_multistep if kind == "ode" else phase.data_multistep_sde
    steps = make(b, times[:-1], times[1:], degree=order, corrector=corrector)
    mean = np.stack(bridges.mean_coefficients(b, times), -1)
    want = mean[1:] - np.einsum("nij,nj->ni", steps.transition, mean[:-1])
    size = 1 + np.abs(steps.weights).sum(1)
    np.testing.assert_allclose(steps.weights.sum(1) / size, want / size, atol=1e-11)
    for n, transition in enumerate(steps.transition):
        after = transition @ sigma(b, times[n]) @ transition.T
        if kind == "sde":
            after += steps.noise[n] @ steps.noise[n].T
        want = sigma(b, times[n + 1])
        unit = np.sqrt(np.outer(np.diag(want), np.diag(want)))
        np.testing.assert_allclose(after / unit, want / unit, atol=1e-10)


@settings(max_examples=15, deadline=None)
@given(
    b=ANY_BRIDGE,
    times=st.sampled_from([[1e-5, 0.9], [1e-5, 0.4, 0.999], [0.0, 0.01, 0.02, 0.5, 0.8], [0.3, 0.95, 0.999]]),
    order=st.integers(0, 3),
    sign=st.sampled_from((1, -1)),
)
@example(Bridge(15.0, -0.93, 0.0114, 0.0084), [1e-5, 0.9], 0, -1)
@example(Bridge(8.5, -0.92, 2.3, 0.0275), [1e-5, 0.4, 0.999], 3, 1)
@example(Bridge(1.0, 0.8, 1.0, 10.0), [1e-5, 0.4, 0.999], 3, -1)
def test_weights_of_the_exponential_rule_equal_integrals(b, times, order, sign):
    times = np.array(times)
    t, end = times[:-1], times[1:]
    steps = released.gddim(b, t, end, degree=order, sign=sign)
    for n in range(len(t)):
        past = t[n - min(n, order) : n + 1][::-1]
        # 20 nodes on pieces that become small towards both ends, between which z has no singularity nearby.
        small = 2.0 ** np.arange(-40, 0)
        fractions = np.unique(np.concatenate([[0, 1], small, 1 - small, np.linspace(0, 1, 65)]))
        edges = t[n] + (end[n] - t[n]) * fractions
        tau, shares = gauss_legendre(edges[:-1], edges[1:], 20)
        tau, shares = tau.ravel(), shares.ravel()
        z = bridges.force_scale(b, tau, kind="ode", sign=sign) * shares
        polynomials = lagrange(past, tau)
        want = np.stack([polynomials @ ((end[n] - tau) * z), polynomials @ z], -1)
        size = np.abs(want).sum(0)
        np.testing.assert_allclose(steps.weights[n, : len(past)] / size, want / size, rtol=0, atol=2e-12)
        np.testing.assert_array_equal(steps.weights[n, len(past) :], 0)


@settings(max_examples=15, deadline=None)
@given(b=ANY_BRIDGE, order=st.integers(0, 2))
@example(Bridge(15.0, -0.93, 0.0114, 0.0084), 0)
def test_data_rule_is_exact_for_one_point_with_any_bridge(b, order):
    times = np.array([0.0, 0.4, 0.8, 0.999])
    steps = phase.data_multistep(b, times[:-1], times[1:], degree=order)
    mean = np.stack(bridges.mean_coefficients(b, times), -1)
    parts = np.einsum("nij,nj->nij", steps.transition, mean[:-1])
    want = mean[1:] - parts.sum(-1)
    size = 1 + np.abs(steps.weights).sum(1) + np.abs(parts).sum(-1)
    np.testing.assert_allclose(steps.weights.sum(1) / size, want / size, rtol=0, atol=1e-11)


@pytest.mark.parametrize("span", [(0, 0.3), (0.3, 0.9), (0.4, 0.999), (0.99, 0.992), (0.5, 0.5)])
def test_flow_of_the_ode_equals_its_integration(span):
    b = Bridge(2.0, 0.4, 1.5, 3.0)

    def slope(t, columns):
        e_f, e_x, e_v = bridges.estimate_coefficients(b, t, kind="ode")
        return (np.array([[0, 1], [-e_x / e_f, -e_v / e_f]]) @ columns.reshape(2, 2)).ravel()

    want = solve_ivp(slope, span, np.eye(2).ravel(), "DOP853", rtol=1e-12, atol=1e-13).y[:, -1].reshape(2, 2)
    np.testing.assert_allclose(phase.flow_between(b, *span), want, rtol=0, atol=1e-10 * np.abs(want).max())


@pytest.mark.parametrize("published", [False, True])
def test_noise_of_free_flight_equals_its_integrals(published):
    b, t, h = Bridge(p=2.5), np.array([0.0, 0.4, 0.9]), np.array([0.1, 0.02, 0.08])
    shares = (np.arange(20_000) + 0.5) / 20_000
    for i, moments in enumerate(zip(*(released if published else phase).flight_covariance(b, t, h), strict=True)):
        u = shares * h[i]
        g2 = (b.p * ((1 - t[i]) * (1 - u) if published else 1 - t[i] - u)) ** 2
        want = [np.mean((h[i] - u) ** power * g2) * h[i] for power in (2, 1, 0)]
        np.testing.assert_allclose(moments, want, rtol=1e-7)


def test_a_step_of_nothing_does_nothing():
    t = np.array([0.2, 0.999])
    for make in (phase.euler_maruyama, phase.splitting):
        steps = make(Bridge(), t, t)
        np.testing.assert_array_equal(steps.transition, np.broadcast_to(np.eye(2), (2, 2, 2)))
        np.testing.assert_array_equal(steps.weights, 0)
        np.testing.assert_array_equal(steps.noise, 0)
    steps = phase.data_multistep_sde(Bridge(), t, t, degree=0)
    np.testing.assert_allclose(steps.transition, np.broadcast_to(np.eye(2), (2, 2, 2)), atol=1e-15)
    np.testing.assert_array_equal(steps.noise, 0)


def test_over_estimates_gddim_is_the_published_sampler_over_forces():
    """Degree 1 has the published start; its weights of F are those of estimates and states put together."""
    b, times = Bridge(), np.array([1e-5, 0.1, 0.3, 0.6, 0.9])
    t, end = times[:-1], times[1:]
    ours, theirs = phase.gddim(b, t, end, degree=1), released.gddim(b, t, end, degree=1)
    np.testing.assert_allclose(ours.weights, theirs.weights, rtol=1e-12)
    m, x1 = np.array([0.3, -0.4]), 0.7
    for n in range(4):
        force = bridges.force_from_data(b, m[None], np.array([[x1]]), t[n], kind="ode")[0, 0]
        output = force / bridges.force_scale(b, t[n], kind="ode")
        assert ours.history[n] @ [x1, *m] == pytest.approx(output, rel=1e-9)
        assert theirs.estimate[n] @ [output, *m] == pytest.approx(x1, rel=1e-9)


def test_cld_is_exact_for_a_constant_estimate():
    fine = make_steps(CLD(), np.linspace(1.0, 0.2, 33), solver="data_multistep", degree=0)
    coarse = make_steps(CLD(), [1.0, 0.2], solver="data_multistep", degree=2)
    start, x1 = np.array([0.3, -0.2]), 0.8
    m = start
    for row in range(32):
        m = fine.transition[row] @ m + fine.weights[row, 0] * x1
    np.testing.assert_allclose(coarse.transition[0] @ start + coarse.weights[0, 0] * x1, m, rtol=1e-6)
    # Data that are one point: the flow takes the Gaussian about it at one time to that at another.
    np.testing.assert_allclose(
        coarse.transition[0] @ np.array(CLD().mean(1.0)) + coarse.weights[0, 0], CLD().mean(0.2), rtol=1e-6
    )
