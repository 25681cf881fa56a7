"""The eigenbasis benchmark: what its rows say, its noisy images, and (slow) a run at the smallest size."""

import jax.numpy as jnp
import numpy as np
import pytest

import gahb
from benchmarks import eigenbasis
from gahb.eigenbasis import linearise


def test_a_row_tells_size_and_residuals():
    y = np.random.default_rng(0).uniform(size=(24, 24, 1)).astype(np.float32)
    gains = np.linspace(1, 0, 576, dtype=np.float32).reshape(24, 24, 1)
    settings = eigenbasis.QUICK._replace(tolerance=1e-2)
    found = eigenbasis.top(lambda y: jnp.asarray(gains) * y, y, 4, settings)
    row = eigenbasis.row(found, y, settings, 1.5, 2.5)
    assert row["image"] == "24x24x1" and row["k"] == 4 and row["converged"] == "True"
    assert (row["wall s"], row["first call s"]) == (1.5, 2.5)
    assert row["Jacobian MiB"] == 576**2 * 4 / 2**20 > 5 * row["basis MiB"] > 0
    assert row["largest factor"] == pytest.approx(1, abs=1e-3)
    assert row["products"] == found.products and 0 < row["largest residual"] <= 1e-2


@pytest.mark.parametrize("channels", [1, 3])
def test_noisy_photographs_of_the_wanted_size(channels):
    config = eigenbasis.config_for(eigenbasis.QUICK, channels=channels)
    clean, y = (eigenbasis.noisy(config, size=32, sigma=sigma) for sigma in (0.0, 0.2))
    assert y.shape == (32, 32, channels) and y.dtype == np.float32
    assert clean.min() >= 0 and clean.max() <= 1 and clean.std() > 0.01
    assert (y - clean).std() == pytest.approx(0.2, rel=0.1)
    np.testing.assert_array_equal(y, eigenbasis.noisy(config, size=32, sigma=0.2))


@pytest.mark.slow
def test_smallest_run():
    report = eigenbasis.run(eigenbasis.QUICK)
    small, started, large = report.tables["eigenbases"]
    assert (small["image"], started["image"], large["image"]) == ("24x24x1", "24x24x1", "32x32x3")
    assert [len(each) for each in report.samples.values()] == [1, 1, 1, 1, 1]
    assert max(each["largest residual"] for each in (small, started, large)) <= 1e-3
    for ratio, name in zip(report.tables["ratios"], ("top-k", "top-k, started"), strict=True):
        assert ratio["wall"] == pytest.approx(report.samples["all rows"][0].wall / report.samples[name][0].wall)


def test_all_rows_are_computed():
    rows = []

    def count(y, u):
        rows.extend(np.argwhere(u.reshape(len(u), -1))[:, 1])
        return u

    half = gahb.from_callback(lambda y: y, jvp=count, vjp=count)
    eigenbasis.all_rows(linearise(half, np.zeros((3, 4, 1), np.float32)))
    assert rows == list(range(12))
