"""Point sets: who lies where, exact distances, densities, and the same points however they are read."""

import itertools

import jax
import numpy as np
import pytest
from scipy.linalg import hadamard
from scipy.spatial import cKDTree
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from common.data.batches import make_batches
from common.data.source import Source, digest, length_text
from common.errors import InputError
from phase_bridge.toy import NAMES, Points, draw, toy


def curve(name):
    """Returns the support as a dense cloud."""
    if name == "spiral":
        theta = np.linspace(1.5 * np.pi, 4.5 * np.pi, 40_000)
        roll = 0.05 * theta[:, None] * np.stack([np.cos(theta), np.sin(theta)], 1)
        return np.concatenate(
            [roll + centre for centre in [(0, 0), (1.2, 1.2), (1.2, -1.2), (-1.2, -1.2), (-1.2, 1.2)]]
        )
    if name == "moons":
        angle = np.linspace(0, np.pi, 40_000)
        arc = 0.95 * np.stack([np.cos(angle), np.sin(angle)], 1)
        return np.concatenate([arc + (-0.475, -0.2375), -arc + (0.475, 0.2375)])
    if name == "mixture":
        return toy("mixture").centres
    axis = np.linspace(0, 0.75, 301)
    square = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    corners = [(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
    return np.concatenate([square + np.array(corner) * 0.75 - 1.5 for corner in corners])


PLANE = [name for name in NAMES if toy(name).size == 2]


@pytest.mark.parametrize("name", PLANE)
def test_distance_is_that_to_a_dense_cloud(name):
    points = np.random.default_rng(0).uniform(-2.5, 2.5, (4000, 2))
    nearest = cKDTree(curve(name)).query(points)[0]
    got = toy(name).distance(points)
    assert np.all(got <= nearest + 1e-12)
    np.testing.assert_allclose(got, nearest, rtol=0, atol=2e-3 if name == "checkerboard" else 2e-4)
    assert np.mean(np.abs(got - nearest)) < 2e-4


@pytest.mark.parametrize("name", PLANE)
def test_data_lies_about_its_support(name):
    of, points = toy(name), draw(name, seed=1, count=20_000)
    distance = of.distance(points)
    noise = {"spiral": 0.015, "mixture": 0.04 * np.sqrt(2), "checkerboard": 0.0, "moons": 0.05}[name]
    assert np.sqrt(np.mean(distance**2)) == pytest.approx(noise, rel=0.03, abs=1e-7)
    assert np.mean(distance > of.radius) <= 4e-4 * 2.5
    assert np.abs(points).max() < of.extent + 0.2
    assert np.sqrt(points.astype(float).var(0).mean()) == pytest.approx(of.std, rel=0.01)


def test_mixture_has_nine_equal_modes_on_a_turned_lattice():
    centres = toy("mixture").centres
    assert sorted(np.round(np.linalg.norm(centres, axis=1), 6)) == [0.0] + [0.5] * 4 + [0.707107] * 4
    assert any(np.allclose(each, (0, 0.5**0.5)) for each in centres)
    points = draw("mixture", seed=3, count=9000)
    counts = np.bincount(np.linalg.norm(points[:, None] - centres, axis=-1).argmin(1), minlength=9)
    assert np.abs(counts - 1000).max() < 150


@pytest.mark.parametrize("name", NAMES)
def test_the_same_points_in_every_way(name):
    source = Points(name, seed=7, length=1000)
    assert isinstance(source, Source) and len(source) == 1000
    indices = np.array([5, 0, 999, 5])
    stacked = source.read(indices)["point"]
    assert stacked.dtype == np.float32 and stacked.shape == (4, toy(name).size)
    np.testing.assert_array_equal(stacked[1], source[0]["point"])
    np.testing.assert_array_equal(stacked, draw(name, seed=7, count=1000)[indices])
    held = source.on_device()
    np.testing.assert_array_equal(stacked, jax.jit(held.gather)(held.arrays, indices)["point"])
    with pytest.raises(IndexError):
        source[1000]


def product_log_density(x):
    """Returns ln p of "product" as the sum over its 256 modes, each a Gaussian with a full covariance."""
    signs = np.array(list(itertools.product((1, -1), repeat=8)))
    upper, spread = np.linspace(0.5, 0.7, 8), np.geomspace(0.03, 0.3, 8)
    axes = hadamard(8) / np.sqrt(8)
    cov = axes @ np.diag(spread**2) @ axes.T
    modes = [(0.6 * axes @ sign, np.prod(np.where(sign > 0, upper, 1 - upper))) for sign in signs]
    return logsumexp([multivariate_normal(mean, cov).logpdf(x) for mean, _ in modes], 0, b=[[w] for _, w in modes])


def test_product_is_measured_by_its_density():
    of, points = toy("product"), draw("product", seed=1, count=40_000).astype(float)
    assert of.size == 8 and points.shape == (40_000, 8)
    highest = 0.6 * hadamard(8).sum(1) / np.sqrt(8)
    shown = np.concatenate([points[:50], points[:50] + 0.1, [highest]])
    log_p = product_log_density(shown)
    np.testing.assert_allclose(of.distance(shown), np.sqrt(2 * (log_p[-1] - log_p)), atol=2e-3)
    distance = of.distance(points)
    assert 1e-4 < np.mean(distance > of.radius) <= 4e-4 * 1.5 and np.abs(points).max() < of.extent + 0.2
    assert np.sqrt(points.var(0).mean()) == pytest.approx(of.std, rel=0.005)
    # Chi-squared of eight degrees of freedom, and the modes' unequal weights; the widest two overlap a little.
    upper = np.linspace(0.5, 0.7, 8)
    assert np.mean(distance**2) == pytest.approx(8 + 2 * np.sum((1 - upper) * np.log(upper / (1 - upper))), rel=0.02)


@pytest.mark.parametrize("name", ["mixture", "product"])
def test_known_denoisers_are_posterior_means(name):
    """Against a brute-force average over data, weighted by what noise of that level makes of each."""
    of, data = toy(name), draw(name, seed=2, count=400_000).astype(float)
    u = data[:4] + (0.25 if name == "mixture" else 0.5) * np.random.default_rng(0).normal(size=(4, of.size))
    for sigma in (0.4, 1.5):
        log = -((u[:, None] - data) ** 2).sum(-1) / (2 * sigma**2)
        weights = np.exp(log - log.max(1, keepdims=True))
        want = weights @ data / weights.sum(1, keepdims=True)
        noise = np.sqrt((weights**2 @ data**2).max(1)) / weights.sum(1)
        got = of.denoise(u.astype(np.float32), np.float32(sigma))
        assert (np.abs(got - want).max(1) < 4 * noise + 1e-3).all() and noise.max() < 0.03


def test_streams_and_lengths_are_told_apart():
    prints = [Points("moons", seed=seed, length=n).fingerprint for seed in (0, 1) for n in (10, 11)]
    assert len({*prints, Points("spiral", seed=0, length=10).fingerprint}) == 5
    assert not np.any(draw("moons", seed=0, count=50) == draw("moons", seed=1, count=50))
    with pytest.raises(InputError, match="length: expected 1 to"):
        Points("moons", seed=0, length=0)
    with pytest.raises(InputError, match='did you mean "spiral"'):
        toy("spiralle")


def test_placements_give_the_same_batches():
    source = Points("spiral", seed=0)
    made = {
        placement: make_batches(
            source, batch_size=6, seed=2, augment=None, placement=placement, device_limit_bytes=2**20, workers=1
        )
        for placement in ("device", "stream")
    }
    batches = []
    for each in made.values():
        fetched = jax.tree.map(lambda x: x[0], each.fetch(3))
        position = np.arange(6, dtype=np.int32)
        batches.append(jax.jit(each.assemble)(each.resident, fetched, position, jax.random.key(0)))
        each.close()
    np.testing.assert_array_equal(batches[0]["point"], batches[1]["point"])
    assert len(np.unique(batches[0]["index"])) == 6


def test_the_fingerprint_does_not_depend_on_the_compiler(quick_compilation):
    spiral = Points("spiral", seed=0)
    assert spiral.fingerprint == digest("points", "spiral, seed=0", 2**31 - 1)
    # Of runs of version 0.1.0 and before it, with the compiler's optimisations and without.
    assert spiral.earlier_fingerprints == ("715f264f820beb94aef928a22c632a7a", "dc8c201214bc04c7af215ee336bbd65d")


def test_a_set_without_end_has_no_number_of_examples():
    assert length_text(Points("spiral", seed=0), "training examples") == "unlimited training examples"
    assert length_text(Points("spiral", seed=0, length=60), "examples") == "60 examples"
