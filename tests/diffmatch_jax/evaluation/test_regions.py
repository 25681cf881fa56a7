"""Measures by region against numbers known by hand, and the data sets that have regions."""

import numpy as np
import pytest
from scipy import ndimage

from common.errors import InputError
from diffmatch_jax.evaluation import evaluate, regions
from diffmatch_jax.evaluation.datasets import layered
from diffmatch_jax.evaluation.datasets.record import Example, Regions, make
from diffmatch_jax.evaluation.regions import Answer

SIZE = (20, 40)


def example():
    """Left half visible, right half ambiguous with a second equal place 10 px to the right."""
    left = np.zeros(SIZE, bool)
    left[:, :20] = True
    truth = np.full((*SIZE, 2), [2.0, 0.0], np.float32)
    equal = np.stack([truth, truth + [10, 0]])
    equal[:, left] = np.nan
    masks = {"visible": left, "ambiguous": ~left, "moving": np.zeros(SIZE, bool)}
    picture = np.zeros((*SIZE, 3), np.uint8)
    covisible = np.ones(SIZE, bool)
    covisible[:, -2:] = False
    return Example("p", picture, picture, truth, covisible, regions=Regions(masks, covisible, equal))


def number(found, region, name):
    return found["regions"][regions.REGIONS.index(region), regions.MEASURES.index(name)]


def test_measures_by_region():
    pair = example()
    left = pair.regions.masks["visible"]
    flow = pair.flow + np.where(left[..., None], [3, 4], [9, 0])  # wrong by 5, and near the other equal place
    column = np.arange(SIZE[1]) * np.ones(SIZE)
    flow[:, :10] = pair.flow[:, :10] + [0.5, 0]
    confidence = np.where(left, 0.8 - column / 100, 0.2)
    found = regions.measure(Answer(flow, confidence), Answer(-flow), pair)
    assert number(found, "visible", "aepe") == pytest.approx((0.5 + 5) / 2)
    assert number(found, "visible", "pck_1") == 0.5 and number(found, "visible", "pck_5") == 1
    assert number(found, "ambiguous", "aepe") == pytest.approx(9) and number(found, "ambiguous", "pck_5") == 0
    assert number(found, "ambiguous", "equal") == pytest.approx(1)
    assert np.isnan(number(found, "visible", "equal"))
    assert number(found, "ambiguous", "confidence") == pytest.approx(0.2)
    assert number(found, "visible", "rank_correlation") == pytest.approx(np.sqrt(3) / 2, abs=0.01)  # of a step
    # Without hypotheses the flow is the only one.
    assert number(found, "visible", "best") == number(found, "visible", "energy") == number(found, "visible", "aepe")
    assert np.isnan(found["regions"][regions.REGIONS.index("moving"), 1:]).all()
    assert number(found, "moving", "pixels") == 0 and number(found, "flat", "pixels") == 0


def test_hypotheses():
    pair = example()
    flow = np.asarray(pair.flow + [1, 0])
    hypotheses = np.stack([pair.flow + [3.0, 0], pair.flow + [-1.0, 0]])
    found = regions.measure(Answer(flow, None, hypotheses), Answer(-flow), pair)
    assert number(found, "visible", "best") == pytest.approx(1)
    assert number(found, "visible", "energy") == pytest.approx((3 + 1) / 2 - 4 / 2)  # the truth is between them
    assert np.isnan(number(found, "visible", "confidence"))


def test_covisibility():
    pair = example()
    # Flow of 2 px to the right and back: its last 2 columns lead outside.
    found = regions.measure(Answer(pair.flow), Answer(-pair.flow), pair)
    np.testing.assert_array_equal(found["covisible"], [760, 760, 760])
    # Above 5 px of 256 there and back.
    allowed = 5 * 40 / 256
    for away, said in ((0.9 * allowed, 760), (1.1 * allowed, 0)):
        found = regions.measure(Answer(pair.flow), Answer([away, 0] - pair.flow), pair)
        assert found["covisible"][1] == said
    unsure = np.where(pair.regions.masks["visible"], 0.5, 0.05)
    assert regions.measure(Answer(pair.flow, unsure), Answer(-pair.flow), pair)["covisible"][1] == 400
    # A confidence that is no fraction says nothing.
    assert regions.measure(Answer(pair.flow, unsure - 1), Answer(-pair.flow), pair)["covisible"][1] == 760


