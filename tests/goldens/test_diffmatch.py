"""The denoisers' U-Net against outputs and inner activations of the original one, small and at full size."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from common.networks.layers import positional
from common.networks.unets import ADMUNet
from diffmatch_jax import import_weights
from diffmatch_jax.model.diffusion import Process, forward
from diffmatch_jax.training.objective import pooled, totals

DATA = Path(__file__).parent / "data"
KEPT = ("unet_full_formula",)


@pytest.fixture
def arrays(golden, request):
    def load(name):
        if name not in KEPT and Path(request.config.getoption("--goldens")) == DATA:
            pytest.skip("the file is too large to be kept here; --goldens DIR reads it")
        return golden("diffmatch", name)

    return load


def network_of(channels, multipliers, num_blocks, heads, factors, outputs):
    levels = tuple(level for level in range(len(multipliers)) if 2**level in factors)
    return ADMUNet(
        outputs,
        channels=channels,
        multipliers=multipliers,
        num_blocks=num_blocks,
        attention=levels,
        heads=heads,
        resampling="convolution",
        min_group=1,
    )


def params_of(tensors, network, dtype):
    """Returns the original's tensors as a tree of ours."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), import_weights.params_of(tensors, network))


def nhwc(array, dtype):
    return jnp.asarray(array.transpose(0, 2, 3, 1), dtype)


def denoise(network, params, noisy, time, flow, corr, **options):
    """Returns the prediction of the clean flow: the network's output is its difference from the initial one."""
    x = jnp.concatenate([noisy, flow, corr], axis=-1)
    out = network.apply({"params": params}, x, time, **options)
    return (out[0] + flow, out[1]) if options else out + flow


def compiled(network, **options):
    run = functools.partial(denoise, network, **options)
    return jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})


def small_network(d):
    tensors = {key.removeprefix("sd/"): each for key, each in d.items() if key.startswith("sd/")}
    multipliers = tuple(int(each) for each in d["cfg_channel_mult"])
    network = network_of(
        int(d["cfg_model_channels"]),
        multipliers,
        int(d["cfg_num_res_blocks"]),
        int(d["cfg_num_heads"]),
        set(d["cfg_attention_ds"].tolist()),
        int(d["cfg_out_channels"]),
    )
    assert import_weights.infer(tensors, heads=network.heads) == network
    return network, tensors


