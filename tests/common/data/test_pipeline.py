import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from common import config_values
from common.data import images, pipeline
from common.data.pipeline import DataConfig, build, sources
from common.errors import InputError
from configs.base import base


def picture(seed, size=(12, 10), channels=3):
    return np.random.default_rng(seed).integers(0, 256, (*size, channels)).astype(np.uint8)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array[:, :, 0] if array.shape[-1] == 1 else array).save(path)


def tear(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


@pytest.fixture
def folder(tmp_path):
    for number in range(8):
        write(tmp_path / "train" / f"{number}.png", picture(number))
    for number in range(2):
        write(tmp_path / "test" / f"{number}.png", picture(100 + number))
    return tmp_path


def values(part):
    return part.read(range(len(part)))["image"]


def test_importing_the_package_loads_no_reader_and_no_accelerator_library():
    program = (
        "import sys, common.data.pipeline\n"
        "heavy = {'jax', 'PIL', 'skimage', 'grain', 'tensorflow_datasets', 'array_record'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_shared_config_builds_crops_of_the_photographs():
    parts = build(base().data)
    for part in parts.values():
        crops = part.fixed().read(range(50))["image"]
        assert crops.shape == (50, 32, 32, 1)
        assert crops.dtype == np.uint8
        assert len({crop.tobytes() for crop in crops}) == 50
    assert len(parts["train"]) == 9 and parts["train"].name(8) == "data/rocket.jpg"
    assert parts["train"].fingerprint != parts["test"].fingerprint
    assert parts["train"].fingerprint == build(base().data)["train"].fingerprint


def test_every_setting_is_a_key_of_the_shared_config():
    data = base().data
    for name in DataConfig._fields:
        assert name in data


def test_every_setting_changes_the_training_fingerprint(folder):
    plain = DataConfig(f"folder:{folder}", size=8, fit="resize")
    changes = {"size": 6, "channels": 3, "fit": "crop", "square": 9, "half": 1, "subset": 3, "split_seed": 1}
    prints = {sources(plain._replace(**{name: value}))["train"].fingerprint for name, value in changes.items()}
    prints.add(sources(plain)["train"].fingerprint)
    assert len(prints) == len(changes)  # the split seed alone changes nothing here
    halved = [sources(plain._replace(half=1, split_seed=seed))["train"].fingerprint for seed in (0, 1)]
    assert halved[0] != halved[1]


def test_no_fit_takes_images_as_they_are(folder):
    for path in folder.glob("*/*.png"):
        write(path, picture(int(path.stem), (8, 8)))
    parts = sources(DataConfig(f"folder:{folder}", size=8, channels=3, fit="none"))
    np.testing.assert_array_equal(values(parts["train"]), [picture(number, (8, 8)) for number in range(8)])


def test_resizing_goes_by_square_then_size_then_gray(folder):
    part = sources(DataConfig(f"folder:{folder}", size=4, fit="resize", square=8))["train"]
    expected = [images.gray(images.resize(picture(number)[2:10, 1:9], 4)) for number in range(8)]
    np.testing.assert_array_equal(values(part), expected)


def test_crops_are_cut_from_gray_images(folder):
    part = sources(DataConfig(f"folder:{folder}", size=9))["train"]
    assert len(part) == 8
    grays = [images.gray(picture(number)) for number in range(8)]
    random = np.random.default_rng(0).integers(0, 2**31 - 1, (2000, 2), np.int32)
    found = part.read(np.arange(2000) % 8, random)["image"]
    places = {
        gray[row : row + 9, column : column + 9].tobytes() for gray in grays for row in range(4) for column in range(2)
    }
    assert {crop.tobytes() for crop in found} == places


def test_without_a_test_split_a_seeded_tenth_is_held_out(tmp_path):
    for number in range(20):
        write(tmp_path / f"{number:02}.png", picture(number))
    plain = DataConfig(f"folder:{tmp_path}", size=8, fit="resize")
    parts = sources(plain)
    assert (len(parts["train"]), len(parts["test"])) == (18, 2)
    found = {image.tobytes() for part in parts.values() for image in values(part)}
    assert found == {images.gray(images.resize(picture(n)[1:11], 8)).tobytes() for n in range(20)}
    names = [
        {part.name(0), part.name(1)} for part in (sources(plain._replace(split_seed=n))["test"] for n in (0, 0, 1))
    ]
    assert names[0] == names[1] != names[2]
    few = sources(plain._replace(subset=5))
    assert len(few["train"]) == 5 and {few["test"].name(0), few["test"].name(1)} == names[0]
    assert not {few["train"].name(i) for i in range(5)} & names[0]


def test_a_single_image_cannot_be_split(tmp_path):
    np.savez(tmp_path / "one.npz", train=picture(0)[None])
    with pytest.raises(InputError, match="config.data.source: expected at least 2 images, one of them for testing"):
        sources(DataConfig(f"npz:{tmp_path}/one.npz", size=8))


def test_an_epoch_is_one_pass_over_the_images():
    source = build(base().data)["train"]
    assert config_values.steps("1.5 epochs", batch_size=3, num_examples=len(source), field="train.steps") == 5


def test_halves_and_subsets_share_no_image(folder):
    plain = DataConfig(f"folder:{folder}", size=8, fit="resize")
    first, second = (sources(plain._replace(half=half))["train"] for half in (1, 2))
    contents = [{image.tobytes() for image in values(part)} for part in (first, second)]
    assert [len(content) for content in contents] == [4, 4]
    assert not contents[0] & contents[1]
    few = {image.tobytes() for image in values(sources(plain._replace(half=2, subset=2))["train"])}
    assert len(few) == 2
    assert few < contents[1]
    assert len(sources(plain._replace(half=1))["test"]) == 2


def test_halves_of_photographs_share_no_crop():
    parts = [sources(DataConfig("photographs", half=half))["train"] for half in (1, 2)]
    names = [{part.name(index) for index in range(len(part))} for part in parts]
    assert [len(name) for name in names] == [4, 4]
    assert not names[0] & names[1]


@pytest.mark.parametrize("fit", ["crop", "resize", "none"])
def test_near_duplicates_are_dropped_before_halving(tmp_path, fit):
    originals = [picture(number, (40, 40)) for number in range(4)]
    brighter = np.clip(originals[1].astype(int) // 2 + 60, 0, 255).astype(np.uint8)
    for number, image in enumerate([*originals[:3], brighter, 255 - originals[0], originals[3]]):
        write(tmp_path / "train" / f"{number}.png", image)
    write(tmp_path / "test" / "x.png", picture(50, (40, 40)))
    settings = DataConfig(f"folder:{tmp_path}", size=40, fit=fit, drop_duplicates=True)
    kept = sources(settings)["train"]
    assert {image.tobytes() for image in values(kept)} == {images.gray(image).tobytes() for image in originals}
    halves = [sources(settings._replace(half=half))["train"] for half in (1, 2)]
    assert [len(half) for half in halves] == [2, 2]
    assert len(sources(settings._replace(drop_duplicates=False))["train"]) == 6


def test_a_truncated_image_is_named_when_the_folder_is_opened(folder):
    tear(folder / "train" / "3.png")
    tear(folder / "test" / "1.png")
    settings = DataConfig(f"folder:{folder}", size=8, fit="resize")
    with pytest.raises(
        InputError,
        match=r"^config.data.skip_bad: expected at most 0 bad records, got 1 \(train/3.png: damaged image .*\); "
        r"repair or remove them, or set config.data.skip_bad=1$",
    ):
        sources(settings)
    with pytest.raises(InputError, match=r"at most 1 bad records, got 2 \(train/3.png: .*; test/1.png: .*\)"):
        sources(settings._replace(skip_bad=1))
    part = sources(settings._replace(skip_bad=2))["train"]
    np.testing.assert_array_equal(part[3]["image"], part[4]["image"])
    assert len({image.tobytes() for image in values(part)}) == 7


@pytest.mark.parametrize("fit", ["crop", "resize"])
def test_large_folders_find_a_truncated_image_when_it_is_read(folder, fit, monkeypatch):
    monkeypatch.setattr(pipeline, "_CACHE_BYTES", 0)
    tear(folder / "train" / "3.png")
    settings = DataConfig(f"folder:{folder}", size=8, fit=fit)
    with pytest.raises(InputError, match=r"config.data.skip_bad: .*train/3.png: damaged image"):
        values(sources(settings)["train"])
    lazy = sources(settings._replace(skip_bad=1))["train"]
    monkeypatch.undo()
    eager = sources(settings._replace(skip_bad=1))["train"]
    np.testing.assert_array_equal(values(lazy), values(eager))
    held = lazy.on_device()
    index, random = np.arange(len(lazy)), np.zeros((len(lazy), 2), np.int32)
    np.testing.assert_array_equal(held.gather(held.arrays, index, random)["image"], eager.read(index, random)["image"])


def test_bad_images_are_no_duplicates_and_are_not_chosen_twice(folder):
    tear(folder / "train" / "3.png")
    settings = DataConfig(f"folder:{folder}", size=8, fit="resize", drop_duplicates=True, skip_bad=1)
    assert len({image.tobytes() for image in values(sources(settings)["train"])}) == 7
    assert len(sources(settings)["train"]) == 7


def test_images_of_a_wrong_size_are_named(folder):
    write(folder / "train" / "5.png", picture(5, (12, 7)))
    for settings, message in (
        (DataConfig("", size=8), "train/5.png: expected at least 8x8 pixels, got 12x7"),
        (DataConfig("", size=4, fit="resize", square=9), "train/5.png: expected at least 9x9 pixels, got 12x7"),
    ):
        settings = settings._replace(source=f"folder:{folder}")
        with pytest.raises(InputError, match=message):
            sources(settings)
        sources(settings._replace(skip_bad=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 11}, "config.data.size: expected a size that fits the images, which have 12x10 pixels, got 11; "),
        ({"size": 10, "fit": "none"}, "config.data.size: expected .* 12x10 pixels, got 10; .*config.data.fit='resize'"),
        ({"size": 4, "fit": "resize", "square": 11}, "config.data.square: expected .* 12x10 pixels, got 11"),
        ({"size": 4, "square": 3}, "config.data.square: expected 0 unless config.data.fit='resize', got 3"),
        ({"fit": "stretch"}, 'config.data.fit: expected one of "crop", "resize", "pad", "none", got "stretch"'),
        ({"channels": 2}, r"config.data.channels: expected one of \(1, 3\), got 2"),
        ({"half": 3}, r"config.data.half: expected one of \(0, 1, 2\), got 3"),
        ({"size": 0}, "config.data.size: expected at least 1, got 0"),
        ({"subset": -1}, "config.data.subset: expected at least 0, got -1"),
        ({"subset": 9}, r"config.data.subset: expected 0 \(all\) to 8, the number of images there, got 9"),
        ({"skip_bad": -1}, "config.data.skip_bad: expected at least 0, got -1"),
        (
            {"source": "fodler:x"},
            "config.data.source: expected one of photographs, .*, got fodler:x; did you mean folder:DIR",
        ),
        ({"source": "folder:"}, "config.data.source: .* got folder:; did you mean folder:DIR"),
        ({"source": "photograph"}, "config.data.source: .* did you mean photographs?"),
    ],
)
def test_impossible_settings_are_refused(folder, change, message):
    with pytest.raises(InputError, match=message):
        sources(DataConfig(f"folder:{folder}", size=8)._replace(**change))


def test_gray_images_have_no_colour(tmp_path):
    for number in range(3):
        write(tmp_path / f"{number}.png", picture(number, channels=1))
    with pytest.raises(InputError, match="config.data.channels: expected 1, as the images are gray, got 3"):
        sources(DataConfig(f"folder:{tmp_path}", size=8, channels=3))
    write(tmp_path / "a.png", picture(9))
    write(tmp_path / "b.png", picture(10))
    mixed = sources(DataConfig(f"folder:{tmp_path}", size=8, channels=3, fit="resize"))["train"]
    assert values(mixed).shape == (4, 8, 8, 3)


def test_an_npz_with_a_nan_is_told_by_index(tmp_path):
    train = np.random.default_rng(0).random((6, 8, 8)).astype(np.float32)
    train[4, 2, 2] = np.nan
    np.savez(tmp_path / "set.npz", train=train, test=train[:2])
    settings = DataConfig(f"npz:{tmp_path}/set.npz", size=8, fit="none")
    with pytest.raises(InputError, match=r"config.data.skip_bad: .* got 1 \(set.npz\['train'\]\[4\]: image has NaN"):
        sources(settings)
    part = sources(settings._replace(skip_bad=1))["train"]
    np.testing.assert_array_equal(values(part), train[[0, 1, 2, 3, 5, 5]][..., None])


def test_photographs_smaller_than_the_crop_are_refused():
    with pytest.raises(InputError, match="coins.png: expected at least 310x310 pixels, got 303x384"):
        sources(DataConfig("photographs", size=310))


def test_padding_keeps_whole_images_and_says_their_size(tmp_path):
    shapes = [(12, 10), (7, 9), (8, 20)]
    for number, shape in enumerate(shapes):
        write(tmp_path / "train" / f"{number}.png", picture(number, shape))
        write(tmp_path / "test" / f"{number}.png", picture(9 + number, shape))
    part = sources(DataConfig(f"folder:{tmp_path}", size=12, channels=3, fit="pad"))["train"]
    found = part.read(range(3))
    assert found["image"].shape == (3, 12, 12, 3) and found["image"].dtype == np.uint8
    np.testing.assert_array_equal(found["size"], [(12, 10), (7, 9), (5, 12)])  # only the last one is too large
    assert found["size"].dtype == np.int32
    for image, (height, width), number in zip(found["image"], found["size"], range(3), strict=True):
        np.testing.assert_array_equal(image[:height, :width], images.shrink(picture(number, shapes[number]), 12))
        assert not image[height:].any() and not image[:, width:].any()
    np.testing.assert_array_equal(part.shapes()[:, :2], shapes)
    held = part.on_device()
    taken = held.gather(held.arrays, jnp.asarray([2, 0]), None)
    np.testing.assert_array_equal(taken["image"], found["image"][[2, 0]])
    np.testing.assert_array_equal(taken["size"], found["size"][[2, 0]])
    assert part.nbytes == sum(each.nbytes for each in held.arrays.values()) == 3 * (12 * 12 * 3 + 8)
    other = sources(DataConfig(f"folder:{tmp_path}", size=13, channels=3, fit="pad"))["train"]
    assert other.fingerprint != part.fingerprint


def test_padding_skips_damaged_images_and_takes_arrays(tmp_path):
    for number in range(3):
        write(tmp_path / "train" / f"{number}.png", picture(number))
    write(tmp_path / "test" / "0.png", picture(5))
    tear(tmp_path / "train" / "1.png")
    plain = DataConfig(f"folder:{tmp_path}", size=16, channels=1, fit="pad")
    with pytest.raises(InputError, match=r"config.data.skip_bad: expected at most 0 bad records, got 1 \(.*1.png"):
        sources(plain)
    part = sources(plain._replace(skip_bad=1))["train"]
    np.testing.assert_array_equal(part[1]["image"], part[2]["image"])
    array = np.random.default_rng(0).random((4, 5, 6, 3), np.float32)
    np.savez(tmp_path / "images.npz", train=array, test=array[:1])
    floats = sources(DataConfig(f"npz:{tmp_path}/images.npz", size=8, channels=3, fit="pad"))["train"]
    np.testing.assert_array_equal(floats[3]["image"][:5, :6], array[3])
    with pytest.raises(InputError, match="config.data.channels: expected 1, as the images are gray, got 3"):
        np.savez(tmp_path / "gray.npz", train=array[..., :1], test=array[:1, ..., :1])
        sources(DataConfig(f"npz:{tmp_path}/gray.npz", size=8, channels=3, fit="pad"))
    with pytest.raises(InputError, match='config.data.fit: expected one of "crop", "resize", "pad", "none"'):
        sources(plain._replace(fit="padded"))


def test_older_versions_called_the_same_images_by_other_fingerprints(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (25, 12, 12, 1), np.uint8)
    np.savez(tmp_path / "a.npz", train=images[:20], test=images[20:])
    np.savez(tmp_path / "b.npz", train=images)
    open_train = lambda name, **changes: sources(  # noqa: E731
        DataConfig(source=f"npz:{tmp_path / name}", channels=1, **changes)
    )["train"]
    for fit, size, wanted in (
        ("none", 12, "4f073760f2e991f74c2ded5cb7559b74"),
        ("crop", 8, "699bdd4d5ff822345307f337ec6aaca7"),
        ("pad", 10, "5ada00c27c97ebf940fe20d5a39f1c79"),
        ("resize", 6, "a562b4d58e5b6d5a925082ff81a8ec18"),
    ):
        assert open_train("a.npz", fit=fit, size=size).earlier_fingerprints == (wanted,)
    # Of these other images were chosen.
    assert open_train("a.npz", fit="none", size=12, subset=7).earlier_fingerprints == ()
    assert open_train("b.npz", fit="none", size=12).earlier_fingerprints == ()
