"""Schedules, sampling, losses, optimizer and metrics against the original's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from common.training.settings import make_optimizer
from common.training.step import update_ema
from diffmatch_jax.evaluation import metrics
from diffmatch_jax.model import diffusion, released
from diffmatch_jax.model.diffusion import Process
from diffmatch_jax.model.flow import to_pixels
from diffmatch_jax.model.resize import resize_normalised
from diffmatch_jax.training import objective


def nhwc(array):
    return jnp.moveaxis(jnp.asarray(array, jnp.float32), -3, -1)


def nchw(array):
    return np.moveaxis(np.asarray(array), -1, -3)


def stand_in(x, time, condition):
    """The README's analytic network."""
    flow, corr = condition
    moved = 0.5 * jnp.tanh(x) * jnp.cos(time / 250)[:, None, None, None]
    return flow + moved + 0.1 * corr.mean(-1, keepdims=True)


def processes(d):
    count = int(d["cosN_num_steps"])
    return {
        "cos5": Process.cosine(5),
        "cos1000": Process.cosine(1000),
        "lin1000": released.linear_process(1000),
        "cosN": Process.cosine(count),
    }


def test_schedules(golden):
    d = golden("diffmatch", "diffusion")
    for name, process in processes(d).items():
        np.testing.assert_allclose(process.betas, d[f"{name}_betas"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(process.alphas_bar, d[f"{name}_alphas_cumprod"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(process.alphas_bar_before, d[f"{name}_alphas_cumprod_prev"], rtol=0, atol=1e-12)
        q = diffusion.posterior(process)
        for ours, theirs in (
            ("variance", "variance"),
            ("log_variance", "log_variance_clipped"),
            ("on_x0", "mean_coef1"),
            ("on_x", "mean_coef2"),
        ):
            want = d[f"{name}_posterior_{theirs}"]
            np.testing.assert_allclose(getattr(q, ours), want, rtol=1e-12, atol=0, err_msg=f"{name} {theirs}")


def test_respacing(golden):
    d = golden("diffmatch", "diffusion")
    cases = [name.removesuffix("_spec") for name in d if name.startswith("respace_") and name.endswith("_spec")]
    assert cases
    for case in cases:
        got = released.kept_levels(int(d[f"{case}_num_timesteps"]), str(d[f"{case}_spec"]))
        np.testing.assert_array_equal(got, d[f"{case}_timesteps"])
    process = released.respaced(Process.cosine(1000), "ddim5")
    np.testing.assert_array_equal(process.times, d["cos1000_ddim5_timestep_map"])
    np.testing.assert_allclose(process.betas, d["cos1000_ddim5_betas"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(process.alphas_bar, d["cos1000_ddim5_alphas_cumprod"], rtol=0, atol=1e-12)
    theirs = Process.cosine(5)
    np.testing.assert_array_equal(theirs.times, d["released_model_timesteps"])
    np.testing.assert_array_equal(theirs.times, 200 * d["released_timestep_map"])
    np.testing.assert_allclose(theirs.betas, d["released_betas"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(theirs.alphas_bar, d["released_alphas_cumprod"], rtol=0, atol=1e-12)


def test_forward_process(golden):
    d = golden("diffmatch", "diffusion")
    x0, noise, index = nhwc(d["q_x_start"]), nhwc(d["q_noise"]), jnp.asarray(d["q_t"])
    process = Process.cosine(5)
    got = diffusion.forward(process, x0, noise, index)
    np.testing.assert_allclose(nchw(got), d["q_sample_cos5"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(nchw(got), d["loss_model_input"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.asarray(process.times)[d["q_t"]], d["loss_model_timesteps"], rtol=0, atol=1e-6)
    long = diffusion.forward(Process.cosine(1000), x0, noise, jnp.asarray(d["q_t_1000"]))
    np.testing.assert_allclose(nchw(long), d["q_sample_cos1000"], rtol=0, atol=1e-6)
    x = nhwc(d["q_sample_cos5"])
    eps = nchw(diffusion.implied_noise(process, x, 0.5 * x0, index))
    want = d["eps_from_xstart_cos5"]
    np.testing.assert_allclose(eps, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
    mean = diffusion.posterior_mean(process, x0, x, index)
    np.testing.assert_allclose(nchw(mean), d["posterior_mean_cos5"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_step(golden, eta):
    d = golden("diffmatch", "diffusion")
    process, index = Process.cosine(5), jnp.asarray(d["step_t"])
    x, condition = nhwc(d["step_x"]), (nhwc(d["step_init_flow"]), nhwc(d["step_local_corr"]))
    x0 = stand_in(x, jnp.asarray(process.times, jnp.float32)[index], condition)
    np.testing.assert_allclose(nchw(x0), d[f"step_pred_xstart_eta{eta}"], rtol=0, atol=1e-5)
    got = diffusion.ddim_step(process, x, x0, index, eta=eta, noise=nhwc(d["step_noise"]))
    np.testing.assert_allclose(nchw(got), d[f"step_sample_eta{eta}"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["cos5", "cos5_clip", "cos1000_ddim5"])
def test_sampling_loop(golden, name):
    d = golden("diffmatch", "diffusion")
    process = released.respaced(Process.cosine(1000), "ddim5") if "ddim" in name else Process.cosine(5)
    condition = (nhwc(d["loop_init_flow"]), nhwc(d["loop_local_corr"]))
    denoise = diffusion.per_hypothesis(stand_in, condition)
    noise = nhwc(d["loop_noise"])[None]
    assert noise.shape[1] == d["loop_n_batch"]
    clip = 1.0 if "clip" in name else None
    found = diffusion.sample(denoise, noise, process=process, clip=clip, trace=True)
    for ours, theirs in (("x", "x_in"), ("x0", "pred_xstart"), ("next", "sample")):
        got = nchw(found.trace[ours][:, 0])
        np.testing.assert_allclose(got, d[f"loop_{name}_{theirs}"], rtol=0, atol=1e-5, err_msg=theirs)
    np.testing.assert_array_equal(found.trace["time"][:, 0], d[f"loop_{name}_model_timesteps"])
    final = jnp.clip(diffusion.summary(found.x0).mean, -1, 1)
    np.testing.assert_allclose(nchw(final), d[f"loop_{name}_final"], rtol=0, atol=1e-5)
    assert found.nfe == 5


def test_loss(golden):
    d = golden("diffmatch", "diffusion")
    truth, mask = nhwc(d["q_x_start"]), jnp.asarray(d["loss_mask"])

    def loss(prediction):
        return objective.pooled(objective.totals(prediction, truth, mask, alignment="corner"))

    value, gradient = jax.value_and_grad(loss)(nhwc(d["loss_pred"]))
    np.testing.assert_allclose(value, d["loss_value"], rtol=0, atol=1e-7)
    np.testing.assert_allclose(nchw(gradient), d["loss_grad_pred"], rtol=0, atol=1e-8)


def test_optimizer_and_average(golden):
    d = golden("diffmatch", "optimizer_ema")
    params = [jnp.asarray(d[f"param_init_{i}"]) for i in (0, 1)]
    optimizer = make_optimizer(
        "adamw",
        optax.constant_schedule(float(d["lr"])),
        weight_decay=float(d["weight_decay"]),
        clip_norm=float(d["clip_max_norm"]),
    )
    state, ema = optimizer.init(params), params
    for step in range(4):
        gradients = [jnp.asarray(d[f"step{step}_grad_{i}"]) for i in (0, 1)]
        norm = np.sqrt(sum(float((each**2).sum()) for each in gradients))
        np.testing.assert_allclose(norm, d[f"step{step}_total_norm"], rtol=1e-5)
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        ema = update_ema(ema, params, step + 1, decay=float(d["ema_rate"]), warmup=False)
        for i in (0, 1):
            np.testing.assert_allclose(params[i], d[f"step{step}_param_{i}"], rtol=0, atol=1e-6)
            np.testing.assert_allclose(ema[i], d[f"step{step}_ema_{i}"], rtol=0, atol=1e-6)


def measured(d, i, normalised):
    size = tuple(d["image_hw"][i].tolist())
    flow = to_pixels(resize_normalised(normalised, size, alignment="corner"))
    truth = np.moveaxis(d[f"gt_flow_{i}"], 0, -1)
    return flow, metrics.measure(np.asarray(flow), truth, d[f"mask_{i}"])


def test_metrics_of_images(golden):
    d = golden("diffmatch", "metrics")
    results = {"": [], "_init": [], "_VGG64": []}
    for i in range(len(d["image_hw"])):
        flow, found = measured(d, i, nhwc(d[f"pred_normalised_{i}"]))
        np.testing.assert_allclose(nchw(flow), d[f"pred_pixels_{i}"], rtol=0, atol=5e-5)
        np.testing.assert_allclose(found.aepe, d[f"aepe_{i}"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(found.fl_all, d[f"fl_all_{i}"], rtol=0, atol=1e-4)
        for threshold, share in zip((1, 3, 5), found.pck, strict=True):
            np.testing.assert_allclose(share, d[f"pck{threshold}_{i}"], rtol=0, atol=1e-4)
        results[""].append(found)
        results["_init"].append(measured(d, i, nhwc(d[f"init_sr_normalised_{i}"]))[1])
        # The winner-take-all baseline is limited to one image size.
        size = d["image_hw"][i].tolist()
        cells = resize_normalised(nhwc(d[f"argmax_flow64_{i}"]) / 64, size, alignment="corner")
        results["_VGG64"].append(measured(d, i, jnp.clip(cells, -1, 1))[1])
    for name, each in results.items():
        got = metrics.aggregate(each)["aepe"]
        np.testing.assert_allclose(got, d[f"agg/AEPE{name}"], rtol=0, atol=1e-5)
    got = metrics.aggregate(results[""])
    for threshold in (1, 3, 5):
        for kind in ("per_image", "per_dataset"):
            want = d[f"agg/PCK_{threshold}_{kind}"]
            np.testing.assert_allclose(got[f"pck_{threshold}_{kind}"], want, rtol=0, atol=1e-4)
        assert abs(got[f"correct_{threshold}"] - d[f"agg/num_pixels_pck_{threshold}"]) <= 2
    assert abs(got["valid"] - d["agg/num_valid_corr"]) <= 2


NAMES = {
    "aepe": "AEPE",
    **{f"pck_{t}_per_image": f"PCK_{t}_per_image" for t in (1, 3, 5)},
    **{f"correct_{t}": f"num_pixels_pck_{t}" for t in (1, 3, 5)},
    "valid": "num_valid_corr",
}


def test_metrics_of_rates(golden):
    d = golden("diffmatch", "metrics")
    assert d["eth_in/AEPE"].shape == (len(d["eth_rates"]), len(d["eth_datasets"]))
    rows = []
    for rate in range(len(d["eth_rates"])):
        sequences = [
            {ours: d[f"eth_in/{theirs}"][rate, i] for ours, theirs in NAMES.items()}
            for i in range(len(d["eth_datasets"]))
        ]
        rows.append(metrics.per_rate(sequences))
        for ours, theirs in [*NAMES.items(), *((f"pck_{t}_per_rate", f"pck-{t}-per-rate") for t in (1, 3, 5))]:
            if f"eth_rate/{theirs}" in d:
                want = d[f"eth_rate/{theirs}"][rate]
                np.testing.assert_allclose(rows[-1][ours], want, rtol=0, atol=1e-12, err_msg=theirs)
    whole = metrics.average(rows)
    for ours, theirs in [*NAMES.items(), *((f"pck_{t}_per_rate", f"pck-{t}-per-rate") for t in (1, 3, 5))]:
        if f"eth_avg/{theirs}" in d:
            np.testing.assert_allclose(whole[ours], d[f"eth_avg/{theirs}"], rtol=0, atol=1e-12, err_msg=theirs)
    # The same rules serve the initial flow and the baseline.
    for name in ("AEPE_init", "AEPE_VGG64"):
        got = [metrics.average([{"aepe": each} for each in row])["aepe"] for row in d[f"eth_in/{name}"]]
        np.testing.assert_allclose(got, d[f"eth_rate/{name}"], rtol=0, atol=1e-12)
