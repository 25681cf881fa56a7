"""The closed form of the sampler's bias: limits computed by hand, what the defaults keep, and the table of the docs."""

import re
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from gahb.sampler_settings import DEFAULT, PUBLISHED, SamplerSettings, gaussian_moments


def test_first_order_steps_lose_half_the_step():
    # h0 throughout, from far above the variance: the stationary loss is h v / 2, whatever beta.
    for beta in (1.0, 0.5, 0.2):
        for h in (0.01, 0.04):
            settings = PUBLISHED._replace(
                sigma_0=300.0, sigma_L=1e-3, h0=h, beta=beta, fixed_step=True, max_steps=10**5
            )
            found = gaussian_moments(np.array([0.1, 1.0]), settings)
            np.testing.assert_allclose(1 - found.variance_fraction, h / 2, rtol=0.08)


def test_corrected_steps_are_of_second_order():
    losses = []
    for h in (0.2, 0.1, 0.05):
        settings = SamplerSettings(sigma_0=100.0, sigma_L=1e-4, step=h, beta=0.5, hold=0)
        losses.append(abs(1 - gaussian_moments(np.array(1.0), settings).variance_fraction))
    order = np.log2(np.array(losses[:-1]) / losses[1:])
    assert (order > 1.8).all() and losses[-1] < 1e-3


def test_small_deterministic_steps_stretch_the_start():
    # The probability flow takes a start of variance s0^2 to v s0^2 / (v + s0^2), and its mean by the root of v / (...).
    v, s0 = np.array([0.2, 1.0, 5.0]), 2.0
    settings = SamplerSettings(sigma_0=s0, sigma_L=1e-4, step=0.01, beta=1.0, hold=0, max_steps=10**5)
    found = gaussian_moments(v, settings)
    np.testing.assert_allclose(found.variance_fraction, s0**2 / (v + s0**2), rtol=1e-3)
    np.testing.assert_allclose(found.mean_factor, np.sqrt(v / (v + s0**2)), rtol=1e-3)


def test_defaults_keep_the_variance_in_fewer_evaluations():
    v = np.geomspace(25 * DEFAULT.sigma_L**2, 6, 60)
    ours, published = gaussian_moments(v), gaussian_moments(v, PUBLISHED)
    assert ours.variance_fraction.min() > 0.968 and ours.variance_fraction.max() < 1.01
    assert published.variance_fraction.max() < 0.83
    assert ours.nfe < published.nfe and ours.nfe < gaussian_moments(v, PUBLISHED._replace(sigma_L=DEFAULT.sigma_L)).nfe
    assert (ours.mean_factor < np.maximum(published.mean_factor, 1e-3)).all() and ours.mean_factor.max() < 0.15


def test_every_scale_is_the_same_problem():
    v = np.array([0.05, 0.7, 3.0])
    scaled = DEFAULT._replace(sigma_0=5.0, sigma_L=5 * DEFAULT.sigma_L)
    np.testing.assert_allclose(
        gaussian_moments(25 * v, scaled).variance_fraction, gaussian_moments(v).variance_fraction
    )


def test_mistakes_are_named():
    with pytest.raises(InputError, match="^step: expected a number in"):
        gaussian_moments(np.array(1.0), SamplerSettings(step=2.0))


def test_the_table_of_the_docs():
    text = (Path(__file__).parents[2] / "docs" / "gahb.md").read_text()
    rows = [line.strip("| ").split("|") for line in text.splitlines() if re.match(r"\| `(DEFAULT|PUBLISHED)", line)]
    header = next(line for line in text.splitlines() if line.startswith("| settings |")).strip("| ").split("|")
    v = np.array([float(each) for each in header[2:]])
    assert len(rows) >= 6 and len(v) >= 6
    for name, nfe, *fractions in rows:
        record, _, changes = name.strip(" `").partition(" ")
        settings = {"DEFAULT": DEFAULT, "PUBLISHED": PUBLISHED}[record]._replace(
            **{key: float(value) for key, value in (each.split("=") for each in changes.split())}
        )
        found = gaussian_moments(v, settings)
        assert found.nfe == int(nfe), name
        np.testing.assert_allclose(
            [float(each) for each in fractions], found.variance_fraction, atol=0.0051, err_msg=name
        )
