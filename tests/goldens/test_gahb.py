"""The networks, training step, sampler, operators and measures of `gahb` against numbers of the original code."""

import contextlib
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

import gahb
from common.method import Variables
from common.metrics.psnr import mse, psnr, sigma_to_psnr
from common.training.settings import make_schedule
from gahb import objective, operators
from gahb.datasets.calpha import rescale
from gahb.metrics.generalisation import l1_normalise
from gahb.metrics.psnr import psnr_curve
from gahb.metrics.similarity import closest, closest_patches, correlation, cosine, distance, one_origin
from gahb.networks import BFCNN, BFCNNRF, UNet, apply, init, kernel_sizes
from gahb.sampling import recorded_noise

pytestmark = pytest.mark.usefixtures("quick_compilation")

NETWORKS = ("unetA", "unetB", "bfcnnA", "bfcnnB", "bfcnnRF", "bfcnnRF_fine")
CASES = ("synth", "synth_default", "inpaint", "superres", "rbasis", "maxT", "init")


def nhwc(array, dtype=None):
    """Moves the channels of `[..., C, H, W]` last."""
    return jnp.asarray(np.moveaxis(np.asarray(array), -3, -1), dtype)


def assert_rel(got, want, tolerance):
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    worst = np.abs(got - want).max() / np.abs(want).max()
    assert worst <= tolerance


def assert_abs(got, want, tolerance):
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance


@contextlib.contextmanager
def precision(dtype):
    with jax.enable_x64(dtype == "float64"):
        yield


def place(name):
    """Tells where a parameter of the original goes: the path in our trees, and whether in `stats`."""
    *module, leaf = name.split(".")
    if module[0] == "upsample":
        return (f"upsample_{module[1]}", "kernel"), False
    if module[0] in ("conv_layers", "BN_layers"):
        layer = int(module[1]) + (module[0] == "BN_layers")
        path = (f"conv_{layer}" if leaf == "weight" else f"norm_{layer}",)
    else:
        block = "mid" if module[0] == "mid_block" else "_".join(module[:-1])
        unit = {"0": 0, "2": 1, "3": 1} if block == "encoder_0" else {"0": 0, "1": 0, "3": 1, "4": 1}
        path = (block, f"{'conv' if leaf == 'weight' else 'norm'}_{unit[module[-1]]}")
    return (*path, {"weight": "kernel", "gammas": "gain", "running_sd": "running_sd"}[leaf]), leaf == "running_sd"


def convert(name, array):
    if not name.endswith("weight"):
        return array.reshape(-1)
    return array.transpose((2, 3, 0, 1) if name.startswith("upsample") else (2, 3, 1, 0))


def trees(arrays, prefix, suffix="", dtype=None):
    """Collects `prefix<name>suffix` into our `Variables`."""
    found = Variables({}, {})
    for full, array in arrays.items():
        if not full.startswith(prefix) or ("@" in full) != bool(suffix):
            continue
        name = full.removeprefix(prefix).removesuffix(suffix)
        path, running = place(name)
        tree = found.stats if running else found.params
        for part in path[:-1]:
            tree = tree.setdefault(part, {})
        tree[path[-1]] = jnp.asarray(convert(name, array), dtype)
    assert found.params or found.stats
    return found


