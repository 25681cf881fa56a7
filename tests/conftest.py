"""Shared by all tests: where golden arrays are read from, and a cache of compiled programs for this run alone."""

import functools
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

# Commands switch on the compilation cache; tests must neither fill the user's nor be served by it.
_CACHE = tempfile.TemporaryDirectory(prefix="scorebridge-tests-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE.name)
# Many tests and the programs that they start compile the same small things.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

DATA = Path(__file__).parent / "goldens" / "data"


def pytest_addoption(parser):
    parser.addoption(
        "--goldens",
        metavar="DIR",
        default=str(DATA),
        help="read golden arrays from DIR/METHOD/NAME.npz instead of tests/goldens/data",
    )


@pytest.fixture(scope="module")
def quick_compilation():
    """Makes machine code without optimising it, here and in programs started from here, for the tests of one file.

    For files whose programs run a few times only: what XLA does to a program before is the same, and so is what is
    asserted of its results.
    """
    import jax

    name = "jax_disable_most_optimizations"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name.upper(), "true")
        jax.config.update(name, True)
        # Programs of both kinds differ in the last bit, so none of one kind may serve tests of the other.
        jax.clear_caches()
        yield
        jax.config.update(name, False)
        jax.clear_caches()


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