@pytest.mark.parametrize("name", ["unet_stage1", "unet_sr"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_small_network(arrays, name, dtype):
    d = arrays(name)
    network, tensors = small_network(d)
    with jax.enable_x64(dtype == "float64"):
        params = params_of(tensors, network, dtype)
        inputs = (
            nhwc(d["x"], dtype),
            jnp.asarray(d["timesteps"], dtype),
            nhwc(d["init_flow"], dtype),
            nhwc(d["local_corr"], dtype),
        )
        assert sum(each.shape[-1] for each in inputs if each.ndim == 4) == d["cfg_in_channels"]
        shapes = jax.eval_shape(
            network.init, jax.random.key(0), jnp.concatenate([*inputs[:1], *inputs[2:]], -1), inputs[1]
        )
        assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes["params"])
        out, state = compiled(network, capture_intermediates=True, mutable=["intermediates"])(params, *inputs)
        assert out.dtype == dtype
        want = d["out_float64" if dtype == "float64" else "out"]
        # The original's softmax is in float32 in all precisions.
        np.testing.assert_allclose(out, nhwc(want, dtype), rtol=0, atol=1e-5 if dtype == "float32" else 2e-6)
    made = {key: each["__call__"][0] for key, each in state["intermediates"].items() if key != "__call__"}
    last = len(network.multipliers) - 1
    ours = {
        "time_embed": "map_1",
        "input_block_0": "stem",
        "input_block_1": "encoder_0_0",
        "first_downsample": "encoder_1_down",
        "last_input_block": f"encoder_{last}_{network.num_blocks - 1}",
        "middle_block": "middle_1",
        "output_block_0": f"decoder_{last}_0",
        "first_upsample": f"decoder_{last - 1}_up",
    }
    for key in (key for key in d if key.startswith("act_")):
        got = made[ours[key.removeprefix("act_")]]
        got = jnp.moveaxis(got, -1, 1) if got.ndim == 4 else got
        np.testing.assert_allclose(got, d[key], rtol=0, atol=1e-4, err_msg=key)


def test_training_gradient(arrays):
    d = arrays("unet_stage1")
    network, tensors = small_network(d)
    params = params_of(tensors, network, jnp.float32)
    process, index = Process.cosine(5), jnp.asarray(d["loss_t"])
    clean, mask = nhwc(d["loss_x_start"], jnp.float32), jnp.asarray(d["loss_mask"])
    noisy = forward(process, clean, nhwc(d["loss_noise"], jnp.float32), index)
    count = len(index)
    flow, corr = (nhwc(d[name][:count], jnp.float32) for name in ("init_flow", "local_corr"))

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    @jax.value_and_grad
    def loss(params):
        prediction = denoise(network, params, noisy, 200.0 * index, flow, corr)
        return pooled(totals(prediction, clean, mask, alignment="corner"))

    value, gradient = loss(params)
    np.testing.assert_allclose(value, d["loss_value"], rtol=0, atol=1e-6)
    found = import_weights.export(network, gradient)
    wanted = {key.removeprefix("loss_grad/"): each for key, each in d.items() if key.startswith("loss_grad/")}
    for name, want in wanted.items():
        np.testing.assert_allclose(found[name], want, rtol=0, atol=1e-4 * np.abs(want).max(), err_msg=name)
    assert wanted
    norm = np.sqrt(sum(np.square(np.asarray(each, np.float64)).sum() for each in jax.tree.leaves(gradient)))
    np.testing.assert_allclose(norm, d["loss_grad_global_norm"], rtol=1e-5)


@pytest.mark.parametrize("name", ["unet_stage1", "unet_sr"])
def test_embedding_of_time(arrays, name):
    d = arrays(name)
    for key in ("temb", "temb_dim_odd"):
        got = positional(jnp.asarray(d["temb_timesteps"]), d[key].shape[1])
        np.testing.assert_allclose(got, d[key], rtol=0, atol=2e-5, err_msg=key)


def formula(index, shape):
    """Returns the numbers in [-1, 1) that the goldens' formula gives for a tensor, in float64."""
    h = np.arange(np.prod(shape, dtype=np.int64), dtype=np.uint32)
    h *= np.uint32(2654435761)
    h += np.uint32((index * 40503 + 12345) % 2**32)
    for shift, factor in ((16, 2246822519), (13, 3266489917)):
        h ^= h >> np.uint32(shift)
        h *= np.uint32(factor)
    h ^= h >> np.uint32(16)
    return (2 * (h + 0.5) / 2**32 - 1).reshape(shape)


def formula_weight(index, name, shape):
    u = formula(index, shape)
    if len(shape) > 1:
        value = np.sqrt(3 / np.prod(shape[1:])) * u
    else:
        value = 1 + 0.25 * u if name.endswith("weight") else 0.1 * u
    return (0.1 * value if name.startswith("out.2.") else value).astype(np.float32)


def test_published_network(arrays):
    d = arrays("unet_full_formula")
    network = network_of(128, (1, 2, 3, 4), 3, 4, {4, 8}, 2)
    shapes = [tuple(int(n) for n in row if n) for row in d["param_shapes_zero_padded"]]
    names = d["param_names"].tolist()
    np.testing.assert_allclose(formula_weight(0, names[0], shapes[0]).ravel()[:5], d["first_tensor_first5"], atol=1e-7)
    height, width = d["hw"].tolist()
    sample = jax.ShapeDtypeStruct((1, height, width, 85), jnp.float32)
    abstract = jax.eval_shape(network.init, jax.random.key(0), sample, jax.ShapeDtypeStruct((1,), jnp.float32))
    count = sum(leaf.size for leaf in jax.tree.leaves(abstract["params"]))
    assert count == d["stage1_param_count"] == d["sr_param_count"] == 121_153_794

    inputs = []
    for kind in ("stage1", "sr"):
        parts = {"x": (2, 1.0), "init_flow": (2, 0.3), "local_corr": (81, 1.0)}
        indices = d[f"{kind}_input_tensor_indices"].tolist()
        made = {}
        for index, (part, (channels, scale)) in zip(indices, parts.items(), strict=True):
            made[part] = (scale * formula(index, (1, channels, height, width))).astype(np.float32)
            np.testing.assert_allclose(made[part].ravel()[:5], d[f"{kind}_{part}_first5"], atol=1e-7)
        x, flow, corr = (nhwc(each, "float32") for each in made.values())
        inputs.append((x, jnp.asarray(d[f"{kind}_timesteps"]), flow, corr))
    both = [jnp.concatenate(each) for each in zip(*inputs, strict=True)]

    tensors = {name: formula_weight(i, name, shapes[i]) for i, name in enumerate(names)}
    params = params_of(tensors, network, jnp.float32)
    del tensors
    assert set(traverse_util.flatten_dict(params, sep="/")) == set(
        traverse_util.flatten_dict(abstract["params"], sep="/")
    )
    out = compiled(network)(params, *both)
    for got, kind in zip(out, ("stage1", "sr"), strict=True):
        for suffix in ("out", "out_float64"):
            want = nhwc(d[f"{kind}_{suffix}"], "float32")[0]
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-5, err_msg=f"{kind}_{suffix}")
