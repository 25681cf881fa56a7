"""What the weights in the package promise, on warps of photographs, clean and corrupted: errors, shares, ranks."""

import numpy as np
import pytest

from diffmatch_jax.evaluation.baselines import open_baselines
from diffmatch_jax.evaluation.corruptions.pairs import corruption
from diffmatch_jax.evaluation.datasets.catalogue import Options, open_datasets
from diffmatch_jax.evaluation.evaluate import measure_pair, seed_of

COUNT = 12


@pytest.fixture(scope="module")
def measured():
    """Mean numbers of every matcher under every corruption."""
    (data,) = open_datasets("warps", Options(count=COUNT))
    found = {}
    for name in ("clean", "gaussian_noise", "contrast"):
        examples = [data.load(i) for i in range(COUNT)]
        if name != "clean":
            change = corruption(name, 5, 0)
            examples = [change(each, seed_of(each.name)) for each in examples]
        for baseline in open_baselines("match,wta,wta-random,refined"):
            rows = [measure_pair(baseline.matcher, example) for example in examples]
            found[name, baseline.name] = {
                key: np.mean([row[key] for row in rows]) for key in ("aepe", "rank_correlation")
            }
            shares = [row["correct"] / row["valid"] for row in rows]
            found[name, baseline.name]["pck"] = np.mean(shares, axis=0)
    return found


@pytest.mark.slow
def test_trained_features_find_twice_as_well_as_random_ones(measured):
    assert measured["clean", "wta"]["aepe"] < 0.5 * measured["clean", "wta-random"]["aepe"]


@pytest.mark.slow
def test_the_matcher_beside_winner_take_all(measured):
    assert measured["clean", "match"]["aepe"] < 0.4 * measured["clean", "wta"]["aepe"]
    for name in ("gaussian_noise", "contrast"):
        assert measured[name, "match"]["aepe"] < 0.65 * measured[name, "wta"]["aepe"]
    assert measured["clean", "match"]["pck"][0] > 0.5 > 0.15 > measured["clean", "wta"]["pck"][0]


@pytest.mark.slow
def test_what_is_learned_makes_nothing_worse_and_knows_how_wrong_it_is(measured):
    assert measured["clean", "match"]["aepe"] < 1.1 * measured["clean", "refined"]["aepe"]
    assert measured["clean", "match"]["rank_correlation"] > 0.5
