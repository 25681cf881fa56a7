"""The contrastive loss: its value by hand, its limits, and the places of cells."""

import jax
import jax.numpy as jnp
import numpy as np

from diffmatch_jax.model.flow import grid
from diffmatch_jax.training import pretraining

matched = jax.jit(pretraining.matched)


def maps(seed, batch=2, size=4, channels=6):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(batch, size, size, channels)), jnp.float32)


def test_cells_lie_where_the_flow_leads():
    """A zoom about the middle by 1.5 and a shift: the centre of cell i of stride s is at s i + (s - 1) / 2."""
    pixels = grid(16, 16)
    flow = 1.5 * (pixels - 7.5) + 7.5 + jnp.asarray([2.0, -1.0]) - pixels
    positions, mask = pretraining.truth_of_cells(flow[None], (4, 4))
    centres = np.asarray(grid(4, 4)) * 4 + 1.5
    true = 1.5 * (centres - 7.5) + 7.5 + [2.0, -1.0]
    np.testing.assert_allclose(np.asarray(positions[0]) * 4 + 1.5, true, atol=1e-5)
    np.testing.assert_array_equal(mask[0], ((true >= -0.5) & (true <= 15.5)).all(-1))
    assert 0 < mask.sum() < 16


def test_loss_is_the_cross_entropy_with_bilinear_weights():
    source, target = maps(0), maps(1)
    place = np.random.default_rng(2).uniform(0, 3, (2, 4, 4, 2)).astype(np.float32)
    mask = jnp.asarray(np.random.default_rng(3).random((2, 4, 4)) < 0.6)
    found = matched(source, target, jnp.asarray(place), mask, temperature=0.3)

    def length(x):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    cosines = np.einsum("bijc,byxc->byxij", length(np.asarray(source)), length(np.asarray(target)))
    logits = cosines.reshape(2, 4, 4, 16) / 0.3
    log_softmax = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    hats = [np.maximum(0, 1 - np.abs(place[..., axis, None] - np.arange(4))) for axis in (0, 1)]
    truth = (hats[1][..., :, None] * hats[0][..., None, :]).reshape(2, 4, 4, 16)
    np.testing.assert_allclose(truth.sum(-1), 1, atol=1e-6)
    expected = -(truth * log_softmax).sum(-1)
    for pair in range(2):
        np.testing.assert_allclose(found.loss[pair], expected[pair][mask[pair]].mean(), rtol=1e-4)
    best = cosines.reshape(2, 4, 4, 16).argmax(-1)
    near = (np.abs(np.stack([best % 4, best // 4], -1) - place) <= 1).all(-1)
    np.testing.assert_allclose(found.found, [near[pair][mask[pair]].mean() for pair in range(2)], rtol=1e-6)


def test_limits_of_the_loss():
    """Equal features everywhere leave the choice of all cells; the right answer under a low temperature leaves none."""
    here, mask = jnp.broadcast_to(grid(4, 4), (2, 4, 4, 2)), jnp.ones((2, 4, 4), bool)
    same = jnp.ones((2, 4, 4, 6))
    np.testing.assert_allclose(matched(same, same, here, mask, temperature=0.1).loss, np.log(16), rtol=1e-5)
    one = maps(4)
    right = matched(one, one, here, mask, temperature=0.01)
    assert (right.loss < 1e-2).all() and (right.found == 1).all()
    nothing = matched(one, one, here, mask & False, temperature=0.1)
    assert (nothing.loss == 0).all() and (nothing.found == 0).all()


def test_descent_finds_the_flow():
    """Features are free: those of the source, seen from the target, become alike."""
    flow = jnp.broadcast_to(jnp.asarray([4.0, 0.0]), (1, 16, 16, 2))  # one cell to the right
    source, temperature = maps(5, batch=1), jnp.asarray([0.2])

    @jax.jit
    def step(target):
        def loss(target):
            values, metrics = pretraining.contrastive_loss([source], [target], flow, temperature)
            return values.mean(), metrics

        gradient, metrics = jax.grad(loss, has_aux=True)(target)
        return target - 3 * gradient, metrics

    target = maps(6, batch=1)
    _, before = step(target)
    for _ in range(60):
        target, after = step(target)
    assert set(after) == {"loss_4", "found_4"}
    assert after["found_4"] == 1 > before["found_4"] and after["loss_4"] < before["loss_4"] / 2
