import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data import folder
from common.data.folder import open_folder
from common.data.npz import open_npz
from common.data.source import BadRecordError
from common.errors import InputError
from tests.common.data.raw import unusable


def write(path, seed, size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    Image.fromarray(picture).save(path)
    return picture


def pictures(part):
    return [element["image"] for element in part.elements(range(len(part)))]


def test_sub_folders_are_the_splits(tmp_path):
    train = [write(tmp_path / "train" / name, seed) for seed, name in enumerate(["b/1.png", "b/2.PNG", "c.png"])]
    test = write(tmp_path / "test" / "x.png", 9, (5, 7))
    (tmp_path / "train" / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".hidden.png").write_text("no image")
    parts = open_folder(tmp_path)
    for got, want in zip(pictures(parts["train"]), train, strict=True):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(pictures(parts["test"])[0], test)
    np.testing.assert_array_equal(parts["test"].shapes(), [[5, 7, 3]])
    assert parts["train"].name(1) == "train/b/2.PNG"


def test_without_a_folder_of_test_images_there_is_no_such_split(tmp_path):
    written = [write(tmp_path / "train" / f"{number:02}.png", number) for number in range(5)]
    for root in (tmp_path, tmp_path / "train"):
        parts = open_folder(root)
        assert list(parts) == ["train"]
        np.testing.assert_array_equal(pictures(parts["train"]), written)


def test_the_fingerprint_is_that_of_the_content_not_of_the_place(tmp_path):
    for number in range(3):
        write(tmp_path / "a" / f"{number}.png", number)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    prints = [open_folder(tmp_path / name)["train"].fingerprint for name in "ab"]
    assert prints[0] == prints[1]
    write(tmp_path / "b" / "1.png", 77)
    assert open_folder(tmp_path / "b")["train"].fingerprint != prints[0]
    (tmp_path / "a" / "0.png").rename(tmp_path / "a" / "9.png")
    assert open_folder(tmp_path / "a")["train"].fingerprint != prints[0]


def test_large_folders_are_fingerprinted_by_sizes_and_first_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "_HASH_WHOLE", 0)
    for number in range(3):
        write(tmp_path / f"{number}.png", number)
    before = open_folder(tmp_path)["train"].fingerprint
    with (tmp_path / "1.png").open("ab") as file:
        file.write(b"x")
    assert open_folder(tmp_path)["train"].fingerprint != before


@pytest.mark.parametrize("name", ["", "sub"])
def test_an_empty_folder_is_refused(tmp_path, name):
    (tmp_path / name).mkdir(exist_ok=True)
    with pytest.raises(InputError, match=r"config.data.source: expected image files \(.png, .*\) in .*, got none"):
        open_folder(tmp_path)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected folder:DIR with an existing folder, got folder:.*nowhere"):
        open_folder(tmp_path / "nowhere")


def test_damaged_files_are_named(tmp_path):
    write(tmp_path / "train" / "good.png", 0)
    write(tmp_path / "train" / "torn.png", 1, (64, 64))
    data = (tmp_path / "train" / "torn.png").read_bytes()
    (tmp_path / "train" / "torn.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "train" / "text.png").write_text("hello")
    write(tmp_path / "test" / "x.png", 9)
    train = open_folder(tmp_path)["train"]
    np.testing.assert_array_equal(train.shapes()[:, 0] == 0, [False, True, False])
    with pytest.raises(BadRecordError, match="train/torn.png: damaged image .*truncated"):
        train[2]
    with pytest.raises(BadRecordError, match="train/text.png: no image that can be read"):
        train[1]


def names(part):
    return [part.name(index) for index in range(len(part))]


@pytest.fixture
def logged(caplog):
    """Returns the one line that was logged since the last call, or "" for none."""

    def take():
        lines = [record.getMessage() for record in caplog.records]
        caplog.clear()
        assert len(lines) < 2 and not any("\n" in line for line in lines)
        return "".join(lines)

    return take


HIDDEN = (".ipynb_checkpoints", "__MACOSX", ".git", "@eaDir", "__pycache__", "$RECYCLE.BIN")


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("place", ["", "cat/", "dog/more/"])
def test_hidden_folders_are_no_classes(tmp_path, logged, hidden, place):
    for label in ("cat", "dog"):
        for number in range(3):
            write(tmp_path / label / f"{number}.png", number)
    write(tmp_path / place / hidden / "0.png", 7)
    parts = open_folder(tmp_path, labels=True)
    assert logged() == f"folder:{tmp_path}: left out 1 hidden folder"
    labels = {
        name: int(element["label"])
        for part in parts.values()
        for name, element in zip(names(part), part.elements(range(len(part))), strict=True)
    }
    assert len(labels) == 6
    assert {name.split("/")[1]: label for name, label in labels.items()} == {"cat": 0, "dog": 1}


def test_an_empty_class_folder_is_counted(tmp_path, logged):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "a.png", 1)
    (tmp_path / "emu").mkdir()
    train = open_folder(tmp_path, labels=True)["train"]
    assert train.classes == ("cat", "dog")
    assert logged() == f"folder:{tmp_path}: left out 1 empty folder"


