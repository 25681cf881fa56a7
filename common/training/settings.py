"""What the training loop needs to know, read from a config once and checked."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import optax

from common import durations
from common.errors import InputError, at_least, input_error, within
from common.training.optimizers import make_optimizer, make_schedule


class Settings(NamedTuple):
    """Resolved settings of a run; every duration is in steps.

    `loading` are the arguments of `make_batches` that say where batches come from and change none of their numbers.
    """

    seed: int
    parallel: str
    tracking: str
    steps: int
    log_every: int
    preview_every: int
    evaluate_every: int
    checkpoint_every: int
    keep_every: int
    keep: int
    batch_size: int
    evaluate_batches: int
    steps_per_call: int
    accumulate: int
    skip_nonfinite: int
    ema_decay: float
    ema_warmup: bool
    learning_rate: float
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    loading: Mapping[str, Any]


def build(config, *, num_examples: int) -> Settings:
    """Returns the settings of `config` for a training set of `num_examples` (needed to convert epochs to steps).

    Raises:
      InputError: a value out of range, or a combination that cannot run.
    """
    train, optimizer = config.train, config.optimizer
    for field in ("batch_size", "evaluate_batches", "steps_per_call", "accumulate"):
        within(f"config.train.{field}", train[field], 1, durations.LARGEST)
    at_least({
        "config.data.workers": (config.data.workers, 0),
        "config.train.skip_nonfinite": (train.skip_nonfinite, 0),
        "config.checkpoint.keep": (config.checkpoint.keep, 1),
        "config.data.device_limit_mb": (config.data.device_limit_mb, 0),
        "config.optimizer.learning_rate": (optimizer.learning_rate, 0),
        "config.optimizer.weight_decay": (optimizer.weight_decay, 0),
        "config.optimizer.clip_norm": (optimizer.clip_norm, 0),
    })  # fmt: skip
    within("config.data.workers", config.data.workers, 0, 1024)
    for field, value, possible, expected in (
        ("ema.decay", config.ema.decay, 0 <= config.ema.decay < 1, "a number in [0, 1), 0 for no average"),
        ("optimizer.b1", optimizer.b1, 0 <= optimizer.b1 < 1, "a number in [0, 1)"),
        ("optimizer.b2", optimizer.b2, 0 <= optimizer.b2 < 1, "a number in [0, 1)"),
        ("optimizer.eps", optimizer.eps, optimizer.eps > 0, "a positive number"),
        ("optimizer.final_fraction", optimizer.final_fraction, 0 <= optimizer.final_fraction <= 1, "a fraction"),
    ):
        if not possible:
            raise input_error(f"config.{field}", expected=expected, got=value, fix="configs/base.py has the default")

    def steps(value, field, least, run_length=None):
        count = durations.steps(
            value, batch_size=train.batch_size, num_examples=num_examples, field=field, run_length=run_length
        )
        within(field, count, least)
        return count

    total = steps(train.steps, "config.train.steps", 1)
    intervals = {
        "train.log_every": steps(train.log_every, "config.train.log_every", 1, total),
        "train.preview_every": steps(train.preview_every, "config.train.preview_every", 0, total),
        "train.evaluate_every": steps(train.evaluate_every, "config.train.evaluate_every", 0, total),
        "checkpoint.every": steps(config.checkpoint.every, "config.checkpoint.every", 1, total),
        "checkpoint.keep_every": steps(config.checkpoint.keep_every, "config.checkpoint.keep_every", 0, total),
    }
    if train.batch_size % train.accumulate:
        raise input_error(
            "config.train.accumulate",
            expected=f"a divisor of config.train.batch_size={train.batch_size}",
            got=train.accumulate,
            fix="change one of the two",
        )
    for field, value in {"train.steps": total, **intervals}.items():
        if value % train.steps_per_call:
            raise input_error(
                f"config.{field}",
                expected=f"a multiple of config.train.steps_per_call={train.steps_per_call}",
                got=value,
                fix="change one of the two",
            )
    every, keep_every = intervals["checkpoint.every"], intervals["checkpoint.keep_every"]
    if keep_every % every:
        raise input_error(
            "config.checkpoint.keep_every",
            expected=f"a multiple of config.checkpoint.every={every}",
            got=keep_every,
            fix="change one of the two",
        )
    try:
        schedule = make_schedule(
            optimizer.schedule,
            learning_rate=optimizer.learning_rate,
            steps=total,
            warmup=steps(optimizer.warmup, "config.optimizer.warmup", 0, total),
            halve_every=steps(optimizer.halve_every, "config.optimizer.halve_every", 0, total),
            final_fraction=optimizer.final_fraction,
        )
        rule = make_optimizer(
            optimizer.name,
            schedule,
            b1=optimizer.b1,
            b2=optimizer.b2,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            clip_norm=optimizer.clip_norm,
        )
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"config.optimizer.{error}") from None
    return Settings(
        seed=config.seed,
        parallel=config.parallel,
        tracking=train.tracking,
        steps=total,
        log_every=intervals["train.log_every"],
        preview_every=intervals["train.preview_every"],
        evaluate_every=intervals["train.evaluate_every"],
        checkpoint_every=every,
        keep_every=keep_every,
        keep=config.checkpoint.keep,
        batch_size=train.batch_size,
        evaluate_batches=train.evaluate_batches,
        steps_per_call=train.steps_per_call,
        accumulate=train.accumulate,
        skip_nonfinite=train.skip_nonfinite,
        ema_decay=config.ema.decay,
        ema_warmup=config.ema.warmup,
        learning_rate=optimizer.learning_rate,
        schedule=schedule,
        optimizer=rule,
        loading={
            "placement": config.data.placement,
            "device_limit_bytes": config.data.device_limit_mb * 2**20,
            "workers": config.data.workers,
        },
    )


def depending_on_length(config) -> list[str]:
    """Returns the settings (`key=value`) through which the length of the run decides its numbers at a given step."""
    optimizer = config.optimizer
    keys = ["schedule"] * (optimizer.schedule in ("cosine", "warmup_cosine"))
    keys += [name for name in ("warmup", "halve_every") if durations.is_percent(optimizer[name])]
    return [f"optimizer.{name}={optimizer[name]}" for name in keys]
