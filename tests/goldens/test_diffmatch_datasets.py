"""Pairs of the released list, and the ground truth of the benchmarks, against the original's arrays."""

import numpy as np
import pytest

from diffmatch_jax.evaluation.datasets import listed, planar, record


def first(array):
    """Channels last."""
    return np.moveaxis(array, 0, -1)


@pytest.mark.parametrize("variant", ["modern", "corner_aligned"])
def test_training_pairs(golden, variant):
    d = golden("diffmatch", "csv_training_pairs")
    names = {0: f"aff_{variant}", 1: f"tps_{variant}", 2: "homo"}
    half_pixel = variant == "modern"
    for kind, numbers in zip(d["csv_type"].tolist(), d["csv_params"], strict=True):
        name = names[kind]
        got = listed.pair(d["image"], kind, numbers, size=int(d["output_size"]), half_pixel=half_pixel)
        want = first(d[f"{name}_flow"])
        known = (np.abs(want) < 1e3).all(-1)
        np.testing.assert_allclose(got.flow[known], want[known], rtol=0, atol=1e-3, err_msg=name)
        for image in ("source", "target"):
            away = np.abs(getattr(got, image).astype(int) - first(d[f"{name}_{image}"]))
            assert away.max() <= 2, (name, image, away.max())
        places = record.centres(got.mask.shape) + want
        border = np.abs(places[..., None] - np.asarray([0, got.mask.shape[0] - 1])).min((-1, -2)) < 1e-4
        np.testing.assert_array_equal(got.mask[~border], d[f"{name}_mask"][~border], err_msg=name)


def test_canvas_sizes(golden):
    d = golden("diffmatch", "csv_training_pairs")
    scale = int(d["output_size"]) / 240
    assert [int(each * scale) for each in listed._CANVAS[2]] == d["homo_full_hw"].tolist()
    assert [int(each * scale) for each in listed._CANVAS[0]] == d["afftps_full_hw"].tolist()


@pytest.mark.parametrize("size", ["orig", "fixed"])
def test_homography_scenes(golden, size):
    d = golden("diffmatch", "eval_ground_truth")
    assert list(d["hp_ref_image"].shape[:2]) == d["hp_ref_hw"].tolist()
    to = tuple(d["hp_trg_hw" if size == "orig" else "hp_fixed_hw"].tolist())
    matrix = planar.scaled_homography(
        d["hp_H"],
        source=(tuple(d["hp_ref_hw"].tolist()), to),
        target=(tuple(d["hp_trg_hw"].tolist()), to),
        half_pixel=False,
    )
    np.testing.assert_allclose(matrix, d[f"hp_{size}_scaled_H"], rtol=0, atol=1e-9)
    got = planar.example_of(
        "", d["hp_ref_image"], d["hp_trg_image"], d["hp_H"],
        source_size=to, target_size=to, antialias=False, half_pixel=False,
    )  # fmt: skip
    np.testing.assert_allclose(got.flow, first(d[f"hp_{size}_flow"]), rtol=0, atol=1e-4)
    np.testing.assert_array_equal(got.mask, d[f"hp_{size}_mask"])
    for image in ("source", "target"):
        away = np.abs(getattr(got, image).astype(int) - first(d[f"hp_{size}_{image}"]))
        assert away.max() <= 1


def test_sparse_matches(golden):
    d = golden("diffmatch", "eval_ground_truth")
    places, sources = (np.stack([d[f"eth_X{which}"], d[f"eth_Y{which}"]], -1) for which in "ts")
    flow, mask = record.scattered(places, sources, tuple(d["eth_image_hw"].tolist()))
    np.testing.assert_array_equal(flow, first(d["eth_flow"]))
    np.testing.assert_array_equal(mask, d["eth_mask"])
