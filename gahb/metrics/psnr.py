"""Quality of a denoiser: PSNR against noise level, image by image, beside the best stationary linear filter.

Also the optimal errors of classes in closed form, and the slopes of PSNR curves. PSNRs are in dB with peak 1, noise
levels in intensity units; what is computed from curves is float64 on the host.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Real

from common.arrays import AnyArray, as_images, as_numbers
from common.errors import input_error, whole_number
from common.method import Evaluation
from common.metrics.psnr import mse, sigma_to_psnr
from common.prng import as_key
from gahb.denoisers import Denoiser, as_denoiser, check_sigma, denoised
from gahb.reference import Prior, wiener


class PsnrCurve(NamedTuple):
    """PSNR in dB (peak 1) at each noise level, float64; `S` levels, `N` images."""

    sigma: Float[np.ndarray, " levels"]  # [S] noise standard deviation, intensity units
    input_psnr: Float[np.ndarray, " levels"]  # [S] of the noisy image, -20 log10 sigma
    per_image: Float[np.ndarray, "levels images"]  # [S, N] of each denoised image
    mean_psnr: Float[np.ndarray, " levels"]  # [S] mean over images
    mean_psnr_error: Float[np.ndarray, " levels"]  # [S] its standard error (NaN for one image)
    # [S] 10 log10(1 / mean over images of the mean squared error); slopes use this one
    psnr_of_mean: Float[np.ndarray, " levels"]
    psnr_of_mean_error: Float[np.ndarray, " levels"]  # [S] its standard error, to first order


def psnr_curve(
    denoise: Denoiser | Sequence[Denoiser],
    images: Real[AnyArray, "images height width channels"],
    sigmas: Sequence[float] | np.ndarray,
    key: jax.Array,
    *,
    batch_size: int = 64,
    noise: Float[AnyArray, "levels images height width channels"] | None = None,
) -> PsnrCurve:
    """Denoises every one of `images [N, H, W, C]` at every level of `sigmas [S]` (intensity units).

    images: bytes, or floats in [0, 1]. `denoise` is blind, or a sequence with one denoiser per level. The noise of
    image i at level s is drawn from fold_in(fold_in(key, s), i), for any batch size; `noise [S, N, H, W, C]`
    (standard normal) replaces it. Compiles once for all levels and batches. Raises `InputError` for lengths that do not
    fit, an empty batch, and for what is no clean image.

    >>> curve = psnr_curve(lambda y: 0 * y, np.full((1, 2, 2, 1), 0.1), [0.1], jax.random.key(0))
    >>> curve.input_psnr.round(3).tolist(), curve.mean_psnr.round(3).tolist()
    ([20.0], [20.0])
    """
    key = as_key(key)
    images = as_numbers(images, "images")
    if images.shape[:1] == (0,):
        raise input_error("images", expected="at least one image", got="none", fix="use a larger test set")
    images = as_images(images, "images")
    noise = None if noise is None else as_numbers(noise, "noise")
    batch_size = whole_number("batch_size", batch_size)
    blind = callable(denoise)
    count = len(images)
    if not blind and len(denoise) != len(sigmas):
        fix = "give one per sigma, or a blind one"
        raise input_error("denoise", expected=f"{len(sigmas)} denoisers", got=len(denoise), fix=fix)
    if noise is not None and noise.shape != (len(sigmas), *images.shape):
        expected = [len(sigmas), *images.shape]
        raise input_error("noise", expected=expected, got=list(noise.shape), fix="give one for every level and image")
    error = np.zeros((len(sigmas), count))
    batch_size = min(batch_size, count)
    for s, sigma in enumerate(sigmas):
        f = as_denoiser(denoise if blind else denoise[s])
        for start in range(0, count, batch_size):
            # The last batch reaches back instead of being shorter, so that all have one shape.
            start = min(start, count - batch_size)
            rows = slice(start, start + batch_size)
            z = None if noise is None else noise[s, rows]
            level_key = jax.random.fold_in(key, s)
            error[s, rows] = _error(f, images[rows], jnp.asarray(sigma, float), level_key, jnp.uint32(start), z)
    return summarise(np.asarray(sigmas, np.float64), error)


def summarise(sigma: np.ndarray, error: np.ndarray) -> PsnrCurve:
    """Turns mean squared errors `[S, N]` into curves with their standard errors."""
    count = error.shape[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        per_image = -10 * np.log10(error)
        mean_error = error.mean(1)
        deviation = per_image.std(1, ddof=1) if count > 1 else np.full(len(sigma), np.nan)
        spread = error.std(1, ddof=1) if count > 1 else np.full(len(sigma), np.nan)
        return PsnrCurve(
            sigma=sigma,
            input_psnr=sigma_to_psnr(sigma),
            per_image=per_image,
            mean_psnr=per_image.mean(1),
            mean_psnr_error=deviation / np.sqrt(count),
            psnr_of_mean=-10 * np.log10(mean_error),
            psnr_of_mean_error=10 / np.log(10) * spread / mean_error / np.sqrt(count),
        )


@jax.jit
def _error(denoise, clean, sigma, key, start, z):
    clean = jnp.asarray(clean)
    if z is None:
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(start + jnp.arange(len(clean), dtype=jnp.uint32))
        z = jax.vmap(lambda key: jax.random.normal(key, clean.shape[1:], clean.dtype))(keys)
    noisy = clean + sigma.astype(clean.dtype) * z
    return mse(clean, denoised(denoise, noisy))


def evaluate(
    denoise: Denoiser,
    key: jax.Array,
    *,
    images: Real[AnyArray, "images height width channels"],
    sigmas: Sequence[float] | np.ndarray,
    curve_db: Sequence[float],
    panel: Real[AnyArray, "panel tall wide channels"],
    prior: Prior | None = None,
    origins: Sequence[int] | np.ndarray | None = None,
    batch_size: int = 64,
) -> Evaluation:
    """Measures PSNR at `sigmas` (noise standard deviations, intensity units) and along `curve_db` (input PSNRs, dB).

    images: held-out `[N, H, W, C]` in [0, 1]. origins: number of the photograph that each image is a crop of, `[N]`;
    crops of one photograph are not independent, so that standard errors are those over photographs
    (`clustered_error`). None: every image is independent. prior: of the Wiener filter, which knows sigma, on the same
    noisy images; None leaves it out. panel: a few larger held-out images `[P, H', W', C]`, denoised at each sigma.

    Arrays: `levels.*` and `curve.*` (fields of `PsnrCurve`, `.wiener.*` too), and the panel's `panel.clean`,
    `panel.noisy`, `panel.denoised` (`[P, ...]`, `[S, P, ...]`), `panel.psnr [S, P]`. Raises `InputError` for sigmas
    that are not positive, and for origins of another length than images.
    """
    check_sigma(sigmas, several=True)
    origins = np.arange(len(images)) if origins is None else np.asarray(origins)
    if origins.shape != (len(images),):
        fix = "give one number for each image"
        raise input_error("origins", expected=[len(images)], got=list(origins.shape), fix=fix)
    level_key, curve_key, panel_key = jax.random.split(key, 3)
    arrays: dict[str, np.ndarray] = {}
    noise = {"levels": np.asarray(sigmas, float), "curve": 10 ** (-np.asarray(curve_db, float) / 20)}
    curves: dict[str, PsnrCurve] = {}
    for name, noise_key in (("levels", level_key), ("curve", curve_key)):
        denoisers: dict[str, Any] = {"": denoise}
        if prior is not None:
            denoisers[".wiener"] = [wiener(prior, sigma) for sigma in noise[name]]
        for suffix, each in denoisers.items():
            curve = psnr_curve(each, images, noise[name], noise_key, batch_size=batch_size)
            curves[name + suffix] = curve = _with_clustered_errors(curve, origins)
            arrays |= {f"{name}{suffix}.{field}": value for field, value in curve._asdict().items()}
    arrays |= _panel(denoise, panel_key, panel, noise["levels"])
    denoised, filtered = curves["levels"], curves.get("levels.wiener")
    of_mean = {"noisy": denoised.input_psnr, "denoised": denoised.psnr_of_mean}
    numbers = {
        "num_images": len(images),
        "num_origins": len(np.unique(origins)),
        "nfe": 1,
        "table": [_row(i, denoised, filtered, origins) for i in range(len(noise["levels"]))],
        "psnr_of_mean_mse": of_mean if filtered is None else {**of_mean, "wiener": filtered.psnr_of_mean},
    }
    return Evaluation(numbers, arrays)


def clustered_error(values: Float[np.ndarray, "*rows images"], origins: np.ndarray) -> Float[np.ndarray, "*rows"]:
    """Returns the standard error of the mean of `values [..., N]` where values of one origin `[N]` are dependent.

    sqrt(G / (G - 1) sum_g (sum_{i in g} (v_i - mean))^2) / N over G origins (Liang and Zeger, Biometrika 1986): that of
    resampling whole origins, up to the factor for a small G. With one value each it is the usual std / sqrt(N), NaN
    for one origin.
    """
    values = np.asarray(values, np.float64)
    _, group = np.unique(origins, return_inverse=True)
    count = group.max() + 1
    if count == 1:
        return np.full(values.shape[:-1], np.nan)
    sums = np.zeros((*values.shape[:-1], count))
    of_group: Any = (..., group)
    np.add.at(sums, of_group, values - values.mean(-1, keepdims=True))
    return np.sqrt(count / (count - 1) * np.square(sums).sum(-1)) / values.shape[-1]


def _with_clustered_errors(curve: PsnrCurve, origins: np.ndarray) -> PsnrCurve:
    error = 10 ** (-curve.per_image / 10)
    return curve._replace(
        mean_psnr_error=clustered_error(curve.per_image, origins),
        psnr_of_mean_error=10 / np.log(10) * clustered_error(error, origins) / error.mean(1),
    )


def _row(i: int, curve: PsnrCurve, filtered: PsnrCurve | None, origins: np.ndarray) -> dict[str, Any]:
    """Returns mean PSNRs over the images at one level, dB, with the standard errors of the denoiser's and its gain."""
    row = {
        "sigma": float(curve.sigma[i]),
        "noisy": float(curve.input_psnr[i]),
        "denoised": float(curve.mean_psnr[i]),
        "error": float(curve.mean_psnr_error[i]),
    }
    if filtered is not None:
        gain = curve.per_image[i] - filtered.per_image[i]
        row |= {
            "wiener": float(filtered.mean_psnr[i]),
            "gain": float(gain.mean()),
            "gain_error": float(clustered_error(gain, origins)),
        }
    return row


