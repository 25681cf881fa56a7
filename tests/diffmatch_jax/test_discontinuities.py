"""Discontinuities: a wobbled target whose flow still leads to what it shows."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from diffmatch_jax import discontinuities, matching
from diffmatch_jax.discontinuities import Wobbles
from diffmatch_jax.pairs import Pair

HEIGHT, WIDTH = 40, 56
STRONG = Wobbles(number=(6, 10), blob=(0.04, 0.08), gain=(3.0, 4.0))


def pictured(flow):
    """Returns a pair whose source is smooth and whose target is its warp."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] / 12
    source = jnp.asarray(np.stack([np.sin(x), np.cos(y + x), np.sin(y)], -1) / 2 + 0.5, jnp.float32)
    target = matching.warp(source, jnp.asarray(flow))
    none = jnp.zeros((), jnp.int32)
    return Pair(source, target, flow, matching.valid(flow), none, none)


@pytest.fixture(scope="module")
def perturb():
    """Returns `(keys, pair) -> perturbed pairs, displacements`."""

    def both(key, pair):
        by = discontinuities.draw(key, pair.mask, settings=STRONG)
        return discontinuities.perturb(key, pair, settings=STRONG), by

    return jax.jit(jax.vmap(both, in_axes=(0, None)))


KEYS = jax.random.split(jax.random.key(0), 6)


def test_target_is_the_source_along_the_new_flow(perturb):
    positions = matching.grid(HEIGHT, WIDTH)
    turned = positions @ jnp.asarray([[0.9, 0.2], [-0.15, 1.05]]) + jnp.asarray([6.0, -5.0])
    pair = pictured(turned - positions)
    found, _ = perturb(KEYS, pair)
    warped = jax.vmap(partial(matching.warp, pair.source))(found.flow)
    mask = np.asarray(found.mask)
    error = np.abs(np.asarray(warped - found.target)).max(-1)
    moved = np.abs(np.asarray(found.flow - pair.flow)).max(-1)
    assert error[mask].max() < 0.02
    assert 0.03 < (moved > 0.5).mean() < 0.6 and moved.max() > 2
    # With the old flow the wobbles are not explained.
    stale = np.abs(np.asarray(matching.warp(pair.source, pair.flow) - found.target)).max(-1)
    assert stale[mask & (moved > 1)].mean() > 5 * error[mask].max()
    # Where nothing moved, nothing changes.
    still = moved < 1e-6
    assert still.mean() > 0.05
    np.testing.assert_array_equal(mask[still], np.broadcast_to(pair.mask, mask.shape)[still])


def test_without_flow_the_wobble_is_the_flow(perturb):
    pair = pictured(jnp.zeros((HEIGHT, WIDTH, 2)))
    found, by = perturb(KEYS, pair)
    last = jnp.asarray([WIDTH - 1, HEIGHT - 1], jnp.float32)
    want = matching.flow_of(jnp.clip(matching.mapping_of(by), 0, last))
    np.testing.assert_allclose(found.flow, want, atol=1e-4)
    assert len(np.unique(np.asarray(by).std((1, 2, 3)))) == len(KEYS)
    np.testing.assert_allclose(perturb(KEYS[::-1], pair)[0].flow[::-1], found.flow, atol=1e-5)


def test_blobs_lie_where_the_source_is_seen(perturb):
    pair = pictured(jnp.zeros((HEIGHT, WIDTH, 2)))
    right = np.zeros((HEIGHT, WIDTH), bool)
    right[:, 40:] = True
    _, by = perturb(KEYS, pair._replace(mask=jnp.asarray(right)))
    # Six standard deviations from the nearest middle there can be.
    far = int(39.5 - 6 * 0.08 * WIDTH)
    length = np.abs(np.asarray(by)).max(-1)
    assert length[:, :, :far].max() < 1e-4 < 0.5 < length[:, :, 40:].max()
    _, nothing = perturb(KEYS, pair._replace(mask=jnp.zeros((HEIGHT, WIDTH), bool)))
    np.testing.assert_array_equal(nothing, 0)


def test_blob_and_field_closed_forms():
    got = discontinuities.blobs(jnp.asarray([[10.0, 4.0]]), jnp.asarray([3.0]), (9, 21))
    np.testing.assert_allclose(got[4, 10:16], np.minimum(2 * np.exp(-0.5 * (np.arange(6) / 3) ** 2), 1), atol=1e-6)
    np.testing.assert_allclose(got[:, 10], got[::-1, 10], atol=1e-6)
    # Blurred white noise U(-1, 1) has the deviation 1 / sqrt(3) / (2 sigma sqrt(pi)) away from the border.
    noise = np.random.default_rng(0).uniform(size=(220, 220, 2))
    field = discontinuities.displacement(noise, sigma=3.0, gain=10.0)[12:-12, 12:-12]
    np.testing.assert_allclose(field.std(), 10 / np.sqrt(3) / (6 * np.sqrt(np.pi)), rtol=0.05)


def test_mistakes():
    with pytest.raises(InputError, match="discontinuities.blob: expected 0 <= low <= high"):
        Wobbles(blob=(0.1, 0.05))
    with pytest.raises(InputError, match="discontinuities.width: expected"):
        Wobbles(width=(0, 0))
    with pytest.raises(InputError, match="compat: expected one of"):
        discontinuities.blobs(jnp.zeros((1, 2)), jnp.ones(1), (3, 3), compat="old")