def network_of(d):
    width = {"num_kernels": int(d["cfg.num_kernels"]), "channels": int(d["cfg.num_channels"])}
    if "cfg.num_blocks" in d:
        return UNet(num_blocks=int(d["cfg.num_blocks"]), **width)
    if "cfg.RF" in d:
        assert int(d["cfg.num_layers"]) == len(kernel_sizes(int(d["cfg.RF"])))
        return BFCNNRF(receptive_field=int(d["cfg.RF"]), conditional=not int(d["cfg.coarse"]), **width)
    linear = bool(d["cfg.first_layer_linear"])
    return BFCNN(num_layers=int(d["cfg.num_layers"]), first_layer_linear=linear, **width)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_network(golden, name, dtype):
    d = golden("gahb", name)
    suffix, tolerance = ("_f64", 1e-10) if dtype == "float64" else ("", 1e-4)
    with precision(dtype):
        network, variables = network_of(d), trees(d, "sd.", dtype=dtype)
        run = jax.jit(apply, static_argnums=0, static_argnames="train")
        residual, stats = run(network, variables, nhwc(d["x_eval"], dtype))
        assert residual.dtype == dtype
        assert_rel(residual, nhwc(d["y_eval" + suffix]), tolerance)
        jax.tree.map(np.testing.assert_array_equal, stats, variables.stats)

        residual, stats = run(network, variables, nhwc(d["x_train"], dtype), train=True)
        assert_rel(residual, nhwc(d["y_train" + suffix]), tolerance)
        after = trees(d, "after.").stats
        assert jax.tree.structure(stats) == jax.tree.structure(after)
        jax.tree.map(functools.partial(assert_rel, tolerance=1e-5), stats, after)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_three_training_steps(golden, dtype):
    d, suffix = golden("gahb", "train_step"), "@f64" if dtype == "float64" else ""
    low, high = (float(level) for level in d["cfg.noise_level_range"])
    rate = float(d["cfg.lr"])
    with precision(dtype):
        network = network_of(golden("gahb", "unetA"))
        variables = trees(d, "before.", dtype=dtype)
        jax.tree.map(np.testing.assert_array_equal, variables, trees(golden("gahb", "unetA"), "sd.", dtype=dtype))
        optimizer = optax.adam(rate, b1=0.9, b2=0.999, eps=1e-8)

        @jax.jit
        def step(variables, state, noisy, noise):
            def loss(params):
                return objective.squared_error(network, Variables(params, variables.stats), noisy, noise)

            (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(variables.params)
            updates, state = optimizer.update(gradient, state)
            params = optax.apply_updates(variables.params, updates)
            return Variables(params, aux.stats), state, gradient, value, aux.metrics["psnr"]

        state = optimizer.init(variables.params)
        for i in range(len(d["clean"])):
            u = jnp.asarray(d["u"][i].reshape(-1), dtype)
            sigma = objective.noise_level(u, sigma_min=low / 255, sigma_max=high / 255)
            assert_rel(sigma, d["sigma"][i].reshape(-1), 1e-6)
            noisy, noise = objective.add_noise(nhwc(d["clean"][i], dtype), sigma, nhwc(d["z"][i], dtype))
            assert_rel(noise, nhwc(d["noise"][i]), 1e-6)

            variables, state, gradient, value, quality = step(variables, state, noisy, noise)
            if dtype == "float64":
                assert value == pytest.approx(d["loss_f64"][i], rel=1e-9)
                assert quality == pytest.approx(d["psnr_f64"][i], rel=1e-9)
            else:
                assert value == pytest.approx(d["loss"][i], rel=1e-4)
                assert quality == pytest.approx(d["psnr"][i], abs=1e-3)
            if i == 0:
                want = trees(d, "grad1.", suffix).params
                tight, close = (1e-9, 1e-9) if dtype == "float64" else (1e-4, 1e-5)
                jax.tree.map(functools.partial(assert_rel, tolerance=tight), gradient, want)
                first = gradient
                assert_after(variables, trees(d, "after1.", suffix), first, close, rate, 1)
        assert_after(variables, trees(d, "after3."), first, 1e-4, rate, len(d["clean"]))


def assert_after(got, want, gradient, tolerance, rate, steps):
    """Compares what training left; `tolerance` is for a learning rate of 1e-3, in whose units Adam moves."""
    tolerance *= rate / 1e-3

    def clear(got, want, gradient):
        # Adam moves by +-lr whatever the size of the gradient, so where that is rounding its sign decides.
        certain = np.abs(gradient) >= 1e-5 * np.abs(gradient).max()
        assert np.abs(np.where(certain, got - want, 0)).max() <= tolerance
        assert np.abs(got - want).max() <= tolerance + 2 * rate * steps

    jax.tree.map(clear, got.params, want.params, gradient)
    # Those of activations, which are rounded in proportion to their size and move with the parameters.
    jax.tree.map(lambda got, want: assert_abs(got, want, tolerance * max(1, np.abs(want).max())), got.stats, want.stats)


def test_noise_levels(golden):
    d = golden("gahb", "metrics")
    rules = {"quad": "quadratic", "quad_ab": "quadratic", "lin": "linear", "lin_ab": "linear"}
    for case, rule in rules.items():
        low, high = (float(level) / 255 for level in d[f"noise.{case}.level"])
        u = d[f"noise.{case}.u"].reshape(-1)
        check_noise(d, case, objective.noise_level(u, sigma_min=low, sigma_max=high, rule=rule))
    sigma = float(d["noise.fixed.level"]) / 255
    for rule in objective.RULES:
        u = jnp.linspace(0, 1, len(d["noise.fixed.clean"]))
        check_noise(d, "fixed", objective.noise_level(u, sigma_min=sigma, sigma_max=sigma, rule=rule))
    assert_abs(objective.noise_level(d["noise.map.u"], sigma_min=0, sigma_max=1), d["noise.map.std"], 1e-6)
    levels = d["noise.range.levels"].reshape(-1)
    clean = jnp.broadcast_to(nhwc(d["noise.range.im"]), (len(levels), *nhwc(d["noise.range.im"]).shape))
    noisy, _ = objective.add_noise(clean, jnp.asarray(levels / 255), nhwc(d["noise.range.z"]))
    assert_abs(noisy, nhwc(d["noise.range.noisy"]), 1e-6)


def check_noise(d, case, sigma):
    assert_rel(sigma, d[f"noise.{case}.std"].reshape(-1), 1e-6)
    clean, z = (nhwc(d[f"noise.{case}.{name}"]) for name in ("clean", "z"))
    noisy, noise = objective.add_noise(clean, jnp.asarray(sigma), z)
    assert_rel(noise, nhwc(d[f"noise.{case}.noise"]), 1e-6)
    assert_rel(noisy, nhwc(d[f"noise.{case}.noisy"]), 1e-6)


def blind_wiener(power, band, mean, y):
    spectrum = jnp.fft.fft2(y - mean, axes=(1, 2), norm="ortho")
    noise = jnp.sum(band[..., None] * jnp.abs(spectrum) ** 2, (1, 2), keepdims=True) / band.sum()
    noise = noise.mean(-1, keepdims=True)
    residual = jnp.fft.ifft2(noise / (power[..., None] + noise) * spectrum, axes=(1, 2), norm="ortho").real
    return y - residual


def stationary_denoiser(d, dtype):
    mean = jnp.asarray(d["prior.mean"], dtype)
    return Partial(blind_wiener, jnp.asarray(d["prior.S"], dtype), jnp.asarray(d["prior.band"]), mean)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_denoiser_of_the_sampler_cases(golden, dtype):
    d = golden("gahb", "sampler")
    with precision(dtype):
        y = nhwc(d["den.y"], dtype)
        residual = y - stationary_denoiser(d, dtype)(y)
        assert_abs(residual, nhwc(d["den.residual"]), 1e-12 if dtype == "float64" else 1e-5)
    rows, columns = (np.fft.fftfreq(length) * length for length in d["prior.S"].shape[-2:])
    radius = np.hypot(rows[:, None], columns)
    assert_rel(d["prior.A"] * (1 + radius**2) ** -d["prior.p"], d["prior.S"], 1e-12)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sampler(golden, case, dtype):
    d = golden("gahb", "sampler")
    double = dtype == "float64"

    def setting(name, default):
        return d.get(f"{case}.cfg.{name}", default)

    with precision(dtype):
        clean = nhwc(d["x_clean"], dtype)[None]
        shape, iterations, every = clean.shape, len(d[f"{case}.noises"]), int(d[f"{case}.cfg.freq"])
        operator = {
            "inpaint": lambda: operators.inpainting(shape[1:], box=d["inpaint.box"]),
            "maxT": lambda: operators.inpainting(shape[1:], box=d["inpaint.box"]),
            "superres": lambda: operators.super_resolution(int(d["superres.s"])),
            "rbasis": lambda: operators.basis(rows_hwc(d["rbasis.U"], shape[1:]), shape[1:]),
        }.get(case, operators.synthesis)()
        measurement = operator.analyze(clean)
        want = d[f"{case}.x_c"]
        assert_abs(measurement[0], nhwc(want) if want.ndim == 3 else want, 1e-6)

        draws = nhwc(d[f"{case}.noises"])[:, None]
        start = nhwc(d[f"{case}.z0"])[None, None] if f"{case}.z0" in d else jnp.zeros_like(draws[:1])
        initial = nhwc(d["init.init_im"], dtype)[None] if f"{case}.init_im" in d else None
        result, info = gahb.sample(
            stationary_denoiser(d, dtype),
            jax.random.key(0),
            shape,
            sigma_0=float(setting("sig_0", 1.0)),
            sigma_L=float(setting("sig_L", None)),
            h0=float(setting("h0", None)),
            beta=float(setting("beta", None)),
            mean=float(setting("init_noise_mean", 0.0)),
            fixed_step=bool(setting("fixed_h", False)),
            max_steps=int(setting("max_T", 2 * iterations)),
            operator=operator,
            measurement=measurement,
            initial=initial,
            noise=recorded_noise(jnp.concatenate([start, draws])),
            store_every=every,
        )
        assert result.dtype == dtype
        assert info["steps"].tolist() == [iterations]
        assert info["converged"].tolist() == [d[f"{case}.sigmas"][iterations] <= setting("sig_L", None)]
        sigmas, means = (np.asarray(info[name][0]) for name in ("sigmas", "means"))
        assert np.isnan(sigmas[iterations + 2 :]).all() and np.isnan(means[iterations + 2 :]).all()
        exact = np.abs(sigmas[: iterations + 2] / d[f"{case}.sigmas"] - 1)
        assert exact.max() <= (1e-9 if double else 1e-4)
        assert_abs(means[: iterations + 2], d[f"{case}.means"], 1e-9 if double else 1e-4)
        assert_abs(result[0], nhwc(d[f"{case}.final"]), 1e-9 if double else 1e-4)
        stored = iterations // every + 2
        assert_abs(info["trajectory"][0, :stored], nhwc(d[f"{case}.intermediate"]), 2e-4)
        np.testing.assert_array_equal(info["trajectory"][0, -1], result[0])
        assert info["sigma"][0] == sigmas[iterations + 1]


def rows_hwc(basis, shape):
    """Reorders the rows of a basis from channel, row, column to row, column, channel."""
    height, width, channels = shape
    return jnp.asarray(np.moveaxis(basis.reshape(channels, height, width, -1), 0, 2).reshape(basis.shape))


def golden_operator(d, name, shape):
    if name == "inpainting":
        mask = operators.inpainting_mask(shape, box=d["inpainting.box"])
        np.testing.assert_array_equal(mask, nhwc(d["inpainting.mask"]))
        return operators.inpainting(shape, box=d["inpainting.box"])
    if name == "rand_pixels":
        fraction = float(d["rand_pixels.p"])
        drawn = operators.random_mask(jax.random.key(0), shape, fraction=fraction)
        assert drawn.sum() == d["rand_pixels.mask"].sum() == int(fraction * math.prod(shape))
        return operators.pixels(nhwc(d["rand_pixels.mask"]))
    if name == "super_resolution":
        scale = int(d["super_resolution.s"])
        operator = operators.super_resolution(scale)
        one = operator.synthesize(jnp.ones((1, 1, 1, 1)))[0, ..., 0]
        assert_abs(one, d["super_resolution.kernel"][0, 0], 1e-7)
        return operator
    if name == "random_basis":
        vectors = operators.random_basis(jax.random.key(0), shape, fraction=float(d["random_basis.p"]))
        assert vectors.analyze.args[0].shape == d["random_basis.U"].shape
        return operators.basis(rows_hwc(d["random_basis.U"], shape), shape)
    if name == "spectral":
        fraction = float(d["spectral.p"])
        mask = operators.spectral_mask(shape, fraction=fraction, symmetric=False)
        np.testing.assert_array_equal(mask, d["spectral.mask"])
        return operators.spectral(shape, fraction=fraction, symmetric=False)
    if name == "retinal_cones":
        return operators.pixels(d["retinal_cones.mask"])
    return operators.synthesis()


@pytest.mark.parametrize(
    "name",
    ["inpainting", "rand_pixels", "super_resolution", "random_basis", "spectral", "synthesis", "retinal_cones"],
)
def test_operator(golden, name):
    d = golden("gahb", "operators")
    exact = name in ("synthesis", "retinal_cones")
    x = nhwc(d.get(f"{name}.x", d["x"]))[None]
    operator = golden_operator(d, name, x.shape[1:])

    def want(quantity):
        array = d[f"{name}.{quantity}"]
        return nhwc(array) if array.ndim == 3 else jnp.asarray(array)

    def check(got, quantity):
        assert got.dtype == want(quantity).dtype
        assert_abs(got[0], want(quantity), 0 if exact else 1e-5)

    measurement = operator.analyze(x)
    check(measurement, "M_T")
    if f"{name}.M_of_M_T" in d:
        check(operators.project(operator, x), "M_of_M_T")
    if f"{name}.meas" in d:
        check(operator.synthesize(want("meas")[None]), "M")
    else:
        check(operator.synthesize(measurement), "M")
    if f"{name}.P_twice" in d:
        check(operators.project(operator, operators.project(operator, x)), "P_twice")


def test_psnr(golden):
    d = golden("gahb", "metrics")
    reference, image = nhwc(d["psnr.ref"]), nhwc(d["psnr.im"])
    one, other = (float(peak) for peak in d["psnr.maxI"])
    assert_abs(psnr(reference, image, peak=one), d["psnr.per_image"], 1e-4)
    assert_abs(psnr(reference, image, peak=one).mean(), d["psnr.mean_of_psnr"], 1e-4)
    assert_abs(psnr(reference, image, peak=other).mean(), d["psnr.mean_255"], 1e-4)
    assert_abs(10 * np.log10(mse(reference, image).mean()), 10 * np.log10(d["psnr.mse"]), 1e-4)
    assert_abs(sigma_to_psnr(d["sig_to_psnr.std"] / 255), d["sig_to_psnr.psnr"], 1e-6)


def test_psnr_curve(golden):
    d = golden("gahb", "metrics")
    network, variables = network_of(golden("gahb", "unetA")), trees(golden("gahb", "unetA"), "sd.")
    batch = int(d["calc_psnr.batch_size"])
    curve = psnr_curve(
        gahb.denoiser(variables, network),
        np.asarray(nhwc(d["calc_psnr.clean"])),
        d["calc_psnr.sigma255"] / 255,
        jax.random.key(0),
        noise=np.asarray(nhwc(d["calc_psnr.z"])),
        batch_size=batch,
    )
    assert_abs(curve.per_image, d["calc_psnr.per_image"], 1e-2)
    starts = range(0, curve.per_image.shape[1], batch)
    means = np.mean([curve.per_image[:, start : start + batch].mean(1) for start in starts], axis=0)
    assert_abs(means, d["calc_psnr.mean_of_batch_means"], 1e-2)
    assert_abs(means[0], d["calc_psnr.psnr_fn_first_sigma"], 1e-2)


def test_similarity(golden):
    d = golden("gahb", "metrics")
    one, two = nhwc(d["sim.set1"]), nhwc(d["sim.set2"])
    assert_abs(correlation(one, two), d["sim.corr"], 1e-5)
    assert_abs(correlation(one, two, remove_mean=False), d["sim.corr_raw"], 1e-5)
    assert_abs(cosine(one, two), d["sim.cos"], 1e-5)
    assert_abs(correlation(nhwc(d["sim.rgb1"]), nhwc(d["sim.rgb2"])), d["sim.rgb_corr"], 1e-5)
    assert_abs(distance(one[:1], two[:1])[0] / d["sim.norm_dist"], 1.0, 1e-5)
    assert_rel(l1_normalise(two), nhwc(d["sim.l1_normalised"]), 1e-5)
    for block in (3, 4096):
        nearest = closest(one, np.asarray(two), remove_mean=False, block=block)
        np.testing.assert_array_equal(nearest.index, d["sim.closest_idx"])
        assert_abs(nearest.value, d["sim.corr_raw"].max(1), 1e-5)


@pytest.mark.parametrize("block", [3, 1024])
def test_patch_similarity(golden, block):
    d = golden("gahb", "metrics")
    one, two = nhwc(d["sim.set1"]), np.asarray(nhwc(d["sim.set2"]))
    size, stride = int(d["sim.patch_size"]), int(d["sim.stride"])
    best = closest_patches(one, two, size=size, stride=stride, block=block)
    np.testing.assert_array_equal(best.index, d["sim.patch_ids"])
    assert_abs(best.value, d["sim.patch_corrs"], 1e-5)
    same = one_origin(best.index)
    for rows, kind in ((same, "same"), (~same, "diff")):
        number = np.flatnonzero(rows)[:, None]
        np.testing.assert_array_equal(np.hstack([number, best.index[rows]]), d[f"sim.classify_{kind}_ids"])
        assert_abs(np.hstack([number, best.value[rows]]), d[f"sim.classify_{kind}_corrs"], 1e-5)


def test_rescale(golden):
    d = golden("gahb", "metrics")
    low, high = float(d["rescale.min"]), float(d["rescale.max"])
    assert_abs(rescale(jnp.asarray(d["rescale.im"]), low=low, high=high), d["rescale.out"], 1e-6)


def count_parameters(network, channels):
    image = jax.ShapeDtypeStruct((1, 64, 64, channels), jnp.float32)
    variables = jax.eval_shape(lambda key, y: init(network, key, y), jax.random.key(0), image)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables.params))


