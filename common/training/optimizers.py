"""Learning-rate schedules and optimizers, composed from optax."""

import jax.numpy as jnp
import optax


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

    The state of a run is then the same whatever is switched on around the rule, so that it may be switched later.
    """

    def update(updates, state, params=None):
        updates, _ = before.update(updates, before.init(params), params)
        updates, state = rule.update(updates, state, params)
        updates, _ = after.update(updates, after.init(params), params)
        return updates, state

    return optax.GradientTransformation(rule.init, update)
