"""What a config means for the training loop, and which values it refuses."""

import numpy as np
import pytest

from common import config as configs
from common.errors import InputError
from common.training.settings import build, depending_on_length
from configs.base import base


def settings(changes):
    return build(configs.from_dict({}, base(), changes), num_examples=100)


def test_durations_become_steps():
    changes = {
        "train.steps": "3 epochs",
        "train.batch_size": 10,
        "train.log_every": "25 examples",
        "checkpoint.every": "1 epoch",
        "optimizer.schedule": "cosine",
        "optimizer.warmup": "1 epoch",
        "optimizer.learning_rate": 2.0,
    }
    chosen = settings(changes)
    assert (chosen.steps, chosen.log_every, chosen.preview_every, chosen.checkpoint_every) == (30, 3, 0, 10)
    np.testing.assert_allclose([chosen.schedule(step) for step in (0, 5, 10, 20, 30)], [0, 1, 2, 1, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.steps": 0}, "config.train.steps: expected at least 1, got 0"),
        ({"train.batch_size": 0}, "config.train.batch_size: expected 1 to 2147483647, got 0"),
        ({"train.batch_size": 10**20 - 1}, "config.train.batch_size: expected a whole number below 2**63, got 999"),
        (
            {"train.batch_size": 2**31},
            "config.train.batch_size: expected 1 to 2147483647, got 2147483648; use 2147483647 or less",
        ),
        ({"train.steps": 10**23}, "config.train.steps: expected at most 2147483647 steps, got 1000000000"),
        ({"train.evaluate_batches": 0}, "config.train.evaluate_batches: expected 1 to 2147483647, got 0"),
        ({"train.evaluate_every": -0.5}, "config.train.evaluate_every: expected a number of steps"),
        (
            {"checkpoint.every": 10, "checkpoint.keep_every": 25},
            "config.checkpoint.keep_every: expected a multiple of config.checkpoint.every=10, got 25",
        ),
        ({"train.skip_nonfinite": -1}, "config.train.skip_nonfinite: expected at least 0, got -1"),
        ({"checkpoint.every": 0}, "config.checkpoint.every: expected at least 1, got 0"),
        ({"checkpoint.keep": 0}, "config.checkpoint.keep: expected at least 1, got 0"),
        ({"data.workers": -1}, "config.data.workers: expected at least 0, got -1"),
        ({"train.accumulate": 3}, "config.train.accumulate: expected a divisor of config.train.batch_size=32, got 3"),
        ({"train.steps_per_call": 3}, "config.train.steps: expected a multiple of config.train.steps_per_call=3"),
        ({"ema.decay": 1.0}, "config.ema.decay: expected a number in [0, 1), 0 for no average, got 1.0"),
        ({"optimizer.learning_rate": -1e-3}, "config.optimizer.learning_rate: expected at least 0, got -0.001"),
        ({"optimizer.b1": 1.0}, "config.optimizer.b1: expected a number in [0, 1), got 1.0"),
        ({"optimizer.b2": -0.1}, "config.optimizer.b2: expected a number in [0, 1), got -0.1"),
        ({"optimizer.eps": 0.0}, "config.optimizer.eps: expected a positive number, got 0.0"),
        ({"optimizer.clip_norm": -1.0}, "config.optimizer.clip_norm: expected at least 0, got -1.0"),
        ({"optimizer.final_fraction": 1.5}, "config.optimizer.final_fraction: expected a fraction, got 1.5"),
        ({"optimizer.weight_decay": 0.1}, 'config.optimizer.weight_decay: expected 0 with "adam", got 0.1; use'),
        ({"optimizer.schedule": "halving"}, "config.optimizer.halve_every: expected a positive number of steps, got 0"),
        ({"optimizer.warmup": 1000}, "config.optimizer.warmup: expected 0 <= warmup < steps=1000, got 1000; use 100"),
    ],
)
def test_impossible_values(changes, message):
    with pytest.raises(InputError) as error:
        settings(changes)
    assert message in str(error.value)


def test_what_depends_on_the_length():
    changes = {"optimizer.schedule": "cosine", "optimizer.warmup": "5 percent", "train.log_every": "1 percent"}
    config = configs.from_dict({}, base(), changes)
    assert depending_on_length(config) == ["optimizer.schedule=cosine", "optimizer.warmup=5 percent"]
    assert depending_on_length(configs.from_dict({}, base(), {"optimizer.warmup": "5 epochs"})) == []
    halving = {"optimizer.schedule": "halving", "optimizer.halve_every": "10 percent"}
    assert depending_on_length(configs.from_dict({}, base(), halving)) == ["optimizer.halve_every=10 percent"]