def _panel(denoise: Denoiser, key: jax.Array, clean: AnyArray, sigmas: np.ndarray) -> dict[str, Any]:
    noisy, denoised = denoise_at(denoise, key, clean, sigmas)
    error = np.square(denoised - clean[None]).mean((2, 3, 4), dtype=np.float64)
    return {
        "panel.sigma": sigmas,
        "panel.clean": clean,
        "panel.noisy": noisy,
        "panel.denoised": denoised,
        "panel.psnr": -10 * np.log10(error),
    }


def denoise_at(
    denoise: Denoiser,
    key: jax.Array,
    clean: Real[AnyArray, "images height width channels"],
    sigmas: Sequence[float] | np.ndarray,
) -> tuple[
    Float[np.ndarray, "levels images height width channels"], Float[np.ndarray, "levels images height width channels"]
]:
    """Returns `clean [N, H, W, C]` noisy and denoised, one noise for all `sigmas [S]`: two `[S, N, H, W, C]`."""
    z = jax.random.normal(key, clean.shape)
    pairs = [_denoise_noisy(as_denoiser(denoise), clean, z, float(sigma)) for sigma in sigmas]
    noisy, denoised = zip(*pairs, strict=True)
    return np.stack([np.asarray(x) for x in noisy]), np.stack([np.asarray(x) for x in denoised])


