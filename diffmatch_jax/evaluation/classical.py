"""Classical matchers from OpenCV, an optional part of the installation: DIS optical flow, and SIFT with MAGSAC++.

A matcher is a function of source and target images `[H, W, 3]` (bytes) that returns flow
`[Ht, Wt, 2]` on the target's pixels into the source, and a confidence `[Ht, Wt]` (larger is surer) or None.
"""

import numpy as np

from common.errors import choice
from diffmatch_jax.evaluation.datasets.planar import flow_of_homography
from diffmatch_jax.evaluation.datasets.record import centres
from diffmatch_jax.model.geometry import homography, opencv

PRESETS = ("ultrafast", "fast", "medium")
_FEWEST = 4  # matches that decide a homography


def dis(preset: str = "medium"):
    """Returns a matcher by DIS optical flow (Kroeger et al., ECCV 2016).

    Its confidence is minus the error of following it there and back. Images of different sizes are brought to the
    target's first.
    """
    choice("preset", preset, PRESETS)
    cv2 = opencv()

    def match(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        size = target.shape[:2]
        alike = source if source.shape[:2] == size else _resized(cv2, source, size)
        flow, back = (_flow(cv2, preset, *pair) for pair in ((target, alike), (alike, target)))
        places = centres(size).astype(np.float32) + flow
        returned = cv2.remap(back, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        error = np.linalg.norm(flow + returned, axis=-1)
        return _into(flow, source.shape[:2]), -error

    return match


def _flow(cv2, preset: str, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    method = cv2.DISOpticalFlow.create(getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{preset.upper()}"))
    return method.calc(_gray(cv2, start), _gray(cv2, end), None)


def _gray(cv2, image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)


def _resized(cv2, image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _into(flow: np.ndarray, source: tuple[int, ...]) -> np.ndarray:
    """Returns flow into an image of the target's size as flow into the source of size (height, width)."""
    size = flow.shape[:2]
    if source == size:
        return flow
    places = centres(size)
    factors = np.asarray([source[1] / size[1], source[0] / size[0]])
    return ((places + flow + 0.5) * factors - 0.5 - places).astype(np.float32)


def sift_magsac(*, features: int = 8000, ratio: float = 0.8, threshold: float = 3.0):
    """Returns a matcher by one homography: SIFT (Lowe, IJCV 2004) and MAGSAC++ (Barath et al., CVPR 2020).

    Nearest neighbours whose distance is below `ratio` of the second one's count; `threshold`: pixels. Where there are
    too few it answers that nothing moves. It has no confidence.
    """
    cv2 = opencv()

    def match(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, None]:
        size, of_source = target.shape[:2], source.shape[:2]
        still = _into(np.zeros((*size, 2), np.float32), of_source)
        sift = cv2.SIFT.create(nfeatures=features)
        (here, mine), (there, theirs) = (sift.detectAndCompute(_gray(cv2, each), None) for each in (target, source))
        if min(len(here), len(there)) < max(_FEWEST, 2):
            return still, None
        pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(mine, theirs, k=2)
        good = [best for best, second in pairs if best.distance < ratio * second.distance]
        if len(good) < _FEWEST:
            return still, None
        ends = np.asarray([there[each.trainIdx].pt for each in good], np.float32)
        starts = np.asarray([here[each.queryIdx].pt for each in good], np.float32)
        matrix = homography(ends, starts, threshold=threshold).matrix
        if matrix is None:
            return still, None
        return _bounded(flow_of_homography(matrix, source=of_source, target=size)[0], of_source), None

    return match


def _bounded(flow: np.ndarray, source: tuple[int, ...]) -> np.ndarray:
    """Keeps positions within one image size around the source: farther ones say nothing."""
    places = centres(flow.shape[:2])
    extent = np.asarray([source[1], source[0]], np.float64)
    return (np.clip(places + flow, -extent, 2 * extent) - places).astype(np.float32)
