"""Paintings and known pixels steer a sampler through the velocity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import phase_bridge
from common.errors import InputError
from phase_bridge import bridge as bridges
from phase_bridge import released, sampling
from phase_bridge.bridge import Bridge
from phase_bridge.conditioning import inpainting, stroke
from phase_bridge.processes import Flow
from phase_bridge.sampling import denoiser_model, estimate_model

pytestmark = pytest.mark.usefixtures("quick_compilation")

B, SHAPE = Bridge(), (3, 4, 4, 2)


def halfway(u, sigma):
    """The estimate for data that are standard normal."""
    return u / (1 + sigma**2)


def model(estimate=halfway, kind="ode"):
    return denoiser_model(B, estimate, kind=kind)


def with_velocity(condition, m, t, z, estimate=None):
    """Returns the state with a new velocity as the sampler makes it, in one step alone."""
    row = jnp.asarray(condition._replace(fraction=1.0).rows(B, np.array([t]))[0], jnp.float32)
    return condition.impose(lambda *_: z, None, 0, row, m, estimate)


def picture(seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, SHAPE[1:]), jnp.float32)[None]


def test_the_velocity_is_drawn_before_evaluations_of_the_first_steps():
    condition, key = stroke(picture(), fraction=0.25), jax.random.key(0)
    draws = jax.random.normal(key, (8, *SHAPE))
    seen = []

    def network(m, t):
        jax.debug.callback(lambda m: seen.append(np.asarray(m)), m, ordered=True)
        return 0.1 * bridges.split(m)[0]

    x, info = phase_bridge.sample(
        estimate_model(B, network), key, SHAPE, nfe=8, schedule={"last": 0.8}, condition=condition,
        noise=Partial(_third, draws), store_states=True,
    )  # fmt: skip
    jax.effects_barrier()
    assert info["nfe"] == 8 and len(seen) == 8
    for n, m in enumerate(seen):
        before_x, before_v = bridges.split(info["states"][:, n])
        at_x, at_v = bridges.split(m)
        np.testing.assert_array_equal(at_x, before_x)
        want = before_v
        if n < 2:
            want = bridges.split(with_velocity(condition, info["states"][:, n], info["times"][n], draws[n]))[1]
        np.testing.assert_allclose(at_v, want, rtol=1e-5, atol=2e-6)


def _third(draws, keys, n, which, like):
    assert which == 2  # nothing else of an ODE is random
    return draws[n]


def test_a_fraction_of_the_painting_in_the_first_velocity():
    start = jax.random.normal(jax.random.key(1), (*SHAPE[:-1], 2 * SHAPE[-1]))
    condition = stroke(picture(), start=0.1, fraction=0.0)
    _, info = phase_bridge.sample(
        model(), jax.random.key(0), SHAPE, nfe=4, start=start, condition=condition, store_states=True
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
            model(), key, (64, *SHAPE[1:]), nfe=20, condition=stroke(picture(), fraction=fraction)
        )
        distance.append(float(jnp.sqrt(jnp.mean((x.mean(0) - picture()) ** 2))))
    assert distance[0] > 0.4
    assert distance[0] > distance[1] > 2 * distance[2]


@pytest.mark.parametrize("kind", bridges.KINDS)
def test_known_pixels_come_back_and_the_rest_is_made(kind):
    known = jnp.zeros((1, 4, 4, 1)).at[:, :2].set(1)
    x, info = phase_bridge.sample(
        model(kind=kind), jax.random.key(3), (256, *SHAPE[1:]), nfe=40, schedule={"last": 0.999, "end": 0.9991},
        condition=inpainting(picture(), known), store_estimates=True,
    )  # fmt: skip
    assert info["nfe"] == 41
    # Exactly, and the network's own last estimate is near them.
    np.testing.assert_array_equal(x[:, :2], jnp.broadcast_to(picture()[:, :2], x[:, :2].shape))
    assert np.abs(np.asarray(info["estimates"][:, -1] - picture())[:, :2]).max() < 0.05
    np.testing.assert_array_equal(bridges.split(info["state"])[0][:, :2], x[:, :2])
    # Pixels are independent here, so what is known says nothing about the rest.
    assert np.asarray(x)[:, 2:].std(0).min() > 0.3


def test_unknown_pixels_stand_at_the_estimate_of_the_step_before():
    known, draws = jnp.zeros((1, 4, 4, 1)).at[:, :2].set(1), jax.random.normal(jax.random.key(4), (5, *SHAPE))
    seen = []

    def network(m, t):
        jax.debug.callback(lambda m: seen.append(np.asarray(m)), m, ordered=True)
        return 0.2 * bridges.split(m)[1]

    condition = inpainting(picture(), known)
    _, info = phase_bridge.sample(
        estimate_model(B, network), jax.random.key(0), SHAPE, nfe=5, schedule={"last": 0.5}, condition=condition,
        noise=Partial(_third, draws), store_states=True, store_estimates=True,
    )  # fmt: skip
    jax.effects_barrier()
    first, *rest = seen
    np.testing.assert_array_equal(first, info["states"][:, 0])
    t = info["times"]
    estimate = 0.2 * bridges.split(jnp.asarray(first))[1]
    for n, m in enumerate(rest):
        want = with_velocity(condition, info["states"][:, n], t[n], draws[n], estimate)
        np.testing.assert_allclose(m, want, rtol=1e-4, atol=1e-5)
        estimate = info["estimates"][:, n]


def test_the_release_spreads_velocities_by_their_variance():
    times = np.array([0.0, 0.5, 0.9])
    right = stroke(picture(), fraction=1.0).rows(B, times)
    published = released.rows(B, stroke(picture(), fraction=1.0), times)
    np.testing.assert_allclose(published[:, -1], right[:, -1] ** 2)
    np.testing.assert_array_equal(published[:, :-1], right[:, :-1])
    assert stroke(picture(), fraction=0.5).rows(B, np.linspace(0, 0.9, 7))[:, 0].tolist() == [1, 1, 1, 0, 0, 0, 0]


def test_labels_belong_to_the_model():
    """Two classes, two data points: samples end at that of their label, and other labels compile nothing."""
    traces, points = [], jnp.array([[0.5, -0.5], [-1.0, 1.0]])

    def of_class(labels, u, sigma):
        traces.append(0)
        return points[labels]

    for labels in ([0, 1, 1], [1, 0, 1]):
        labels = jnp.array(labels)
        x, _ = sampling.sample(model(Partial(of_class, labels)), jax.random.key(0), (3, 2), nfe=5)
        np.testing.assert_allclose(x, points[labels], atol=1e-4)
    assert len(traces) == 1


def test_conditioned_runs_may_be_split_into_batches():
    options = {"nfe": 5, "condition": stroke(picture(), fraction=1.0)}
    whole, _ = sampling.sample(model(), jax.random.key(0), (5, *SHAPE[1:]), **options)
    part, _ = sampling.sample(model(), jax.random.key(0), (2, *SHAPE[1:]), **options, first_index=3)
    np.testing.assert_allclose(part, whole[3:], rtol=1e-4, atol=1e-5)


def test_guidance_moves_the_estimate_within_its_interval():
    """With classes at +-1 and Gaussian data the guided denoiser is known: D_other + scale (D - D_other)."""
    own, other = (denoiser_model(B, lambda u, sigma, c=c: c + (u - c) / (1 + sigma**2)) for c in (1.0, 0.0))
    u = jnp.array([[0.3, -0.2]])
    both = phase_bridge.guided(own, other, scale=3.0, sigma_low=0.1, sigma_high=2.0)
    for sigma, scale in ((0.05, 1.0), (0.5, 3.0), (2.0, 3.0), (5.0, 1.0)):
        away = 1 - 1 / (1 + sigma**2)  # of the two estimates
        np.testing.assert_allclose(both.denoise(u, sigma), other.denoise(u, sigma) + scale * away, rtol=1e-5, atol=1e-6)
    for weak in (other, denoiser_model(B, lambda u, sigma: 0 * u)):
        same = phase_bridge.guided(own, weak, scale=1.0)
        np.testing.assert_allclose(
            sampling.sample(same, 0, (4, 2), nfe=4)[0], sampling.sample(own, 0, (4, 2), nfe=4)[0], rtol=1e-4, atol=1e-5
        )
    # Other scales and intervals compile nothing: they are arguments.
    far, _ = sampling.sample(phase_bridge.guided(own, other, scale=2.0), 0, (2000, 2), nfe=50)
    assert np.asarray(far).mean() > np.asarray(sampling.sample(own, 0, (2000, 2), nfe=50)[0]).mean() + 0.3


def test_guidance_of_networks_that_see_states():
    own, other = (estimate_model(B, lambda m, t, c=c: c + 0 * m[..., :2]) for c in (1.0, 0.5))
    x, _ = sampling.sample(phase_bridge.guided(own, other, scale=3.0), 0, (2, 2), nfe=3)
    np.testing.assert_allclose(x, 2.0)
    with pytest.raises(InputError, match="other: expected a model along Bridge"):
        phase_bridge.guided(own, denoiser_model(Flow(), halfway), scale=2.0)
    with pytest.raises(InputError, match="sigma_low: expected 0 <= sigma_low <= sigma_high, got 2 to 1"):
        phase_bridge.guided(own, other, scale=2.0, sigma_low=2.0, sigma_high=1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stroke(picture(), fraction=1.5), "fraction: expected a fraction from 0 to 1"),
        (lambda: stroke(picture(), start=-0.1), "start: expected a fraction from 0 to 1"),
        (lambda: inpainting(picture(), jnp.ones((1, 3, 4, 1))), "known: expected a mask for images"),
        (lambda: inpainting(picture(), 0.5 * jnp.ones((1, 4, 4, 1))), "known: expected zeros and ones"),
        (lambda: inpainting(picture(), jnp.zeros((1, 4, 4, 1))), "known: expected zeros and ones"),
        (
            lambda: sampling.sample(model(), jax.random.key(0), (3, 8, 8, 2), condition=stroke(picture())),
            "condition.image: expected one or more of shape",
        ),
        (
            lambda: sampling.sample(model().along(Flow()), 0, (3, *SHAPE[1:]), condition=stroke(picture())),
            "condition: expected none but for a Bridge",
        ),
    ],
)
def test_mistakes_are_reported(make, message):
    with pytest.raises(InputError, match=message):
        make()
