"""Both U-Nets: parameters of the published ones, every option, and what must hold for all of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from common.networks.layers import initialise
from common.networks.unets import ADMUNet, SongUNet

SMALL = {"channels": 8, "multipliers": (1, 2), "num_blocks": 1, "attention": (1,)}
SONG = SongUNet(2, **SMALL)
ADM = ADMUNet(2, channels_per_head=8, **SMALL)
NETWORKS = {"song": SONG, "adm": ADM}


def compiled(network, **options):
    """Returns `network.apply`, compiled in the quickest way: it runs a few times only."""
    return jax.jit(functools.partial(network.apply, **options), compiler_options={"xla_backend_optimization_level": 0})


def inputs(batch=2, size=4, channels=3):
    x = jax.random.normal(jax.random.key(1), (batch, size, size, channels))
    return x, jnp.linspace(0.1, 0.9, batch)


def random_variables(network, *given, seed=0):
    """Draws every weight, so that no branch is silent as it is at first."""
    drawn = initialise(network, jax.random.key(seed), *given)
    generator = np.random.default_rng(seed)

    def draw(leaf):
        z = generator.standard_normal(leaf.shape).astype(np.float32)
        return jnp.asarray(1 + 0.1 * z if (leaf == 1).all() else z / max(1, leaf[..., 0].size) ** 0.5)

    return drawn._replace(params=jax.tree.map(draw, drawn.params))


@pytest.mark.parametrize(
    ("network", "size", "channels", "count"),
    [
        (SongUNet(3), 32, 6, 56_405_891),
        (SongUNet(3, num_classes=10), 32, 6, 56_408_707),
        (SongUNet(3, multipliers=(1, 2, 2, 2), attention=(2,)), 64, 6, 62_765_699),
        # Karras et al. have 9 x 128 weights more, for their augmentation.
        (SongUNet(3, embedding="positional", noise_multiplier=1, filter=(1, 1), encoder="standard"), 32, 3, 55_732_739),
        (ADMUNet(3, embedding="fourier"), 64, 6, 295_136_451),
        (ADMUNet(3, embedding="fourier", num_classes=1000), 64, 6, 295_904_451),
        (
            ADMUNet(2, channels=128, attention=(2, 3), heads=4, resampling="convolution", min_group=1),
            64,
            85,
            121_153_794,
        ),
    ],
    ids=["cifar10", "cifar10-classes", "afhqv2", "ddpmpp", "imagenet64", "imagenet64-classes", "matching"],
)
def test_published_numbers_of_parameters(network, size, channels, count):
    given = [jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)]
    given += [jax.ShapeDtypeStruct((1,), jnp.int32)] if network.num_classes else []
    shapes = jax.eval_shape(network.init, jax.random.key(0), *given)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count


def test_a_new_network_says_nothing():
    x, time = inputs()
    for network, bound in ((ADM, 0.0), (SONG, 1e-3)):
        variables = initialise(network, jax.random.key(0), x, time)
        assert np.abs(compiled(network)(variables._asdict(), x, time)).max() <= bound


@pytest.mark.parametrize("name", NETWORKS)
def test_what_must_hold(name):
    network = NETWORKS[name].clone(num_classes=3, dropout=0.3)
    x, time = inputs()
    labels = jnp.array([2, -1])
    variables = random_variables(network, x, time, labels)
    traces = []

    def call(variables, x, time, labels, keys):
        traces.append(None)
        return network.apply(variables._asdict(), x, time, labels, keys)

    apply = jax.jit(call, compiler_options={"xla_backend_optimization_level": 0})
    out = apply(variables, x, time, labels, None)
    assert out.shape == (2, 4, 4, 2) and out.dtype == jnp.float32
    # Each example alone, whatever stands beside it.
    swapped = apply(variables, x[::-1], time[::-1], labels[::-1], None)
    np.testing.assert_allclose(swapped[::-1], out, atol=1e-5)
    # Time and class are heard.
    assert np.abs(apply(variables, x, time + 0.05, labels, None) - out).max() > 1e-3
    assert np.abs(apply(variables, x, time, jnp.array([1, -1]), None) - out)[0].max() > 1e-3
    # One program serves every checkpoint.
    other = random_variables(network, x, time, labels, seed=1)
    assert np.abs(apply(other, x, time, labels, None) - out).max() > 1e-2
    assert len(traces) == 1

    keys = jax.random.split(jax.random.key(5), 2)
    dropped = apply(variables, x, time, labels, keys)
    assert np.abs(dropped - out).max() > 1e-2
    np.testing.assert_array_equal(apply(variables, x, time, labels, keys), dropped)
    again = apply(variables, x[::-1], time[::-1], labels[::-1], keys[::-1])
    np.testing.assert_allclose(again[::-1], dropped, atol=1e-5)
    assert len(traces) == 2


@pytest.mark.parametrize("name", NETWORKS)
def test_half_precision(name):
    x, time = inputs()
    network = NETWORKS[name]
    variables = random_variables(network, x, time)
    out = compiled(network)(variables._asdict(), x, time)
    half, state = compiled(
        network.clone(dtype=jnp.bfloat16), capture_intermediates=lambda module, _: True, mutable=["intermediates"]
    )(variables._asdict(), x, time)
    assert half.dtype == jnp.float32
    error = np.abs(half - out).max() / np.abs(out).max()
    assert 1e-4 < error < 0.1
    kinds = {}

    def sort(path, leaf):
        if len(path) > 2:  # module, "__call__", 0
            kinds.setdefault(path[-3].key, set()).add(str(leaf.dtype))

    jax.tree_util.tree_map_with_path(sort, state["intermediates"])
    assert kinds["conv_1"] == kinds["qkv"] == kinds["encoder_1_0"] == {"bfloat16"}
    for part in ("map_noise", "map_1", "affine", "norm_0", "norm", "stem", "out_norm", "out_conv"):
        assert kinds[part] == {"float32"}, part


@pytest.mark.parametrize("name", NETWORKS)
def test_recomputed_activations(name):
    x, time = inputs(size=2)
    network = NETWORKS[name].clone(multipliers=(1,), num_blocks=0, attention=(0,), dropout=0.2)
    again = network.clone(remat=True)
    variables = random_variables(network, x, time)
    keys = jax.random.split(jax.random.key(5), 2)

    def loss(network, params):
        out = network.apply({"params": params, "stats": variables.stats}, x, time, None, keys)
        return jnp.square(out).mean()

    def recomputed(network):
        program = jax.make_jaxpr(functools.partial(loss, network))(variables.params)
        return sum(equation.primitive.name in ("checkpoint", "remat2", "remat") for equation in program.eqns)

    assert (recomputed(network), recomputed(again)) == (0, 3)  # two blocks in the middle, one on the way up
    if name == "adm":
        return  # the blocks are the same

    def gradient(network):
        function = jax.value_and_grad(functools.partial(loss, network))
        return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})(variables.params)

    plain, remade = gradient(network), gradient(again)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, remade)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(plain[1]))
    half = gradient(again.clone(dtype=jnp.bfloat16))[1]
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype("float32")}
    whole, rough = (np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)]) for tree in (plain[1], half))
    assert 1e-4 < np.linalg.norm(rough - whole) / np.linalg.norm(whole) < 0.05


VARIANTS = {
    "standard": {"encoder": "standard"},
    "skip encoder": {"encoder": "skip"},
    "residual encoder": {"encoder": "residual"},
    "skip decoder": {"encoder": "standard", "decoder": "skip"},
    "residual decoder": {"encoder": "standard", "decoder": "residual"},
    "positional": {"embedding": "positional", "noise_multiplier": 1},
    "adaptive": {"adaptive": True},
    "box": {"filter": (1, 1)},
    "heads": {"heads": 4},
    "no attention": {"attention": ()},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_have_their_own_parameters(name):
    x, time = inputs()
    shapes = jax.eval_shape(lambda: initialise(SONG.clone(**VARIANTS[name]), jax.random.key(0), x, time))
    params = shapes.params
    encoder = VARIANTS[name].get("encoder", "residual")
    decoder = VARIANTS[name].get("decoder", "standard")
    aux = {"standard": None, "skip": (1, 1, 3, 8), "residual": (3, 3, 3, 8)}[encoder]
    assert (params["encoder_1_aux"]["kernel"].shape if "encoder_1_aux" in params else None) == aux
    outputs = {each: params[each]["kernel"].shape for each in params if each.startswith("out_conv")}
    assert (
        outputs
        == {
            "standard": {"out_conv": (3, 3, 8, 2)},
            "skip": {"out_conv_0": (3, 3, 8, 2), "out_conv_1": (3, 3, 16, 2)},
            "residual": {"out_conv": (3, 3, 8, 2), "out_conv_1": (3, 3, 16, 16)},
        }[decoder]
    )
    assert params["map_0"]["kernel"].shape == (8 if name == "positional" else 16, 32)
    assert shapes.stats == {} if name == "positional" else shapes.stats["map_noise"]["frequencies"].shape == (8,)
    assert params["encoder_0_0"]["affine"]["kernel"].shape == (32, 16 if name == "adaptive" else 8)
    attending = {each for each in params if "attention" in params[each]}
    assert attending == {"middle_0"} | ({"encoder_1_0", "decoder_1_1"} if name != "no attention" else set())


def test_variants_by_their_sums():
    """With silent blocks the skip and residual paths remain, and those are known."""
    x, time = inputs()

    def silent(network):
        variables = random_variables(network, x, time)
        for name in [name for name in variables.params if "_0" in name or "_1" in name or "down" in name]:
            if name.startswith(("encoder", "middle", "decoder")) and not name.endswith("aux"):
                zeros = jax.tree.map(jnp.zeros_like, variables.params[name])
                variables.params[name].update(zeros)
        return variables

    # With all blocks zero, only the output of the last layer's bias is left of a standard network ...
    network = SONG.clone(encoder="standard")
    variables = silent(network)
    variables.params["out_norm"] = {"scale": jnp.zeros(8), "bias": jnp.full(8, 0.5)}
    out = compiled(network)(variables._asdict(), x, time)
    kernel, bias = (np.asarray(variables.params["out_conv"][leaf]) for leaf in ("kernel", "bias"))
    level = 0.5 / (1 + np.exp(-0.5))
    np.testing.assert_allclose(
        out[:, 1:-1, 1:-1] - bias, np.broadcast_to(level * kernel.sum((0, 1, 2)), (2, 2, 2, 2)), atol=1e-5
    )

    # ... and a decoder that carries the output along adds the low level's, doubled in size.
    network = network.clone(decoder="skip", filter=(1, 1))
    variables = silent(network)
    for i, width in enumerate((8, 16)):
        variables.params[f"out_norm_{i}"] = {"scale": jnp.zeros(width), "bias": jnp.zeros(width)}
    low, high = (np.asarray(variables.params[f"out_conv_{i}"]["bias"]) for i in (1, 0))
    out = compiled(network)(variables._asdict(), x, time)
    np.testing.assert_allclose(out, np.broadcast_to(low + high, out.shape), atol=1e-6)


@pytest.mark.parametrize("encoder", ["skip", "residual"])
def test_encoders_feed_the_input_in_again(encoder):
    """Without stem and first block the input reaches the lower level through the second path alone."""
    x, time = inputs()
    network = SONG.clone(encoder=encoder)
    variables = random_variables(network, x, time)
    variables.params["stem"] = jax.tree.map(jnp.zeros_like, variables.params["stem"])
    apply = compiled(network)
    heard = np.abs(apply(variables._asdict(), x, time) - apply(variables._asdict(), -x, time)).max()
    variables.params["encoder_1_aux"]["kernel"] = jnp.zeros_like(variables.params["encoder_1_aux"]["kernel"])
    unheard = np.abs(apply(variables._asdict(), x, time) - apply(variables._asdict(), -x, time)).max()
    assert heard > 1e-2 and unheard == 0


def test_improved_diffusion():
    """Resampling by convolutions, and heads in a given number instead of a given size."""
    x, time = inputs()
    network = ADM.clone(resampling="convolution", heads=4, min_group=1)
    variables = random_variables(network, x, time)
    assert set(variables.params["encoder_1_down"]) == set(variables.params["decoder_0_up"]) == {"kernel", "bias"}
    apply = compiled(network)
    out = apply(variables._asdict(), x, time)
    assert np.abs(compiled(network.clone(heads=0))(variables._asdict(), x, time) - out).max() > 1e-3
    assert np.abs(compiled(network.clone(min_group=4))(variables._asdict(), x, time) - out).max() > 1e-3


@pytest.mark.parametrize(
    ("change", "given", "reason"),
    [
        ({"encoder": "none"}, {}, 'encoder: expected one of "standard", "skip", "residual"'),
        ({"decoder": "none"}, {}, 'decoder: expected one of "standard", "skip", "residual"'),
        ({"embedding": "none"}, {}, 'embedding: expected one of "fourier", "positional"'),
        ({"filter": (1, 2, 1)}, {}, "expected an even number of taps"),
        ({}, {"x": jnp.zeros((1, 5, 4, 3))}, "x: expected height and width divisible by 2, got 5x4"),
        ({}, {"x": jnp.zeros((4, 4, 3))}, r"x: expected \[B, H, W, C\], got \[4, 4, 3\]"),
        ({}, {"labels": jnp.zeros(2, jnp.int32)}, "labels: expected none"),
        ({"num_classes": 3}, {}, "labels: expected labels of 3 classes, got none"),
        ({"heads": 3}, {}, "heads: expected a number that divides the channels, got 3 for 16"),
    ],
)
@pytest.mark.parametrize("name", NETWORKS)
def test_bad_use(name, change, given, reason):
    if name == "adm" and {"encoder", "decoder"} & set(change):
        change, reason = {"resampling": "none"}, 'resampling: expected one of "block", "convolution"'
    x, time = inputs()
    given = {"x": x, "time": time, "labels": None} | given
    with pytest.raises(InputError, match=reason):
        jax.eval_shape(lambda: NETWORKS[name].clone(**change).init(jax.random.key(0), **given))
