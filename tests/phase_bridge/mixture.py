"""A mixture of Gaussians in the plane, what is known of it at each time, and samplers run on its exact model."""

import jax
import jax.numpy as jnp
import numpy as np

from phase_bridge import bridge as bridges
from phase_bridge import sampling
from phase_bridge.bridge import Bridge
from phase_bridge.solvers import make_steps
from phase_bridge.toy import mixture

MEANS = np.array([[0.5, 0.5], [-0.5, 0.3], [0.2, -0.6], [-0.4, -0.5]])
WEIGHTS = np.array([0.4, 0.3, 0.2, 0.1])
STD = 0.08


def model(process=Bridge(), *, std=STD, kind="ode"):  # noqa: B008
    return mixture(process, MEANS, WEIGHTS, std, kind=kind)


def draw(rng, n, t, *, bridge=Bridge()):  # noqa: B008
    """Draws positions from the true distribution at t."""
    data = MEANS[rng.choice(len(WEIGHTS), n, p=WEIGHTS)] + STD * rng.normal(size=(n, 2))
    return bridge.perturb(data, rng.normal(size=(n, 4)), t)[:, :2]


def describe(x, t, *, bridge=Bridge()):  # noqa: B008
    """Returns spread about the nearest of the modes at t, and the fraction in each mode."""
    c_x = bridges.mean_coefficients(bridge, t)[0]
    away = x[:, None] - c_x * MEANS
    nearest = np.linalg.norm(away, axis=-1).argmin(1)
    return away[np.arange(len(x)), nearest].std(), np.bincount(nearest, minlength=len(WEIGHTS)) / len(x)


def states(model, times, *, n=64, seed=0, dtype=jnp.float64, pad=None, **options):
    """Returns the last states `[n, 2 k]`; pad: to so many remembered outputs, that one program serves all solvers."""
    steps = make_steps(model.process, times, **options)
    if pad:
        steps = steps._replace(weights=np.pad(steps.weights, ((0, 0), (0, pad - steps.weights.shape[1]), (0, 0))))
    field = jax.tree_util.Partial(sampling.estimate, model)
    shape = (n, 2)
    _, info = sampling.run(field, steps, jax.random.key(seed), shape, model.process, output="state", dtype=dtype)
    return np.asarray(info["state"])
