"""Rows of pairs, kept and resumed, and the tables of each scheme from known errors."""

import time
from dataclasses import replace

import numpy as np
import pytest

from common.errors import InputError
from diffmatch_jax.evaluation import evaluate
from diffmatch_jax.evaluation.datasets import record

GROUPS = ("rate 3", "rate 3", "rate 3", "rate 5", "rate 5")
SEQUENCES = ("a", "a", "b", "a", "b")
ERRORS = (1.0, 2.0, 6.0, 4.0, 0.5)
VALID = (4, 8, 12, 16, 20)


def dataset(scheme="images"):
    """Five pairs whose source holds the error that `matcher` makes."""

    def load(index):
        source = np.full((6, 8, 3), round(10 * ERRORS[index]), np.uint8)
        mask = np.arange(48).reshape(6, 8) < VALID[index]
        return record.Example(f"p{index}", source, np.zeros((6, 8, 3), np.uint8), np.ones((6, 8, 2), np.float32), mask)

    entries = [(f"p{i}", group) for i, group in enumerate(GROUPS)]
    return record.make("toy", entries, load, content=[scheme], scheme=scheme, sequences=SEQUENCES)


def matcher(source, target):
    error = source[0, 0, 0] / 10
    flow = np.ones((6, 8, 2), np.float32)
    flow[..., 0] += error
    return flow, None


def test_rows():
    rows = evaluate.evaluate_flow(matcher, dataset())
    np.testing.assert_allclose(rows["aepe"], ERRORS, atol=1e-6)
    np.testing.assert_allclose(rows["median"], ERRORS, atol=1e-6)
    np.testing.assert_array_equal(rows["valid"], VALID)
    np.testing.assert_array_equal(rows["correct"][1], [0, 8, 8])
    assert np.isnan(rows["area"]).all() and np.isnan(rows["curve"]).all()
    assert evaluate.mean_curves(rows) is None


def test_schemes():
    rows = evaluate.evaluate_flow(matcher, dataset())
    whole = evaluate.summary(rows, dataset("images"))
    assert whole["all"]["aepe"] == pytest.approx(np.mean(ERRORS))
    assert whole["all"]["pck_3_per_dataset"] == pytest.approx((4 + 8 + 20) / 60)
    assert whole["rate 3"]["aepe"] == pytest.approx(3)
    groups = evaluate.summary(rows, dataset("groups"))
    assert groups["all"]["aepe"] == pytest.approx((3 + 2.25) / 2)
    assert groups["all"]["images"] == 5 and groups["all"]["valid"] == 60
    rates = evaluate.summary(rows, dataset("rates"))
    assert rates["rate 3"]["aepe"] == pytest.approx((1.5 + 6) / 2)  # sequences first
    assert rates["all"]["aepe"] == pytest.approx(((1.5 + 6) / 2 + (4 + 0.5) / 2) / 2)
    assert rates["rate 3"]["pck_3_per_rate"] == pytest.approx(12 / 24)
    single = evaluate.summary(rows, replace(dataset(), groups=("one",) * 5))
    assert list(single) == ["all"]


def test_confidence():
    def sure(source, target):
        error = np.arange(48).reshape(6, 8) / 10
        flow = np.ones((6, 8, 2), np.float32)
        flow[..., 1] += error
        return flow, -error if source[0, 0, 0] != 60 else None

    rows = evaluate.evaluate_flow(sure, dataset())
    told = evaluate.summary(rows, dataset())["all"]
    assert told["gap"] == pytest.approx(0, abs=1e-6) and told["skill"] == pytest.approx(1)
    assert told["rank_correlation"] == pytest.approx(1)
    assert np.isnan(rows["skill"]).sum() == 1
    curve, oracle = evaluate.mean_curves(rows)
    np.testing.assert_allclose(curve, oracle, atol=1e-9)
    assert curve[0] == pytest.approx(1) and (np.diff(curve) <= 1e-9).all()
    with pytest.raises(InputError, match=r"confidence: expected \[6, 8\], got \[3, 8\]"):
        evaluate.evaluate_flow(lambda s, t: (np.ones((6, 8, 2)), np.ones((3, 8))), dataset())


