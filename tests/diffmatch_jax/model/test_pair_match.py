"""What follows from a match: sampled keypoints, homography, epipolar geometry and pose, and the warped source."""

from importlib.util import find_spec

import jax
import numpy as np
import pytest

from common.errors import InputError
from diffmatch_jax.model import diffusion, geometry, matcher
from diffmatch_jax.model.pair_match import Match

needs_opencv = pytest.mark.skipif(find_spec("cv2") is None, reason="OpenCV, which is optional, is not installed")

SIZE, SOURCE = (60, 80), (70, 90)
HOMOGRAPHY = np.array([[0.95, 0.08, 4.0], [-0.05, 1.02, 6.0], [2e-4, 1e-4, 1.0]])


def projected(matrix, places):
    moved = np.c_[places, np.ones(len(places))] @ matrix.T
    return moved[:, :2] / moved[:, 2:]


def match_of(flow, confidence=None):
    rest = np.zeros(flow.shape[:2])
    confidence = np.ones(flow.shape[:2]) if confidence is None else confidence
    return Match(flow, confidence, rest, rest, flow, flow[None], np.asarray(SOURCE))


@pytest.fixture(scope="module")
def planar():
    """A plane seen under a homography, half of the pixels wrong and hardly sure."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    places = np.stack([x, y], -1).reshape(-1, 2)
    flow = (projected(HOMOGRAPHY, places) - places).reshape(*SIZE, 2)
    rng = np.random.default_rng(0)
    wrong = rng.uniform(size=SIZE) < 0.5
    flow[wrong] = rng.uniform(-40, 40, (wrong.sum(), 2))
    return match_of(flow, np.where(wrong, 0.02, 0.9)), wrong


def test_keypoints_follow_the_confidence(planar):
    found, wrong = planar
    target, source, weight = found.keypoints(400)
    assert len(np.unique(target, axis=0)) == 400  # no pixel twice
    column, row = target.astype(int).T
    np.testing.assert_allclose(source - target, found.flow[row, column])
    np.testing.assert_array_equal(weight, found.confidence[row, column])
    assert wrong[row, column].mean() < 0.08  # 0.02 of 0.92
    assert (source >= -0.5).all() and (source <= [SOURCE[1] - 0.5, SOURCE[0] - 0.5]).all()
    np.testing.assert_array_equal(found.keypoints(400).target, target)
    assert not np.array_equal(found.keypoints(400, seed=1).target, target)
    assert len(found.keypoints(10**6).target) == ((found.confidence > 0) & inside(found)).sum()
    nothing = found._replace(confidence=0 * found.confidence)
    assert nothing.keypoints(5).target.shape == (0, 2)
    with pytest.raises(InputError, match="n: expected a whole number of at least 1, got 0"):
        found.keypoints(0)


def inside(found, margin=0.5):
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    places = np.stack([x, y], -1) + found.flow
    return ((places >= -margin) & (places <= [SOURCE[1] - 1 + margin, SOURCE[0] - 1 + margin])).all(-1)


def test_covisible_there_and_back(planar):
    found, wrong = planar
    y, x = np.mgrid[: SOURCE[0], : SOURCE[1]]
    places = np.stack([x, y], -1).reshape(-1, 2)
    back_flow = (projected(np.linalg.inv(HOMOGRAPHY), places) - places).reshape(*SOURCE, 2)
    back = match_of(back_flow)._replace(source_size=np.asarray(SIZE))
    seen = found.covisible(back)
    assert (seen == (inside(found, margin=0) & ~wrong)).mean() > 0.99
    unsure = found._replace(confidence=np.where(x[: SIZE[0], : SIZE[1]] < 40, found.confidence, 0.09))
    np.testing.assert_array_equal(unsure.covisible(back), seen & (np.arange(SIZE[1]) < 40))
    with pytest.raises(
        InputError, match=r"back: expected the match of \(70, 90\) pixels, got one for \(60, 80\) pixels"
    ):
        found.covisible(found)


@needs_opencv
def test_homography(planar):
    assert planar[0]._replace(confidence=0 * planar[0].confidence).homography().matrix is None
    found, wrong = planar
    matrix, inliers = found.homography()
    assert geometry.corner_error(matrix, HOMOGRAPHY, SIZE) < 0.01
    column, row = found.keypoints(5000).target.astype(int).T
    assert (inliers == ~wrong[row, column]).mean() > 0.97
    assert geometry.corner_error(np.eye(3), np.diag([1, 1, 1.0]) + [[0, 0, 3], [0, 0, 4], [0, 0, 0]], SIZE) == 5
    assert geometry.corner_error(None, HOMOGRAPHY, SIZE) == np.inf


def projected_rays(camera, points):
    moved = points @ camera.T
    return moved[:, :2] / moved[:, 2:]


@needs_opencv
def test_fundamental_matrix_and_pose():
    rng = np.random.default_rng(1)
    camera = np.array([[300.0, 0, 160], [0, 310, 120], [0, 0, 1]])
    angle = np.radians(12)
    rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    translation = np.array([-1.0, 0.2, 0.1])
    world = rng.uniform([-2, -1.5, 4], [2, 1.5, 8], (400, 3))
    target, source = (projected_rays(camera, each) for each in (world, world @ rotation.T + translation))
    source[:100] = rng.uniform(0, 240, (100, 2))
    matrix, inliers = geometry.fundamental(target, source)
    cross = np.array([[0, -0.1, 0.2], [0.1, 0, 1.0], [-0.2, -1.0, 0]])
    want = np.linalg.inv(camera).T @ cross @ rotation @ np.linalg.inv(camera)
    matrix, want = (each / np.linalg.norm(each) for each in (matrix, want))
    np.testing.assert_allclose(matrix * np.sign((matrix * want).sum()), want, atol=2e-3)
    assert inliers[100:].mean() > 0.99 and inliers[:100].mean() < 0.1
    pose = geometry.pose(target, source, target_camera=camera, source_camera=camera)
    assert geometry.pose_error(pose, rotation, translation) < 0.1
    turned = geometry.Pose(np.eye(3), translation)
    np.testing.assert_allclose(geometry.pose_error(turned, rotation, translation), 12, rtol=1e-6)
    assert geometry.pose_error(geometry.Pose(None, None), rotation, translation) == 180
    assert geometry.pose(target[:5], source[:5], target_camera=camera, source_camera=camera).rotation is None


def test_the_source_is_warped():
    image = np.arange(SOURCE[0] * SOURCE[1]).reshape(SOURCE) % 251
    found = match_of(np.broadcast_to(np.float32([3, 5]), (*SIZE, 2)))
    for each in (image.astype(np.uint8), image.astype(np.float32), np.stack([image, 2 * image], -1).astype(np.int32)):
        result = found.warp(each)
        assert result.dtype == each.dtype
        np.testing.assert_array_equal(result, each[5:65, 3:83])
    with pytest.raises(InputError, match=r"image: expected \[70, 90\] pixels, as the source, got \[60, 80\]"):
        found.warp(np.zeros(SIZE))


def test_a_batch_is_asked_pair_by_pair():
    one = match_of(np.zeros((*SIZE, 2)))
    batch = Match(*(np.stack([each, each]) for each in one))
    for name, arguments in (("keypoints", ()), ("homography", ()), ("fundamental", ()), ("warp", (np.zeros(SOURCE),))):
        with pytest.raises(InputError, match=rf"{name}: expected the match of one pair, got a batch of 2; .*pair\(i\)"):
            getattr(batch, name)(*arguments)
    for got, want in zip(batch.pair(1), one, strict=True):
        np.testing.assert_array_equal(got, want)


def test_padded_numbers_are_few():
    assert [matcher.padded(count) for count in (1, 2, 3, 4, 5, 8, 9)] == [1, 2, 4, 4, 8, 8, 16]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_summary_of_the_first_samples_is_theirs(count):
    """The number of samples is data, not a part of the program."""
    x = jax.random.normal(jax.random.key(0), (2, 4, 3, 3, 2))
    got = jax.jit(diffusion.summary)(x, count)
    for each, want in zip(got, diffusion.summary(x[:, :count]), strict=True):
        np.testing.assert_allclose(each, want, rtol=0, atol=1e-6)
