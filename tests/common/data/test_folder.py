import shutil

import numpy as np
import pytest
from PIL import Image

from common.data import folder
from common.data.folder import open_folder
from common.data.source import BadRecordError, name_of, read_all
from common.errors import InputError


def write(path, seed, size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    Image.fromarray(picture).save(path)
    return picture


def pictures(part):
    return [element["image"] for element in read_all(part, range(len(part)))]


def test_sub_folders_are_the_splits(tmp_path):
    train = [write(tmp_path / "train" / name, seed) for seed, name in enumerate(["b/1.png", "b/2.PNG", "c.png"])]
    test = write(tmp_path / "test" / "x.png", 9, (5, 7))
    (tmp_path / "train" / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".hidden.png").write_text("no image")
    parts = open_folder(tmp_path, seed=0)
    for got, want in zip(pictures(parts["train"]), train, strict=True):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(pictures(parts["test"])[0], test)
    np.testing.assert_array_equal(parts["test"].shapes(), [[5, 7, 3]])
    assert name_of(parts["train"], 1) == "train/b/2.PNG"


def test_without_sub_folders_a_seeded_tenth_is_held_out(tmp_path):
    written = [write(tmp_path / f"{number:02}.png", number) for number in range(20)]
    parts = open_folder(tmp_path, seed=1)
    assert (len(parts["train"]), len(parts["test"])) == (18, 2)
    found = {picture.tobytes() for part in parts.values() for picture in pictures(part)}
    assert found == {picture.tobytes() for picture in written}
    names = [{name_of(open_folder(tmp_path, seed=seed)["test"], index) for index in (0, 1)} for seed in (1, 1, 2)]
    assert names[0] == names[1] != names[2]


def test_train_without_test_is_split_too(tmp_path):
    for number in range(5):
        write(tmp_path / "train" / f"{number}.png", number)
    parts = open_folder(tmp_path, seed=0)
    assert (len(parts["train"]), len(parts["test"])) == (4, 1)


def test_the_fingerprint_is_that_of_the_content_not_of_the_place(tmp_path):
    for number in range(3):
        write(tmp_path / "a" / f"{number}.png", number)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    prints = [open_folder(tmp_path / name, seed=0)["train"].fingerprint for name in "ab"]
    assert prints[0] == prints[1]
    write(tmp_path / "b" / "1.png", 77)
    assert open_folder(tmp_path / "b", seed=0)["train"].fingerprint != prints[0]
    (tmp_path / "a" / "0.png").rename(tmp_path / "a" / "9.png")
    assert open_folder(tmp_path / "a", seed=0)["train"].fingerprint != prints[0]


def test_large_folders_are_fingerprinted_by_sizes_and_first_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "_HASH_WHOLE", 0)
    for number in range(3):
        write(tmp_path / f"{number}.png", number)
    before = open_folder(tmp_path, seed=0)["train"].fingerprint
    with (tmp_path / "1.png").open("ab") as file:
        file.write(b"x")
    assert open_folder(tmp_path, seed=0)["train"].fingerprint != before


@pytest.mark.parametrize("name", ["", "sub"])
def test_an_empty_folder_is_refused(tmp_path, name):
    (tmp_path / name).mkdir(exist_ok=True)
    with pytest.raises(InputError, match=r"config.data.source: expected image files \(.png, .*\) in .*, got none"):
        open_folder(tmp_path, seed=0)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected folder:DIR with an existing folder, got folder:.*nowhere"):
        open_folder(tmp_path / "nowhere", seed=0)


def test_damaged_files_are_named(tmp_path):
    write(tmp_path / "train" / "good.png", 0)
    write(tmp_path / "train" / "torn.png", 1, (64, 64))
    data = (tmp_path / "train" / "torn.png").read_bytes()
    (tmp_path / "train" / "torn.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "train" / "text.png").write_text("hello")
    write(tmp_path / "test" / "x.png", 9)
    train = open_folder(tmp_path, seed=0)["train"]
    assert train.known_bad() == {1: "no image that can be read"}
    with pytest.raises(BadRecordError, match="train/torn.png: damaged image .*truncated"):
        train[2]
    with pytest.raises(BadRecordError, match="train/text.png: no image that can be read"):
        train[1]