def test_summary_of_a_data_set():
    flows = [np.full((*SIZE, 2), [2.0, 0.0]) + [away, 0] for away in (0.0, 4.0)]
    calls = iter([flows[0], flows[0], -flows[0], flows[1], -flows[1]])  # the first pair is compiled

    def matcher(source, target):
        return next(calls), np.full(SIZE, 0.5)

    data = make("two", [("a", "seed 0"), ("b", "seed 1")], lambda i: example(), content=[])
    rows = evaluate.evaluate_flow(matcher, data)
    found = evaluate.summary(rows, data)
    assert found["all"]["visible.aepe"] == pytest.approx(2) and found["seed 1"]["visible.aepe"] == pytest.approx(4)
    assert found["all"]["visible.pixels"] == 800 and "flat.aepe" not in found["all"]
    assert found["seed 0"]["covisible_precision"] == found["seed 0"]["covisible_recall"] == 1
    # Of the second pair 6 columns lead outside, of which 2 are right.
    assert found["seed 1"]["covisible_recall"] == pytest.approx(34 / 38)
    ((title, head, lines), *_) = regions.tables({"m": "M"}, [{"method": "m", **found["all"]}])
    assert (title, head) == ("AEPE by region", ["matcher", "visible", "ambiguous"])
    assert lines[0][0] == "M" and lines[0][1:] == pytest.approx([2, 2])


@pytest.fixture(scope="module")
def photographs():
    noise = [np.random.default_rng(i).normal(size=(120, 150, 3)) for i in range(3)]
    return [np.uint8(np.clip(128 + 300 * ndimage.gaussian_filter(each, (2, 2, 0)), 0, 255)) for each in noise]


def test_layered_data_set(photographs):
    data = layered.layered(photographs, count=7, size=64)
    assert data.groups[:4] == ("seed 0", "seed 1", "seed 2", "seed 0")
    assert data.names[:4] == ("repeated/0-0", "repeated/1-0", "repeated/2-0", "objects/0-1")
    pair = data.load(3)
    masks = pair.regions.masks
    whole = [masks[name] for name in ("visible", "ambiguous", "flat", "occluded", "outside")]
    np.testing.assert_array_equal(sum(each.astype(int) for each in whole), 1)
    np.testing.assert_array_equal(pair.regions.covisible, ~(masks["occluded"] | masks["outside"]))
    assert not (masks["edges"] & ~masks["visible"]).any() and not (masks["moving"] & ~masks["visible"]).any()
    # Seed 1 first is seed 0 second.
    other = layered.layered(photographs, count=7, size=64, seed=1)
    np.testing.assert_array_equal(other.load(0).target, data.load(1).target)
    assert other.fingerprint != data.fingerprint
    # The first pairs of a larger one are the same, and their rows serve it.
    larger = layered.layered(photographs, count=8, size=64)
    assert larger.fingerprint == data.fingerprint and larger.names[:7] == data.names
    with pytest.raises(InputError, match="layered: expected at least 1 pair of at least 64 pixels, got 7 of 32"):
        layered.layered(photographs, count=7, size=32)


def test_unrelated_photographs(photographs):
    data = layered.unrelated(photographs, size=64)
    assert len(data) == 3

    def matcher(source, target):
        return np.zeros((64, 64, 2)), np.full((64, 64), 0.3)

    found = evaluate.summary(evaluate.evaluate_flow(matcher, data), data)["all"]
    assert found["unrelated.confidence"] == pytest.approx(0.3) and found["covisible_said"] == 1
    assert "unrelated.aepe" not in found and np.isnan(found["aepe"])
    assert not np.array_equal(data.load(0).source, data.load(0).target)
    np.testing.assert_array_equal(data.load(0).source, data.load(1).target)
    with pytest.raises(InputError, match="unrelated: expected at least 2 photographs, got 1"):
        layered.unrelated(photographs[:1])
