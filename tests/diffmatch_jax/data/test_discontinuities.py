"""Discontinuities: a wobbled target whose flow still leads to what it shows."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from common.errors import InputError
from diffmatch_jax.data import augment
from diffmatch_jax.data.augment import Wobbles
from diffmatch_jax.data.warps import Pair

HEIGHT, WIDTH = 40, 56
STRONG = Wobbles(number=(6, 10), blob=(0.04, 0.08), gain=(3.0, 4.0))


def shown(image, positions):
    """Returns what an image has at positions `[..., 2]` by bilinear interpolation, in numpy."""
    at = positions[..., 1], positions[..., 0]
    return np.stack([ndimage.map_coordinates(image[..., c], at, order=1, mode="nearest") for c in range(3)], -1)


def pictured(matrix, shift):
    """Returns a pair whose source is smooth and whose target is its warp by an affine map."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    source = np.stack([np.sin(x / 12), np.cos((y + x) / 12), np.sin(y / 12)], -1) / 2 + 0.5
    positions = np.stack([x, y], -1) @ np.asarray(matrix) + np.asarray(shift)
    flow, inside = positions - np.stack([x, y], -1), (positions >= 0) & (positions <= [WIDTH - 1, HEIGHT - 1])
    arrays = (each.astype(np.float32) for each in (source, shown(source, positions), flow))
    return Pair(*arrays, inside.all(-1), np.zeros((), np.int32), np.zeros((), np.int32))


PIXELS = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), -1)
KEYS = jax.random.split(jax.random.key(0), 6)


@pytest.fixture(scope="module")
def perturb():
    apply = jax.jit(jax.vmap(partial(augment.perturb, settings=STRONG), in_axes=(0, None)))
    return lambda keys, pair: jax.tree.map(np.asarray, apply(keys, pair))


def test_target_is_the_source_along_the_new_flow(perturb):
    pair = pictured([[0.9, 0.2], [-0.15, 1.05]], [6.0, -5.0])
    found = perturb(KEYS, pair)
    mask, moved = found.mask, np.abs(found.flow - pair.flow).max(-1)
    error = np.abs(shown(pair.source, PIXELS + found.flow) - found.target).max(-1)
    assert error[mask].max() < 0.02
    assert 0.03 < (moved > 0.5).mean() < 0.6 and moved.max() > 2
    # With the old flow the wobbles are not explained.
    stale = np.abs(shown(pair.source, PIXELS + pair.flow) - found.target).max(-1)
    assert stale[mask & (moved > 1)].mean() > 5 * error[mask].max()
    # Where nothing moved, nothing changes.
    still = moved < 1e-6
    assert still.mean() > 0.05
    np.testing.assert_array_equal(mask[still], np.broadcast_to(pair.mask, mask.shape)[still])


def test_without_flow_the_wobble_is_the_flow(perturb):
    pair = pictured(np.eye(2), [0, 0])
    found = perturb(KEYS, pair)
    np.testing.assert_allclose(found.target, shown(pair.source, PIXELS + found.flow), atol=1e-5)
    # Beyond the border the target repeats its edge, so that the flow never leaves the picture.
    assert found.mask.mean() > 0.99
    assert len(np.unique(found.flow.std((1, 2, 3)))) == len(KEYS)
    np.testing.assert_allclose(perturb(KEYS[::-1], pair).flow[::-1], found.flow, atol=1e-5)


def test_blobs_lie_where_the_source_is_seen(perturb):
    pair = pictured(np.eye(2), [0, 0])
    right = np.zeros((HEIGHT, WIDTH), bool)
    right[:, 40:] = True
    length = np.abs(perturb(KEYS, pair._replace(mask=right)).flow).max(-1)
    # Six standard deviations from the nearest middle there can be.
    far = int(39.5 - 6 * 0.08 * WIDTH)
    assert length[:, :, :far].max() < 1e-4 < 0.5 < length[:, :, 40:].max()
    nothing = perturb(KEYS, pair._replace(mask=np.zeros((HEIGHT, WIDTH), bool)))
    np.testing.assert_array_equal(nothing.flow, 0)


def test_blob_and_field_closed_forms():
    got = jax.jit(lambda *x: augment.blobs(*x, (9, 21)))(jnp.asarray([[10.0, 4.0]]), jnp.asarray([3.0]))
    got = np.asarray(got)
    np.testing.assert_allclose(got[4, 10:16], np.minimum(2 * np.exp(-0.5 * (np.arange(6) / 3) ** 2), 1), atol=1e-6)
    np.testing.assert_allclose(got[:, 10], got[::-1, 10], atol=1e-6)
    # Blurred white noise U(-1, 1) has the deviation 1 / sqrt(3) / (2 sigma sqrt(pi)) away from the border.
    noise = np.random.default_rng(0).uniform(size=(220, 220, 2))
    field = augment.displacement(noise, sigma=3.0, gain=10.0)[12:-12, 12:-12]
    np.testing.assert_allclose(field.std(), 10 / np.sqrt(3) / (6 * np.sqrt(np.pi)), rtol=0.05)


def test_mistakes():
    with pytest.raises(InputError, match="discontinuities.blob: expected 0 <= low <= high"):
        Wobbles(blob=(0.1, 0.05))
    with pytest.raises(InputError, match="discontinuities.width: expected"):
        Wobbles(width=(0, 0))
