"""Public functions given bytes, half floats, keys of every kind, and what is no image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gahb
from common.errors import InputError
from gahb import eigenbasis, inverse, operators, reference
from gahb.experiments.analyse import survey
from gahb.metrics import generalisation
from gahb.metrics.psnr import psnr_curve
from gahb.networks import BFCNN, init

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHAPE = (4, 4, 1)
BYTES = np.random.default_rng(0).integers(0, 256, (3, *SHAPE)).astype(np.uint8)
UNIT = (BYTES / 255).astype(np.float32)
WRONG = {
    "uint16": (BYTES.astype(np.uint16) * 257, "divide by 65535"),
    "int64": (BYTES.astype(np.int64), "divide by 255"),
    "0..255": (BYTES.astype(np.float32), "divide by 255"),
    "bool": (BYTES > 100, "astype"),
    "NaN": (np.where(BYTES > 200, np.nan, UNIT), "expected finite numbers"),
}


def half(y):
    return 0.5 * y + 0.2


@pytest.fixture(scope="module")
def denoise():
    network = BFCNN(num_kernels=4, num_layers=3)
    return gahb.denoiser(init(network, jax.random.key(1), jnp.zeros((1, *SHAPE))), network)


@pytest.fixture(scope="module")
def basis():
    return eigenbasis.top_k(half, UNIT[0], 3)


ORTHONORMAL = reference.dct(SHAPE)
REFERENCES = {
    "covariance": lambda x: reference.covariance_wiener(reference.fit_covariance(x), 0.3),
    "stationary": lambda x: reference.wiener(reference.fit(x), 0.3),
    "empirical": lambda x: reference.empirical(x, 0.3),
    "local": lambda x: reference.local(x, 0.3, patch=3),
    "equivariant": lambda x: reference.equivariant(x, 0.3, patch=3),
    "soft": lambda x: reference.soft_threshold(ORTHONORMAL, 0.3),
    "oracle": lambda x: reference.oracle(ORTHONORMAL, 0.3)(x),
}
FUNCTIONS = {
    "psnr_curve": lambda x, _: psnr_curve(half, x, [0.1, 0.5], jax.random.key(0)).per_image,
    "squared_distances": lambda x, _: generalisation.squared_distances(half, lambda y: y, x, [0.2], jax.random.key(0)),
    "restore": lambda x, _: inverse.restore(
        half, jax.random.key(0), x, operators.inpainting(SHAPE, box=(2, 2, 2, 2)), max_steps=5
    )["mismatch"],
    "survey": lambda x, _: survey(half, x, [0.1], 2, jax.random.key(0), num=4)[1]["noisy"],
    "linearise": lambda x, _: eigenbasis.linearise(half, x[0]).value,
    "jacobian": lambda x, _: eigenbasis.jacobian(lambda y: y**2, x[0]),
    "initial": lambda x, _: gahb.sample(half, 0, (3, *SHAPE), initial=x, max_steps=3)[0],
    **{f"fit_{name}": lambda x, _, make=make: make(x)(UNIT) for name, make in REFERENCES.items() if name != "soft"},
    **{f"apply_{name}": lambda x, _, make=make: make(UNIT)(x) for name, make in REFERENCES.items()},
    "soft_error": lambda x, _: reference.soft_error(ORTHONORMAL, x, 0.2),
    "oracle_error": lambda x, _: reference.oracle_error(ORTHONORMAL, x, 0.2),
    "denoiser": lambda x, denoise: denoise(x),
}
LINEAR = {
    "inpainting": operators.inpainting(SHAPE, box=(2, 2, 2, 2)),
    "random_pixels": operators.random_pixels(0, SHAPE, fraction=0.5),
    "super_resolution": operators.super_resolution(2),
    "random_basis": operators.random_basis(0, SHAPE, fraction=0.5),
    "spectral": operators.spectral(SHAPE, fraction=0.5),
}
ANY_RANGE = {
    **{name: lambda x, each=each: each.analyze(x) for name, each in LINEAR.items()},
    "gradients": generalisation.gradients,
    "pair_similarity": lambda x: generalisation.pair_similarity(x, x[::-1], generalisation.FEATURES["gradients"]),
    "nearest": lambda x: generalisation.nearest(x, x[::-1], generalisation.FEATURES["pixels"]).index,
    "analyze": ORTHONORMAL.analyze,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_bytes_are_images_in_the_unit_interval(name, denoise):
    want = np.asarray(FUNCTIONS[name](UNIT, denoise))
    assert np.isfinite(want).all() and np.issubdtype(want.dtype, np.floating)
    for library in (np, jnp):
        found = np.asarray(FUNCTIONS[name](library.asarray(BYTES), denoise))
        assert found.dtype == want.dtype
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_image(name, wrong, denoise):
    images, says = WRONG[wrong]
    if (name, wrong) == ("initial", "0..255"):
        pytest.skip("an iterate may be anywhere")
    with pytest.raises(InputError, match=says):
        FUNCTIONS[name](images, denoise)


@pytest.mark.parametrize("name", ANY_RANGE)
def test_functions_of_images_of_any_range(name):
    want = np.asarray(ANY_RANGE[name](UNIT))
    np.testing.assert_allclose(ANY_RANGE[name](BYTES), want, rtol=1e-4, atol=1e-5)
    ANY_RANGE[name](100 * UNIT - 50)
    for wrong in ("uint16", "int64", "bool", "NaN"):
        with pytest.raises(InputError, match=WRONG[wrong][1]):
            ANY_RANGE[name](WRONG[wrong][0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_denoiser_of_other_floats(denoise, dtype):
    y = jnp.asarray(UNIT, dtype) if dtype != "float64" else UNIT.astype(dtype)
    found = denoise(y)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, denoise(np.asarray(y, np.float32)), atol=1e-6)


def test_denoiser_of_noise_and_of_what_jit_traces(denoise):
    noisy = UNIT + np.random.default_rng(0).normal(size=UNIT.shape).astype(np.float32)
    np.testing.assert_allclose(jax.jit(denoise)(noisy), denoise(noisy), atol=1e-5)
    np.testing.assert_allclose(jax.jit(denoise)(BYTES), denoise(UNIT), atol=1e-5)
    with pytest.raises(InputError, match="y: expected bytes"):
        jax.jit(denoise)(BYTES.astype(np.int32))
    with pytest.raises(InputError, match=r"y: expected \[B, H, W, 1\], got \[3, 1, 8, 8\]; move the channels last"):
        denoise(np.zeros((3, 1, 8, 8)))
    with pytest.raises(InputError, match=r"add the axis of images, y\[None\]"):
        denoise(UNIT[0])


def test_coefficients_of_bytes(basis):
    want = eigenbasis.coefficients(basis, UNIT[0])
    np.testing.assert_allclose(eigenbasis.coefficients(basis, BYTES[0]), want, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="divide by 255"):
        eigenbasis.coefficients(basis, BYTES[0].astype(np.int16))


def test_start_of_the_sampler():
    with pytest.raises(InputError, match=r"mean: expected an intensity in \[0, 1\], got 127; divide it by 255"):
        gahb.sample(half, 0, (1, *SHAPE), mean=127)
    with pytest.raises(InputError, match="measurement: expected bytes"):
        operator = LINEAR["inpainting"]
        gahb.sample(half, 0, (3, *SHAPE), operator=operator, measurement=BYTES.astype(np.int32))
    with pytest.raises(InputError, match="mask: expected zeros and ones, got numbers from 0 to 255"):
        operators.pixels(np.asarray([[0, 255]]))


KEYED = {
    "sample": lambda key: gahb.sample(half, key, (2, *SHAPE), max_steps=4)[0],
    "psnr_curve": lambda key: psnr_curve(half, UNIT, [0.2], key).per_image,
    "squared_distances": lambda key: generalisation.squared_distances(half, lambda y: y, UNIT, [0.2], key),
    "bootstrap": lambda key: generalisation.bootstrap(key, np.arange(9.0), draws=20),
    "trajectories": lambda key: generalisation.trajectories([half], key, (1, *SHAPE), every=2, max_steps=4)["frames"],
    "random_mask": lambda key: operators.random_mask(key, SHAPE, fraction=0.5),
    "random_pixels": lambda key: operators.random_pixels(key, SHAPE, fraction=0.5).analyze(UNIT),
    "random_basis": lambda key: operators.random_basis(key, SHAPE, fraction=0.5).analyze(UNIT),
    "problems": lambda key: inverse.problems(["random_pixels"], key, SHAPE, hole=0.5)["random_pixels"].analyze(UNIT),
    "restore": lambda key: inverse.restore(half, key, UNIT, LINEAR["inpainting"], max_steps=4)["restored"],
    "top_k": lambda key: eigenbasis.top_k(half, UNIT[0], 2, key=key, method="krylov", block=1, max_basis=16).values,
    "trace": lambda key: eigenbasis.trace(lambda y: y**2, UNIT[0], key=key, num=3).value,
    "hutch++": lambda key: eigenbasis.trace(lambda y: y**2, UNIT[0], key=key, num=6, method="hutch++").value,
    "effective_dimension": lambda key: eigenbasis.effective_dimension(lambda y: y**2, UNIT[0], key=key, num=3).trace,
    "asymmetry": lambda key: eigenbasis.asymmetry(lambda y: jnp.cumsum(y, 1), UNIT[0], key=key, num=3).value,
    "sure": lambda key: eigenbasis.sure(lambda y: y**2, UNIT[0], 0.1, key=key, num=3).value,
    "survey": lambda key: survey(half, UNIT[:1], [0.1], 2, key, num=4)[1]["noisy"],
}


@pytest.mark.parametrize("name", KEYED)
def test_keys_and_seeds(name):
    want = np.asarray(KEYED[name](jax.random.key(0)))
    for key in (0, np.int32(0), jax.random.PRNGKey(0)):
        np.testing.assert_array_equal(KEYED[name](key), want)
    for wrong in (-1, 1.5, True, "0", np.random.default_rng(0), jax.random.split(jax.random.key(0))):
        with pytest.raises(
            InputError, match=r"key: expected a key \(typed or raw\) or a seed from 0 to 2\^32 - 1, got"
        ):
            KEYED[name](wrong)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda y: y[..., 0], r"denoise: expected an output like its input \[3, 4, 4, 1\], got one \[3, 4, 4\]"),
        (lambda y: np.asarray(y), "denoise: expected a function that JAX can trace"),
        (lambda y: y if y.sum() > 0 else 2 * y, "denoise: expected a function that JAX can trace"),
    ],
)
def test_denoisers_that_are_none(wrong, says):
    for call in (
        lambda: gahb.sample(wrong, 0, (3, *SHAPE)),
        lambda: psnr_curve(wrong, UNIT, [0.1], 0),
        lambda: generalisation.squared_distances(half, wrong, UNIT, [0.1], 0),
    ):
        with pytest.raises(InputError, match=says):
            call()