def test_what_is_left_out_is_counted_by_kind(tmp_path, logged):
    for name in ("a.png", "b.jfif", "c.JPE", "d.Pgm"):
        picture = Image.fromarray(write(tmp_path / "x.png", 3))
        picture.convert("L" if name.endswith("Pgm") else "RGB").save(
            tmp_path / name, "PPM" if name.endswith("Pgm") else "JPEG"
        )
    for name in ("notes.txt", "list.csv", "more.TXT", "README", ".DS_Store", "._a.png"):
        (tmp_path / name).write_text("no image")
    (tmp_path / ".cache").mkdir()
    parts = open_folder(tmp_path)
    assert logged() == (
        f"folder:{tmp_path}: left out 2 hidden files, 1 hidden folder, 4 files with other endings (.csv, .txt, none)"
    )
    assert list(parts) == ["train"] and len(parts["train"]) == 5


@pytest.mark.parametrize("train", ["train", "Train", "TRAIN", "training"])
@pytest.mark.parametrize("test", ["test", "Test", "TESTING", "val", "Val", "valid", "Validation"])
def test_names_of_splits_in_any_case(tmp_path, logged, train, test):
    for number in range(4):
        write(tmp_path / train / f"{number}.png", number)
    write(tmp_path / test / "x.png", 9)
    parts = open_folder(tmp_path)
    assert names(parts["train"]) == [f"{train}/{number}.png" for number in range(4)]
    assert names(parts["test"]) == [f"{test}/x.png"]
    assert logged() == ""


@pytest.mark.parametrize("test", ["test", "Valid"])
def test_test_images_beside_unsorted_images_are_not_trained_on(tmp_path, test):
    for number in range(4):
        write(tmp_path / f"{number}.png", number)
    write(tmp_path / test / "x.png", 9)
    parts = open_folder(tmp_path)
    assert [name.split("/")[1] for name in names(parts["train"])] == ["0.png", "1.png", "2.png", "3.png"]
    assert names(parts["test"]) == [f"{test}/x.png"]


def test_test_images_come_before_validation_images(tmp_path, logged):
    for name in ("Train/a.png", "valid/b.png", "TEST/c.png", "extra/d.png", "e.png"):
        write(tmp_path / name, 1)
    parts = open_folder(tmp_path)
    assert names(parts["train"]) == ["Train/a.png"] and names(parts["test"]) == ["TEST/c.png"]
    assert logged() == f"folder:{tmp_path}: left out 3 beside the folders of the splits (e.png, extra, valid)"


def test_ambiguous_splits_and_missing_training_images_are_refused(tmp_path):
    write(tmp_path / "Test" / "a.png", 1)
    with pytest.raises(InputError, match=r"expected image files .*, got none; .* or use folder:.*/Test$"):
        open_folder(tmp_path)
    write(tmp_path / "test" / "a.png", 1)
    with pytest.raises(InputError, match=r"expected one folder test/ in .*, got Test/ and test/; merge or rename"):
        open_folder(tmp_path)


def found_names(parts):
    return sorted(name.partition("/")[2] for part in parts.values() for name in names(part))


@pytest.mark.parametrize(
    "links",
    [
        {"a/up": ".."},
        {"a/self": "."},
        {"a/up": "..", "a/again": "..", "b/up": "..", "b/sibling": "../a", "top": "."},
        {"a/far": "../.."},
        {"other": "a", "third": "other"},
        {"x.png": "a/0.png", "y.png": "x.png"},
    ],
)
def test_links_to_what_is_there_change_nothing(tmp_path, logged, links):
    root = tmp_path / "set"
    for number in range(10):
        write(root / "ab"[number % 2] / f"{number}.png", number)
    for name, target in links.items():
        (root / name).symlink_to(target)
    parts = open_folder(root, labels="x.png" not in links)
    assert found_names(parts) == sorted(f"{'ab'[number % 2]}/{number}.png" for number in range(10))
    word = "links" if len(links) > 1 else "link"
    assert logged() == f"folder:{root}: left out {len(links)} {word} to what is read already"


def test_links_to_other_places_are_followed_once(tmp_path, logged):
    root, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    for name in ("cat/1.png", "cat/2.png", "store/3"):
        written = write(elsewhere / f"{name}.png" if name == "store/3" else elsewhere / name, 1)
    (elsewhere / "store" / "3.png").rename(elsewhere / "store" / "3")
    write(root / "dog" / "4.png", 4)
    (root / "cat").symlink_to(elsewhere / "cat")
    (root / "dog" / "3.png").symlink_to(elsewhere / "store" / "3")  # as caches store files, by their hash
    (elsewhere / "cat" / "back").symlink_to(root)
    (elsewhere / "cat" / "round").symlink_to(elsewhere / "cat")
    parts = open_folder(root, labels=True)
    assert found_names(parts) == ["cat/1.png", "cat/2.png", "dog/3.png", "dog/4.png"]
    assert logged() == f"folder:{root}: left out 2 links to what is read already"
    np.testing.assert_array_equal(images_by_name(parts)["dog/3.png"], written)


