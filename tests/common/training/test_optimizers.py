"""Schedules against their formulas, and optimizers against hand-computed first steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from common.training.settings import make_optimizer, make_schedule


def values(schedule, steps):
    return np.asarray([schedule(jnp.asarray(s)) for s in steps], np.float64)


def test_cosine_rises_linearly_then_falls_to_its_floor():
    schedule = make_schedule("cosine", learning_rate=2.0, steps=110, warmup=10, final_fraction=0.1)
    steps = np.array([0, 5, 10, 35, 60, 110, 500])
    t = np.clip((steps - 10) / 100, 0, 1)
    expected = np.where(steps < 10, 2.0 * steps / 10, 2.0 * (0.9 * (1 + np.cos(np.pi * t)) / 2 + 0.1))
    np.testing.assert_allclose(values(schedule, steps), expected, rtol=1e-6)


def test_product_of_warmup_and_cosine():
    """lr(i) = peak (1 + cos(pi i / N)) / 2 min(1, (i + 1) / W)."""
    schedule = make_schedule("warmup_cosine", learning_rate=2.0, steps=100, warmup=20)
    i = np.arange(100)
    want = 2.0 * 0.5 * (1 + np.cos(np.pi * i / 100)) * np.minimum(1, (i + 1) / 20)
    np.testing.assert_allclose([schedule(each) for each in i], want, rtol=1e-5, atol=1e-6)
    assert make_schedule("warmup_cosine", learning_rate=2.0, steps=100)(0) == 2.0


def test_halving_counts_from_the_first_step_also_with_warmup():
    schedule = make_schedule("halving", learning_rate=1.0, steps=40, warmup=4, halve_every=10)
    np.testing.assert_allclose(values(schedule, [2, 4, 9, 10, 19, 20, 39]), [0.5, 1, 1, 0.5, 0.5, 0.25, 0.125])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "step"}, 'expected "constant", "halving", "cosine" or "warmup_cosine", got \'step\''),
        ({"name": "halving"}, "halve_every: expected a positive number of steps, got 0"),
        ({"name": "cosine", "warmup": 10}, "expected 0 <= warmup < steps=10, got 10"),
    ],
)
def test_schedule_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(**{"learning_rate": 1.0, "steps": 10, **arguments})


def test_adam_and_adamw_first_steps():
    params, grads = jnp.array([1.0, -2.0]), jnp.array([3.0, -0.5])
    schedule = make_schedule("constant", learning_rate=0.1, steps=10)
    for name, decay in [("adam", 0.0), ("adamw", 0.01)]:
        optimizer = make_optimizer(name, schedule, weight_decay=decay)
        update, _ = optimizer.update(grads, optimizer.init(params), params)
        # The first bias-corrected Adam step is the sign of the gradient; decoupled decay adds -lr * decay * params.
        np.testing.assert_allclose(update, -0.1 * np.sign(grads) - 0.1 * decay * params, rtol=1e-5)


def test_clipping_scales_the_gradient_to_the_given_norm():
    params, grads = jnp.zeros(2), jnp.array([3.0, 4.0])
    schedule = make_schedule("constant", learning_rate=1.0, steps=1)
    eps = 1e3  # so large that Adam's first step is grad / eps: linear in the clipped gradient
    optimizer = make_optimizer("adam", schedule, eps=eps, clip_norm=0.5)
    update, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose(update, -np.array([0.3, 0.4]) / (np.array([0.3, 0.4]) + eps), rtol=1e-5)


def test_unused_weight_decay_is_refused():
    with pytest.raises(ValueError, match='expected 0 with "adam", got 0.1; use "adamw"'):
        make_optimizer("adam", lambda _: 1.0, weight_decay=0.1)


RULES = [{"name": "adam"}, {"name": "adam", "clip_norm": 0.5}, {"name": "adamw", "weight_decay": 0.1, "clip_norm": 0.5}]


@pytest.mark.parametrize("settings", RULES, ids=["adam", "clipped", "adamw"])
def test_the_rules_are_those_of_optax(settings):
    schedule = make_schedule("halving", learning_rate=0.1, steps=10, halve_every=2)
    decay = settings.get("weight_decay", 0.0)
    rule = optax.adam(schedule) if settings["name"] == "adam" else optax.adamw(schedule, weight_decay=decay)
    if "clip_norm" in settings:
        rule = optax.chain(optax.clip_by_global_norm(settings["clip_norm"]), rule)
    found = []
    for each in (make_optimizer(schedule=schedule, **settings), rule):
        params = {"a": jnp.asarray([1.0, -2.0]), "b": jnp.asarray(3.0)}
        state = each.init(params)
        for _ in range(5):
            gradient = jax.tree.map(lambda x: 2 * x + 1, params)
            updates, state = each.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        found.append(params)
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_the_state_is_the_same_for_all_rules():
    """So that a run may go on with another one."""
    params = {"a": jnp.zeros(2)}
    states = [make_optimizer(schedule=optax.constant_schedule(1.0), **each).init(params) for each in RULES]
    assert len({str(jax.tree.structure(each)) for each in states}) == 1
