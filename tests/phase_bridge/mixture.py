"""A mixture of Gaussians in the plane, what is known of it at each time, and samplers run on its exact fields."""

import jax
import jax.numpy as jnp
import numpy as np

from phase_bridge import bridge as bridges
from phase_bridge import sampling
from phase_bridge.analytic import mixture_field
from phase_bridge.bridge import Bridge

MEANS = np.array([[0.5, 0.5], [-0.5, 0.3], [0.2, -0.6], [-0.4, -0.5]])
WEIGHTS = np.array([0.4, 0.3, 0.2, 0.1])
STD = 0.08


def field(kind, *, bridge=Bridge(), std=STD, normaliser="released"):  # noqa: B008
    return mixture_field(bridge, MEANS, WEIGHTS, std, kind=kind, normaliser=normaliser)


def draw(rng, n, t, *, bridge=Bridge()):  # noqa: B008
    """Draws positions from the true distribution at t."""
    data = MEANS[rng.choice(len(WEIGHTS), n, p=WEIGHTS)] + STD * rng.normal(size=(n, 2))
    return bridges.sample_bridge(bridge, rng.normal(size=(n, 4)), data, t)[0][:, :2]


def describe(x, t, *, bridge=Bridge()):  # noqa: B008
    """Returns spread about the nearest of the modes at t, and the share of each mode."""
    c_x = bridges.mean_coefficients(bridge, t)[0]
    away = x[:, None] - c_x * MEANS
    nearest = np.linalg.norm(away, axis=-1).argmin(1)
    return away[np.arange(len(x)), nearest].std(), np.bincount(nearest, minlength=len(WEIGHTS)) / len(x)


def states(field, times, *, n=64, seed=0, dtype=jnp.float64, pad=None, **options):
    """Returns the last states `[n, 4]`; pad: to so many remembered outputs, that one program serves all rules."""
    steps = sampling.make_steps(Bridge(), times, **options)
    if pad:
        steps = steps._replace(weights=np.pad(steps.weights, ((0, 0), (0, pad - steps.weights.shape[1]), (0, 0))))
    _, info = sampling.sample(field, jax.random.key(seed), (n, 2), steps=steps, output="state", dtype=dtype)
    return np.asarray(info["state"])