@jax.jit
def _denoise_noisy(denoise, clean, z, sigma):
    noisy = clean + sigma * z
    return noisy, denoise(noisy)


class Slope(NamedTuple):
    """A line through the points of a PSNR curve that `selected` marks."""

    slope: float  # dB after denoising per dB before
    standard_error: float  # over resampled images; NaN for one image
    intercept: float  # dB at an input PSNR of 0
    local: np.ndarray  # [S - 1] slopes between neighbouring points of the whole curve, by increasing input PSNR
    local_input_psnr: np.ndarray  # [S - 1] the middles of these intervals
    selected: np.ndarray  # [S] bool, in the order of the points as given


def contour_slope(alpha: float) -> float:
    """Returns the nominal slope alpha / (alpha + 1) of C^alpha images (Kadkhodaie et al., section 4.1).

    It is the minimax rate for a contour of regularity alpha between regions without detail. It is no bound for the
    images of `gahb.datasets.calpha`: their backgrounds of power |k|^(-2 alpha) alone have the slope (alpha - 1) /
    alpha, and `gahb.reference.gaussian` computes what the class costs at least.
    """
    return alpha / (alpha + 1)


def manifold_mse(sigma: np.ndarray | float, *, dimension: int) -> np.ndarray:
    """Returns D sigma^2, the squared error (summed over pixels) of projecting on D tangent directions.

    It is that of the best denoiser as sigma goes to 0 (Kadkhodaie et al., section 4.2);
    `gahb.datasets.manifolds.DIMENSIONS` has D by class. Raises `InputError` unless every sigma is a positive number.
    """
    check_sigma(sigma, several=True)
    return dimension * np.square(np.asarray(sigma, np.float64))


