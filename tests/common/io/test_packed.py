"""Files of weights: bytes that follow from the arrays, checksums, and refusals."""

import numpy as np
import pytest

from common.errors import InputError
from common.io import packed


def test_files_of_weights(tmp_path):
    params = {"a": {"kernel": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)}, "b": np.zeros(2, np.float32)}
    path = tmp_path / "weights.npz"
    digest = packed.save(path, params)
    assert digest == packed.save(tmp_path / "again.npz", {"b": params["b"], "a": params["a"]})
    found = packed.load(path, sha256=digest)
    np.testing.assert_array_equal(found["a"]["kernel"], params["a"]["kernel"].astype(np.float16))
    assert found["b"].dtype == np.float32
    third = {"few": np.full(3, 1 / 3, np.float32), "many": np.full(4, 1 / 3, np.float32)}
    found = packed.load(tmp_path / "third.npz", sha256=packed.save(tmp_path / "third.npz", third, small=4))
    np.testing.assert_array_equal(found["few"], third["few"])
    np.testing.assert_array_equal(found["many"], np.float32(np.float16(1 / 3)))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match=f"weights.npz: expected sha256 {digest}"):
        packed.load(path, sha256=digest)
    with pytest.raises(InputError, match="expected a file of weights, got none"):
        packed.load(tmp_path / "none.npz", sha256=None)
    with pytest.raises(InputError, match="weights a/kernel: expected finite numbers in float16"):
        packed.save(path, {"a": {"kernel": np.full(2, 1e6)}})
