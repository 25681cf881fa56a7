"""Near-duplicates and splits of the denoising experiments against numbers of the original code."""

import numpy as np
import pytest

from common.data.duplicates import block_means, distinct
from gahb.datasets import authors_split, tiled


@pytest.fixture
def pictures(golden):
    return np.moveaxis(golden("gahb", "metrics")["dup.data"], 1, -1)


def test_correlations_of_block_means(golden, pictures):
    vectors = block_means(pictures)
    np.testing.assert_allclose(vectors @ vectors.T, golden("gahb", "metrics")["dup.corr20"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("block", [3, 1024])
def test_which_near_duplicates_go(golden, pictures, block):
    metrics = golden("gahb", "metrics")
    vectors, threshold = block_means(pictures), float(metrics["dup.threshold"])
    kept = distinct(vectors, threshold=threshold, rule="any", block=block)
    np.testing.assert_array_equal(kept, metrics["dup.kept_index"])
    np.testing.assert_array_equal(np.setdiff1d(np.arange(len(vectors)), kept), metrics["dup.removed_index"])
    kept = distinct(vectors, threshold=threshold, rule="kept", block=block)
    np.testing.assert_array_equal(kept, metrics["dup.kept_greedy_alternative"])


@pytest.mark.parametrize("case", ["split0", "split1", "split2"])
def test_splits(golden, case):
    tables = golden("gahb", "tables")
    n, size, batch_size = (int(value) for value in tables[f"{case}.cfg"])
    for swap, name in ((False, "noswap"), (True, "swap")):
        train, test = authors_split(n, size=size, batch_size=batch_size, swap=swap)
        np.testing.assert_array_equal(train, tables[f"{case}.{name}.train_idx"])
        np.testing.assert_array_equal(test, tables[f"{case}.{name}.test_idx"])
        if swap:
            repeated = tiled(train, int(tables[f"{case}.repeat_total"]))
            np.testing.assert_array_equal(repeated, tables[f"{case}.swap.repeated_idx"])