def manifold_psnr(input_psnr: np.ndarray | float, *, dimension: int, pixels: int) -> np.ndarray:
    """Returns the PSNR that belongs to `manifold_mse`: a line of slope 1 and intercept 10 log10(pixels / dimension)."""
    return np.asarray(input_psnr, np.float64) + 10 * np.log10(pixels / dimension)


def oracle_mse(
    energy: Float[np.ndarray, "... coefficients"], sigma: Float[np.ndarray, " levels"] | float
) -> Float[np.ndarray, "levels ..."]:
    """Returns sum_k sigma^2 c_k^2 / (c_k^2 + sigma^2) for `energy [..., K]` = c_k^2 and `sigma [S]`, `[S, ...]`.

    The error of the best shrinkage in one fixed basis. With c_k^2 = k^-(alpha + 1) its PSNR has the slope
    alpha / (alpha + 1) at small noise. Raises `InputError` unless every sigma is a positive number.
    """
    check_sigma(sigma, several=True)
    energy = np.asarray(energy, np.float64)
    variances = np.square(np.asarray(sigma, np.float64))
    return np.stack([(variance * energy / (energy + variance)).sum(-1) for variance in np.ravel(variances)])


def window(
    input_psnr: Float[np.ndarray, " levels"], *, least: float = 17.0, skip: int = 2
) -> Bool[np.ndarray, " levels"]:
    """Returns which points a slope is fitted to, bool `[S]`: those from `least` dB on but for the `skip` highest.

    The line is an asymptote for small noise; but networks are hardly trained on the very smallest, so that these points
    are left out.
    """
    input_psnr = np.asarray(input_psnr, np.float64)
    rank = np.argsort(np.argsort(-input_psnr, kind="stable"))
    return (input_psnr >= least) & (rank >= skip)


def fit_slope(
    input_psnr: Float[np.ndarray, " levels"],
    per_image: Float[np.ndarray, "levels images"],
    key: jax.Array,
    *,
    selected: Bool[np.ndarray, " levels"] | None = None,
    resamples: int = 1000,
) -> Slope:
    """Fits 10 log10(1 / mean squared error) against the input PSNR by least squares.

    `input_psnr [S]` and `per_image [S, N]` are PSNRs as `gahb.metrics.psnr_curve` gives them; the mean is over squared
    errors, not over dB. `selected [S]` marks the points of the fit (default: `window(input_psnr)`). The standard error
    is that of `resamples` fits to images resampled with replacement, the same ones at every level. Raises `InputError`
    for shapes that do not fit and for fewer than two different points.
    """
    input_psnr, per_image = np.asarray(input_psnr, np.float64), np.asarray(per_image, np.float64)
    if per_image.ndim != 2 or input_psnr.shape != per_image.shape[:1] or per_image.shape[1] == 0:
        expected = f"[S, N] for input_psnr [S] = {list(input_psnr.shape)}"
        raise input_error("per_image", expected=expected, got=list(per_image.shape), fix="give one row for each level")
    selected = window(input_psnr) if selected is None else np.asarray(selected, bool)
    if selected.shape != input_psnr.shape or len(np.unique(input_psnr[selected])) < 2:
        got = f"{np.count_nonzero(selected)} of {len(input_psnr)}"
        raise input_error(
            "selected", expected="at least 2 different input PSNRs", got=got, fix="use more levels, or select others"
        )
    error = 10 ** (-per_image / 10)
    count = error.shape[1]
    slope, intercept = _line(input_psnr[selected], -10 * np.log10(error[selected].mean(1)))
    order = np.argsort(input_psnr, kind="stable")
    x, y = input_psnr[order], -10 * np.log10(error[order].mean(1))
    chosen = np.asarray(jax.random.randint(key, (resamples, count), 0, count)) if count > 1 else []
    slopes = [_line(input_psnr[selected], -10 * np.log10(error[selected][:, each].mean(1)))[0] for each in chosen]
    with np.errstate(divide="ignore", invalid="ignore"):
        local = np.diff(y) / np.diff(x)
    return Slope(
        slope=slope,
        standard_error=float(np.std(slopes, ddof=1)) if len(slopes) > 1 else float("nan"),
        intercept=intercept,
        local=local,
        local_input_psnr=(x[1:] + x[:-1]) / 2,
        selected=selected,
    )


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    return slope, float(y.mean() - slope * x.mean())
