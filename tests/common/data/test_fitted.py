import logging
import os
import weakref

import numpy as np
import pytest

from common.data import source
from common.data.fitted import Fitted, SkipBudget
from common.data.source import ArraySource, BadRecordError, Source
from common.errors import InputError


class Counting(Source):
    """Elements equal their index; reading those in `bad` fails; every read is counted."""

    fingerprint = "counting"

    def __init__(self, length, bad=()):
        self.length, self.bad, self.reads = length, set(bad), []

    def __repr__(self):
        return "counting"

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.reads.append(index)
        if index in self.bad:
            raise BadRecordError(f"counting[{index}]", "torn")
        return {"image": np.full((1, 1, 1), index, np.float32)}

    def shapes(self):
        return np.ones((self.length, 3), int)


def fitted(raw, fit=lambda image: {"image": image}, *, limit=0, **options):
    return Fitted(raw, fit, label=options.pop("label", "fit"), budget=SkipBudget(limit), **options)


def values(elements):
    return [int(element["image"][0, 0, 0]) for element in elements]


def test_a_subset_selects_renames_and_changes_the_fingerprint():
    raw = ArraySource({"image": np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1)}, label="six")
    part = fitted(raw).subset([4, 1])
    assert len(part) == 2
    np.testing.assert_array_equal(part.read([1, 0])["image"].ravel(), [1, 4])
    assert part.name(0) == "six[4]"
    assert part.fingerprint == fitted(raw).subset([4, 1]).fingerprint != fitted(raw).subset([1, 4]).fingerprint
    assert part.shapes().shape == (2, 3)
    assert values([part.subset([1])[0]]) == [1]
    with pytest.raises(IndexError):
        part[2]


def test_fit_is_applied_and_what_it_refuses_is_named():
    def halve(image):
        if image[0, 0, 0] == 3:
            raise ValueError("odd one")
        return {"image": image / 2}

    data = fitted(Counting(5), halve).subset([3, 4, 2])
    assert values(data.elements([1, 2])) == [2, 1]
    with pytest.raises(InputError, match=r"got 1 \(counting\[3\]: odd one\)"):
        data[0]
    assert fitted(Counting(5), halve, label="a").fingerprint != fitted(Counting(5), halve, label="b").fingerprint
    np.testing.assert_array_equal(data.shapes(), [[1, 1, 1]] * 3)


def test_images_are_read_once_up_to_a_limit():
    raw = Counting(10)
    data = fitted(raw, cache_bytes=3 * 4)
    for _ in range(2):
        assert values(data.elements([1, 2, 3, 4])) == [1, 2, 3, 4]
    assert raw.reads == [1, 2, 3, 4, 4]
    assert values(data.subset([4, 3]).elements([1, 0])) == [3, 4] and raw.reads[5:] == [4]


class Tracked(np.ndarray):
    """An array that can be weakly referenced, as plain ones cannot."""


class Large(Counting):
    """Originals of 1 MB; `most` says how many of them were in memory at the same time."""

    most = 0

    def __getitem__(self, index):
        image = np.full((1000, 1000, 1), index, np.uint8).view(Tracked)
        self.originals.append(weakref.ref(image))
        self.most = max(self.most, sum(each() is not None for each in self.originals))
        return {"image": image}


def view(image):
    return np.asarray(image)[:4, :4]


def changed(image):
    return np.asarray(image)[::125, ::125].astype(np.float32)


@pytest.mark.parametrize("cache_bytes", [0, 10**6])
@pytest.mark.parametrize("fit", [view, changed])
def test_originals_are_not_kept(fit, cache_bytes):
    raw = Large(200)
    raw.originals = []
    data = fitted(raw, lambda image: {"image": fit(image)}, cache_bytes=cache_bytes)
    data.scan()
    assert source.load(data)["image"].shape[0] == 200
    np.testing.assert_array_equal(data.read(range(100))["image"][:, 0, 0, 0], range(100))
    assert raw.most <= 4 * (os.cpu_count() + 1)  # a few for each thread, not 200


def test_bad_records_are_replaced_by_the_next_good_one():
    data = fitted(Counting(6, bad=[2, 3, 5]), limit=3)
    assert values(data.elements([0, 2, 3, 5, 1])) == [0, 4, 4, 0, 1]
    assert [values([data[index]])[0] for index in range(6)] == [0, 1, 4, 4, 4, 0]
    np.testing.assert_array_equal(data.on_device().arrays["image"].ravel(), [0, 1, 4, 4, 4, 0])
    assert values(data.subset([5, 1, 3]).elements(range(3))) == [1, 1, 1]


def test_the_budget_counts_different_records_and_names_them(caplog):
    data = fitted(Counting(9, bad=[1, 4]), limit=1)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert values([data[1]]) == [2]
    assert [record.getMessage() for record in caplog.records] == ["skipped counting[1]: torn (1 of at most 1)"]
    with pytest.raises(
        InputError,
        match=r"config.data.skip_bad: expected at most 1 bad records, got 2 "
        r"\(counting\[1\]: torn; counting\[4\]: torn\); repair or remove them, or set config.data.skip_bad=2",
    ):
        data[4]


def test_nothing_good_is_an_error():
    with pytest.raises(InputError, match="expected at least one good record, got none"):
        fitted(Counting(3, bad=range(3)), limit=5)[1]


def test_a_scan_leaves_the_bad_ones_out_and_counts_them_together():
    data = fitted(Counting(1030, bad=[3, 1029]), limit=2)
    good, found = data.scan(lambda element: int(element["image"][0, 0, 0]))
    assert good.tolist() == found == [index for index in range(1030) if index not in (3, 1029)]
    part, found = data.subset([5, 3, 8]).scan(lambda element: int(element["image"][0, 0, 0]))
    assert part.tolist() == [0, 2] and found == [5, 8]
    with pytest.raises(InputError, match=r"got 4 \(counting\[1\]: torn; .*; \.\.\.\); .* config.data.skip_bad=4"):
        fitted(Counting(200, bad=[1, 3, 5, 170]), limit=1).scan()
