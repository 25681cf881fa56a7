"""Paintings and known pixels steer a sampler through the velocity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import phase_bridge
from common.errors import InputError
from phase_bridge import bridge as bridges
from phase_bridge import sampling
from phase_bridge.analytic import field_of_estimate
from phase_bridge.bridge import Bridge
from phase_bridge.conditional import draw_velocity, inpainting, rows, stroke

pytestmark = pytest.mark.usefixtures("quick_compilation")

B, SHAPE = Bridge(), (3, 4, 4, 2)


def constant(x1, m, t):
    return jnp.broadcast_to(x1, (*m.shape[:-1], m.shape[-1] // 2))


def halfway(m, t):
    """Returns the estimate for data that are standard normal."""
    c_x, c_v = bridges.mean_coefficients(B, t)
    xx, xv, vv = bridges.covariance(B, t)
    x, v = bridges.split(m)
    k_xx, k_xv, k_vv = xx + c_x**2, xv + c_x * c_v, vv + c_v**2
    det = k_xx * k_vv - k_xv**2
    return c_x * (k_vv * x - k_xv * v) / det + c_v * (k_xx * v - k_xv * x) / det


def field(estimate, kind="ode"):
    return field_of_estimate(B, estimate, kind=kind)


def picture(seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, SHAPE[1:]), jnp.float32)[None]


def test_the_velocity_is_drawn_before_evaluations_of_the_first_steps():
    guide, key = stroke(picture(), fraction=0.25), jax.random.key(0)
    draws = jax.random.normal(key, (8, *SHAPE))
    seen = []

    def network(m, t):
        jax.debug.callback(lambda m: seen.append(np.asarray(m)), m, ordered=True)
        return 0.1 * bridges.split(m)[0]

    x, info = phase_bridge.sample(
        network, key, SHAPE, nfe=8, last_time=0.8, guide=guide, noise=Partial(_third, draws), store_states=True
    )
    jax.effects_barrier()
    assert info["nfe"] == 8 and len(seen) == 8
    for n, m in enumerate(seen):
        before_x, before_v = bridges.split(info["states"][:, n])
        at_x, at_v = bridges.split(m)
        np.testing.assert_array_equal(at_x, before_x)
        want = before_v
        if n < 2:
            want = draw_velocity(B, before_x, picture(), float(info["times"][n]), draws[n])
        np.testing.assert_allclose(at_v, want, rtol=1e-5, atol=2e-6)


def _third(draws, keys, n, which, like):
    assert which == 2  # nothing else of an ODE is random
    return draws[n]


def test_a_share_of_the_painting_in_the_first_velocity():
    start = jax.random.normal(jax.random.key(1), (*SHAPE[:-1], 2 * SHAPE[-1]))
    guide = stroke(picture(), start=0.1, fraction=0.0)
    _, info = phase_bridge.sample(
        field(halfway), jax.random.key(0), SHAPE, nfe=4, start=start, guide=guide, store_states=True
    )
    x, v = bridges.split(start)
    got_x, got_v = bridges.split(info["states"][:, 0])
    np.testing.assert_array_equal(got_x, x)
    np.testing.assert_allclose(got_v, 0.9 * v + 0.1 * picture(), rtol=1e-6, atol=1e-6)


def test_a_painting_pulls_samples_towards_itself():
    """The more the longer it steers; samples of a model that knows nothing of it do not come near."""
    key, distance = jax.random.key(2), []
    for fraction in (0.0, 0.25, 0.75):
        x, _ = phase_bridge.sample(
            field(halfway), key, (64, *SHAPE[1:]), nfe=20, guide=stroke(picture(), fraction=fraction)
        )
        distance.append(float(jnp.sqrt(jnp.mean((x.mean(0) - picture()) ** 2))))
    assert distance[0] > 0.4
    assert distance[0] > distance[1] > 2 * distance[2]


@pytest.mark.parametrize("kind", bridges.KINDS)
def test_known_pixels_come_back_and_the_rest_is_made(kind):
    known = jnp.zeros((1, 4, 4, 1)).at[:, :2].set(1)
    x, info = phase_bridge.sample(
        field(halfway, kind), jax.random.key(3), (256, *SHAPE[1:]), kind=kind, nfe=40, last_time=0.999, end_time=0.9991,
        guide=inpainting(picture(), known),
    )  # fmt: skip
    assert info["nfe"] == 41
    error = np.asarray(x - picture())
    assert np.abs(error[:, :2]).max() < 0.05
    # Pixels are independent here, so what is known says nothing about the rest.
    assert np.asarray(x)[:, 2:].std(0).min() > 0.3


def test_unknown_pixels_stand_at_the_estimate_of_the_step_before():
    known, draws = jnp.zeros((1, 4, 4, 1)).at[:, :2].set(1), jax.random.normal(jax.random.key(4), (5, *SHAPE))
    seen = []

    def network(m, t):
        jax.debug.callback(lambda m: seen.append(np.asarray(m)), m, ordered=True)
        return 0.2 * bridges.split(m)[1]

    _, info = phase_bridge.sample(
        network, jax.random.key(0), SHAPE, nfe=5, last_time=0.5, guide=inpainting(picture(), known),
        noise=Partial(_third, draws), store_states=True, store_estimates=True,
    )  # fmt: skip
    jax.effects_barrier()
    first, *rest = seen
    np.testing.assert_array_equal(first, info["states"][:, 0])
    t = info["times"]
    f = 0.2 * bridges.split(first)[1] * float(bridges.normaliser(B, t[0], kind="ode"))
    estimate = bridges.data_estimate(B, jnp.asarray(first), f, float(t[0]), kind="ode")
    for n, m in enumerate(rest):
        y = jnp.where(known > 0, picture(), estimate)
        x, _ = bridges.split(info["states"][:, n])
        want = draw_velocity(B, x, y, float(t[n]), draws[n])
        np.testing.assert_allclose(bridges.split(m)[1], want, rtol=1e-4, atol=1e-5)
        estimate = info["estimates"][:, n]


def test_the_release_spreads_velocities_by_their_variance():
    times = np.array([0.0, 0.5, 0.9])
    right = rows(B, stroke(picture(), fraction=1.0), times)
    released = rows(B, stroke(picture(), fraction=1.0, released=True), times)
    np.testing.assert_allclose(released[:, -1], right[:, -1] ** 2)
    np.testing.assert_array_equal(released[:, :-1], right[:, :-1])
    assert rows(B, stroke(picture(), fraction=0.5), np.linspace(0, 0.9, 7))[:, 0].tolist() == [1, 1, 1, 0, 0, 0, 0]


def test_labels_belong_to_the_field():
    """Two classes, two data points: samples end at that of their label, and other labels compile nothing."""
    traces, points = [], jnp.array([[0.5, -0.5], [-1.0, 1.0]])

    def of_class(labels, m, t):
        traces.append(0)
        return points[labels]

    for labels in ([0, 1, 1], [1, 0, 1]):
        labels = jnp.array(labels)
        x, _ = sampling.sample(field(Partial(of_class, labels)), jax.random.key(0), (3, 2), nfe=5)
        np.testing.assert_allclose(x, points[labels], atol=1e-4)
    assert len(traces) == 1


def test_guided_runs_may_be_split_into_batches():
    options = {"nfe": 5, "guide": stroke(picture(), fraction=1.0)}
    whole, _ = sampling.sample(field(halfway), jax.random.key(0), (5, *SHAPE[1:]), **options)
    part, _ = sampling.sample(field(halfway), jax.random.key(0), (2, *SHAPE[1:]), **options, first=3)
    np.testing.assert_allclose(part, whole[3:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stroke(picture(), fraction=1.5), "fraction: expected a share between 0 and 1"),
        (lambda: stroke(picture(), start=-0.1), "start: expected a share between 0 and 1"),
        (lambda: inpainting(picture(), jnp.ones((1, 3, 4, 1))), "known: expected a mask for images"),
        (lambda: inpainting(picture(), 0.5 * jnp.ones((1, 4, 4, 1))), "known: expected zeros and ones"),
        (lambda: inpainting(picture(), jnp.zeros((1, 4, 4, 1))), "known: expected zeros and ones"),
        (
            lambda: sampling.sample(constant, jax.random.key(0), (3, 8, 8, 2), guide=stroke(picture())),
            "guide.image: expected one or more of shape",
        ),
    ],
)
def test_mistakes_are_told(make, message):
    with pytest.raises(InputError, match=message):
        make()
