"""Tensors reach their places, and one error tells everything that does not fit."""

import numpy as np
import pytest
from flax import traverse_util

from common.errors import InputError
from common.imports import Slot, assign

SLOTS = {
    "conv/kernel": Slot("conv.weight", (4, 1, 3, 3), lambda x: x.transpose(2, 3, 1, 0)),
    "norm/gain": Slot("norm.gammas", (1, 4, 1, 1), lambda x: x.reshape(-1)),
}


def test_every_leaf_is_transformed():
    weight, gain = np.arange(36.0).reshape(4, 1, 3, 3), np.arange(4.0).reshape(1, 4, 1, 1)
    leaves = assign({"norm.gammas": gain, "conv.weight": weight}, SLOTS, field="f")
    assert leaves["conv/kernel"][2, 1, 0, 3] == weight[3, 0, 2, 1]
    assert leaves["norm/gain"].tolist() == [0, 1, 2, 3]
    tree = traverse_util.unflatten_dict(leaves, sep="/")
    assert tree == {"conv": {"kernel": leaves["conv/kernel"]}, "norm": {"gain": leaves["norm/gain"]}}
    assert traverse_util.flatten_dict(tree, sep="/") == leaves


def test_one_error_lists_all_that_does_not_fit():
    tensors = {"conv.weight": np.zeros((4, 3, 3, 3)), "norm.gamma": np.zeros((1, 4, 1, 1)), "zzz": np.zeros(1)}
    with pytest.raises(InputError) as error:
        assign(tensors, SLOTS, field="model.pt")
    assert str(error.value) == (
        "model.pt: expected the 2 tensors of the network, got 1 missing: norm.gammas (nearest: norm.gamma); "
        "2 unexpected: norm.gamma (nearest: norm.gammas), zzz; "
        "1 of another shape: conv.weight expected [4, 1, 3, 3], got [4, 3, 3, 3]; "
        "name the file and the kind of network that belong together"
    )


def test_long_lists_are_cut():
    slots = {str(i): Slot(f"layer.{i}", (1,), lambda x: x) for i in range(9)}
    with pytest.raises(InputError, match=r"9 missing: layer\.0, layer\.1, layer\.2, layer\.3 and 5 more"):
        assign({}, slots, field="f")
