"""Geometry of two views from matches: homography, fundamental matrix and relative pose, by OpenCV's USAC estimators.

OpenCV is an optional part of the installation (extra `classical`); nothing else imports it. All maps lead from the
target to the source.
"""

from typing import Any, NamedTuple

import numpy as np

from common.errors import input_error

ITERATIONS = 10_000
PROBABILITY = 0.9999  # of the estimators' having sampled inliers alone at least once


class Geometry(NamedTuple):
    """An estimated matrix `[3, 3]`, float64, None where too few matches agree; and which matches do, `[n]`."""

    matrix: np.ndarray | None
    inliers: np.ndarray


class Pose(NamedTuple):
    """Relative pose: x_source = rotation x_target + s translation for some s > 0; both None where none was found."""

    rotation: np.ndarray | None
    translation: np.ndarray | None


def opencv() -> Any:
    """Returns the module `cv2`; raises `InputError` with the command that installs it."""
    try:
        import cv2  # pyright: ignore[reportMissingImports]  # of the extra `classical`
    except ImportError:
        fix = "pip install 'opencv-python-headless>=4.10'"
        raise input_error("classical matchers and geometry", expected="OpenCV", got="no module cv2", fix=fix) from None
    return cv2


def sampled(
    flow: np.ndarray, confidence: np.ndarray, source: tuple[int, ...], *, n: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns places in the target and in the source `[n, 2]` and weights `[n]`, see `Match.keypoints`."""
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise input_error("n", expected="a whole number of at least 1", got=n, fix="use 2000")
    y, x = np.mgrid[: flow.shape[0], : flow.shape[1]]
    target = np.stack([x, y], -1).reshape(-1, 2).astype(np.float64)
    places = target + flow.reshape(-1, 2)
    weight = np.where(confidence.reshape(-1) > 0, confidence.reshape(-1), 0).astype(np.float64)
    weight[((places < -0.5) | (places > np.asarray(source[::-1]) - 0.5)).any(-1)] = 0
    # The n largest of u^(1/w), u uniform, are a sample without replacement (Efraimidis & Spirakis, 2006).
    usable = np.flatnonzero(weight)
    rank = np.log(np.random.default_rng(seed).uniform(size=len(weight))[usable]) / weight[usable]
    chosen = usable[np.sort(np.argsort(-rank)[:n])]
    return target[chosen], places[chosen], weight[chosen]


def homography(target: np.ndarray, source: np.ndarray, *, threshold: float = 3.0, seed: int = 0) -> Geometry:
    """Returns H with x_source ~ H x_target from matches `[n, 2]`, by MAGSAC++; `threshold` in pixels of the source."""
    cv2 = opencv()
    if len(target) < 4:
        return _nothing(target)
    settings = {"maxIters": ITERATIONS, "confidence": PROBABILITY}
    cv2.setRNGSeed(seed)
    try:
        matrix, inliers = cv2.findHomography(target, source, cv2.USAC_MAGSAC, threshold, **settings)
    except cv2.error:  # of degenerate matches
        return _nothing(target)
    if matrix is None or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
        return _nothing(target)
    return Geometry(matrix, inliers.reshape(-1).astype(bool))


def fundamental(target: np.ndarray, source: np.ndarray, *, threshold: float = 1.0, seed: int = 0) -> Geometry:
    """Returns F with x_source^T F x_target = 0 from matches `[n, 2]`, by MAGSAC++; `threshold` in pixels."""
    cv2 = opencv()
    if len(target) < 8:
        return _nothing(target)
    cv2.setRNGSeed(seed)
    try:
        matrix, inliers = cv2.findFundamentalMat(target, source, cv2.USAC_MAGSAC, threshold, PROBABILITY, ITERATIONS)
    except cv2.error:
        return _nothing(target)
    if matrix is None or matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        return _nothing(target)
    return Geometry(matrix, inliers.reshape(-1).astype(bool))


def pose(
    target: np.ndarray,
    source: np.ndarray,
    *,
    target_camera: np.ndarray,
    source_camera: np.ndarray,
    threshold: float = 1.0,
    seed: int = 0,
) -> Pose:
    """Returns the relative pose from matches `[n, 2]` and the cameras' matrices `[3, 3]`; `threshold` in pixels."""
    cv2 = opencv()
    if len(target) < 8:
        return Pose(None, None)
    rays = [_normalised(target, target_camera), _normalised(source, source_camera)]
    focal = np.mean([each[i, i] for each in (target_camera, source_camera) for i in (0, 1)])
    cv2.setRNGSeed(seed)
    try:
        essential, inliers = cv2.findEssentialMat(
            *rays, np.eye(3), method=cv2.USAC_MAGSAC, prob=PROBABILITY, threshold=threshold / focal
        )
        if essential is None or essential.shape != (3, 3):
            return Pose(None, None)
        _, rotation, translation, _ = cv2.recoverPose(essential, *rays, np.eye(3), mask=inliers)
    except cv2.error:
        return Pose(None, None)
    return Pose(rotation, translation[:, 0])


def _normalised(places: np.ndarray, camera: np.ndarray) -> np.ndarray:
    rays = np.c_[places, np.ones(len(places))] @ np.linalg.inv(camera).T
    return np.ascontiguousarray(rays[:, :2] / rays[:, 2:])


def _nothing(matches: np.ndarray) -> Geometry:
    return Geometry(None, np.zeros(len(matches), bool))


def corner_error(matrix: np.ndarray | None, truth: np.ndarray, size: tuple[int, ...]) -> float:
    """Returns the mean distance of the four corners of an image of `size` under two homographies; infinite without."""
    if matrix is None:
        return float("inf")
    height, width = size
    corners = np.asarray([[0, 0, 1], [width - 1, 0, 1], [0, height - 1, 1], [width - 1, height - 1, 1]], np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        ours, theirs = ((corners @ np.asarray(each).T) for each in (matrix, truth))
        away = np.linalg.norm(ours[:, :2] / ours[:, 2:] - theirs[:, :2] / theirs[:, 2:], axis=-1)
    return float(away.mean()) if np.isfinite(away).all() else float("inf")


def pose_error(found: Pose, rotation: np.ndarray, translation: np.ndarray) -> float:
    """Returns the larger angle, degrees, of rotation and of translation direction to the true ones; 180 without."""
    if found.rotation is None or found.translation is None:
        return 180.0
    turned = (np.trace(found.rotation.T @ rotation) - 1) / 2
    lengths = np.linalg.norm(found.translation) * np.linalg.norm(translation)
    along = abs(found.translation @ translation) / max(lengths, 1e-12)  # an essential matrix leaves the sign open
    return float(np.degrees(np.arccos(np.clip([turned, along], -1, 1))).max())
