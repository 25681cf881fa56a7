import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from common.data.splits import choose, hold_out
from common.errors import InputError


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
