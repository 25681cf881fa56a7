"""`Match`, dense correspondence of two images, and what follows from it: keypoints, homography, epipolar geometry."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from common.errors import input_error
from diffmatch_jax.model import geometry
from diffmatch_jax.model.flow import consistency, warp
from diffmatch_jax.model.geometry import Geometry

COVISIBLE_PIXELS = 5.0  # there and back, in pixels of an image whose longer side is 256
COVISIBLE_CONFIDENCE = 0.1


class Keypoints(NamedTuple):
    """Sampled matches: places (x, y) in pixels of the target and of the source `[n, 2]`, and their weights `[n]`."""

    target: np.ndarray
    source: np.ndarray
    weight: np.ndarray


class Match(NamedTuple):
    """Dense correspondence of a pair, or of a batch of them with a first axis more; NumPy arrays.

    flow `[H, W, 2]`: for every pixel of the target, x and y to its place in the source, in the source's pixels: if both
    have one size, source position = target pixel + flow, else likewise by the pixels' own coordinates.
    confidence `[H, W]` in [0, 1]: e / (1 + (s / c)^2), s the std in pixels of a 256x256 image (or the model's own
    size), c the model's (4 of the weights in the package), and e the texture of both images, 0 where either is flat or
    masked, times how far the match is ahead of other places, 0 where another looks the same. For a model without std s
    is the distance of the matches from their fit, or the best correlation counts.
    std `[H, W]`: standard deviation of the flow, sqrt(trace) of covariance `[H, W, 2, 2]`, over a cell and those around
    it, in pixels of the source: predicted by the network if it predicts a variance, otherwise that of the hypotheses,
    otherwise 0.
    wta_flow `[H, W, 2]`: flow to the cells of the largest correlation.
    hypotheses `[n, h, w, 2]`: normalised flows, equally likely, of the last stage that samples any (of the weights in
    the package the second), on its grid.
    source_size `[2]`: height and width of the source.
    """

    flow: Float[np.ndarray, "*batch height width 2"]
    confidence: Float[np.ndarray, "*batch height width"]
    std: Float[np.ndarray, "*batch height width"]
    covariance: Float[np.ndarray, "*batch height width 2 2"]
    wta_flow: Float[np.ndarray, "*batch height width 2"]
    hypotheses: Float[np.ndarray, "*batch n cells_high cells_wide 2"]
    source_size: np.ndarray

    def pair(self, index: int) -> "Match":
        """Returns the match of one pair of a batch."""
        return Match(*(each[index] for each in self))

    def keypoints(self, n: int = 2000, *, seed: int = 0) -> Keypoints:
        """Returns `n` matches of different target pixels, sampled with probability proportional to their confidence.

        Args:
          n: number of matches; fewer where fewer pixels have a confidence above 0 and a place inside the source.
          seed: of the sampling.

        Returns:
          `Keypoints`, whose weights are the confidences.

        Raises:
          InputError: a batch, or n below 1.

        >>> target, source, weight = diffmatch_jax.match(a, b).keypoints(500)  # doctest: +SKIP
        """
        self._check_single("keypoints")
        return Keypoints(*geometry.sampled(self.flow, self.confidence, tuple(self.source_size), n=n, seed=seed))

    def homography(self, *, n: int = 5000, threshold: float = 3.0, seed: int = 0) -> Geometry:
        """Returns the homography that takes target pixels to source pixels, `x_source ~ H x_target`.

        Args:
          n: matches from which it is estimated, see `keypoints`.
          threshold: pixels of the source within which a match agrees.
          seed: of the matches and of the estimator, OpenCV's USAC (MAGSAC++, Barath et al., CVPR 2020).

        Returns:
          `Geometry`: matrix `[3, 3]` and inliers `[n]`; None for the matrix where too few matches agree.

        Raises:
          InputError: a batch, or without OpenCV (`pip install 'scorebridge[classical]'`).
        """
        self._check_single("homography")
        found = self.keypoints(n, seed=seed)
        return geometry.homography(found.target, found.source, threshold=threshold, seed=seed)

    def fundamental(self, *, n: int = 5000, threshold: float = 1.0, seed: int = 0) -> Geometry:
        """Returns the fundamental matrix, `x_source^T F x_target = 0`; arguments and result as of `homography`.

        threshold: pixels between a match and its epipolar line.
        """
        self._check_single("fundamental")
        found = self.keypoints(n, seed=seed)
        return geometry.fundamental(found.target, found.source, threshold=threshold, seed=seed)

    def covisible(self, back: "Match") -> np.ndarray:
        """Returns which pixels of the target the source shows too, `[H, W]`.

        Those whose flow leads into the source and back to within 5 pixels of an image of 256, with a confidence of at
        least 0.1.

        Args:
          back: the match of the same images exchanged, `diffmatch_jax.match(target, source)`.

        Raises:
          InputError: a batch, or a match of images of other sizes.

        >>> seen = diffmatch_jax.match(a, b).covisible(diffmatch_jax.match(b, a))  # doctest: +SKIP
        """
        self._check_single("covisible")
        sizes = [tuple(self.source_size.tolist()), self.flow.shape[:2]]
        if [back.flow.shape[:-1], tuple(back.source_size)] != sizes:
            got, fix = f"one for {back.flow.shape[:-1]} pixels", "give match(target, source)"
            raise input_error("back", expected=f"the match of {sizes[0]} pixels", got=got, fix=fix)
        return covisible(self.flow, back.flow, self.confidence)

    def warp(self, image: np.ndarray) -> np.ndarray:
        """Returns an image `[Hs, Ws]` or `[Hs, Ws, C]` of the source's size as the target sees it, of the same type.

        Bilinear; 0 where the flow leads outside. Raises `InputError` for a batch or another size.
        """
        self._check_single("warp")
        image = np.asarray(image)
        if image.ndim not in (2, 3) or image.shape[:2] != tuple(self.source_size):
            expected, got = f"{self.source_size.tolist()} pixels, as the source", list(image.shape)
            raise input_error("image", expected=expected, got=got, fix="give the source, or what was made of it")
        return warped(image, self.flow)

    def _check_single(self, name: str) -> None:
        if self.flow.ndim != 3:
            fix = f"call match.pair(i).{name}"
            raise input_error(name, expected="the match of one pair", got=f"a batch of {len(self.flow)}", fix=fix)


def covisible(
    flow: Float[np.ndarray, "height width 2"],
    back: Float[np.ndarray, "source_height source_width 2"],
    confidence: Float[np.ndarray, "height width"] | None = None,
) -> Bool[np.ndarray, "height width"]:
    """Returns which pixels `[H, W]` of the target both images show, by flow `[H, W, 2]` and `back [Hs, Ws, 2]`.

    Those that lead into the source and back to within `COVISIBLE_PIXELS`, at `COVISIBLE_CONFIDENCE` if one is given.
    """
    found = consistency(jnp.asarray(flow), jnp.asarray(back), absolute=np.inf)
    allowed = COVISIBLE_PIXELS * max(flow.shape[:2]) / 256
    seen = np.asarray(found.consistent) & (np.asarray(found.error) <= allowed)
    return seen if confidence is None else seen & (confidence >= COVISIBLE_CONFIDENCE)


def warped(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Returns an image `[H, W]` or `[H, W, C]` sampled at the places of `flow [h, w, 2]`, in the image's type."""
    channels = image[..., None] if image.ndim == 2 else image
    result = np.asarray(warp(jnp.asarray(channels, jnp.float32), jnp.asarray(flow)))
    result = result[..., 0] if image.ndim == 2 else result
    if np.issubdtype(image.dtype, np.integer):
        limits = np.iinfo(image.dtype)
        return np.clip(np.round(result), limits.min, limits.max).astype(image.dtype)
    return result.astype(image.dtype)
