import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from common.data import source
from common.data.source import choose, hold_out, shuffled
from common.errors import InputError

SEEDS = st.integers(0, 2**64 - 1)
FROZEN = (
    [1, 2, 8, 3, 5, 0, 4, 7, 6],
    [2132, 3184, 3148, 3093, 3770],
    [5, 4, 2, 0, 6, 1, 3],
    [2087966651, 294976867, 63038728],
)


def epoch(number, *, n, seed=0):
    return shuffled(number * n, (number + 1) * n, n=n, seed=seed)


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 9000), seed=SEEDS, number=st.integers(0, 2**40))
def test_every_epoch_is_a_permutation(n, seed, number):
    np.testing.assert_array_equal(np.sort(epoch(number, n=n, seed=seed)), np.arange(n))


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 9000), seed=SEEDS, start=st.integers(0, 2**50), cut=st.integers(1, 299))
def test_the_sequence_does_not_depend_on_where_it_is_cut(n, seed, start, cut):
    whole = shuffled(start, start + 300, n=n, seed=seed)
    assert whole.dtype == np.int32 and whole.shape == (300,)
    parts = [shuffled(*ends, n=n, seed=seed) for ends in ((start, start + cut), (start + cut, start + 300))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_long_epochs_are_shuffled_in_windows(monkeypatch):
    monkeypatch.setattr(source, "_LONG", 64)
    monkeypatch.setattr(source, "_SHORT", 64)
    source._block.cache_clear()
    found = epoch(3, n=150)
    np.testing.assert_array_equal(np.sort(found), np.arange(150))
    for start in (0, 64, 128):
        window = found[start : start + 64]
        np.testing.assert_array_equal(np.sort(window), np.arange(start, min(start + 64, 150)))
        assert (window != np.sort(window)).any()
    assert (found[:64] + 64 != found[64:128]).any()
    np.testing.assert_array_equal(shuffled(3 * 150 + 50, 4 * 150 + 20, n=150, seed=0)[:100], found[50:])
    source._block.cache_clear()


def test_the_longest_sets_start_at_once():
    n = source.MAX_LENGTH
    found = shuffled(5 * n - 100, 5 * n + 100, n=n, seed=1)
    assert len(set(found.tolist())) == 200 and found.min() >= 0
    assert found[:100].min() >= n - n % 2**21 and found[100:].max() < 2**21


def test_all_orders_of_three_are_equally_frequent():
    orders = shuffled(0, 18000, n=3, seed=1).reshape(6000, 3)
    counts = np.unique(orders @ np.asarray([9, 3, 1]), return_counts=True)[1]
    assert len(counts) == 6
    assert ((counts - 1000) ** 2 / 1000).sum() < 20.5  # chi-square of 5 degrees of freedom, one in a thousand


def test_large_orders_look_random():
    n = 50021
    there = epoch(0, n=n, seed=3).astype(np.int64)
    steps = np.diff(there) % n
    assert (np.minimum(steps, n - steps) <= 1).sum() < 10  # two expected
    assert (there == np.arange(n)).sum() < 8  # one expected
    cells = np.bincount(steps * 100 // n, minlength=100)
    assert ((cells - n / 100) ** 2 / (n / 100)).sum() < 150  # 99 degrees of freedom, one in a thousand


def test_orders_differ_between_epochs_and_seeds():
    for n in (1000, 5000):
        orders = [epoch(number, n=n, seed=seed) for seed, number in ((0, 0), (0, 1), (0, 4), (1, 0), (2**40, 0))]
        for first, second in itertools.combinations(orders, 2):
            assert (first == second).sum() < 12


def test_streams_are_frozen():
    """Values of NumPy 2.4.6: with another release runs would resume with another order of their data."""
    np.testing.assert_array_equal(shuffled(0, 9, n=9, seed=0), FROZEN[0])
    np.testing.assert_array_equal(shuffled(3, 8, n=5000, seed=2**64 - 1), FROZEN[1])
    np.testing.assert_array_equal(source.permutation(7, seed=3, purpose=5), FROZEN[2])
    np.testing.assert_array_equal(source.generator(3, 5, 7).randint(2**31 - 1, size=3, dtype=np.int32), FROZEN[3])


def test_purposes_and_numbers_have_streams_of_their_own():
    first = {tuple(source.generator(*each).random_sample(2)) for each in itertools.product((0, 1), (1, 2), (0, 1))}
    assert len(first) == 8
    np.testing.assert_array_equal(
        source.generator(-1, 0).random_sample(3), source.generator(2**64 - 1, 0).random_sample(3)
    )


@pytest.mark.parametrize("n", [1, 2, 100])
def test_permutations(n):
    found = source.permutation(n, seed=1, purpose=2)
    np.testing.assert_array_equal(np.sort(found), np.arange(n))
    assert n < 100 or (found != source.permutation(n, seed=1, purpose=3)).sum() > 80


@settings(deadline=None, max_examples=50)
@given(n=st.integers(2, 500), seed=st.integers(0, 2**40))
def test_halves_are_disjoint_and_equal(n, seed):
    first, second = (choose(n, half=half, seed=seed) for half in (1, 2))
    assert len(first) == len(second) == n // 2
    together = np.concatenate([first, second])
    assert len(np.unique(together)) == 2 * (n // 2)
    assert together.min() >= 0
    assert together.max() < n


def test_subsets_are_nested_and_depend_on_the_seed():
    large, small = (choose(1000, half=2, subset=size, seed=3) for size in (100, 10))
    np.testing.assert_array_equal(large[:10], small)
    assert set(large) <= set(choose(1000, half=2, seed=3))
    assert set(small) != set(choose(1000, half=2, subset=10, seed=4))
    assert len(choose(1000, subset=10, seed=3)) == 10


def test_without_a_choice_the_order_stays():
    np.testing.assert_array_equal(choose(7, seed=5), np.arange(7))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"half": 3}, r"config.data.half: expected 0 \(all\), 1 or 2, got 3"),
        ({"subset": 11}, r"config.data.subset: expected 0 \(all\) to 10, .* got 11"),
        ({"half": 1, "subset": 6}, r"config.data.subset: expected 0 \(all\) to 5, .* got 6"),
        ({"subset": -1}, r"config.data.subset: .* got -1"),
    ],
)
def test_impossible_choices_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        choose(10, **arguments)


def test_one_image_cannot_be_halved():
    with pytest.raises(InputError, match="config.data.half: expected at least 2 images to halve, got 1"):
        choose(1, half=2)


@settings(deadline=None, max_examples=30)
@given(n=st.integers(2, 300), seed=st.integers(0, 100))
def test_hold_out_is_a_partition(n, seed):
    train, test = hold_out(n, seed=seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(n))
    assert len(test) == max(1, round(n / 10))
    with pytest.raises(InputError, match="at least 2 images"):
        hold_out(1)
