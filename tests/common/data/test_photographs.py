import importlib.util

import numpy as np
import pytest

from common.data import photographs
from common.data.duplicates import block_means
from common.data.images import as_channels, central_square, resize
from common.errors import InputError


@pytest.fixture(scope="module")
def opened():
    return {channels: photographs.open_photographs(channels=channels) for channels in (1, 3)}


def test_no_photograph_is_in_both_splits(opened):
    assert not set(photographs.TRAIN_PHOTOGRAPHS) & set(photographs.TEST_PHOTOGRAPHS)
    train, test = (list(opened[1][split].elements(range(len(opened[1][split])))) for split in ("train", "test"))
    contents = [element["image"].tobytes() for element in train + test]
    assert len(set(contents)) == len(photographs.TRAIN_PHOTOGRAPHS) + len(photographs.TEST_PHOTOGRAPHS)


def test_no_scene_is_in_both_splits(opened):
    thumbnails = {
        split: block_means(
            np.stack([resize(as_channels(central_square(e["image"]), 1), 80) for e in part.elements(range(len(part)))])
        )
        for split, part in opened[1].items()
    }
    assert np.abs(thumbnails["train"] @ thumbnails["test"].T).max() < 0.7


def test_colour_takes_only_colour_photographs(opened):
    for part in opened[3].values():
        shapes = part.shapes()
        assert (shapes[:, 2] == 3).all()
        assert len(shapes) >= 2
    assert len(opened[3]["train"]) < len(opened[1]["train"])


def test_they_are_large_varied_and_the_same_every_time(opened):
    for part in opened[1].values():
        assert part.shapes()[:, :2].min() >= 300
        assert min(element["image"].std() for element in part.elements(range(len(part)))) > 10
    again = photographs.open_photographs(channels=1)
    assert again["train"].fingerprint == opened[1]["train"].fingerprint != opened[1]["test"].fingerprint


def test_a_missing_package_is_told(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="config.data.source: expected scikit-image.*; pip install scikit-image"):
        photographs.open_photographs(channels=1)


def test_a_missing_file_is_told(monkeypatch):
    monkeypatch.setattr(photographs, "TEST_PHOTOGRAPHS", ("nowhere.png",))
    with pytest.raises(InputError, match="expected nowhere.png of scikit-image"):
        photographs.open_photographs(channels=1)
