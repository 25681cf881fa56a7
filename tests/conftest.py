"""Shared by all tests: where the golden arrays are read from."""

import functools
from pathlib import Path

import numpy as np
import pytest

DATA = Path(__file__).parent / "goldens" / "data"


def pytest_addoption(parser):
    parser.addoption(
        "--goldens",
        metavar="DIR",
        default=str(DATA),
        help="read golden arrays from DIR/METHOD/NAME.npz instead of tests/goldens/data",
    )


@pytest.fixture(scope="session")
def golden(request):
    """Returns `load(method, name) -> {array name: array}`; a file that is not there fails the test."""
    directory = Path(request.config.getoption("--goldens"))

    @functools.cache
    def load(method: str, name: str):
        path = directory / method / f"{name}.npz"
        if not path.is_file():
            pytest.fail(f"no golden file {path}")
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)

    return load
