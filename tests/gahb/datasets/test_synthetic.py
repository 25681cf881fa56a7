"""Generated sources: the same elements in every way of reading them, distinct splits, shuffled pixels, bad settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.data.batches import make_batches
from common.data.source import ArraySource, Source
from common.errors import InputError
from configs.gahb.base import base
from gahb.datasets import calpha, manifolds, synthetic
from gahb.method import build as build_method

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIZE = 16
CLASSES = {
    "calpha": {},
    "calpha, anti-aliased": {"antialias": 1},
    "disks": {},
    "disks, hard": {"disk": "hard", "antialias": 1},
    "sinusoids": {},
    "scaled_image": {},
}


def config(source="calpha", *, data=None, **made):
    config = base()
    config.data.source, config.data.size, config.data.flip = source, SIZE, False
    config.synthetic.num_train, config.synthetic.num_test = 1000, 50
    config.data.update(data or {})
    config.synthetic.update(made)
    return config


def sources(name, **more):
    return synthetic.build(config(name.partition(",")[0], **CLASSES[name], **more))


@pytest.fixture(params=CLASSES)
def pair(request):
    return sources(request.param)


def test_same_bits_however_an_element_is_made(pair):
    source = pair["train"]
    assert isinstance(source, Source) and len(source) == 1000 and source.nbytes < 4096 + 4 * SIZE**2
    indices = np.array([999, 0, 5, 5, 17, 3, 8])
    images = source.read(indices)["image"]
    assert images.shape == (7, SIZE, SIZE, 1) and images.dtype == np.float32
    assert images.min() >= 0 and images.max() <= 1 and images.std() > 0.01
    np.testing.assert_array_equal(images[1], source[0]["image"])
    np.testing.assert_array_equal(images[2], images[3])
    held = source.on_device()

    @jax.jit
    def step(arrays, indices, weight):
        x = held.gather(arrays, indices)["image"]
        kernel = jnp.ones((3, 3, 1, 2)) * weight
        out = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return x, jnp.square(out).sum(), jnp.where(weight > 1, x[:, :, ::-1], x * weight)

    got, _, _ = step(held.arrays, jnp.asarray(indices, jnp.int32), 0.3)
    np.testing.assert_array_equal(got, images)


def test_splits_differ(pair):
    train, test = pair["train"], pair["test"]
    assert len(test) == 50 and train.fingerprint != test.fingerprint
    both = np.concatenate([each.read(range(20))["image"].reshape(20, -1) for each in (train, test)])
    assert len(np.unique(both, axis=0)) == 40


def test_element_is_a_function_of_seed_and_index():
    source = synthetic.build(config(seed=3))["train"]
    key = jax.random.fold_in(jax.random.key(6, impl="threefry2x32"), 41)
    want = jax.jit(lambda key: calpha.render(calpha.draw(key, SIZE), alpha=2.0, beta=2.0))(key)
    np.testing.assert_array_equal(source[41]["image"], want)
    parameters = manifolds.draw_disk(jax.random.fold_in(jax.random.key(0, impl="threefry2x32"), 4), SIZE)
    disk = synthetic.build(config("disks"))["train"][4]["image"]
    np.testing.assert_allclose(disk, manifolds.render_disk(parameters, SIZE), atol=1e-6)
    with jax.default_prng_impl("rbg"):
        np.testing.assert_array_equal(synthetic.build(config(seed=3))["train"][41]["image"], want)


def test_fingerprints_tell_settings_apart():
    changes = (
        {},
        {"alpha": 3.0},
        {"beta": 1.0},
        {"blur": (1, 1)},
        {"background": "constant"},
        {"background": "separable"},
        {"wrap": True},
        {"seed": 1},
        {"num_train": 999},
        {"antialias": 1},
        {"data": {"size": 17}},
        {"data": {"subset": 9}},
        {"data": {"half": 1}},
    )
    prints = [synthetic.build(config(**change))["train"].fingerprint for change in changes]
    assert len(set(prints)) == len(prints)
    assert synthetic.build(config())["train"].fingerprint == prints[0]
    same = synthetic.build(config(beta=2.0))["train"].fingerprint
    assert same == prints[0]  # the contour's own exponent, said in words
    disks = [{}, {"disk": "hard"}, {"disk": "hard", "integer": True}, {"disk": "hard", "wrap": True}]
    assert len({synthetic.build(config("disks", **change))["train"].fingerprint for change in disks}) == 4
    cones = [synthetic.build(config("sinusoids", frequency=each))["train"].fingerprint for each in ((1, 0), (0, 1))]
    rays = [synthetic.build(config("scaled_image", image_index=each))["train"].fingerprint for each in (0, 1)]
    assert len({*cones, *rays}) == 4


def test_halves_and_subsets_are_disjoint_and_nested():
    whole = synthetic.build(config("scaled_image", num_train=40))["train"].read(range(40))["image"].reshape(40, -1)

    def numbers(**data):
        source = synthetic.build(config("scaled_image", num_train=40, data=data))["train"]
        images = source.read(range(len(source)))["image"].reshape(len(source), -1)
        held = source.on_device()
        taken = np.asarray(jax.jit(held.gather)(held.arrays, jnp.arange(len(source)))["image"])
        np.testing.assert_array_equal(taken.reshape(images.shape), images)
        return [int(np.flatnonzero((whole == image).all(1))[0]) for image in images]

    first, second = numbers(half=1), numbers(half=2)
    assert len(first) == len(second) == 20 and not set(first) & set(second)
    assert numbers(half=1, subset=5) == first[:5]


def test_ray_is_one_image_times_a_number():
    source = sources("scaled_image")["train"]
    images = source.read(range(8))["image"].reshape(8, -1).astype(np.float64)
    values = np.linalg.svd(images, compute_uv=False)
    assert values[1] < 1e-6 * values[0]
    assert len(np.unique(images.sum(1))) == 8


def test_cone_spans_three_dimensions():
    images = sources("sinusoids")["train"].read(range(30))["image"].reshape(30, -1).astype(np.float64)
    values = np.linalg.svd(images, compute_uv=False)
    assert values[2] > 1e-2 * values[0] and values[3] < 1e-5 * values[0]


@pytest.mark.parametrize("augmented", [False, True])
def test_batches_on_the_device_and_streamed_agree(augmented):
    source = sources("disks")["train"]
    augment = (lambda key, example: {"image": example["image"] * jax.random.uniform(key)}) if augmented else None
    made = []
    for placement in ("device", "stream"):
        batches = make_batches(source, batch_size=6, seed=1, augment=augment, placement=placement)
        key, position = jax.random.key(0), jnp.arange(6)
        assemble = jax.jit(batches.assemble)
        fetched = [jax.tree.map(lambda x: x[0], batches.fetch(step)) for step in (0, 1, 400)]
        made.append([assemble(batches.resident, each, position, key) for each in fetched])
        batches.close()
    for one, other in zip(*made, strict=True):
        np.testing.assert_array_equal(one["index"], other["index"])
        np.testing.assert_array_equal(one["image"], other["image"])


def test_default_placement_needs_no_memory():
    source = synthetic.build(config(num_train=2**31 - 1))["train"]
    assert make_batches(source, batch_size=2, seed=0).placement == "device"
    assert source[2**31 - 2]["image"].shape == (SIZE, SIZE, 1)
    with pytest.raises(IndexError, match="outside"):
        source[2**31 - 1]


def test_shuffling_is_a_permutation_that_can_be_undone():
    order = synthetic.pixel_order(5, 7, seed=1)
    assert sorted(order.tolist()) == list(range(35)) and order.tolist() != list(range(35))
    assert (order != synthetic.pixel_order(5, 7, seed=2)).any()
    image = np.random.default_rng(0).random((3, 5, 7, 2))
    shuffled = synthetic.shuffle_pixels(image, order)
    np.testing.assert_array_equal(shuffled[1, 2, 3], image[1].reshape(-1, 2)[order[2 * 7 + 3]])
    np.testing.assert_array_equal(synthetic.unshuffle_pixels(shuffled, order), image)


@pytest.mark.parametrize("name", ["disks", "arrays"])
def test_shuffled_sources(name):
    if name == "disks":
        plain = sources("disks")["train"]
        shuffled = sources("disks", shuffle=True, shuffle_seed=4)["train"]
    else:
        plain = ArraySource({"image": np.random.default_rng(0).integers(0, 256, (50, 6, 8, 3), np.uint8)})
        shuffled = synthetic.Shuffled(plain, seed=4)
    assert len(shuffled) == len(plain) and shuffled.fingerprint != plain.fingerprint
    indices = np.array([3, 0, 7])
    got, want = shuffled.read(indices)["image"], plain.read(indices)["image"]
    assert got.dtype == want.dtype and (got != want).any()
    np.testing.assert_array_equal(synthetic.unshuffle_pixels(got, shuffled.order), want)
    held = shuffled.on_device()
    np.testing.assert_array_equal(jax.jit(held.gather)(held.arrays, jnp.asarray(indices))["image"], got)


def test_all_splits_share_the_permutation():
    both = sources("disks", shuffle=True)
    np.testing.assert_array_equal(both["train"].order, both["test"].order)
    test = sources("disks")["test"][3]["image"]
    np.testing.assert_array_equal(synthetic.unshuffle_pixels(both["test"][3]["image"], both["train"].order), test)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"source": "calfa"}, 'config.data.source: .*"calpha"'),
        ({"data": {"channels": 3}}, "config.data.channels: expected 1 for calpha, got 3"),
        ({"data": {"drop_duplicates": True}}, "config.data.drop_duplicates: expected False"),
        ({"data": {"subset": 1001}}, "config.data.subset: expected"),
        ({"source": "disks", "data": {"size": 12}}, "config.data.size: expected 16 to"),
        ({"num_train": 0}, "config.synthetic.num_train: expected 1 to"),
        ({"num_test": 0}, "config.synthetic.num_test: expected 1 to"),
        ({"seed": -1}, "config.synthetic.seed: expected 0 to"),
        ({"alpha": -1.0}, "config.synthetic.alpha: expected 0 to"),
        ({"antialias": 9}, "config.synthetic.antialias: expected 0 to"),
        ({"blur": (0, 1)}, r"config.synthetic.blur\[0\]: expected 1 to"),
        ({"blur": (1, 2, 3)}, "config.synthetic.blur: expected"),
        ({"background": "flat"}, 'config.synthetic.background: expected one of "isotropic"'),
        ({"source": "disks", "disk": "soft"}, "config.synthetic.disk: expected one of"),
        ({"source": "disks", "wrap": True}, "config.synthetic.wrap: expected 0 for smooth disks"),
        ({"source": "disks", "integer": True}, "config.synthetic.integer: expected 0 for smooth disks"),
        ({"source": "disks", "antialias": 1}, "config.synthetic.antialias: expected 0 for smooth disks"),
        ({"source": "sinusoids", "frequency": (0, 0)}, "config.synthetic.frequency: expected"),
        ({"source": "sinusoids", "frequency": (9, 0)}, "config.synthetic.frequency: expected"),
        ({"source": "scaled_image", "image_index": -1}, "config.synthetic.image_index: expected 0 to"),
        ({"source": "photographs", "shuffle": True, "data": {"flip": True}}, "config.data.flip: expected False"),
    ],
)
def test_bad_settings(changed, message):
    with pytest.raises(InputError, match=message):
        synthetic.build(config(**changed))


def test_the_method_uses_them_and_looks_before_it_compiles():
    small = config("disks")
    small.model.num_blocks = 2
    method = build_method(small)
    np.testing.assert_array_equal(method.sources()["train"][2]["image"], sources("disks")["train"][2]["image"])
    with pytest.raises(InputError, match=r"config.synthetic.alpha"):
        build_method(config(alpha=-1.0))


@pytest.mark.parametrize(
    ("source", "fingerprint"),
    [("sinusoids", "51d4e3309b7b5b990a741cf5edbaa7e1"), ("disks", "affe626ed22161961e5c75b074f71661")],
)
def test_runs_of_earlier_versions_know_their_images(source, fingerprint):
    """The class was called "cone" before; a resumed run compares the fingerprint."""
    made = base()
    made.data.source, made.data.size, made.data.flip, made.synthetic.num_train = source, 16, False, 9
    assert synthetic.build(made)["train"].fingerprint == fingerprint
