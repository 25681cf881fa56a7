"""Models that are told classes: what the loss sees, which samples come out, what is written, and what is refused."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import config as configs
from common.checkpoint import restore_params
from common.cli.dispatch import main
from common.data.source import load
from common.errors import InputError
from common.sampling import draw
from configs.phase_bridge.cifar10_small import get_config
from phase_bridge import method
from phase_bridge.__main__ import APP
from phase_bridge.figures import by_class

pytestmark = pytest.mark.usefixtures("quick_compilation")

FILE = "configs/phase_bridge/cifar10_small.py"
SMALL = {
    "model.num_classes": 3, "model.channels": 8, "model.multipliers": (1,), "model.num_blocks": 1,
    "model.attention": (), "data.size": 4, "train.steps": 2, "train.batch_size": 4, "train.log_every": 1,
    "checkpoint.every": 2, "optimizer.warmup": 1, "sampler.nfe": 2, "sampler.num": 12, "sampler.batch_size": 6,
    "data.flip": False, "objective.label_dropout": 0.0,
}  # fmt: skip
CLASSES = np.array([0, 1, 2, 1, 1, 0, 2, 0])


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """A file of gray images whose brightness is their class."""
    images = np.broadcast_to(60 * CLASSES[:, None, None, None], (8, 4, 4, 3)).astype(np.uint8)
    path = tmp_path_factory.mktemp("data") / "set.npz"
    np.savez(path, train=images, train_labels=CLASSES, test=images[:6], test_labels=CLASSES[:6])
    return f"npz:{path}"


def config(arrays, **changes):
    return configs.from_dict(get_config().to_dict(), overrides={**SMALL, "data.source": arrays, **changes})


@pytest.fixture(scope="module")
def made(arrays):
    return method.build(config(arrays))


@pytest.fixture(scope="module")
def variables(made):
    """Weights that are nowhere zero, so that everything has an effect."""
    batch = {name: jnp.zeros((1, *each.shape), each.dtype) for name, each in made.example().items()}
    leaves, tree = jax.tree.flatten(made.init(jax.random.key(0), batch))
    rng = np.random.default_rng(0)
    return tree.unflatten([leaf + 0.2 * rng.standard_normal(leaf.shape).astype(np.float32) for leaf in leaves])


def test_training_sees_the_class_of_each_image(made, variables):
    raw = made.sources()["train"].read(range(8))
    examples = jax.jit(jax.vmap(made.augment))(jax.random.split(jax.random.key(0), 8), raw)
    assert set(examples) == {"data", "label"}
    np.testing.assert_array_equal(examples["label"], CLASSES)
    np.testing.assert_allclose(examples["data"][:, 3, 3, 2], 2 * 60 * CLASSES / 255 - 1, rtol=0, atol=2**-23)

    @jax.jit
    def loss_and_slope(label):
        batch = {"data": jnp.zeros((2, 4, 4, 3)), "label": label, "position": jnp.arange(2), "progress": jnp.zeros(())}
        return jax.value_and_grad(lambda variables: made.loss(variables, jax.random.key(1), batch)[0])(variables)

    loss, slope = loss_and_slope(jnp.array([2, 0]))
    assert abs(loss - loss_and_slope(jnp.array([0, 2]))[0]) > 1e-4 * loss
    rows = np.abs(slope.params["network"]["map_label"]["kernel"]).max(1)
    assert rows[1] == 0 and min(rows[0], rows[2]) > 0


def test_samples_are_of_the_class_that_is_asked_for(made, variables, arrays):
    mixed = draw(made.sampler, variables, jax.random.key(5), num=12)
    assert set(mixed["labels"]) == {0, 1, 2} and mixed["labels"].dtype == np.int32
    assert made.sampler.settings["label"] == -1
    sampler = method.build(config(arrays, **{"sampler.label": 1})).sampler
    assert sampler.settings["label"] == 1
    chosen = draw(sampler, variables, jax.random.key(5), num=12)
    np.testing.assert_array_equal(chosen["labels"], np.full(12, 1))
    # From the same noise: where the class is that of the mixed ones, so is the sample, and only there.
    same = mixed["labels"] == 1
    away = np.abs(chosen["samples"] - mixed["samples"]).max((1, 2, 3))
    assert away[same].max() < 1e-5 and away[~same].min() > 1e-4 and away.max() > 1e-2


def test_all_classes_are_equally_likely():
    keys = jax.random.split(jax.random.key(0), 3000)
    counts = np.bincount(method.draw_labels(keys, 3))
    assert ((counts - 1000) ** 2 / 1000).sum() < 13.8  # 2 degrees of freedom, one in a thousand
    assert method.draw_labels(keys, 0) is None


def test_held_out_images_of_a_class(arrays):
    own = config(arrays, **{"sampler.label": 1})
    sources = method.build(own).sources
    found = method.held_out_images(own, sources)(0, 99)
    np.testing.assert_array_equal(found["label"], np.ones(3))
    np.testing.assert_allclose(found["data"], 2 * 60 / 255 - 1, rtol=1e-6)
    np.testing.assert_array_equal(load(sources()["test"])["label"], CLASSES[:6])
    every = method.held_out_images(config(arrays), sources)(0, 99)
    assert sorted(every["label"]) == sorted(CLASSES[:6])
    none = config(arrays, **{"model.num_classes": 5, "sampler.label": 4})
    with pytest.raises(InputError, match="config.sampler.label: expected a class with held-out images, got 4"):
        method.held_out(none, sources)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.num_classes": 0}, "config.model.num_classes: expected the number of the data's classes, .* got 0"),
        ({"data.labels": False}, "config.data.labels: expected True for a model of config.model.num_classes=3, got F"),
        (
            {"data.labels": False, "model.num_classes": 0, "sampler.label": 0},
            "sampler.label: expected -1 for a model w",
        ),
        ({"sampler.label": 3}, "config.sampler.label: expected -1, or a class below 3, got 3; use -1 for all"),
        ({"sampler.label": -2}, "config.sampler.label: expected -1, or a class below 3, got -2"),
        (
            {"objective.name": "velocity", "objective.process": "flow", "objective.noise": "", "objective.coupling": 2},
            "objective.coupling: expected 0 for a model of classes",
        ),
        ({"data.source": "toy:spiral", "model.network": "mlp", "model.num_classes": 0}, "expected False for points"),
        ({"model.num_classes": 2}, r"config.model.num_classes: expected at least 3, the classes of npz:.*, got 2; set"),
    ],
)
def test_mistakes_are_reported_first(arrays, changes, message):
    with pytest.raises(InputError, match=message):
        method.build(config(arrays, **changes)).sources()


def test_pictures_by_class():
    images = np.arange(5.0)[:, None, None, None] * np.ones((1, 2, 2, 1))
    rows = by_class(images, np.array([7, 2, 7, 7, 2]), most=2)
    assert list(rows) == ["class 2", "class 7"]
    np.testing.assert_array_equal(rows["class 2"][:, 0, 0, 0], [1, 4])
    np.testing.assert_array_equal(by_class(images, np.array([0, 1, 1, 1, 1]))["class 0"][:, 0, 0, 0], [0, 1, 1, 1])


@pytest.fixture(scope="module")
def trained(arrays, tmp_path_factory):
    """Returns the work directory of two steps."""
    workdir = tmp_path_factory.mktemp("classes") / "run"
    assert main(train(arrays, workdir), APP) == 0
    return workdir


def train(arrays, workdir):
    changes = {**SMALL, "data.source": arrays}
    return ["train", "--config", FILE, "--workdir", str(workdir), *(f"--config.{k}={v}" for k, v in changes.items())]


def test_from_the_command_line(trained, capsys):
    for command in (["sample"], ["figures", "samples"]):
        assert main([*command, "--workdir", str(trained)], APP) == 0, capsys.readouterr().err
    drawn = np.load(next((trained / "samples").glob("step-2-seed-0-*.npz")))
    assert drawn["labels"].shape == (12,) and set(drawn["labels"]) == {0, 1, 2}
    assert json.loads(next((trained / "samples").glob("step-2-seed-0-*.json")).read_text())["label"] == -1
    assert (trained / "figures" / "samples.png").stat().st_size > 500


@pytest.mark.slow
def test_two_devices_learn_the_same(trained, arrays, tmp_path):
    program = [sys.executable, "-m", "phase_bridge", *train(arrays, tmp_path / "two")]
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    subprocess.run(program, check=True, env={**os.environ, **flags}, capture_output=True)
    one, two = (restore_params(each, ema=False).params for each in (trained, tmp_path / "two"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), one, two)
