"""All tests of the matcher compile quickly: they run many programs a few times each."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_compilation):
    pass
