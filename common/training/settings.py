"""Settings of the training loop, read from a config once and checked; schedules and optimizers, from optax."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from common import config_values
from common.errors import InputError, at_least, input_error, within


def make_schedule(
    name: str,
    *,
    learning_rate: float,
    steps: int,
    warmup: int = 0,
    halve_every: int = 0,
    final_fraction: float = 0.0,
) -> optax.Schedule:
    """Returns `step -> learning rate` for "constant", "halving", "cosine" or "warmup_cosine" over `steps` steps.

    The first three may rise linearly from zero over the first `warmup` steps. "halving" multiplies by 1/2 after every
    `halve_every` steps, counted from the first step (warm-up included); "cosine" ends at
    `final_fraction * learning_rate`. "warmup_cosine" is the product of a cosine over the whole run and of
    min(1, (step + 1) / warmup), which never is zero at first.

    Raises:
      ValueError: unknown name, or a period that does not fit the run.
    """
    if not 0 <= warmup < max(steps, 1):
        raise ValueError(f"warmup: expected 0 <= warmup < steps={steps}, got {warmup}; use {max(steps, 1) // 10}")
    if name == "constant":
        after = optax.constant_schedule(learning_rate)
    elif name == "halving":
        if halve_every <= 0:
            raise ValueError(f"halve_every: expected a positive number of steps, got {halve_every}")
        decay = optax.exponential_decay(learning_rate, halve_every, 0.5, staircase=True)
        after = lambda count: decay(count + warmup)  # noqa: E731
    elif name == "warmup_cosine":
        cosine = optax.cosine_decay_schedule(learning_rate, steps, alpha=final_fraction)
        return lambda count: cosine(count) * jnp.minimum(1.0, (count + 1) / max(warmup, 1))
    elif name == "cosine":
        after = optax.cosine_decay_schedule(learning_rate, max(steps - warmup, 1), alpha=final_fraction)
    else:
        raise ValueError(f'schedule: expected "constant", "halving", "cosine" or "warmup_cosine", got {name!r}')
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup), after], [warmup])


def make_optimizer(
    name: str,
    schedule: optax.Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """Returns "adam" or "adamw" with an optional clip of the global gradient norm before it.

    The state has the same leaves for all choices.

    Raises:
      ValueError: unknown name, or a weight decay that the named optimizer would ignore.
    """
    if name not in ("adam", "adamw"):
        raise ValueError(f'optimizer: expected "adam" or "adamw", got {name!r}')
    if name == "adam" and weight_decay:
        raise ValueError(f'weight_decay: expected 0 with "adam", got {weight_decay}; use "adamw"')
    moments = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm > 0 else optax.identity()
    decay = optax.add_decayed_weights(weight_decay) if name == "adamw" else optax.identity()
    return optax.chain(_between(clip, moments, decay), optax.scale_by_learning_rate(schedule))


def _between(
    before: optax.GradientTransformation, rule: optax.GradientTransformation, after: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Returns `rule` between two transformations without state, with the state of `rule` alone.

    Switching either on or off does not change the state of a run, so that both may be switched later.
    """

    def update(updates: Any, state: Any, params: Any = None):
        updates, _ = before.update(updates, before.init(params), params)
        updates, state = rule.update(updates, state, params)
        updates, _ = after.update(updates, after.init(params), params)
        return updates, state

    return optax.GradientTransformation(rule.init, update)


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
        within(f"config.train.{field}", train[field], 1, config_values.LARGEST)
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

    def steps(key, least, run_length=None):
        section, name = key.split(".")
        count = config_values.steps(
            config[section][name],
            batch_size=train.batch_size,
            num_examples=num_examples,
            field=f"config.{key}",
            run_length=run_length,
        )
        within(f"config.{key}", count, least)
        return count

    total = steps("train.steps", 1)
    least = {"train.log_every": 1, "train.preview_every": 0, "train.evaluate_every": 0}
    least |= {"checkpoint.every": 1, "checkpoint.keep_every": 0}
    every = {key: steps(key, number, total) for key, number in least.items()}
    if train.batch_size % train.accumulate:
        raise input_error(
            "config.train.accumulate",
            expected=f"a divisor of config.train.batch_size={train.batch_size}",
            got=train.accumulate,
            fix="change one of the two",
        )
    counts = {"train.steps": total, **every}
    units = [(key, "train.steps_per_call", train.steps_per_call) for key in counts]
    for key, other, unit in (*units, ("checkpoint.keep_every", "checkpoint.every", every["checkpoint.every"])):
        if counts[key] % unit:
            expected = f"a multiple of config.{other}={unit}"
            raise input_error(f"config.{key}", expected=expected, got=counts[key], fix="change one of the two")
    try:
        schedule = make_schedule(
            optimizer.schedule,
            learning_rate=optimizer.learning_rate,
            steps=total,
            warmup=steps("optimizer.warmup", 0, total),
            halve_every=steps("optimizer.halve_every", 0, total),
            final_fraction=optimizer.final_fraction,
        )
        names = ("b1", "b2", "eps", "weight_decay", "clip_norm")
        rule = make_optimizer(optimizer.name, schedule, **{name: optimizer[name] for name in names})
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"config.optimizer.{error}") from None
    own = ("tracking", "batch_size", "evaluate_batches", "steps_per_call", "accumulate", "skip_nonfinite")
    return Settings(
        seed=config.seed,
        parallel=config.parallel,
        steps=total,
        **{name: every[f"train.{name}"] for name in ("log_every", "preview_every", "evaluate_every")},
        **{name: train[name] for name in own},
        checkpoint_every=every["checkpoint.every"],
        keep_every=every["checkpoint.keep_every"],
        keep=config.checkpoint.keep,
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
    keys += [name for name in ("warmup", "halve_every") if config_values.is_percent(optimizer[name])]
    return [f"optimizer.{name}={optimizer[name]}" for name in keys]
