import importlib.util
import json
import sys

import numpy as np
import pytest

from common.data.source import BadRecordError
from common.data.tfds import open_named, open_prepared
from common.errors import InputError


def written(seed, shapes):
    draw = np.random.default_rng(seed)
    return sorted(draw.integers(0, 256, shape).astype(np.uint8).tobytes() for shape in shapes)


def found(part):
    return sorted(element["image"].tobytes() for element in part.elements(range(len(part))))


def test_no_tensorflow_is_needed(fixed):
    open_prepared(fixed)
    assert "tensorflow" not in sys.modules


def test_images_of_one_size(fixed):
    parts = open_prepared(fixed)
    assert found(parts["train"]) == written(0, [(6, 6, 3)] * 12)
    assert found(parts["test"]) == written(1, [(6, 6, 3)] * 5)
    np.testing.assert_array_equal(parts["train"].shapes(), [[6, 6, 3]] * 12)
    np.testing.assert_array_equal(parts["train"][3]["image"], parts["train"].read([5, 3])["image"][1])
    assert parts["train"].name(3) == "tiny_fixed/1.0.0/train[3]"


def test_images_of_several_sizes_and_another_name_of_the_test_split(ragged):
    parts = open_prepared(ragged)
    shapes = [(5 + number, 9 - number % 2) for number in range(4)]
    assert found(parts["train"]) == written(0, shapes)
    assert found(parts["test"]) == written(1, shapes[:2])
    stated = parts["train"].shapes()
    actual = [element["image"].shape for element in parts["train"].elements(range(4))]
    np.testing.assert_array_equal(stated, actual)


def test_plain_tensors_and_no_test_split(prepare):
    folder = prepare(
        "tiny_tensor",
        feature="tfds.features.Tensor(shape=(4, 4, 1), dtype=np.uint8)",
        shape="(4, 4, 1)",
        splits='{"train": self._generate_examples(0, 20)}',
        encode=False,
    )
    parts = open_prepared(folder)
    assert list(parts) == ["train"]
    assert found(parts["train"]) == written(0, [(4, 4, 1)] * 20)


def test_fingerprints_are_stable_and_tell_splits_apart(fixed):
    first, second = open_prepared(fixed), open_prepared(fixed)
    assert first["train"].fingerprint == second["train"].fingerprint != first["test"].fingerprint


def test_by_name(fixed):
    parts = open_named("tiny_fixed", directory=str(fixed.parents[1]))
    assert parts["train"].fingerprint == open_prepared(fixed)["train"].fingerprint


def test_an_unknown_name_is_told(fixed):
    with pytest.raises(InputError, match="config.data.source: .* got tfds:nowhere_to_be_found; check the spelling"):
        open_named("nowhere_to_be_found", directory=str(fixed.parents[1]))


def test_an_unprepared_data_set_is_told_with_the_command(tmp_path):
    with pytest.raises(
        InputError,
        match=f"expected a prepared data set in {tmp_path}/cifar10/.*, got none; .*"
        f"tfds build cifar10 --file_format=array_record --data_dir={tmp_path}$",
    ):
        open_named("cifar10", directory=str(tmp_path))
    with pytest.raises(InputError, match=f"tfds build imagenet_resized/64x64 .* --data_dir={tmp_path}$"):
        open_named("imagenet_resized/64x64", directory=str(tmp_path))
    with pytest.raises(InputError, match="expected tfds:NAME or tfds:NAME/CONFIG, got tfds:imagenet_resized/7x7"):
        open_named("imagenet_resized/7x7", directory=str(tmp_path))


def test_a_folder_without_a_data_set_is_told_what_is_expected(tmp_path, fixed):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(
            InputError,
            match=r"expected prepared:DIR with dataset_info.json, features.json and \*.array_record-\* files in it, "
            f"got {folder} without dataset_info.json and features.json; give the folder of the version",
        ):
            open_prepared(folder)
    with pytest.raises(InputError, match=f"use prepared:{fixed}$"):
        open_prepared(fixed.parent)


def copied(fixed, tmp_path):
    folder = tmp_path / fixed.parent.name / fixed.name
    folder.mkdir(parents=True)
    for path in fixed.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_a_missing_file_is_named(fixed, tmp_path):
    folder = copied(fixed, tmp_path)
    next(folder.glob("*-test.array_record*")).unlink()
    with pytest.raises(InputError, match=r"expected the file .*tiny_fixed-test.array_record-00000-of-00001, got none"):
        open_prepared(folder)


def test_broken_descriptions_are_told(fixed, tmp_path):
    folder = copied(fixed, tmp_path)
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(InputError, match="expected a data set prepared by TFDS, got .*; prepare .* again"):
        open_prepared(folder)


def test_other_storage_formats_are_told(fixed, tmp_path):
    folder = copied(fixed, tmp_path)
    info = json.loads((folder / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(
        InputError, match="expected a data set stored as array_record, got prepared:.* stored as tfrecord"
    ):
        open_prepared(folder)


def test_data_sets_without_images_or_training_split_are_told(prepare):
    only_test = prepare(
        "tiny_tested",
        feature="tfds.features.Image(shape=(6, 6, 3))",
        shape="(6, 6, 3)",
        splits='{"test": self._generate_examples(0, 2)}',
    )
    with pytest.raises(InputError, match=r"expected a split 'train', got prepared:.* with \['test'\]"):
        open_prepared(only_test)
    features = json.loads((only_test / "features.json").read_text())
    entries = features["featuresDict"]["features"]
    entries["picture"] = entries.pop("image")
    (only_test / "features.json").write_text(json.dumps(features))
    with pytest.raises(InputError, match=r"expected a feature 'image', got prepared:.* with \['label', 'picture'\]"):
        open_prepared(only_test)


@pytest.mark.parametrize("package", ["tensorflow_datasets", "array_record", "importlib_resources"])
def test_a_missing_package_is_told(monkeypatch, tmp_path, package):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else real(name))
    for call in (
        lambda: open_named("cifar10", directory=str(tmp_path)),
        lambda: open_prepared(tmp_path),
    ):
        with pytest.raises(InputError, match=rf"got .*, but no {package}; pip install 'scorebridge\[tfds\]'"):
            call()


def test_labels_are_those_of_their_images(fixed, tmp_path):
    draw = np.random.default_rng(0)
    classes = {draw.integers(0, 256, (6, 6, 3)).astype(np.uint8).tobytes(): number % 3 for number in range(12)}
    train = open_prepared(fixed, labels=True)["train"]
    plain = open_prepared(fixed)["train"]
    elements = list(train.elements(range(12)))
    assert [int(each["label"]) for each in elements] == [classes[each["image"].tobytes()] for each in elements]
    assert {each["label"].dtype for each in elements} == {np.dtype(np.int32)}
    assert train.num_classes == 3 and plain.num_classes is None and set(plain[0]) == {"image"}
    assert train.fingerprint != plain.fingerprint
    train.num_classes = 2
    last = [int(each["label"]) for each in elements].index(2)
    with pytest.raises(BadRecordError, match=rf"tiny_fixed/1.0.0/train\[{last}\]: label 2 of 2 classes"):
        train[last]
    folder = copied(fixed, tmp_path)
    features = json.loads((folder / "features.json").read_text())
    entries = features["featuresDict"]["features"]
    entries["kind"] = entries.pop("label")
    (folder / "features.json").write_text(json.dumps(features))
    with pytest.raises(InputError, match=r"config.data.labels: expected a feature 'label' .* with \['image', 'kind'\]"):
        open_prepared(folder, labels=True)