def images_by_name(parts):
    return {
        name.partition("/")[2]: element["image"]
        for part in parts.values()
        for name, element in zip(names(part), part.elements(range(len(part))), strict=True)
    }


@pytest.mark.parametrize("how", ["file", "folder", "parent", "hard"])
def test_no_file_is_in_training_and_test(tmp_path, logged, how):
    for number in range(6):
        write(tmp_path / ("train" if number < 4 else "test") / f"{number}.png", number)
    train = tmp_path / "train"
    if how == "file":
        (train / "5.png").symlink_to("../test/5.png")
    elif how == "folder":
        (train / "more").symlink_to("../test")
    elif how == "parent":
        (train / "up").symlink_to("..")
    else:
        (train / "4.png").hardlink_to(tmp_path / "test" / "4.png")
    parts = open_folder(tmp_path)
    both = [name.split("/")[-1] for part in ("train", "test") for name in names(parts[part])]
    assert sorted(both) == [f"{number}.png" for number in range(6)]
    assert logged() == f"folder:{tmp_path}: left out 1 link to what is read already"


def test_both_splits_may_be_links_but_not_to_one_folder(tmp_path):
    for number in range(4):
        write(tmp_path / "data" / f"{number}.png", number)
        write(tmp_path / "held" / f"{number}.png", number)
    root = tmp_path / "set"
    root.mkdir()
    (root / "train").symlink_to("../data")
    (root / "test").symlink_to("../held")
    parts = open_folder(root)
    assert [len(parts[name]) for name in ("train", "test")] == [4, 4]
    (root / "test").unlink()
    (root / "test").symlink_to("../data")
    with pytest.raises(InputError, match=r"image files .* in .*/test, got none \(left out: 1 link to what is read al"):
        open_folder(root)


def test_links_that_lead_nowhere_and_special_files_are_left_out(tmp_path, logged):
    for number in range(3):
        write(tmp_path / f"{number}.png", number)
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "folder").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    write(tmp_path / "folder.png" / "in.png", 5)
    parts = open_folder(tmp_path)
    assert found_names(parts) == ["0.png", "1.png", "2.png", "folder.png/in.png"]
    assert logged() == f"folder:{tmp_path}: left out 1 entry that is no file, 3 links that lead nowhere"


def test_names_that_are_no_text(tmp_path, logged):
    names_ = [b"\xff\xfe.png", b"new\nline.png", b"\x1b[31mred.png", "é世界.png".encode()]
    for number, name in enumerate(names_):
        write(tmp_path / "seen" / f"{number}.png", number)
        os.rename(tmp_path / "seen" / f"{number}.png", os.path.join(os.fsencode(tmp_path / "seen"), name))
    (tmp_path / "seen").rename(os.fsdecode(os.fsencode(tmp_path) + b"/cl\xffss"))
    parts = open_folder(tmp_path, labels=True)
    shown = [
        r"cl\udcffss/\udcff\udcfe.png",
        r"cl\udcffss/\x1b[31mred.png",
        r"cl\udcffss/new\nline.png",
        "cl\\udcffss/é世界.png",
    ]
    assert found_names(parts) == sorted(shown)
    assert len(images_by_name(parts)) == 4 and logged() == ""
    (tmp_path / "loose\n.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"got loose\\n.png; move it"):
        open_folder(tmp_path, labels=True)


def test_files_that_vanish_or_cannot_be_read_are_bad_records(tmp_path, monkeypatch):
    for number in range(3):
        write(tmp_path / "train" / f"{number}.png", number)
    write(tmp_path / "test" / "x.png", 9)
    real = Path.open
    denied = lambda path, *args: real(path if path.name != "1.png" else tmp_path / "nowhere", *args)  # noqa: E731
    monkeypatch.setattr(Path, "open", denied)
    train = open_folder(tmp_path)["train"]
    assert unusable(train) == {1: "cannot be opened (No such file or directory)"}
    with pytest.raises(BadRecordError, match="train/1.png: cannot be opened"):
        train[1]


def test_images_above_the_limit_are_bad_records(tmp_path):
    write(tmp_path / "train" / "large.png", 0, (12, 10))
    write(tmp_path / "train" / "small.png", 1, (6, 10))
    write(tmp_path / "test" / "x.png", 2, (6, 10))
    train = open_folder(tmp_path, max_pixels=119)["train"]
    assert unusable(train) == {0: "more than 119 pixels (12x10); remove it, or raise config.data.max_pixels"}
    assert train[1]["image"].shape == (6, 10, 3)
    with pytest.raises(BadRecordError, match="train/large.png: more than 119 pixels"):
        train[0]
    assert unusable(open_folder(tmp_path, max_pixels=120)["train"]) == {}


def test_files_are_hashed_in_constant_memory(tmp_path):
    for number in range(2):
        with (tmp_path / f"{number}.png").open("wb") as file:
            file.truncate(50 * 2**20)
    tracemalloc.start()
    open_folder(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20


@pytest.mark.parametrize("opened", [open_folder, open_npz])
def test_the_home_of_a_user_who_does_not_exist(opened):
    with pytest.raises(InputError, match="config.data.source: expected .* got .*:~no_such_user/x; check the path"):
        opened("~no_such_user/x")
