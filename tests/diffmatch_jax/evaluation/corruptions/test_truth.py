"""The truth between corrupted pictures, from what they show."""

import numpy as np
import pytest

from diffmatch_jax.evaluation.corruptions import corrupt, truth

HEIGHT, WIDTH = 60, 80


def ramps():
    """An image whose pixels say where they are."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    return np.stack([x / (WIDTH - 1), y / (HEIGHT - 1), 0 * x], -1)


def told(image):
    """Returns the original position `[..., 2]` that each pixel of a corrupted ramp says."""
    return image[..., :2] * np.array([WIDTH - 1, HEIGHT - 1])


@pytest.fixture(scope="module")
def affine():
    """Returns positions, flow and mask of an affine pair."""
    pixels = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), -1).astype(np.float64)
    mapping = pixels @ np.array([[0.95, -0.1], [0.12, 1.04]]) + np.array([-4.0, 3.0])
    mask = ((mapping >= 0) & (mapping <= [WIDTH - 1, HEIGHT - 1])).all(-1)
    return pixels, mapping, mask


def test_nothing_moved(affine):
    pixels, mapping, mask = affine
    flow, known = truth.compose(mapping - pixels, mask)
    np.testing.assert_array_equal(known, mask)
    np.testing.assert_allclose(flow[mask], (mapping - pixels)[mask], atol=1e-5)
    np.testing.assert_array_equal(flow[~mask], 0)


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_moved_target(affine, severity):
    """Its pixel says which old pixel it shows; the flow must end where that one's did."""
    pixels, mapping, mask = affine
    moved = corrupt(ramps(), "elastic_transform", severity, 4)
    flow, known = truth.compose(mapping - pixels, mask, target=moved.flow)
    want = truth.look(mapping, told(moved.image))
    assert 0.4 < known.mean() < 1
    np.testing.assert_allclose((pixels + flow)[known], want[known], atol=2e-3)


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_moved_source(affine, severity):
    """Where the flow ends, the source must say the place that it showed before."""
    pixels, mapping, mask = affine
    moved = corrupt(ramps(), "elastic_transform", severity, 5)
    flow, known = truth.compose(mapping - pixels, mask, source=moved.flow)
    found = truth.look(told(moved.image), pixels + flow)
    assert known[mask].mean() > (0.6 if severity == 1 else 0.9)
    np.testing.assert_allclose(found[known], mapping[known], atol=0.03)
    assert not known[~mask].any()


def test_both_moved_and_sparse(affine):
    pixels, mapping, mask = affine
    images = [corrupt(ramps(), "elastic_transform", 4, seed) for seed in (1, 2)]
    flows = {"target": images[0].flow, "source": images[1].flow}
    flow, known = truth.compose(mapping - pixels, mask, **flows)
    shown = truth.look(mapping, told(images[0].image))
    found = truth.look(told(images[1].image), pixels + flow)
    assert known.mean() > 0.5
    np.testing.assert_allclose(found[known], shown[known], atol=0.03)
    # A few known pixels: what shows one of them within a pixel takes its motion.
    few = mask & (np.random.default_rng(0).random(mask.shape) < 0.05)
    flow, known = truth.compose(mapping - pixels, few, sparse=True, target=images[0].flow)
    assert 0.3 < known.sum() / few.sum() < 2
    np.testing.assert_allclose((pixels + flow)[known], shown[known], atol=0.2)


def test_inverse_finds_what_it_can():
    flow = corrupt(ramps(), "elastic_transform", 5, 9).flow
    pixels = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), -1).astype(np.float64)
    places = (pixels + flow).reshape(-1, 2)
    q, found = truth.inverse(flow, np.concatenate([places, [[-50.0, 20.0]]]))
    assert not found[-1] and found[:-1].all()
    np.testing.assert_allclose(q[:-1] + truth.look(flow.astype(np.float64), q[:-1]), places, atol=0.02)
