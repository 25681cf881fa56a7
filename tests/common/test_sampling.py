"""Many samples: the same ones for any batch size, number of devices, and way of being interrupted."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from common.io import row_store
from common.method import Sampler, Variables
from common.sampling import StoredSamples, draw, draw_to, identify, sample_keys, weights_digest

WEIGHTS = Variables({"w": np.linspace(-1, 1, 48, dtype=np.float32).reshape(3, 16)}, {})
KEY = jax.random.key(5)


def draw_rows(variables, keys, index):
    """A small network on keyed noise, and a class label from the number of the sample."""
    noise = jax.vmap(lambda key: jax.random.normal(key, (16,)))(keys)
    hidden = jnp.tanh(noise @ variables.params["w"].T)
    samples = jnp.tanh(hidden @ variables.params["w"]).reshape(-1, 4, 4, 1)
    return {"samples": samples, "label": index % 3}


def to_unit(samples):
    return (samples + 1) / 2


SAMPLER = Sampler(draw_rows, {"nfe": 1, "rule": "one"}, num=5, batch_size=4, to_unit=to_unit)
IDENTITY = {"weights": "x"}


def test_a_sample_is_a_function_of_its_key_alone():
    found = draw(SAMPLER, WEIGHTS, KEY, num=11)
    assert found["samples"].shape == (11, 4, 4, 1)
    np.testing.assert_array_equal(found["label"], np.arange(11) % 3)
    one = draw_rows(WEIGHTS, jax.random.fold_in(KEY, 7)[None], jnp.array([7]))
    np.testing.assert_allclose(found["samples"][7], one["samples"][0], rtol=1e-5)
    for batch_size in (1, 3, 100):
        other = draw(SAMPLER, WEIGHTS, KEY, num=11, batch_size=batch_size)
        np.testing.assert_allclose(other["samples"], found["samples"], rtol=1e-5, atol=1e-6)
    assert jnp.array_equal(sample_keys(KEY, jnp.arange(3))[2], jax.random.fold_in(KEY, 2))


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_chunks_hold_what_memory_would(tmp_path, kind):
    store, whole = draw_to(tmp_path, SAMPLER, WEIGHTS, KEY, num=11, identity=IDENTITY, kind=kind, chunk_rows=8)
    assert whole and store.num_chunks(11) == 2
    samples = draw(SAMPLER, WEIGHTS, KEY, num=11)["samples"]
    np.testing.assert_array_equal(store.load("label", 11), np.arange(11) % 3)
    if kind == "float32":
        np.testing.assert_array_equal(store.load("samples", 11), samples)
        return
    images = store.load("images", 11)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, np.round(to_unit(samples) * np.float32(255)).astype(np.uint8))
    source = StoredSamples(tmp_path, num=11)
    assert len(source) == 11
    for i in (10, 0, 9, 3):
        np.testing.assert_array_equal(source[i]["image"], images[i])
    assert (
        source.fingerprint == StoredSamples(tmp_path, num=11).fingerprint != StoredSamples(tmp_path, num=5).fingerprint
    )
    with pytest.raises(IndexError):
        source[11]
    with pytest.raises(InputError, match="expected 17 images, got 2 files fewer; run sample --num 17 first"):
        StoredSamples(tmp_path, num=17)


def test_stopped_after_every_batch_changes_no_byte(tmp_path):
    how = {"num": 22, "identity": IDENTITY, "chunk_rows": 8}
    draw_to(tmp_path / "whole", SAMPLER, WEIGHTS, KEY, **how)
    runs, told = 0, []
    while True:
        polls = iter([False] * 2 + [True] * 100)
        _, whole = draw_to(
            tmp_path / "parts",
            SAMPLER,
            WEIGHTS,
            KEY,
            should_stop=lambda polls=polls: next(polls),
            progress=lambda done: told.append(done) or (lambda count: None),
            **how,
        )
        runs += 1
        if whole:
            break
    assert runs == 3 and told == [0, 8, 16]
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "parts" / path.name).read_bytes()


SCRIPT = """
import sys, pathlib, jax
sys.path.insert(0, sys.argv[3])
import test_sampling as t
assert jax.local_device_count() == int(sys.argv[1])
t.draw_to(pathlib.Path(sys.argv[2]), t.SAMPLER, t.WEIGHTS, t.KEY, num=45, identity=t.IDENTITY, chunk_rows=8)
"""


@pytest.mark.parametrize("devices", [2, 4])
def test_any_number_of_devices_gives_the_same_bytes(tmp_path, devices):
    draw_to(tmp_path / "one", SAMPLER, WEIGHTS, KEY, num=45, identity=IDENTITY, chunk_rows=8)
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(devices), tmp_path / "many", os.path.dirname(__file__)],
        env={
            **os.environ,
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.getcwd(),
        },
        check=True,
    )
    assert len(list((tmp_path / "one").iterdir())) == 7
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "many" / path.name).read_bytes(), path.name


def test_identity_is_that_of_weights_seed_and_sampler():
    same = Variables({"w": jnp.asarray(WEIGHTS.params["w"])}, {})
    assert weights_digest(WEIGHTS) == weights_digest(same)
    moved = Variables({"w": WEIGHTS.params["w"] + 1e-6}, {})
    renamed = Variables({"v": WEIGHTS.params["w"]}, {})
    reshaped = Variables({"w": WEIGHTS.params["w"].reshape(16, 3)}, {})
    digests = {weights_digest(each) for each in (WEIGHTS, moved, renamed, reshaped)}
    assert len(digests) == 4
    found = identify(SAMPLER, WEIGHTS, seed=1, step=20)
    assert found == {
        "weights": weights_digest(WEIGHTS), "seed": 1, "step": 20, "sampler": {"nfe": 1, "rule": "one"}
    }  # fmt: skip


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match="num: expected at least 1, got 0"):
        draw(SAMPLER, WEIGHTS, KEY, num=0)
    draw_to(tmp_path, SAMPLER, WEIGHTS, KEY, num=2, identity=IDENTITY, kind="float32")
    with pytest.raises(InputError, match='expected rows of {"weights": "y", "type": "float32"}'):
        draw_to(tmp_path, SAMPLER, WEIGHTS, KEY, num=2, identity={"weights": "y"}, kind="float32")
    with pytest.raises(InputError, match="expected 2 images, got samples that are no 8-bit images"):
        StoredSamples(tmp_path, num=2)
    assert row_store.read_index(tmp_path)["chunk_size"] == 1024
