"""The arithmetic and memory that `describe` tells, against sums by hand."""

import jax
import pytest

from common import config as configs
from common.cli.verbs.describe import abstract_batch, count_cost
from common.training import settings
from configs.gahb.base import base
from gahb import method as methods

WIDTH, SIDE, LAYERS, BATCH = 16, 32, 5, 4
CHANGES = {
    "model.network": "bf_cnn",
    "model.num_layers": LAYERS,
    "model.num_kernels": WIDTH,
    "data.size": SIDE,
    "train.batch_size": BATCH,
    "ema.decay": 0.9,
}


@pytest.fixture(scope="module")
def cost():
    config = configs.from_dict({}, base(), CHANGES)
    method = methods.build(config)
    batch = abstract_batch(method.example(), BATCH)
    variables = jax.eval_shape(method.init, jax.eval_shape(lambda: jax.random.key(0)), batch)
    return count_cost(method, settings.build(config, num_examples=100), variables, batch)


def test_arithmetic(cost):
    taps = (3 * SIDE - 2) ** 2  # products of a 3x3 kernel with the pixels inside the image
    channels = WIDTH + (LAYERS - 2) * WIDTH**2 + WIDTH
    convolutions = 2 * taps * channels
    # Norms, rectifiers and noise come on top: a few dozen operations for each pixel and channel.
    assert convolutions < cost.forward_flops < convolutions + 40 * SIDE**2 * WIDTH
    # The gradient costs two more convolutions for each, but for that of the image.
    assert 2.8 < cost.step_flops / cost.forward_flops < 3.1


def test_memory(cost):
    parameters = 4 * (9 * (2 * WIDTH + (LAYERS - 2) * WIDTH**2) + (LAYERS - 2) * WIDTH)
    assert cost.bytes["parameters"] == cost.bytes["moving average"] == parameters
    assert cost.bytes["optimizer"] == 2 * parameters + 2 * 4  # two moments, and the steps of Adam and of the schedule
    assert cost.bytes["batch"] == 4 * (BATCH * SIDE**2 + BATCH + 1)
