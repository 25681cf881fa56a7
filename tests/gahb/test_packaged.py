"""Packed denoisers: what is stored, what is read, and which names there are."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gahb
from common import config as configs
from common.checkpoint.shelf import Shelf
from common.errors import InputError
from common.method import Variables
from configs.gahb.base import base
from gahb import method
from gahb.method import build_network
from gahb.metrics import psnr_curve
from gahb.networks import denoiser, init


@pytest.fixture
def made(monkeypatch, tmp_path):
    """A denoiser of the package, of random weights, and the variables before they were rounded."""
    monkeypatch.setattr(method, "SHELF", Shelf(tmp_path / "weights", base))
    changes = {"model.num_kernels": 6, "model.num_blocks": 2, "data.size": 16, "data.source": "folder:/home/me/images"}
    config = configs.from_dict(configs.to_dict(base()), base(), changes)
    network = build_network(config)
    variables = init(network, jax.random.key(0), jnp.zeros((1, 16, 16, 1)))
    digest = method.SHELF.write(method.SHELF.directory / "random.npz", config, variables, step=7)
    return digest, network, variables


def test_a_name_opens_what_was_packed(made):
    digest, network, variables = made
    found = gahb.load_denoiser("random")
    for leaf, exact in zip(jax.tree.leaves(found.args[0]), jax.tree.leaves(variables), strict=True):
        assert leaf.dtype == np.float32
        np.testing.assert_array_equal(leaf, np.asarray(exact, np.float32 if exact.size < 2000 else np.float16))
    stored = json.loads((method.SHELF.directory / "random.json").read_text())
    assert (stored["sha256"], stored["step"], stored["config"]["data"]["source"]) == (digest, 7, "folder:images")
    by_file = gahb.load_denoiser(method.SHELF.directory / "random.npz")
    clean = np.random.default_rng(0).random((4, 16, 16, 1), np.float32)
    key = jax.random.key(1)
    curves = [psnr_curve(f, clean, (0.05, 0.2), key) for f in (found, by_file, denoiser(variables, network))]
    np.testing.assert_array_equal(curves[0].per_image, curves[1].per_image)
    np.testing.assert_allclose(curves[0].per_image, curves[2].per_image, atol=0.01)  # dB


def test_a_run_goes_before_a_denoiser_of_its_name(made, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert method.SHELF.find("random") == method.SHELF.directory / "random.npz"
    (tmp_path / "random").mkdir()  # images, perhaps
    assert method.SHELF.find("random") == method.SHELF.directory / "random.npz"
    (tmp_path / "random" / "config.json").write_text("{}")
    assert method.SHELF.find("random") is None and method.SHELF.find(tmp_path / "elsewhere") is None


def test_what_is_not_there_is_named(made, tmp_path):
    with pytest.raises(InputError, match=r'workdir: .* a model of the package \("random"\), got \'other\''):
        gahb.load_denoiser("other")
    with pytest.raises(InputError, match="step: expected None for packed weights, of one step, got 3"):
        gahb.load_denoiser("random", step=3)
    with pytest.raises(InputError, match="weights: expected a name that ends in .npz"):
        method.SHELF.write(tmp_path / "x", base(), Variables({}, {}), step=0)
    path = method.SHELF.directory / "random.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="random.npz: expected sha256"):
        gahb.load_denoiser("random")
    path.with_suffix(".json").write_text('{"step": 1}')
    with pytest.raises(InputError, match="random.json: expected config and checksum of random.npz, got others"):
        gahb.load_denoiser("random")
    path.with_suffix(".json").unlink()
    with pytest.raises(InputError, match="random.json: expected config and checksum of random.npz, got none"):
        gahb.load_denoiser("random")


def test_every_shipped_denoiser_opens_and_denoises():
    """A gray ramp under noise: each is nearer to it than its input, and small enough for a package."""
    clean = np.tile(np.linspace(0.2, 0.8, 64, dtype=np.float32)[None, :, None, None], (1, 1, 64, 1))
    for name in method.SHELF.names():
        assert (method.SHELF.directory / f"{name}.npz").stat().st_size <= 4 * 10**6
        config = method.SHELF.read(method.SHELF.directory / f"{name}.npz").config
        y = np.repeat(clean, config.data.channels, axis=-1)
        y = y + 0.1 * np.asarray(jax.random.normal(jax.random.key(0), y.shape))
        error = np.square(np.asarray(gahb.load_denoiser(name)(y)) - clean).mean()
        assert error < 0.01 / 4, name  # 6 dB below the noise
