"""The exact denoiser of a mixture is the same in every process, and all of them then sample the mixture."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.cli.dispatch import main
from phase_bridge import bridge as bridges
from phase_bridge import exact, statistic
from phase_bridge.__main__ import APP
from phase_bridge.baselines import cld
from phase_bridge.drawing import How, draw
from phase_bridge.toy import toy

CENTRES, STD = np.array([[-0.5, 0.1], [0.4, 0.3], [0.2, -0.6]]), 0.1


def by_hand(u, sigma):
    weights = np.exp(-np.square(u[:, None] - CENTRES).sum(-1) / (2 * (STD**2 + sigma**2)))
    share = STD**2 / (STD**2 + sigma**2)
    means = CENTRES + share * (u[:, None] - CENTRES)
    return (weights[..., None] * means).sum(1) / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("sigma", [0.05, 0.3, 2.0])
def test_all_processes_share_one_denoiser(sigma):
    u = np.random.default_rng(0).normal(size=(6, 2)) * 0.5
    want = by_hand(u, sigma)
    close = {"rtol": 2e-3, "atol": 2e-4}
    x = jnp.asarray(u, jnp.float32)
    np.testing.assert_allclose(exact.field(How(process="edm"), CENTRES, STD)(x, jnp.float32(sigma)), want, **close)
    t = jnp.float32(1 / (1 + sigma))  # x_t / t is the copy of that noise level
    velocity = exact.field(How(process="flow"), CENTRES, STD)(t * x, t)  # x1 - z, where x_t = t x1 + (1 - t) z
    np.testing.assert_allclose(t * x + (1 - t) * velocity, want, **close)
    for kind in bridges.KINDS:
        how = How(kind=kind)
        at = statistic.time_at_noise_level(how.bridge, sigma)
        c_x, c_v = bridges.mean_coefficients(how.bridge, at)
        m = jnp.asarray(np.concatenate([c_x * u, c_v * u], 1), jnp.float32)  # any state with that statistic
        force = exact.field(how, CENTRES, STD)(m, jnp.float32(at)) * bridges.normaliser(how.bridge, at, kind=kind)
        np.testing.assert_allclose(bridges.data_estimate(how.bridge, m, force, at, kind=kind), want, **close)
    fine = np.linspace(0.01, 0.99, 20_000)
    at = fine[np.abs(np.log(cld.noise_level(fine) / sigma)).argmin()]
    c_x, c_v = cld.mean_coefficients(at)
    m = jnp.asarray(np.concatenate([c_x * u, c_v * u], 1), jnp.float32)
    got = exact.field(How(process="cld"), CENTRES, STD)(m, jnp.float32(at))
    np.testing.assert_allclose(got, want, rtol=5e-3, atol=1e-3)


@pytest.mark.parametrize("process", ["bridge", "edm", "flow", "cld"])
def test_samples_are_of_the_mixture(process):
    of = toy("mixture")
    how = How(process=process, nfe=40, grid="levels", rule="data" if process == "bridge" else "", largest=20.0,
              smallest=0.01)  # fmt: skip
    keys = jax.random.split(jax.random.key(0), 3000)
    drawn = np.asarray(draw(exact.field(how, of.centres, of.mode), keys, (3000, 2), how)[0])
    assert np.mean(of.distance(drawn) > of.radius) < 0.03
    counts = np.bincount(np.linalg.norm(drawn[:, None] - of.centres, axis=-1).argmin(1), minlength=9)
    assert counts.min() > 220 and counts.max() < 460


def test_compared_without_training(tmp_path, capsys):
    argv = [
        "compare", "--config", "configs/phase_bridge/mixture.py", "--workdir", str(tmp_path),
        "--config.compare.seeds=1",
        "--config.compare.models=('flow',)", "--config.compare.nfe=(2, 10)", "--config.evaluate.num=500",
    ]  # fmt: skip
    assert main([*argv, "--config.compare.exact=true"], APP) == 0, capsys.readouterr().err
    (path,) = (tmp_path / "results").glob("compare-*.json")
    numbers = json.loads(path.read_text())
    best = {nfe: min(row["w2"] for row in numbers["rows"] if row["nfe"] == nfe) for nfe in (2, 10)}
    assert best[2] > 2 * best[10] and not (tmp_path / "models").exists()
    assert "the exact denoiser" in path.with_suffix(".md").read_text()
    spiral = [each.replace("mixture.py", "spiral.py") for each in argv]
    assert main([*spiral[:4], str(tmp_path / "x"), "--config.compare.exact=true"], APP) == 2
    assert "config.compare.exact: expected false for toy:spiral" in capsys.readouterr().err
