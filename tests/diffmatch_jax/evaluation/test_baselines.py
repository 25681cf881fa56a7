"""What matchers are compared with: exact answers where they must be exact."""

import sys

import numpy as np
import pytest

from common.errors import InputError
from diffmatch_jax.evaluation import baselines, classical
from diffmatch_jax.evaluation.datasets import planar, record
from diffmatch_jax.model import backbone
from diffmatch_jax.model.features import CONVS


def photograph(height, width, seed=0):
    """Blobs of many sizes."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3))
    for cells in (4, 8, 16, 32):
        small = rng.normal(size=(cells, cells, 3)) * cells**-0.3
        rows, columns = (np.minimum(np.arange(n) * cells // n, cells - 1) for n in (height, width))
        image += small[rows][:, columns]
    image = (image - image.min()) / np.ptp(image)
    return np.uint8(255 * image)


@pytest.fixture(scope="module")
def pyramid():
    """The small network with He's random weights, by NumPy: no program a tensor."""
    rng, params, inputs = np.random.default_rng(0), {}, 3
    for name in CONVS:
        outputs = (8, 8, 16, 16)[int(name[4]) - 1]
        kernel = rng.normal(size=(3, 3, inputs, outputs)) * (2 / (9 * inputs)) ** 0.5
        params[name] = {"kernel": kernel.astype(np.float32), "bias": np.zeros(outputs, np.float32)}
        inputs = outputs
    return backbone.frozen(params)


def test_nothing_moves():
    source, target = np.zeros((40, 20, 3), np.uint8), np.zeros((20, 30, 3), np.uint8)
    flow, confidence = baselines.still(source, target)
    assert confidence is None
    # Relative positions stay: the target's middle is the source's.
    positions = record.centres((20, 30)) + flow
    np.testing.assert_allclose(positions[10, 15] + positions[9, 14], [19, 39], atol=1e-5)
    np.testing.assert_allclose(positions[0, 0], [0.5 * 20 / 30 - 0.5, 0.5], atol=1e-5)


def test_winner_of_a_shift(pyramid):
    """Two cells of 8 pixels to the right: exact where features see no border."""
    big = photograph(128, 160)
    source, target = big[:, :128], big[:, 16:144]
    match = baselines.winner_take_all(pyramid, fine=128, coarse=64)
    flow, score = match(source, target)
    assert flow.shape == (128, 128, 2) and score.shape == (128, 128)
    inner = (slice(40, 88), slice(40, 72))
    np.testing.assert_allclose(np.median(flow[inner], axis=(0, 1)), [16, 0], atol=1e-4)
    assert (np.abs(flow[inner] - [16, 0]).max(-1) < 1e-3).mean() > 0.6
    assert score.max() <= 1 + 1e-3
    filtered, _ = baselines.winner_take_all(pyramid, fine=128, coarse=64, median=3)(source, target)
    assert (np.abs(filtered[inner] - [16, 0]).max(-1) < 1e-3).mean() > 0.9


def test_fit_of_a_shift(pyramid):
    """By 13 pixels, which are no cells, and what is not in the source; finer maps make it finer."""
    big = photograph(128, 160)
    source, target = big[:, :128], big[:, 13:141]
    flow, _ = baselines.winner_take_all(pyramid, fine=128, coarse=64)(source, target)
    smooth, sure = baselines.fitted(pyramid, fine=128)(source, target)
    finer, surer = baselines.fitted(pyramid, fine=128, refine=2)(source, target)
    errors = [np.linalg.norm(each[:, :104] - [13, 0], axis=-1).mean() for each in (finer, smooth, flow)]
    assert errors[0] < 0.6 * errors[1] < 0.6 * errors[2]
    inner = (slice(40, 88), slice(40, 72))
    # Nothing of the last 13 columns is in the source: no fit holds there.
    for confidence in (sure, surer):
        assert np.median(confidence[inner]) > 1.5 * np.median(confidence[:, 118:])


def test_winner_of_images_of_other_sizes(pyramid):
    """The same picture at another size: flow leads to the same relative place, in the source's pixels."""
    image = photograph(128, 128)
    small = record.resized_image(image, (96, 64))
    match = baselines.winner_take_all(pyramid, fine=128, coarse=64, median=3)
    flow, _ = match(small, image)
    want = (record.centres((128, 128)) + 0.5) * [64 / 128, 96 / 128] - 0.5
    got = record.centres((128, 128)) + flow
    assert flow.shape == (128, 128, 2)
    assert np.median(np.linalg.norm(got - want, axis=-1)) < 0.5


def test_wrong_settings(pyramid):
    with pytest.raises(InputError, match="fine, coarse: expected multiples of 16, got 100 and 64"):
        baselines.winner_take_all(pyramid, fine=100, coarse=64)
    with pytest.raises(InputError, match="median: expected 0 or an odd number"):
        baselines.winner_take_all(pyramid, median=4)
    with pytest.raises(InputError, match="config.conditioning.fit: expected 0, or 1 cell or more"):
        baselines.fitted(pyramid, fit=0.5)


def test_opencv_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    for make in (classical.dis, classical.sift_magsac):
        with pytest.raises(InputError, match="expected OpenCV, got no module cv2; pip install"):
            make()


def test_classical_matchers():
    """Both find a small homography of a smooth picture, the second with other sizes, and neither minds no content."""
    pytest.importorskip("cv2")
    import cv2

    big = cv2.GaussianBlur(photograph(240, 320), (0, 0), 2)
    matrix = np.asarray([[1.02, 0.03, 2.0], [-0.02, 0.99, 3.0], [1e-4, 0, 1.0]])
    target = cv2.warpPerspective(big, matrix, (300, 200))
    truth, mask = planar.flow_of_homography(matrix, source=(240, 320), target=(200, 300))
    for make, most in ((classical.dis, 1.0), (classical.sift_magsac, 0.2)):
        flow, confidence = make()(big, target)
        error = np.linalg.norm(flow - truth, axis=-1)[mask]
        assert np.median(error) < most, make
        assert confidence is None or confidence.shape == mask.shape
    flow, _ = classical.sift_magsac()(big, target)
    np.testing.assert_array_equal(flow, classical.sift_magsac()(big, target)[0])  # the same again
    flat = np.zeros((40, 50, 3), np.uint8)
    np.testing.assert_array_equal(classical.sift_magsac()(flat, flat)[0], 0)
    with pytest.raises(InputError, match='did you mean "medium"'):
        classical.dis("medim")
