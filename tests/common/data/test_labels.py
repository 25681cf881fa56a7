"""Classes arrive with their own images through every source, wrapper and placement, and are told where they cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from common.data import pipeline
from common.data.batches import make_batches
from common.data.folder import open_folder
from common.data.npz import open_npz
from common.data.pipeline import DataConfig, sources
from common.data.source import ArraySource, load
from common.errors import InputError

CLASSES = np.array([2, 0, 1, 1, 0, 2, 2, 0, 1, 0, 2, 1])


def picture(number, size=(12, 10)):
    """Noise, whose first channel tells the picture's number, also when it is cropped or resized."""
    image = np.random.default_rng(number).integers(0, 256, (*size, 3)).astype(np.uint8)
    image[..., 0] = 10 * number
    return image


def number_of(images):
    images = np.asarray(images)
    values = images if images.dtype == np.uint8 else np.round(255 * images)
    return values[..., 0, 0, 0].astype(int) // 10


@pytest.fixture
def npz(tmp_path):
    def write(**changes):
        images = np.stack([picture(number) for number in range(12)])
        arrays = {"train": images, "train_labels": CLASSES, "test": images[:5], "test_labels": CLASSES[:5]}
        np.savez(tmp_path / "set.npz", **{name: each for name, each in (arrays | changes).items() if each is not None})
        return f"npz:{tmp_path}/set.npz"

    return write


@pytest.fixture
def folder(tmp_path):
    names = ("airplane", "bird", "cat")  # 0, 1, 2
    for number, label in enumerate(CLASSES):
        for split in ("train", "test")[: 1 + (number < 5)]:
            path = tmp_path / split / names[label] / "more" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(number)).save(path)
    return f"folder:{tmp_path}"


def labelled(where, **changes):
    return sources(DataConfig(where, **{"size": 8, "channels": 3, "fit": "resize", "labels": True, **changes}))


def check(part, count):
    """All of the `count` different images have their class, read one by one and on the device."""
    part = part.fixed()
    elements = [part[index] for index in range(len(part))]
    numbers = number_of([element["image"] for element in elements])
    assert all(element["label"].dtype == np.int32 and element["label"].shape == () for element in elements)
    np.testing.assert_array_equal([element["label"] for element in elements], CLASSES[numbers])
    np.testing.assert_array_equal(load(part)["label"], CLASSES[numbers])
    assert part.num_classes == 3
    assert len(set(numbers)) == count
    held = part.on_device()
    taken = jax.jit(held.gather)(held.arrays, jnp.arange(len(part)))
    assert taken["label"].dtype == np.int32
    np.testing.assert_array_equal(taken["label"], CLASSES[number_of(taken["image"])])


@pytest.mark.parametrize("fit", ["resize", "crop"])
@pytest.mark.parametrize("cached", [True, False])
def test_from_folders(folder, fit, cached, monkeypatch):
    if not cached:
        monkeypatch.setattr(pipeline, "_CACHE_BYTES", 0)
    parts = labelled(folder, fit=fit, size=9 if fit == "crop" else 6)
    check(parts["train"], 12)
    check(parts["test"], 5)


def test_from_arrays(npz):
    parts = labelled(npz())
    check(parts["train"], 12)
    check(parts["test"], 5)


@pytest.mark.parametrize("placement", ["device", "stream"])
def test_in_batches(npz, placement):
    part = labelled(npz())["train"]
    batches = make_batches(part, batch_size=6, seed=3, placement=placement, workers=1)
    try:
        fetched = jax.tree.map(lambda array: array[0], batches.fetch(1))
        assemble = jax.jit(batches.assemble)
        batch = assemble(batches.resident, fetched, jnp.arange(6, dtype=jnp.int32), jax.random.key(0))
    finally:
        batches.close()
    assert batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["label"], CLASSES[number_of(batch["image"])])
    np.testing.assert_array_equal(batch["label"], [part[int(index)]["label"] for index in batch["index"]])


@pytest.mark.parametrize("key", ["labels", "train_labels"])
def test_held_out_examples_keep_their_class(npz, key):
    parts = labelled(npz(**{"test": None, "train_labels": None, "test_labels": None, key: CLASSES}))
    check(parts["train"], 11)
    assert parts["test"][0]["label"] == CLASSES[number_of(parts["test"][0]["image"])]


