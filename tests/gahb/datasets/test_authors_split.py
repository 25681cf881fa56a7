import numpy as np

from gahb.datasets import authors_split, tiled


def test_the_authors_rule_takes_both_ends():
    train, test = authors_split(50, size=10, batch_size=4, swap=False)
    assert (train[0], train[-1], test[0], len(test)) == (0, 9, 40, 4)
    train, test = authors_split(5, size=10, batch_size=4, swap=True)
    np.testing.assert_array_equal(train, [3, 4])
    np.testing.assert_array_equal(test, [0, 1])


def test_tiling_repeats_whole_sets():
    np.testing.assert_array_equal(tiled(np.asarray([4, 9]), 5), [4, 9, 4, 9])
