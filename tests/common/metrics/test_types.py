"""Bytes, half floats and what is no image, in every measure: right values, or one line that says what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from common.errors import InputError
from common.metrics.distances import frechet_distance, mmd_squared
from common.metrics.neighbours import nearest, precision_recall
from common.metrics.psnr import mse, psnr
from gahb.datasets.calpha import rescale
from gahb.metrics.similarity import closest, closest_patches, correlation, cosine, distance, patches, unit_vectors
from phase_bridge.evaluation import sliced_wasserstein, wasserstein

RNG = np.random.default_rng(0)
A, B = (RNG.integers(0, 256, (6, 8, 8, 1)).astype(np.uint8) for _ in range(2))


def unit(x):
    return x.astype(np.float64) / 255


def test_psnr_of_bytes():
    dark = np.zeros((1, 8, 8, 1), np.uint8)
    for peak in (1, 255, 255.0):
        np.testing.assert_allclose(psnr(dark, dark + 200, peak=peak), 10 * np.log10(255**2 / 200**2), rtol=1e-5)
    np.testing.assert_allclose(mse(A, B), np.square(unit(A) - unit(B)).mean((1, 2, 3)), rtol=1e-5)
    # Bytes beside floats of the same peak.
    np.testing.assert_allclose(psnr(A, unit(B)), psnr(unit(A), unit(B)), rtol=1e-5)
    np.testing.assert_allclose(psnr(A, B.astype(np.float32), peak=255), psnr(unit(A), unit(B)), rtol=1e-5)
    np.testing.assert_allclose(jax.jit(psnr)(A, B), psnr(unit(A), unit(B)), rtol=1e-5)


@pytest.mark.parametrize("library", [np, jnp])
def test_similarities_of_bytes(library):
    a, b = library.asarray(A), library.asarray(B)
    np.testing.assert_allclose(distance(a, b), np.sqrt(np.square(unit(A) - unit(B)).mean((1, 2, 3))), rtol=1e-5)
    for measure in (correlation, cosine):
        np.testing.assert_allclose(measure(a, b), measure(unit(A), unit(B)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(unit_vectors(a.reshape(6, -1)), unit_vectors(unit(A).reshape(6, -1)), atol=1e-6)
    both = np.concatenate([B, A])
    found = closest(a, both)
    np.testing.assert_array_equal(found.index, np.arange(6, 12))
    np.testing.assert_allclose(found.value, 1, rtol=1e-5)
    np.testing.assert_array_equal(closest_patches(a, both, size=4, stride=4).index, [[i + 6] * 4 for i in range(6)])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_floats_of_any_width(dtype):
    a, b = (jnp.asarray(unit(x), dtype) for x in (A, B))
    exact_a, exact_b = (np.asarray(x, np.float64) for x in (a, b))
    np.testing.assert_allclose(psnr(a, b), psnr(exact_a, exact_b), rtol=1e-5)
    np.testing.assert_allclose(correlation(a, b), correlation(exact_a, exact_b), atol=1e-6)
    np.testing.assert_allclose(distance(a, b), distance(exact_a, exact_b), rtol=1e-5)


@pytest.mark.parametrize("call", [psnr, mse, correlation, cosine, distance, closest])
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (A.astype(np.uint16), "divide by 255"),
        (A.astype(np.uint16) * 257, "divide by 65535"),
        (A.astype(np.int64), "divide by 255"),
        (A > 100, r"astype\(np.float32\)"),
        (np.where(A > 200, np.nan, unit(A)), "expected finite numbers"),
        (np.where(A > 200, np.inf, unit(A)), "expected finite numbers"),
        (unit(A) + 1j, "real numbers"),
    ],
)
def test_what_is_no_image(call, wrong, says):
    for pair in ((wrong, unit(B)), (unit(B), wrong)):
        with pytest.raises(InputError, match=says):
            call(*pair)


def test_psnr_of_another_range_or_shape():
    with pytest.raises(InputError, match="reference: expected intensities up to peak=1.*divide both by 255"):
        psnr(A.astype(np.float32), B.astype(np.float32))
    with pytest.raises(InputError, match=r"image: expected the shape of reference, \[6, 8, 8, 1\]"):
        psnr(A, B[..., 0])
    with pytest.raises(InputError, match="peak: expected a positive number"):
        psnr(A, B, peak=0)


@pytest.mark.parametrize(
    "measure",
    [
        frechet_distance,
        sliced_wasserstein,
        wasserstein,
        lambda x, y: mmd_squared(x, y, kernel=lambda a, b: -cdist(a, b)),
        precision_recall,
        lambda x, y: nearest(x, y).distance,
    ],
)
@pytest.mark.parametrize("dimensions", [5, 20])
def test_measures_of_points_take_integers_by_their_values(measure, dimensions):
    x, y = (RNG.integers(0, 256, (30, dimensions)) for _ in range(2))
    want = measure(x.astype(np.float64), y.astype(np.float64))
    for dtype in (np.uint8, np.uint16, np.int64, np.float32):
        np.testing.assert_allclose(measure(x.astype(dtype), y.astype(dtype)), want, rtol=1e-5)
    for wrong in (x > 100, x + 1j):
        with pytest.raises(InputError, match="expected real numbers"):
            measure(wrong, y)


@pytest.mark.parametrize("call", [psnr, mse, correlation, cosine, distance, closest, wasserstein, nearest])
def test_hidden_numbers_do_not_count(call):
    hiding = np.ma.masked_array(unit(A), unit(A) < 0.1)
    with pytest.raises(InputError, match=rf"expected an array without a mask, got {hiding.mask.sum()} of {A.size}"):
        call(unit(B), hiding)
    nothing = np.ma.masked_array(unit(A), np.zeros(A.shape, bool))
    for found, want in zip(
        jax.tree.leaves(call(unit(B), nothing)), jax.tree.leaves(call(unit(B), unit(A))), strict=True
    ):
        np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("call", [correlation, cosine, closest, lambda x, y: closest_patches(x, y, size=4, stride=4)])
def test_sets_without_an_image(call):
    for pair in ((A[:0], B), (A, B[:0]), (np.float32(0.5), B), (A, [])):
        with pytest.raises(InputError, match="expected at least one image"):
            call(*pair)
    with pytest.raises(InputError, match=r"references: expected images of shape \[8, 8, 1\], got \[8, 4, 1\]"):
        call(A, B[:, :, :4])


def test_patches_of_bytes_are_in_the_unit_of_images():
    np.testing.assert_allclose(patches(A, size=8, stride=8)[:, 0], unit(A).reshape(6, -1), rtol=1e-6)
    for wrong in (A.astype(np.uint16), A[..., 0], np.where(A > 200, np.nan, unit(A))):
        with pytest.raises(InputError, match="images: expected"):
            patches(wrong, size=4, stride=4)


def test_psnr_of_one_image_in_another_unit():
    with pytest.raises(
        InputError, match="image: expected intensities up to peak=1, got a mean of .*; divide it by 255"
    ):
        psnr(unit(A), 255 * unit(B))
    # What diverges, to both sides, has its PSNR.
    far = 50 * np.where(np.arange(A.size).reshape(A.shape) % 2, 1.0, -1.0)
    np.testing.assert_allclose(psnr(np.zeros(A.shape), far), -20 * np.log10(50), rtol=1e-5)
    with pytest.raises(InputError, match=r"reference: expected a batch of images.*reference\[None\]"):
        psnr(0.5, 0.25)


@pytest.mark.parametrize("measure", [wasserstein, sliced_wasserstein, precision_recall, nearest])
def test_bytes_and_floats_are_not_compared(measure):
    for pair in ((A, unit(B)), (unit(A).astype(np.float32), B)):
        with pytest.raises(InputError, match="uint8.*; bring both to one unit, (samples|reference|points) / 255"):
            measure(*pair)


def test_rows_of_unequal_length_are_no_points():
    with pytest.raises(InputError, match="samples: expected an array, .*; give rows of one length"):
        wasserstein([[1, 2], [3]], [[1, 2], [3, 4]])


def test_rescaling_nothing():
    with pytest.raises(InputError, match="image: expected at least one number"):
        rescale(A[:0])
