"""The U-Nets against outputs and inner activations of the original ones, in float32 and float64."""

import functools
import math
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.method import Variables
from common.networks import blocks
from common.networks.unets import ADMUNet, SongUNet
from phase_bridge import bridge as bridges
from phase_bridge import objectives
from phase_bridge.bridge import Bridge
from phase_bridge.import_weights import convert, export
from tests.goldens import torch_attention

NAMES = ("songunet_0", "songunet_1", "dhariwal_0", "dhariwal_1")
DATA = Path(__file__).parent / "data"
KEPT = ("songunet_0", "songunet_1")
# The original's attention weights are float32 in all precisions; ours are not, unless a test puts the original's in.
TOLERANCE = {"float32": 1e-4, "float64": 5e-7, "float64, the original's weights": 1e-9}


def tensors(arrays):
    return {name.removeprefix("param/"): array for name, array in arrays.items() if name.startswith("param/")}


def nhwc(array, dtype):
    return jnp.asarray(array.transpose(0, 2, 3, 1), dtype)


def load(golden, name):
    """Returns the arrays and what `convert` makes of the parameters, which has to agree with the configuration."""
    arrays = golden("phase_bridge", name)
    sizes = {"channels_per_head": int(arrays["cfg_channels_per_head"])} if "cfg_channels_per_head" in arrays else {}
    imported = convert(tensors(arrays), **sizes)
    return arrays, imported


def labels(arrays, dtype):
    return jnp.asarray(arrays["class_labels"], dtype) if "class_labels" in arrays else None


@pytest.fixture(params=NAMES)
def case(golden, request):
    if request.param not in KEPT and Path(request.config.getoption("--goldens")) == DATA:
        pytest.skip("the file is too large to be kept here; --goldens DIR reads it")
    return load(golden, request.param)


def test_the_configuration_is_read_off_the_parameters(case):
    arrays, (network, variables, average, size) = case
    song = "cfg_channel_mult_noise" in arrays
    assert type(network) is (SongUNet if song else ADMUNet)
    assert size == arrays["cfg_image_size"]
    assert network.channels == arrays["cfg_model_channels"]
    assert list(network.multipliers) == list(arrays["cfg_channel_mult"])
    assert network.embedding_multiplier == arrays["cfg_channel_mult_emb"]
    assert network.num_blocks == arrays["cfg_num_blocks"]
    assert network.num_classes == arrays["cfg_cond_dim"]
    sides = [size >> level for level in range(len(network.multipliers))]
    assert [sides[level] for level in network.attention] == [
        side for side in sides if side in arrays["cfg_attn_resolutions"]
    ]
    assert network.filter == ((1, 3, 3, 1) if song else (1, 1))
    assert network.embedding == "fourier"
    if song:
        assert network.noise_multiplier == arrays["cfg_channel_mult_noise"]
        assert (network.encoder, network.decoder, network.heads) == ("residual", "standard", 1)
    assert average is None
    assert sum(leaf.size for leaf in jax.tree.leaves(variables.params)) == arrays["n_params"]


def compiled(network, **options):
    """Returns `network.apply`, compiled in the quickest way: it runs a few times only."""
    apply = functools.partial(network.apply, **options)
    return jax.jit(apply, compiler_options={"xla_backend_optimization_level": 0})


def test_outputs(case):
    arrays, (network, variables, _, _) = case
    variables = jax.tree.map(jnp.asarray, variables)
    inputs = nhwc(arrays["x"], "float32"), jnp.asarray(arrays["noise_labels"]), labels(arrays, "float32")
    apply = compiled(network)
    out = apply(variables._asdict(), *inputs)
    assert out.dtype == "float32"
    np.testing.assert_allclose(out, nhwc(arrays["out"], "float32"), rtol=0, atol=TOLERANCE["float32"])
    b, (x, time, classes) = Bridge(), inputs
    goal = objectives.force(b, output="preconditioned")  # of the published image models
    estimate = objectives.Read(SimpleNamespace(apply=apply), goal)(variables, classes, x, time)
    # Of which the force over its scale is what the original's wrapper gives.
    at = time.reshape(-1, 1, 1, 1)
    wrapped = bridges.force_from_data(b, x, estimate, time, kind="ode") / bridges.force_scale(b, at, kind="ode")
    want = nhwc(arrays["wrapper_out_precond"], "float32")
    np.testing.assert_allclose(wrapped, want, rtol=0, atol=TOLERANCE["float32"])


def outputs_in_float64(case, atol):
    """Returns the intermediates too, having compared the outputs."""
    arrays, (network, variables, _, _) = case
    with jax.enable_x64(True):
        inputs = nhwc(arrays["x"], "float64"), jnp.asarray(arrays["noise_labels"], "float64"), labels(arrays, "float64")
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, "float64"), variables)
        apply = compiled(network, capture_intermediates=True, mutable=["intermediates"])
        out, state = apply(wide._asdict(), *inputs)
        assert out.dtype == "float64"
        np.testing.assert_allclose(out, nhwc(arrays["out_float64"], "float64"), rtol=0, atol=atol)
    return state["intermediates"]


def with_the_originals_weights(q, k, v):
    """Takes the place of `attention._weighted`; by a callback, as XLA may leave out roundings to float32."""
    shape = jax.ShapeDtypeStruct((q.shape[0], q.shape[2], q.shape[1], k.shape[1]), "float32")
    operands = (jnp.moveaxis(each, 1, -1).astype("float32") for each in (q, k / math.sqrt(k.shape[-1])))
    weights = jax.pure_callback(torch_attention.weights, shape, *operands)
    return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(v.dtype), v)


def test_outputs_in_float64_with_the_originals_attention_weights(case, monkeypatch):
    monkeypatch.setattr(blocks, "_weighted", with_the_originals_weights)
    outputs_in_float64(case, TOLERANCE["float64, the original's weights"])


def test_outputs_in_float64_and_activations(case):
    """Every module of the original has its counterpart here, with the same output."""
    arrays, (network, variables, _, size) = case
    intermediates = outputs_in_float64(case, TOLERANCE["float64"])
    made = {name: each["__call__"][0] for name, each in intermediates.items() if name != "__call__"}
    names = {"map_noise": "map_noise", "map_1": "map_layer1"}
    for name in made:
        if not name.startswith("map_"):
            parts = next(iter(export(network, Variables({name: variables.params[name]}, {}), size=size))).split(".")
            names[name] = ".".join(parts[: 2 if parts[0] in ("enc", "dec") else 1])
    wanted = {name.removeprefix("act/") for name in arrays if name.startswith("act/")}
    assert wanted <= set(names.values())
    read = {theirs: made[ours] for ours, theirs in names.items()}
    for name in wanted:
        want = arrays[f"act/{name}"]
        got = read[name] if want.ndim == 2 else jnp.moveaxis(read[name][:1], -1, 1)
        np.testing.assert_allclose(got, want, rtol=0, atol=5e-5, err_msg=name)


def test_export_undoes_convert(case):
    arrays, (network, variables, _, size) = case
    back = export(network, variables, size=size)
    originals = {name: each for name, each in tensors(arrays).items() if not name.endswith("resample_filter")}
    assert set(back) == set(originals)
    for name, each in originals.items():
        np.testing.assert_array_equal(back[name], each, err_msg=name)