def test_through_halves_and_subsets(npz):
    check(labelled(npz(), half=2, subset=4)["train"], 4)


def test_through_the_removal_of_duplicates(npz):
    images = np.stack([picture(number, (12, 12)) for number in range(12)])
    images[7, ..., 1:] = images[2, ..., 1:] // 2 + 60  # of another class
    part = labelled(npz(train=images, test=images[:5]), fit="none", size=12, drop_duplicates=True)["train"]
    check(part, 11)
    assert 7 not in number_of([part[index]["image"] for index in range(11)])


@pytest.mark.parametrize("fit", ["resize", "crop"])
def test_a_skipped_record_is_replaced_with_its_class(npz, fit):
    images = np.stack([picture(number) for number in range(12)]).astype(np.float32) / 255
    images[4, 3, 3, 1] = np.nan
    part = labelled(npz(train=images, test=images[:2], test_labels=CLASSES[:2]), fit=fit, skip_bad=1)["train"]
    check(part, 11)


@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_without_labels_nothing_changes(npz, folder, kind):
    where = folder if kind == "folder" else npz()
    plain, with_labels = labelled(where, labels=False)["train"], labelled(where)["train"]
    assert set(plain[0]) == {"image"} and plain.num_classes is None
    np.testing.assert_array_equal(plain[3]["image"], with_labels[3]["image"])
    assert plain.fingerprint != with_labels.fingerprint
    if kind == "npz":
        before = plain.fingerprint
        assert labelled(npz(train_labels=None, test_labels=None), labels=False)["train"].fingerprint == before
        assert labelled(npz(train_labels=CLASSES[::-1]))["train"].fingerprint != with_labels.fingerprint


def test_classes_are_numbered_by_the_training_folders(tmp_path):
    for name in ("train/a/1.png", "train/b/2.png", "train/c/3.png", "test/c/4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(0)).save(tmp_path / name)
    parts = open_folder(tmp_path, labels=True)
    assert parts["train"].classes == parts["test"].classes == ("a", "b", "c")
    assert parts["test"][0]["label"] == 2
    before = parts["train"].fingerprint
    (tmp_path / "test" / "d").mkdir()
    (tmp_path / "test" / "c" / "4.png").rename(tmp_path / "test" / "d" / "4.png")
    with pytest.raises(InputError, match=r"config.data.labels: expected the classes .*\(a, b, c\) in .*, got d; "):
        open_folder(tmp_path, labels=True)
    (tmp_path / "train" / "b").rename(tmp_path / "train" / "d")
    again = open_folder(tmp_path, labels=True)["train"]
    assert again.classes == ("a", "c", "d") and again.fingerprint != before
    (tmp_path / "train" / "0.png").write_bytes((tmp_path / "train" / "a" / "1.png").read_bytes())
    with pytest.raises(InputError, match="config.data.labels: expected every image in a folder .* got 0.png; move it"):
        open_folder(tmp_path, labels=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_labels": None},
            r"config.data.labels: expected an array 'train_labels' in .* got keys \['test_labels'",
        ),
        (
            {"train_labels": None, "test_labels": None},
            "config.data.labels: expected an array 'train_labels' .* got none",
        ),
        (
            {"test_labels": CLASSES},
            r"set.npz\['test_labels'\]: expected 5 integers .* got int64 of shape \[12\]; number",
        ),
        ({"train_labels": CLASSES / 2}, r"set.npz\['train_labels'\]: expected 12 integers .* got float64 of shape"),
        ({"train_labels": np.eye(3, dtype=int)[CLASSES]}, r"expected 12 integers .* got int64 of shape \[12, 3\]"),
        ({"train_labels": CLASSES - 1}, "from 0 on, the classes of the images, got .* with numbers -1 to 1"),
    ],
)
def test_wrong_arrays_of_classes_are_refused(npz, changes, message):
    with pytest.raises(InputError, match=message):
        open_npz(npz(**changes).removeprefix("npz:"), labels=True)


def test_photographs_have_no_classes():
    with pytest.raises(InputError, match="config.data.labels: expected False for photographs, .* got True; use a data"):
        sources(DataConfig("photographs", labels=True))


def test_arrays_know_their_classes():
    images = np.zeros((3, 2, 2, 1), np.uint8)
    assert ArraySource({"image": images, "label": np.array([0, 4, 1])}).num_classes == 5
    assert ArraySource({"image": images}).num_classes is None
