import logging

import numpy as np
import pytest

from common.data import source
from common.data.source import ArraySource, BadRecordError
from common.data.wrappers import Cached, Mapped, SkipBad, SkipBudget, Subset, good_records
from common.errors import InputError


class Counting:
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


def values(elements):
    return [int(element["image"][0, 0, 0]) for element in elements]


def test_subset_selects_renames_and_changes_the_fingerprint():
    inner = ArraySource({"image": np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1)}, label="six")
    part = Subset(inner, [4, 1], label="half")
    assert len(part) == 2
    assert values(source.read(part, [1, 0])) == [1, 4]
    assert part.name(0) == "six[4]"
    assert part.fingerprint == Subset(inner, [4, 1], label="other words").fingerprint
    assert part.fingerprint != Subset(inner, [1, 4], label="half").fingerprint
    assert part.shapes().shape == (2, 3)
    with pytest.raises(IndexError):
        part[2]
    with pytest.raises(InputError, match="half: expected at least one example, got none"):
        Subset(inner, [], label="half")


def test_mapped_applies_and_names_what_the_function_refuses():
    def halve(element):
        if element["image"][0, 0, 0] == 3:
            raise ValueError("odd one")
        return {"image": element["image"] / 2}

    data = Mapped(Subset(Counting(5), [3, 4, 2], label="some"), halve, label="halve", shape=(1, 1, 1))
    assert values(source.read(data, [1, 2])) == [2, 1]
    with pytest.raises(BadRecordError, match="record 3 of counting: odd one"):
        data[0]
    assert data.fingerprint != Mapped(Subset(Counting(5), [3, 4, 2], label="some"), halve, label="other").fingerprint
    np.testing.assert_array_equal(data.shapes(), [[1, 1, 1]] * 3)


def test_cache_reads_once_up_to_its_limit():
    inner = Counting(10)
    data = Cached(inner, limit_bytes=3 * 4)
    for _ in range(2):
        assert values(source.read(data, [1, 2, 3, 4, 1])) == [1, 2, 3, 4, 1]
    assert inner.reads == [1, 2, 3, 4, 4]


def test_bad_records_are_replaced_by_the_next_good_one():
    budget = SkipBudget(3)
    data = SkipBad(Counting(6, bad=[2, 3, 5]), budget)
    assert values(source.read(data, [0, 2, 3, 5, 1])) == [0, 4, 4, 0, 1]
    assert [values([data[index]])[0] for index in range(6)] == [0, 1, 4, 4, 4, 0]
    held = source.resident(data)
    np.testing.assert_array_equal(held.arrays["image"].ravel(), [0, 1, 4, 4, 4, 0])
    with pytest.raises(IndexError):
        data[6]


def test_the_budget_counts_different_records_and_names_them(caplog):
    data = SkipBad(Counting(9, bad=[1, 4]), SkipBudget(1))
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


def test_records_known_to_be_bad_are_counted_at_once():
    images = np.zeros((5, 1, 1, 1), np.float32)
    images[[0, 1, 3, 4]] = np.nan
    inner = ArraySource({"image": images}, label="x", defer_bad=True)
    with pytest.raises(InputError, match=r"got 4 \(x\[0\]: .*; x\[1\]: .*; x\[3\]: .*; \.\.\.\)"):
        SkipBad(inner, SkipBudget(0))
    assert values([SkipBad(inner, SkipBudget(4))[3]]) == [0]


def test_nothing_good_is_an_error():
    with pytest.raises(InputError, match="expected at least one good record, got none"):
        SkipBad(Counting(3, bad=range(3)), SkipBudget(5))[1]


def test_good_records_leaves_the_bad_ones_out():
    budget = SkipBudget(2)
    parts = list(good_records(Counting(1030, bad=[3, 1029]), budget))
    indices = [index for part, _ in parts for index in part]
    assert indices == [index for index in range(1030) if index not in (3, 1029)]
    assert indices == [value for _, elements in parts for value in values(elements)]
    with pytest.raises(InputError, match="got 2"):
        list(good_records(Counting(10, bad=[3, 5]), SkipBudget(1)))
