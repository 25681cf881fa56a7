"""Prepared data sets that are damaged, or made to run code or read other files."""

import json
import os
import shutil
import sys

import numpy as np
import pytest

from common.data.pipeline import DataConfig, sources
from common.data.source import BadRecordError
from common.data.tfds import open_named, open_prepared
from common.errors import InputError
from tests.common.data.raw import unusable

TFDS = "tensorflow_datasets.core.features"
EVIL = "scorebridge_payload.features.Text"


@pytest.fixture
def folder(fixed, tmp_path):
    """A copy of a prepared data set, free to be damaged."""
    return shutil.copytree(fixed, tmp_path / "data" / fixed.parent.name / fixed.name)


@pytest.fixture
def payload(tmp_path, monkeypatch):
    """A module on the path that leaves a file when it is imported; returns the path of that file."""
    package = tmp_path / EVIL.split(".")[0]
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "features.py").write_text(f"open({os.fspath(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "ran"
    assert not (tmp_path / "ran").exists()
    assert not any(name.startswith("scorebridge_payload") for name in sys.modules)


def rewrite(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def proto(name=EVIL, **content):
    return {"pythonClassName": name, **content}


def nested(inner):
    """Descriptions of a feature that hold `inner`, the description of another one, each in another way."""
    as_dict = f"{TFDS}.features_dict.FeaturesDict"
    as_sequence = f"{TFDS}.sequence_feature.Sequence"
    old = {"type": inner.get("pythonClassName", EVIL), "content": {}}
    return {
        "direct": inner,
        "snake_case": {"python_class_name": inner["pythonClassName"], "text": {}},
        "sequence": proto(as_sequence, sequence={"feature": inner, "length": "-1"}),
        "sequence of sequences": proto(
            as_sequence, sequence={"feature": proto(as_sequence, sequence={"feature": inner}), "length": "-1"}
        ),
        "dictionary": proto(as_dict, featuresDict={"features": {"type": inner}}),
        "snake_case dictionary": proto(as_dict, features_dict={"features": {"a": inner}}),
        "JSON in a string": proto(as_dict, jsonFeature={"json": json.dumps({"a": old})}),
        "snake_case JSON in a string": proto(
            as_sequence, json_feature={"json": json.dumps({"feature": old, "length": 2})}
        ),
        "old form": old,
    }


@pytest.mark.parametrize("how", nested(proto()))
def test_only_feature_classes_of_tfds_are_imported(folder, payload, how):
    def change(features):
        features["featuresDict"]["features"]["extra"] = nested(proto())[how]

    rewrite(folder / "features.json", change)
    for call in (
        lambda: open_prepared(folder),
        lambda: open_named("tiny_fixed", directory=str(folder.parents[1])),
        lambda: open_named("TinyFixed:1.0.0", directory=str(folder.parents[1])),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value) == (
            "config.data.source: expected only feature classes of TFDS itself in features.json, "
            f"got '{EVIL}'; do not use {folder} unless you trust its source, "
            "and prepare it again with TFDS's own features"
        )


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name", "type"])
def test_the_outermost_class_is_checked_too(folder, payload, key):
    value = {key: EVIL, "content": {}} if key == "type" else {key: EVIL, "featuresDict": {"features": {}}}
    (folder / "features.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match=f"expected only feature classes of TFDS itself .* got '{EVIL}'"):
        open_prepared(folder)


@pytest.mark.parametrize(
    "name",
    [
        "os.Text",
        f"{TFDS}.payload.Text",
        f"{TFDS}.image_feature_test.Image",
        f"{TFDS}x.Text",
        "tensorflow_datasets.core.features",
        f"x.{TFDS}.text_feature.Text",
        "Text",
        "",
    ],
)
def test_names_near_those_of_tfds_are_refused(folder, name):
    def change(features):
        features["featuresDict"]["features"]["extra"] = proto(name, text={})

    rewrite(folder / "features.json", change)
    with pytest.raises(InputError, match="expected only feature classes of TFDS itself in features.json"):
        open_prepared(folder)


def test_sound_features_of_every_form_are_taken(folder):
    def change(features):
        for name, feature in nested(proto(f"{TFDS}.text_feature.Text", text={})).items():
            if name != "old form":  # which TFDS takes only where all of the file has it
                features["featuresDict"]["features"][name] = feature

    before = open_prepared(folder)["train"][0]["image"]
    rewrite(folder / "features.json", change)
    with pytest.raises(BadRecordError, match="damaged record 0 of"):  # the records do not have these features
        open_prepared(folder)["train"][0]
    assert before.shape == (6, 6, 3)


@pytest.mark.parametrize(
    "feature",
    [
        {"type": f"{TFDS}.class_label_feature.ClassLabel", "content": {"names_file": "/etc/passwd"}},
        {"type": f"{TFDS}.labeled_image.LabeledImage", "content": {"labels": "/etc/passwd"}},
        proto(f"{TFDS}.class_label_feature.ClassLabel", jsonFeature={"json": '{"names_file": "/etc/passwd"}'}),
    ],
)
def test_features_that_read_other_files_are_refused(folder, feature):
    rewrite(folder / "features.json", lambda features: features["featuresDict"]["features"].update(extra=feature))
    with pytest.raises(InputError, match="expected no names of files in features.json, got .* '/etc/passwd'"):
        open_prepared(folder)


@pytest.mark.parametrize(
    "template", ["/etc/{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}", "../x/{SPLIT}.{FILEFORMAT}"]
)
def test_data_files_elsewhere_are_refused(folder, template):
    rewrite(folder / "dataset_info.json", lambda info: info["splits"][0].update(filepathTemplate=template))
    with pytest.raises(InputError, match="expected data files in the same folder as dataset_info.json, got "):
        open_prepared(folder)


def test_the_module_of_the_builder_is_not_imported(folder, payload):
    rewrite(folder / "dataset_info.json", lambda info: info.update(moduleName=EVIL.rpartition(".")[0]))
    assert len(open_prepared(folder)["train"]) == 12


def test_pipes_among_the_files_do_not_block(folder):
    os.mkfifo(folder / "label.labels.txt")
    with pytest.raises(InputError, match="expected files, got 'label.labels.txt', which is none"):
        open_prepared(folder)


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "[" * 10**5, "\x00", '{"a": ' * 10**5, "3"])
@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
def test_metadata_that_are_no_json_object(folder, name, text):
    (folder / name).write_text(text)
    with pytest.raises(
        InputError, match=f"expected a data set prepared by TFDS, got {name} .*; prepare {folder} again$"
    ):
        open_prepared(folder)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("damage", ["empty", "short", "half", "cut", "other", "longer"])
def test_damaged_files_are_named(folder, split, damage):
    path = next(folder.glob(f"*-{split}.array_record*"))
    data = path.read_bytes()
    damaged = {
        "empty": b"",
        "short": data[:100],
        "half": data[: len(data) // 2],
        "cut": data[:-1],
        "other": bytes(2**17),
        "longer": data + b"x",
    }
    path.write_bytes(damaged[damage])
    count = {"train": 12, "test": 5}[split]
    with pytest.raises(InputError) as caught:
        open_prepared(folder)
    message = str(caught.value)
    start = f"config.data.source: expected {count} records in {path}, as dataset_info.json says, got "
    assert message.startswith(start) and message.endswith("; copy or prepare it again") and "\n" not in message


@pytest.mark.parametrize("lengths", [["13"], ["11"], ["99999999"], ["-1"], ["12", "1"], ["9223372036854775807"]])
def test_wrong_numbers_of_records_are_refused(folder, lengths):
    def change(info):
        next(split for split in info["splits"] if split["name"] == "train")["shardLengths"] = lengths

    rewrite(folder / "dataset_info.json", change)
    with pytest.raises(InputError, match=r"config.data.source: expected (\d+ records in|the file|a data set|a split)"):
        open_prepared(folder)


@pytest.fixture
def one_damaged(folder):
    """The folder of a data set, one training record of which is damaged; returns it and the record's number."""
    good = open_prepared(folder)["train"]
    wanted = list(good.elements(range(12)))
    path = next(folder.glob("*-train.array_record*"))
    data = path.read_bytes()
    for place in range(data.find(b"\x89PNG"), len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        train = open_prepared(folder)["train"]
        bad = []
        for index in range(12):
            try:
                np.testing.assert_array_equal(train[index]["image"], wanted[index]["image"])
            except BadRecordError as error:
                bad.append((index, str(error)))
        if bad:
            return folder, bad
    raise AssertionError("no damage was noticed")


def test_single_damaged_records_are_named_and_counted(one_damaged):
    folder, [(index, message)] = one_damaged
    name = "tiny_fixed-train.array_record-00000-of-00001"
    assert message.startswith(f"tiny_fixed/1.0.0/train[{index}]: damaged record {index} of {name} (")
    settings = DataConfig(f"prepared:{folder}", size=6, channels=3, fit="none", skip_bad=1)
    train = sources(settings)["train"]
    read = train.read(range(12))["image"]
    np.testing.assert_array_equal(read[index], read[(index + 1) % 12])
    train = sources(settings._replace(skip_bad=0))["train"]
    with pytest.raises(InputError, match=f"config.data.skip_bad: expected at most 0 bad records, got 1 .*{name}"):
        train.read(range(12))


def test_ragged_images_know_their_damaged_records(ragged, tmp_path):
    folder = shutil.copytree(ragged, tmp_path / ragged.parent.name / ragged.name)
    path = next(folder.glob("*-train.array_record*"))
    data = bytearray(path.read_bytes())
    data[data.find(b"\x89PNG") + 12] ^= 255
    path.write_bytes(data)
    train = open_prepared(folder)["train"]
    [(index, reason)] = unusable(train).items()
    assert reason.startswith(f"damaged record {index} of tiny_ragged-train.array_record-00000-of-00001 (")
    assert train.shapes()[index].tolist() == [0, 0, 0] and (train.shapes()[:, 0] > 0).sum() == 3


def test_images_above_the_limit_are_bad_records(ragged):
    train = open_prepared(ragged, max_pixels=63)["train"]
    reasons = unusable(train)
    assert len(reasons) == 1 and all("more than 63 pixels (8x8)" in reason for reason in reasons.values())
    with pytest.raises(BadRecordError, match="raise config.data.max_pixels"):
        train[next(iter(reasons))]


def test_images_of_another_shape_than_stated(folder):
    def change(features):
        features["featuresDict"]["features"]["image"]["image"]["shape"]["dimensions"] = ["5", "6", "3"]

    rewrite(folder / "features.json", change)
    with pytest.raises(BadRecordError, match=r"expected shape \[5, 6, 3\] as in features.json, got \[6, 6, 3\]"):
        open_prepared(folder)["train"][0]


def tensor_set(prepare, name, dtype, values):
    return prepare(
        name,
        feature=f"tfds.features.Tensor(shape=(4, 4, 1), dtype=np.{dtype})",
        shape="(4, 4, 1)",
        splits='{"train": self._generate_examples(0, 4), "test": self._generate_examples(1, 2)}',
        encode=False,
        values=values,
    )


def test_tensors_have_to_be_bytes_or_intensities(prepare):
    unit = open_prepared(tensor_set(prepare, "tiny_unit", "float32", "image / np.float32(255)"))["train"]
    assert unit[0]["image"].dtype == np.float32 and 0.5 < unit[0]["image"].max() <= 1
    large = open_prepared(tensor_set(prepare, "tiny_large", "float32", "image * np.float32(1)"))["train"]
    with pytest.raises(BadRecordError, match=r"tiny_large/1.0.0/train\[2\]: expected numbers in \[0, 1\], got"):
        large[2]
    wide = tensor_set(prepare, "tiny_wide", "int64", "image.astype(np.int64)")
    with pytest.raises(
        InputError, match=r"expected a feature 'image' of shape .* got Tensor\(shape=\(4, 4, 1\), dtype=int64"
    ):
        open_prepared(wide)


def test_random_damage_gives_the_same_images_or_a_reason(folder):
    draw = np.random.default_rng(0)
    wanted = {name: list(part.elements(range(len(part)))) for name, part in open_prepared(folder).items()}
    files = sorted(path for path in folder.iterdir() if path.is_file())
    for _ in range(80):
        path = files[draw.integers(len(files))]
        data = path.read_bytes()
        damaged = bytearray(data[: draw.integers(len(data))] if draw.random() < 0.2 else data)
        for _ in range(draw.integers(1, 5)):
            if damaged:
                damaged[draw.integers(len(damaged))] ^= 1 << draw.integers(8)
        path.write_bytes(damaged)
        try:
            parts = open_prepared(folder)
            for name, part in parts.items():
                for index in range(len(part)):
                    try:
                        image = part[index]["image"]
                    except BadRecordError as error:
                        assert "\n" not in str(error)
                    else:
                        np.testing.assert_array_equal(image, wanted[name][index]["image"])
        except InputError as error:
            assert "\n" not in str(error)
        path.write_bytes(data)
