"""What the training loop needs to know, read from a config once and checked."""

from typing import NamedTuple

import optax

from common import config as configs
from common.errors import InputError, input_error
from common.training.optimizers import make_optimizer, make_schedule


class Settings(NamedTuple):
    """Resolved settings of a run; every duration is in steps."""

    seed: int
    parallel: str
    steps: int
    batch_size: int
    log_every: int
    preview_every: int
    tracking: str
    steps_per_call: int
    accumulate: int
    skip_nonfinite: int
    ema_decay: float
    ema_warmup: bool
    checkpoint_every: int
    checkpoint_keep: int
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    placement: str
    device_limit_bytes: int
    workers: int


def build(config, *, num_examples: int) -> Settings:
    """Returns the settings of `config` for a training set of `num_examples` (needed to convert epochs to steps).

    Raises:
      InputError: a value out of range, or a combination that cannot run.
    """
    train, optimizer = config.train, config.optimizer
    at_least(train.batch_size, 1, "config.train.batch_size")
    at_least(train.steps_per_call, 1, "config.train.steps_per_call")
    at_least(train.accumulate, 1, "config.train.accumulate")
    at_least(train.skip_nonfinite, 0, "config.train.skip_nonfinite")
    at_least(config.checkpoint.keep, 1, "config.checkpoint.keep")
    for field, value in (
        ("data.workers", config.data.workers),
        ("data.device_limit_mb", config.data.device_limit_mb),
        ("optimizer.learning_rate", optimizer.learning_rate),
        ("optimizer.weight_decay", optimizer.weight_decay),
        ("optimizer.clip_norm", optimizer.clip_norm),
    ):
        at_least(value, 0, f"config.{field}")
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
        count = configs.steps(
            value, batch_size=train.batch_size, num_examples=num_examples, field=field, run_length=run_length
        )
        at_least(count, least, field)
        return count

    total = steps(train.steps, "config.train.steps", 1)
    log_every = steps(train.log_every, "config.train.log_every", 1, total)
    preview_every = steps(train.preview_every, "config.train.preview_every", 0, total)
    checkpoint_every = steps(config.checkpoint.every, "config.checkpoint.every", 1, total)
    if train.batch_size % train.accumulate:
        raise input_error(
            "config.train.accumulate",
            expected=f"a divisor of config.train.batch_size={train.batch_size}",
            got=train.accumulate,
            fix="change one of the two",
        )
    for field, value in [
        ("config.train.steps", total),
        ("config.train.log_every", log_every),
        ("config.train.preview_every", preview_every),
        ("config.checkpoint.every", checkpoint_every),
    ]:
        if value % train.steps_per_call:
            raise input_error(
                field,
                expected=f"a multiple of config.train.steps_per_call={train.steps_per_call}",
                got=value,
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
        steps=total,
        batch_size=train.batch_size,
        log_every=log_every,
        preview_every=preview_every,
        tracking=train.tracking,
        steps_per_call=train.steps_per_call,
        accumulate=train.accumulate,
        skip_nonfinite=train.skip_nonfinite,
        ema_decay=config.ema.decay,
        ema_warmup=config.ema.warmup,
        checkpoint_every=checkpoint_every,
        checkpoint_keep=config.checkpoint.keep,
        schedule=schedule,
        optimizer=rule,
        placement=config.data.placement,
        device_limit_bytes=config.data.device_limit_mb * 2**20,
        workers=config.data.workers,
    )


def at_least(value: float, least: float, field: str) -> None:
    """Raises `InputError` when `value` is below `least`."""
    if value < least:
        raise input_error(field, expected=f"at least {least}", got=value, fix="raise it")
