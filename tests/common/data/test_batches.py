import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.data import batches
from common.data.batches import example_keys, make_batches
from common.data.fitted import Crops, Fitted, SkipBudget
from common.data.source import ArraySource, BadRecordError, Source
from common.errors import InputError
from tests.common.data.raw import ImageList

DRAW = np.random.default_rng(0)
KEY = jax.random.key(42)
PICTURES = [DRAW.integers(0, 256, (*size, 1)).astype(np.uint8) for size in ((20, 31), (17, 12), (40, 9))]


def stack(n=23):
    values = np.arange(n, dtype=np.float32).reshape(n, 1, 1, 1)
    return ArraySource({"image": np.broadcast_to(values, (n, 2, 2, 1)).copy(), "label": np.arange(n)})


class Labelled(ImageList):
    """Images with a class each."""

    num_classes = 3

    def __getitem__(self, index):
        return {**super().__getitem__(index), "label": np.int32(2 - index)}


def whole(raw, limit=0):
    return Fitted(raw, lambda image: {"image": image}, label="whole", budget=SkipBudget(limit))


def cut():
    return Crops(whole(Labelled(PICTURES, names="abc", label="three")), size=8)


class Counting(Source):
    """Counts the examples that are read."""

    fingerprint = "counting"

    def __init__(self, inner):
        self.inner, self.count = inner, 0

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        self.count += 1
        return self.inner[index]


@pytest.fixture
def made():
    opened = []

    def make(source, **options):
        opened.append(make_batches(source, **{"batch_size": 6, "seed": 5, **options}))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@functools.cache
def compiled(assemble):
    return jax.jit(assemble)


def batch(data, step, *, rows=None, position=None):
    fetched = jax.tree.map(lambda array: array[0], data.fetch(step, 1, rows))
    position = jnp.arange(6, dtype=jnp.int32) if position is None else position
    return compiled(data.assemble)(data.resident, fetched, position, jax.random.fold_in(KEY, step))


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.parametrize(("make_source", "workers"), [(stack, 0), (stack, 2), (cut, 2)])
def test_both_placements_give_the_same_bits(made, make_source, workers):
    change = batches.augment_images(flip=True)
    device = made(make_source(), augment=change, placement="device")
    stream = made(make_source(), augment=change, placement="stream", workers=workers)
    assert (device.placement, stream.placement) == ("device", "stream")
    for step in (0, 1, 2, 3, 4, 10**6, 10**6 + 1, 3):
        one, other = batch(device, step), batch(stream, step)
        assert one["image"].dtype == jnp.float32
        assert_same(one, other)


def test_an_epoch_holds_every_example_once_across_batches(made):
    data = made(stack(23))
    order = np.concatenate([np.asarray(batch(data, step)["index"]) for step in range(23)])
    epochs = order.reshape(6, 23)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(23))
    assert len({epoch.tobytes() for epoch in epochs}) == 6


def test_a_source_smaller_than_the_batch_is_repeated_evenly(made):
    data = made(stack(4))
    order = np.concatenate([np.asarray(batch(data, step)["index"]) for step in range(2)])
    for epoch in order.reshape(3, 4):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(4))


def test_examples_are_those_of_the_index(made):
    data = made(stack(23))
    got = batch(data, 8)
    np.testing.assert_array_equal(got["label"], got["index"])
    np.testing.assert_array_equal(got["image"][:, 0, 1, 0], got["index"])


@pytest.mark.parametrize("placement", ["device", "stream"])
@pytest.mark.parametrize("make_source", [stack, cut])
def test_indices_are_those_of_the_whole_batch_and_read_nothing(made, make_source, placement):
    source = Counting(make_source())
    data = made(source, placement=placement)
    read = source.count
    expected = {step: data.indices(step).tolist() for step in (7, 3)}
    assert source.count == read
    for step, index in expected.items():
        assert np.asarray(batch(data, step)["index"]).tolist() == index and len(index) == 6