def test_resumed_equals_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "_CHUNK", 2)
    calls = []

    def counted(source, target):
        calls.append(1)
        return matcher(source, target)

    how = {"directory": tmp_path, "identity": {"matcher": "toy"}}
    stops = iter([False, False, False, True])
    assert evaluate.evaluate_flow(counted, dataset(), should_stop=lambda: next(stops), **how) is None
    assert evaluate.num_missing(tmp_path, dataset()) == 3  # the third row was in a chunk that was not full
    done = []
    rows = evaluate.evaluate_flow(counted, dataset(), add=done.append, **how)
    # Once more in each process, to compile.
    assert len(calls) == (1 + 3) + (1 + 3) and sum(done) == 3 and evaluate.num_missing(tmp_path, dataset()) == 0
    whole = evaluate.evaluate_flow(matcher, dataset())
    for name in whole:
        if name != "seconds":
            np.testing.assert_array_equal(rows[name], whole[name], err_msg=name)
    with pytest.raises(InputError, match="expected rows of .*other.* got those of"):
        evaluate.evaluate_flow(matcher, dataset(), directory=tmp_path, identity={"matcher": "other"})
    with pytest.raises(InputError, match="choose another directory"):
        evaluate.evaluate_flow(matcher, dataset("groups"), **how)


def test_seconds_are_those_of_a_compiled_program():
    """A pair of another size is matched twice, and the second call is timed."""
    tall = [False, True, False, True, True]
    known, calls = set(), []

    def load(index):
        example = data.load(index)
        return example._replace(source=np.repeat(example.source, 1 + tall[index], axis=0))

    def compiling(source, target):
        calls.append(source.shape[0])
        if source.shape not in known:
            known.add(source.shape)
            time.sleep(0.2)
        return matcher(source, target)

    data = dataset()
    rows = evaluate.evaluate_flow(compiling, replace(data, load=load))
    assert calls == [6, 6, 12, 12, 6, 12, 12] and rows["seconds"].max() < 0.1
    compiled = {(6, 8, 3, 6, 8, 3)}
    evaluate.evaluate_flow(compiling, replace(data, load=load), compiled=compiled)
    assert calls[7:] == [6, 12, 12, 6, 12, 12] and compiled == {(6, 8, 3, 6, 8, 3), (12, 8, 3, 6, 8, 3)}


def test_corruption_has_a_seed_of_its_own():
    seen = []

    def corrupt(example, seed):
        seen.append(seed)
        return example._replace(source=example.source * 0)

    rows = evaluate.evaluate_flow(matcher, dataset(), corrupt=corrupt)
    np.testing.assert_allclose(rows["aepe"], 0, atol=1e-6)
    assert seen == [evaluate.seed_of(f"p{i}") for i in range(5)] and len(set(seen)) == 5


def test_pairs_without_truth_do_not_count():
    data = dataset()
    empty = replace(data, load=lambda i: data.load(i)._replace(mask=np.zeros((6, 8), bool)) if i == 2 else data.load(i))
    rows = evaluate.evaluate_flow(matcher, empty)
    assert np.isnan(rows["aepe"][2])
    assert evaluate.summary(rows, empty)["all"]["aepe"] == pytest.approx(np.mean([1, 2, 4, 0.5]))
    with pytest.raises(InputError, match="flow: expected finite numbers"):
        evaluate.evaluate_flow(lambda s, t: (np.full((6, 8, 2), np.nan), None), data)


def test_corrupted_pairs():
    """Both images get draws of their own; where a corruption moves pixels, the truth moves with them."""
    from diffmatch_jax.evaluation.corruptions.pairs import corruption
    from diffmatch_jax.evaluation.datasets.record import centres

    image = np.uint8(127 + 100 * np.sin(centres((48, 64))[..., :1] / [7, 5, 3]))
    flow = np.zeros((48, 64, 2), np.float32)
    pair = record.Example("p", image, image, flow, np.ones((48, 64), bool))
    noisy = corruption("gaussian_noise", 5)(pair, 7)
    assert (noisy.source != noisy.target).mean() > 0.9 and noisy.flow is flow
    np.testing.assert_array_equal(corruption("gaussian_noise", 5)(pair, 7).target, noisy.target)
    assert (corruption("gaussian_noise", 5, seed=1)(pair, 7).target != noisy.target).any()
    moved = corruption("elastic_transform", 5)(pair, 7)
    assert np.abs(moved.flow[moved.mask]).max() > 0.3 and 0.3 < moved.mask.mean() < 1
    with pytest.raises(InputError, match='did you mean "fog"'):
        corruption("foq")
    with pytest.raises(InputError, match="severity: expected 1, 2, 3, 4 or 5, got 6"):
        corruption("fog", 6)
