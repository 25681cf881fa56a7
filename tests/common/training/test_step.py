"""The training step against hand-written updates."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from common import prng
from common.method import Variables
from common.training import step as states
from common.training.step import scan_steps


def fetched(step, batch_size=8):
    return {"offset": np.uint32(step * batch_size)}


def run(step, state, resident, steps):
    step, history = jax.jit(step), []
    for i in range(steps):
        state, metrics = step(state, resident, fetched(i))
        history.append(jax.device_get(metrics))
    return state, history


equal = chex.assert_trees_all_equal
close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)


def test_one_step_is_the_hand_written_update(make_toy_step, toy_variables):
    step, resident, optimizer = make_toy_step()
    state = states.create(toy_variables, optimizer, ema=False)
    new, metrics = jax.jit(step)(state, resident, fetched(0))

    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), int(prng.Purpose.LOSS)), 0)
    noise = 0.1 * np.array([jax.random.normal(jax.random.fold_in(key, i)) for i in range(8)])
    x, y = resident["x"][:8].astype(np.float64), resident["y"][:8]
    w = np.asarray(toy_variables.params["w"], np.float64)
    error = x @ w - y + noise
    grad = 2 * x.T @ error / 8
    updates, _ = optimizer.update({"w": jnp.asarray(grad, jnp.float32)}, state.opt_state, state.params)
    close(new.params, optax.apply_updates(state.params, updates))
    np.testing.assert_allclose(metrics["loss"], np.mean(error**2), rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(grad), rtol=1e-5)
    np.testing.assert_allclose(new.stats["mean"], 0.1 * np.mean(y), rtol=1e-5)
    assert (int(new.step), float(metrics["finite"]), float(metrics["progress"])) == (1, 1.0, 0.0)


def test_it_learns_and_progress_runs_from_zero_to_one(make_toy_step, toy_variables):
    step, resident, optimizer = make_toy_step(total_steps=200)
    state, history = run(step, states.create(toy_variables, optimizer, ema=False), resident, 200)
    # The noise of standard deviation 0.1 on the targets leaves an error of about that size divided by sqrt(8).
    np.testing.assert_allclose(state.params["w"], [1.0, -2.0, 0.5], atol=0.1)
    np.testing.assert_allclose([h["progress"] for h in history], np.arange(200) / 200, rtol=1e-6)


def test_two_microbatches_give_the_gradient_of_the_whole(make_toy_step, toy_variables):
    whole, resident, optimizer = make_toy_step()
    parts, _, _ = make_toy_step(accumulate=2)
    state = states.create(toy_variables, optimizer, ema=False)
    a, ma = jax.jit(whole)(state, resident, fetched(0))
    b, mb = jax.jit(parts)(state, resident, fetched(0))
    close(a.params, b.params)
    np.testing.assert_allclose(ma["loss"], mb["loss"], rtol=1e-5)
    np.testing.assert_allclose(ma["grad_norm"], mb["grad_norm"], rtol=1e-5)


def test_several_steps_in_one_call_are_the_same_steps(make_toy_step, toy_variables):
    step, resident, optimizer = make_toy_step()
    start = states.create(toy_variables, optimizer, ema=False)
    one, history = run(step, start, resident, 6)
    together = {"offset": np.arange(6, dtype=np.uint32) * 8}
    six, metrics = jax.jit(scan_steps(step))(start, resident, together)
    close(one, six)
    np.testing.assert_allclose(metrics["loss"], [h["loss"] for h in history], rtol=1e-5)
    alone, _ = jax.jit(scan_steps(step))(start, resident, {"offset": together["offset"][:1]})
    equal(alone, jax.jit(step)(start, resident, fetched(0))[0])


@pytest.mark.parametrize("warmup", [True, False])
def test_average_follows_its_recursion(make_toy_step, toy_variables, warmup):
    step, resident, optimizer = make_toy_step(ema_decay=0.6, ema_warmup=warmup)
    compiled, state = jax.jit(step), states.create(toy_variables, optimizer, ema=True)
    average = np.asarray(state.params["w"], np.float64)
    for i in range(10):
        state, _ = compiled(state, resident, fetched(i))
        d = min(0.6, (2 + i) / (11 + i)) if warmup else 0.6
        average = d * average + (1 - d) * np.asarray(state.params["w"], np.float64)
    np.testing.assert_allclose(state.ema_params["w"], average, rtol=1e-5)
    assert np.max(np.abs(average - state.params["w"])) > 1e-3


def test_a_nonfinite_step_changes_nothing_but_the_step(make_toy_step, toy_variables):
    targets = np.array(make_toy_step()[1]["y"])
    targets[9] = np.nan  # in the second batch
    step, resident, optimizer = make_toy_step(targets=targets, ema_decay=0.9)
    compiled = jax.jit(step)
    first, m0 = compiled(states.create(toy_variables, optimizer, ema=True), resident, fetched(0))
    second, m1 = compiled(first, resident, fetched(1))
    third, m2 = compiled(second, resident, fetched(2))
    assert [float(m["finite"]) for m in (m0, m1, m2)] == [1, 0, 1]
    assert np.isnan(m1["loss"])
    equal(second._replace(step=first.step), first)
    assert int(second.step) == 2
    assert np.all(np.isfinite(third.params["w"]))
    assert np.any(third.params["w"] != first.params["w"])


def test_parameters_are_arguments_and_the_step_is_traced_once(make_toy_step, toy_variables):
    traces = []
    step, resident, optimizer = make_toy_step()

    def counted(*args):
        traces.append(1)
        return step(*args)

    compiled = jax.jit(counted)
    for scale in (1.0, 2.0):
        params = jax.tree.map(lambda p, s=scale: s * p, toy_variables.params)
        state = states.create(Variables(params, toy_variables.stats), optimizer, ema=False)
        for i in range(3):
            state, _ = compiled(state, resident, fetched(i))
    assert len(traces) == 1


def test_purposes_and_steps_never_share_a_key():
    root = jax.random.key(0)
    seen = {
        tuple(np.asarray(jax.random.key_data(prng.key_for(root, purpose, step))))
        for purpose in prng.Purpose
        for step in range(50)
    }
    assert len(seen) == 50 * len(prng.Purpose)