def test_an_epoch_of_crops_holds_every_image_once(made):
    data = made(cut())
    found = [batch(data, step) for step in range(50)]
    index, label = (np.concatenate([np.asarray(each[name]) for each in found]) for name in ("index", "label"))
    for epoch in index.reshape(100, 3):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(3))
    np.testing.assert_array_equal(label, 2 - index)
    crops = [image.tobytes() for each in found for image in np.asarray(each["image"])]
    assert len(set(crops)) > 150  # each of one of 378 places


@pytest.mark.parametrize("placement", ["device", "stream"])
def test_crops_are_spread_uniformly_over_an_image(made, placement):
    rows, columns = np.mgrid[:5, :6]
    picture = np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)
    data = made(Crops(whole(ImageList([picture], names="a", label="one")), size=3), batch_size=300, placement=placement)
    counts = np.zeros((3, 4))
    for step in range(20):
        crops = np.asarray(batch(data, step, position=jnp.arange(300, dtype=jnp.int32))["image"])
        np.add.at(counts, (crops[:, 0, 0, 0], crops[:, 0, 0, 1]), 1)
        np.testing.assert_array_equal(crops[:, 2, 2, 0], crops[:, 0, 0, 0] + 2)
    assert ((counts - 500) ** 2 / 500).sum() < 31.3  # chi-square of 11 degrees of freedom, one in a thousand


def test_the_seed_decides_order_and_crops(made):
    first, again, other = (batch(made(cut(), seed=seed), 3) for seed in (5, 5, 6))
    assert_same(first, again)
    assert (np.asarray(first["index"]) != np.asarray(other["index"])).any()
    assert (np.asarray(first["image"]) != np.asarray(other["image"])).any()
    crops = [np.asarray(batch(made(cut(), seed=5), step)["image"]).tobytes() for step in range(20)]
    assert len(set(crops)) == 20


def test_one_large_black_picture_does_not_crowd_out_the_others(made):
    pictures = [np.zeros((300, 400, 1), np.uint8), *(np.maximum(picture, 1) for picture in PICTURES)]
    data = made(Crops(whole(ImageList(pictures, names="abcd", label="four")), size=8))
    black = [np.asarray(batch(data, step)["image"]).max(axis=(1, 2, 3)) == 0 for step in range(20)]
    assert np.concatenate(black).sum() == 20 * 6 // 4


@pytest.mark.parametrize("placement", ["device", "stream"])
def test_a_step_does_not_depend_on_the_steps_before(made, placement):
    every = made(cut(), placement=placement, augment=batches.augment_images(flip=True))
    expected = {step: batch(every, step) for step in range(8)}
    again = made(cut(), placement=placement, augment=batches.augment_images(flip=True), start_step=5)
    for step in (5, 6, 2, 3, 7, 0, 1):
        assert_same(batch(again, step), expected[step])


@pytest.mark.parametrize("placement", ["device", "stream"])
def test_shards_put_together_are_the_batch(made, placement):
    every = made(cut(), placement=placement, augment=batches.augment_images(flip=True))
    hosts = [made(cut(), placement=placement, augment=batches.augment_images(flip=True)) for _ in range(2)]
    for step in (0, 1, 4):
        expected = batch(every, step)
        parts = [
            batch(host, step, rows=slice(start, stop), position=jnp.arange(start, stop, dtype=jnp.int32))
            for host, (start, stop) in zip(hosts, ((0, 2), (2, 6)), strict=True)
        ]
        assert_same({name: jnp.concatenate([part[name] for part in parts]) for name in expected}, expected)


@pytest.mark.parametrize("placement", ["device", "stream"])
def test_several_steps_are_fetched_at_once(made, placement):
    data = made(cut(), placement=placement)
    several = data.fetch(3, 4)
    assert several["examples"]["index"].shape == (4, 6)
    np.testing.assert_array_equal(several["step"], np.arange(3, 7))
    assert several["step"].dtype == data.fetch(2**32 + 5)["step"].dtype == np.uint32
    assert data.fetch(2**32 + 5)["step"] == 5
    for number in range(4):
        single = data.fetch(3 + number)
        jax.tree.map(lambda a, b, k=number: np.testing.assert_array_equal(a[k], b[0]), several, single)