def test_parameter_counts(golden):
    d = golden("gahb", "tables")
    for kernels, blocks, channels, count in d["count.unet"].tolist():
        network = UNet(num_kernels=kernels, num_blocks=blocks, channels=channels)
        assert count_parameters(network, channels) == count
    for kernels, layers, count in d["count.bfcnn"].tolist():
        assert count_parameters(BFCNN(num_kernels=kernels, num_layers=layers), 1) == count


def test_receptive_field_tables(golden):
    d = golden("gahb", "tables")
    for tag, sizes, counts in zip(d["rf.RF"].tolist(), d["rf.kernel_sizes"], d["rf.params_64"].tolist(), strict=True):
        assert list(kernel_sizes(tag)) == sizes.tolist()
        coarse = count_parameters(BFCNNRF(receptive_field=tag), 1)
        fine = count_parameters(BFCNNRF(receptive_field=tag, conditional=True), 4)
        assert [coarse, fine] == counts


def test_initialisation(golden):
    d = golden("gahb", "tables")
    kernels, blocks, channels = d["init.cfg"].tolist()
    network = UNet(num_kernels=kernels, num_blocks=blocks, channels=channels)
    image = jnp.zeros((1, 2**blocks, 2**blocks, channels))
    draws = int(d["init.count"][0]) // int(np.prod(d["init.shape"][0]))
    pooled = jax.jit(jax.vmap(lambda key: init(network, key, image)))(jax.random.split(jax.random.key(7), draws))
    assert len(d["init.names"]) == len(jax.tree.leaves(pooled.params))
    for i, name in enumerate(d["init.names"].tolist()):
        leaf = pooled.params
        for part in place(name)[0]:
            leaf = leaf[part]
        shape = np.zeros(d["init.shape"][i])
        assert leaf.shape[1:] == convert(name, shape).shape
        count = leaf.size
        assert count == d["init.count"][i]
        # Both are estimates: the bound on one estimate, widened by the square root of two.
        assert np.std(leaf) == pytest.approx(d["init.std"][i], rel=5 / math.sqrt(count))
        assert abs(np.mean(leaf) - d["init.mean"][i]) <= math.sqrt(2) * 5 * d["init.std"][i] / math.sqrt(count)
        assert np.abs(leaf).max() == pytest.approx(d["init.absmax"][i], rel=0.5)


def test_learning_rate_of_every_epoch(golden):
    table = golden("gahb", "tables")
    epochs = len(table["lr.per_epoch"])
    with jax.enable_x64(True):
        schedule = make_schedule(
            "halving", learning_rate=float(table["lr.lr0"]), steps=epochs, halve_every=int(table["lr.lr_freq"])
        )
        rates = jax.vmap(schedule)(jnp.arange(epochs))
        np.testing.assert_allclose(rates, table["lr.per_epoch"], rtol=1e-12)
