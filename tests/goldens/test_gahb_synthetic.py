"""Images of geometric classes against numbers of the original code, from recorded draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gahb.datasets import calpha
from gahb.datasets.calpha import DB2, low_pass
from gahb.datasets.manifolds import hard_disk

CASES = ("A", "B", "C", "D")


def draws_of(arrays, number):
    return calpha.Draws(
        contour=jnp.asarray(arrays["white_contour"][number]),
        first=jnp.asarray(arrays["white_bg1"][number]),
        second=jnp.asarray(arrays["white_bg2"][number]),
        coin=jnp.asarray(arrays["coin"][number]),
        bright_min=jnp.asarray(arrays["u_bright_min"][number]),
        dark_max=jnp.asarray(arrays["u_dark_max"][number]),
    )


def settings(arrays):
    alpha, beta = float(arrays["cfg.alpha"]), float(arrays["cfg.beta"])
    return alpha, beta, tuple(int(count) for count in arrays["cfg.factor"])


@pytest.fixture(params=CASES)
def arrays(golden, request):
    return golden("gahb", f"calpha_{request.param}")


def test_gains(arrays):
    size = int(arrays["cfg.N"])
    np.testing.assert_allclose(np.fft.fftshift(calpha.gain_1d(size)), arrays["filter1d"], rtol=1e-5)
    np.testing.assert_allclose(np.fft.fftshift(calpha.gain_2d(size)), arrays["filter2d"], rtol=1e-5)


def test_contours(arrays):
    alpha, _, _ = settings(arrays)
    gain = calpha.gain_1d(int(arrays["cfg.N"])) ** alpha
    contour = jax.vmap(lambda white: calpha.filtered(white, gain))(arrays["white_contour"])
    np.testing.assert_allclose(contour, arrays["contour"], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(jax.vmap(calpha.contour_rows)(contour), arrays["contour_row"])


def test_masks(arrays):
    _, _, factor = settings(arrays)
    mask = jax.vmap(calpha.mask)(arrays["contour_row"])
    np.testing.assert_array_equal(mask, arrays["mask"])
    blurred = jax.vmap(lambda each: calpha.box_blur(each, factor))(mask)
    np.testing.assert_allclose(blurred, arrays["mask_blur"], rtol=0, atol=1e-6)


def test_backgrounds(arrays):
    _, beta, _ = settings(arrays)
    gain = calpha.gain_2d(int(arrays["cfg.N"])) ** beta
    for number in range(len(arrays["coin"])):
        for white, raw in (("white_bg1", "bg1_raw"), ("white_bg2", "bg2_raw")):
            got = calpha.filtered(jnp.asarray(arrays[white][number]), gain)
            np.testing.assert_allclose(got, arrays[raw][number], rtol=0, atol=1e-6)
        for got, name in zip(calpha.backgrounds(draws_of(arrays, number), beta=beta), ("bg1", "bg2"), strict=True):
            np.testing.assert_allclose(got, arrays[name][number], rtol=0, atol=1e-5)


def test_images(arrays):
    alpha, beta, factor = settings(arrays)
    for number in range(len(arrays["coin"])):
        got = calpha.render(draws_of(arrays, number), alpha=alpha, beta=beta, blur=factor)
        np.testing.assert_allclose(got, np.moveaxis(arrays["image"][number], 0, -1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("wrap", [False, True])
def test_contours_that_leave_the_image(golden, wrap):
    arrays = golden("gahb", "calpha_edge")
    alpha, name = float(arrays["alpha"]), "python_slice" if wrap else "clipped"
    gain = calpha.gain_1d(int(arrays["N"])) ** alpha
    contour = jax.vmap(lambda white: calpha.filtered(white, gain))(arrays["white_contour"])
    np.testing.assert_allclose(contour, arrays["contour"], rtol=0, atol=1e-6)
    rows = jax.vmap(calpha.contour_rows)(contour)
    np.testing.assert_array_equal(rows, arrays["contour_row"])
    np.testing.assert_array_equal(jax.vmap(lambda each: calpha.mask(each, wrap=wrap))(rows), arrays[f"mask_{name}"])
    if wrap:
        split = {"white_bg1": arrays["white_bg"][:, 0], "white_bg2": arrays["white_bg"][:, 1], **arrays}
        for number in range(len(rows)):
            got = calpha.render(draws_of(split, number), alpha=alpha, beta=alpha, wrap=True)
            np.testing.assert_allclose(got[..., 0], arrays["image_python_slice"][number], rtol=0, atol=1e-5)


def parameters_of(arrays, case, number):
    column, row = arrays[f"{case}.center_xy"][number]
    grays = (arrays[f"{case}.background"][number], arrays[f"{case}.foreground"][number])
    return jnp.asarray([row, column, arrays[f"{case}.radius"][number], *grays], jnp.float32)


@pytest.mark.parametrize(
    ("case", "extension", "tolerance"),
    [("all", "periodic", 0), ("wrap", "periodic", 0), ("fixed", "periodic", 0)]
    + [("aa", "periodic", 1e-4), ("aa_reflect", "reflect", 1e-4)],
)
def test_hard_disks(golden, case, extension, tolerance):
    arrays = golden("gahb", "disks")
    canvas, _, levels = (int(value) for value in arrays[f"{case}.cfg"])
    for number, want in enumerate(np.moveaxis(arrays[f"{case}.image"], 1, -1)):
        parameters = parameters_of(arrays, case, number)
        got = hard_disk(parameters, canvas // 2**levels, antialias=levels, extension=extension, gain=2.0)
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)


def test_low_pass(golden):
    arrays = golden("gahb", "disks")
    np.testing.assert_allclose(DB2, arrays["wavelet.db2_dec_lo"], rtol=0, atol=1e-5)
    for image, *wanted in zip(
        arrays["wavelet.x"], arrays["wavelet.low_periodization"], arrays["wavelet.low_reflect"], strict=True
    ):
        for want, extension in zip(wanted, ("periodic", "reflect"), strict=True):
            got = low_pass(jnp.moveaxis(image, 0, -1), extension=extension, gain=2.0)
            np.testing.assert_allclose(got, np.moveaxis(want, 0, -1), rtol=0, atol=1e-5)