def test_the_device_is_sent_places_or_bytes(made):
    device, stream = made(cut(), placement="device"), made(cut(), placement="stream")
    assert device.resident["pixels"].dtype == np.uint8
    sent = device.fetch(0)["examples"]
    assert {name: each.shape for name, each in sent.items()} == {"index": (1, 6), "random": (1, 6, 2)}
    assert set(made(stack(), placement="device").fetch(0)["examples"]) == {"index"}
    assert stream.resident == {}
    sent = stream.fetch(0)["examples"]
    assert set(sent) == {"index", "image", "label"} and sent["image"].dtype == np.uint8


def test_auto_goes_by_size(made):
    size = 23 * (16 + 8)
    assert made(stack(23), device_limit_bytes=size).placement == "device"
    assert made(stack(23), device_limit_bytes=size - 1).placement == "stream"


def test_prefetching_neither_repeats_nor_passes_the_end(made):
    source = Counting(stack(23))
    data = made(source, placement="stream", num_steps=7)
    for step in range(7):
        batch(data, step)
    data.close()
    assert source.count == 7 * 6


def test_a_jump_reads_only_from_there(made):
    source = Counting(stack(23))
    data = made(source, placement="stream", workers=0, num_steps=1000)
    batch(data, 0)
    batch(data, 900)
    batch(data, 901)
    assert source.count == 3 * 6


def test_hosts_read_only_their_rows(made):
    source = Counting(stack(23))
    data = made(source, placement="stream", num_steps=4)
    for step in range(4):
        assert data.fetch(step, 1, slice(4, 6))["examples"]["image"].shape == (1, 2, 2, 2, 1)
    data.close()
    assert source.count == 4 * 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_record_stops_a_stream_with_its_name(made, workers):
    values = np.zeros((23, 2, 2, 1), np.float32)
    values[4] = np.nan

    class Late(Counting):
        def shapes(self):
            return np.full((23, 3), 2)

        def __getitem__(self, index):
            if index == 4:
                raise BadRecordError("late[4]", "torn")
            return {"image": values[index]}

    data = made(whole(Late(stack(23))), placement="stream", workers=workers)
    with pytest.raises(InputError, match=r"config.data.skip_bad: .* \(late\[4\]: torn\)"):
        for step in range(4):
            data.fetch(step)
    skipping = made(whole(Late(stack(23)), 1), placement="stream", workers=workers)
    resident = made(whole(Late(stack(23)), 1), placement="device")
    for step in range(4):
        assert_same(batch(skipping, step), batch(resident, step))


def test_closing_twice_and_going_on_is_harmless(made):
    data = made(cut(), placement="stream")
    first = batch(data, 0)
    data.close()
    data.close()
    assert_same(batch(data, 0), first)


def test_example_keys_follow_the_place():
    keys = example_keys(KEY, jnp.asarray([3, 0, 7]))
    expected = [jax.random.fold_in(KEY, place) for place in (3, 0, 7)]
    np.testing.assert_array_equal(jax.random.key_data(keys), jax.random.key_data(jnp.stack(expected)))


def test_without_augmentation_examples_stay_raw(made):
    assert batch(made(cut()), 0)["image"].dtype == jnp.uint8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "config.train.batch_size: expected at least 1, got 0"),
        ({"placement": "disk"}, 'config.data.placement: expected one of "auto", "device", "stream", got "disk"'),
        ({"workers": -1}, "config.data.workers: expected at least 0, got -1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        make_batches(stack(), **{"batch_size": 6, "seed": 0, **options})


def test_a_source_of_impossible_length_is_refused():
    class Long(Source):
        def __len__(self):
            return 2**31

    with pytest.raises(InputError, match="config.data.source: expected 1 to 2147483647 examples, got 2147483648"):
        make_batches(Long(), batch_size=1, seed=0)
