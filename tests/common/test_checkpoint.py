"""Checkpoints come back as they were saved, and only into the run they belong to."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import orbax.checkpoint as ocp
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.checkpoint import Checkpoints, check_resume, manifest, restore_params
from common.errors import InputError, RunError
from common.method import Variables
from common.training.step import TrainState

ROOT = Path(__file__).parents[2]
CONFIG = {
    "seed": 0,
    "train": {"steps": 10, "log_every": 5},
    "optimizer": {"learning_rate": 0.1},
    "levels": (10.0, 25.0),
}


def make_state(optimizer=None, *, value=0.0, ema=True, stats=None):
    params = {
        "Conv_0": {"kernel": value + jnp.arange(18.0).reshape(3, 3, 1, 2), "bias": jnp.full((2,), value)},
        "gain": jnp.float32(value + 0.5),
    }
    optimizer = optimizer or optax.adam(1e-3)
    opt_state = optimizer.init(params)
    for _ in range(3):  # so that moments and counters are not zero
        _, opt_state = optimizer.update(jax.tree.map(lambda x: x + 1, params), opt_state, params)
    return TrainState(
        step=jnp.int32(7),
        params=params,
        stats={} if stats is None else stats,
        ema_params=jax.tree.map(lambda x: x * 2, params) if ema else (),
        opt_state=opt_state,
    )


def opened(workdir, **changes):
    return Checkpoints(workdir, **{"config": CONFIG, "keep": 3, "data_fingerprint": "abc", **changes})


def assert_same(restored, saved):
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(saved), strict=True):
        assert isinstance(a, np.ndarray)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, np.asarray(b).tobytes())


def template(state):
    return jax.eval_shape(lambda: state)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(0.1),
        optax.adam(1e-3),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(1e-3, 10))),
        optax.MultiSteps(optax.adam(1e-3), every_k_schedule=2),
        optax.inject_hyperparams(optax.adam)(learning_rate=1e-3),
    ],
    ids=["sgd", "adam", "clipped_adamw", "multi_steps", "inject_hyperparams"],
)
def test_optimizer_states_come_back_bit_for_bit(tmp_path, optimizer):
    state = make_state(optimizer)
    with opened(tmp_path) as checkpoints:
        checkpoints.save(7, state, {})
        restored, _, step = checkpoints.restore_latest(template(state))
    assert step == 7
    assert_same(restored, state)
    assert type(restored) is TrainState


def test_every_kind_of_leaf_and_container_comes_back(tmp_path):
    leaves = {
        "bfloat16": jnp.linspace(-1, 1, 6, dtype=jnp.bfloat16).reshape(2, 3),
        "float16": np.float16([1.5, -0.0]),
        "minus_zero": np.float32([-0.0, 0.0]),
        "scalar": np.array(3.25, np.float64),
        "boolean": jnp.array(True),
        "int8": np.int8([-3, 4]),
        "uint32": np.array(2**32 - 1, np.uint32),
        "int64": np.array([2**40]),
        "complex": np.complex64([1 + 2j]),
        "none": None,
        "empty dict": {},
        "no elements": np.zeros((0, 3), ml_dtypes.bfloat16),
        "Fortran order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "listed": [np.ones(2), (np.zeros(1), [])],
        "with/slash": {"ä %": np.ones(1)},
    }
    state = TrainState(jnp.int32(1), leaves, {}, (), ())
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        assert_same(checkpoints.restore_latest(state).state, state)
    assert_same(restore_params(tmp_path).params, leaves)
    assert restore_params(tmp_path).stats == {}


def containers(inner):
    return st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text("ab", min_size=1), inner)


@given(st.recursive(st.integers(0, 3) | st.none(), containers, max_leaves=8))
@settings(deadline=None, max_examples=50)
def test_a_skeleton_filled_with_its_leaves_is_the_tree(tree):
    leaves = manifest.named_leaves({"params": tree})
    shape = json.loads(json.dumps(manifest.skeleton(tree, "params")))
    assert manifest.filled(shape, leaves) == tree


def test_containers_that_cannot_be_restored_alone_are_refused(tmp_path):
    state = make_state()
    nested = state._replace(params={"inner": optax.EmptyState()})
    clash = state._replace(params={"a.b": np.ones(1), "a": {"b": np.ones(1)}})
    with opened(tmp_path) as checkpoints:
        with pytest.raises(InputError, match="params/inner: expected dicts .* got EmptyState"):
            checkpoints.save(1, nested, {})
        with pytest.raises(InputError, match="different names"):
            checkpoints.save(1, clash, {})
        assert checkpoints.steps() == []


def test_the_saved_values_are_those_of_the_moment_of_saving(tmp_path):
    step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state = step({"params": {"w": jnp.zeros((512, 512))}, "count": jnp.zeros(())})
    own = np.ones(3)
    with opened(tmp_path, keep=100) as checkpoints:
        for i in range(1, 9):
            saved = TrainState(jnp.int32(i), state["params"], {"own": own}, (), state["count"])
            checkpoints.save(i, saved, {"list": [i]})
            own += 1
            for _ in range(3):  # donates the buffers just saved
                state = step(state)
        kept = [checkpoints.restore(saved, i) for i in range(1, 9)]
    for i, (restored, extra, _) in enumerate(kept):
        assert (restored.params["w"] == 1 + 3 * i).all()
        assert restored.opt_state == 1 + 3 * i
        assert (restored.stats["own"] == 1 + i).all()
        assert extra == {"list": [i + 1]}


def test_extra_values_come_back_exactly(tmp_path):
    extra = {
        "window": {"sums": {"loss": 0.1 + 0.2, "tiny": 5e-324}, "count": 3},
        "names": ["a", None, True],
        "n": 2**60,
    }
    state = make_state()
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state, extra)
        assert checkpoints.restore_latest(state).extra == extra


def test_the_newest_steps_stay(tmp_path):
    state = make_state()
    with opened(tmp_path, keep=2) as checkpoints:
        for step in (8, 9, 10, 100):
            assert checkpoints.save(step, state, {})
        checkpoints.wait()
        assert checkpoints.steps() == [10, 100]
        assert checkpoints.restore_latest(state).step == 100
        assert checkpoints.restore(state, 10).step == 10
        with pytest.raises(InputError, match=r"expected step 9, got steps \[10, 100\]"):
            checkpoints.restore(state, 9)
    with pytest.raises(InputError, match="config.checkpoint.keep: expected at least 1, got 0"):
        opened(tmp_path, keep=0)


def test_every_so_many_steps_one_stays_for_good(tmp_path):
    state = make_state()
    with opened(tmp_path, keep=2, keep_every=10) as checkpoints:
        for step in (5, 10, 15, 18, 20, 25):
            checkpoints.save(step, state, {})
        checkpoints.wait()
        assert checkpoints.steps() == [10, 20, 25]
    with opened(tmp_path, keep=1, keep_every=10) as checkpoints:
        for step in (30, 31, 32):
            checkpoints.save(step, state, {})
        checkpoints.wait()
        assert checkpoints.steps() == [10, 20, 30, 32]
        assert checkpoints.restore(state, 10).step == 10
    with pytest.raises(InputError, match="config.checkpoint.keep_every: expected at least 0, got -1"):
        opened(tmp_path, keep_every=-1)


def test_a_checkpoint_is_few_files(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(), {})
        checkpoints.wait()
        checkpoints.save(2, make_state(optax.chain(optax.adam(1e-3), optax.ema(0.9))), {})
    counts = [sum(path.is_file() for path in (tmp_path / "checkpoints" / step).rglob("*")) for step in "12"]
    assert max(counts) <= 16


def stored_state():
    """Returns the state in `checkpoint_format_1.zip`, whose values depend on no library's arithmetic."""
    kernel = np.arange(600, dtype=np.float32).reshape(3, 4, 50)
    params = {
        "Conv_0": {"kernel": kernel, "bias": kernel[0, 0].astype(ml_dtypes.bfloat16)},
        "listed": [kernel[0], (kernel[1], None)],
        "empty": np.zeros((0, 3), np.float32),
    }
    moments = optax.ScaleByAdamState(np.int32(7), {"mu": -kernel}, {"nu": kernel**2})
    stats = {"norm": {"deviation": kernel[0, 1]}}
    return TrainState(np.int32(7), params, stats, jax.tree.map(lambda x: x + x, params), (moments, ()))


def test_the_first_format_is_still_read(tmp_path):
    """It had one folder for each field of the state."""
    with zipfile.ZipFile(Path(__file__).with_name("checkpoint_format_1.zip")) as archive:
        archive.extractall(tmp_path)
    state = stored_state()
    with opened(tmp_path) as checkpoints:
        restored = checkpoints.restore_latest(state)
        assert (restored.step, restored.extra) == (7, {"window": {"count": 3}})
        assert_same(restored.state, state)
        assert_same(restore_params(tmp_path), Variables(state.ema_params, state.stats))
        assert_same(restore_params(tmp_path, ema=False).params, state.params)
        checkpoints.save(8, state, {})
        assert_same(checkpoints.restore_latest(state).state, state)
        assert checkpoints.steps() == [7, 8]


def test_a_step_is_saved_once_and_never_behind_a_later_one(tmp_path):
    with opened(tmp_path) as checkpoints:
        assert checkpoints.save(5, make_state(value=1.0), {})
        assert not checkpoints.save(5, make_state(value=2.0), {})
        with pytest.raises(InputError, match="expected a step after 5, the newest in .*, got 4"):
            checkpoints.save(4, make_state(), {})
    with opened(tmp_path) as checkpoints:
        assert not checkpoints.save(5, make_state(value=3.0), {})
        assert checkpoints.restore_latest(make_state()).state.params["gain"] == 1.5


def test_a_new_directory_has_no_checkpoint(tmp_path):
    with opened(tmp_path / "a" / "b") as checkpoints:
        assert checkpoints.steps() == []
        assert checkpoints.restore_latest(make_state()) is None
    assert check_resume(tmp_path / "c", config=CONFIG) is None
    assert not (tmp_path / "c").exists()


def test_inference_reads_the_average_unless_told_otherwise(tmp_path):
    stats = {"norm": {"deviation": np.float32([1, 2])}}
    state = make_state(stats=stats)
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(value=9.0, stats=stats), {})
        checkpoints.save(2, state, {})
    assert_same(restore_params(tmp_path), Variables(state.ema_params, stats))
    assert_same(restore_params(tmp_path, ema=False).params, state.params)
    assert restore_params(tmp_path, ema=False, step=1).params["gain"] == 9.5


def test_inference_without_an_average_reads_the_parameters(tmp_path):
    state = make_state(ema=False)
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        assert_same(checkpoints.restore_latest(state).state, state)
    assert_same(restore_params(tmp_path).params, state.params)


@pytest.mark.parametrize("damage", [lambda x: x[::-1], np.zeros_like, lambda x: np.append(x[:-1], x[-1] * 2)])
def test_inference_needs_only_params_and_stats(tmp_path, damage):
    """Damage to the optimizer's moments, which inference does not read, leaves the weights readable."""
    moments = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    stats = {"norm": {"deviation": np.float32([1, 2])}}
    state = make_state(stats=stats)._replace(opt_state={"mu": moments})
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(value=9.0, stats=stats)._replace(opt_state={"mu": moments[::-1]}), {})
        checkpoints.save(2, state, {})
    damaged = 0
    for path in (tmp_path / "checkpoints" / "2" / "state").rglob("*"):
        if path.is_file() and moments.tobytes() in (data := path.read_bytes()):
            path.write_bytes(data.replace(moments.tobytes(), damage(moments).astype(np.float32).tobytes()))
            damaged += 1
    assert damaged == 1
    # Of the damaged step itself, not of the one before.
    for step in (None, 2):
        assert_same(restore_params(tmp_path, step=step), Variables(state.ema_params, stats))
        assert_same(restore_params(tmp_path, ema=False, step=step).params, state.params)
    with opened(tmp_path) as checkpoints, pytest.raises(InputError, match=r"\(opt_state/mu: checksum differs\)"):
        checkpoints.restore(state, 2)


def test_inference_without_checkpoints_says_so(tmp_path):
    with pytest.raises(InputError, match="workdir .*: expected checkpoints in checkpoints/, got none; train first"):
        restore_params(tmp_path)
    with pytest.raises(InputError, match=r"expected step 3, got steps \[\]"):
        restore_params(tmp_path, step=3)


def test_inference_needs_no_lock(tmp_path):
    state = make_state()
    with opened(tmp_path, keep=1) as checkpoints:
        for step in range(1, 12):
            checkpoints.save(step, make_state(value=float(step)), {})
            if step > 1:
                gain = restore_params(tmp_path, ema=False).params["gain"]
                assert gain in (step - 0.5, step + 0.5)
        assert_same(checkpoints.restore_latest(state).state, make_state(value=11.0))


def test_other_tools_can_read_the_arrays(tmp_path):
    state = make_state()
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
    tree = ocp.PyTreeCheckpointer().restore(tmp_path / "checkpoints" / "1" / "state")
    assert_same(tree["params"], state.params)
    assert_same(tree["ema_params"], state.ema_params)


def test_a_template_that_differs_is_told_leaf_by_leaf_before_anything_is_loaded(tmp_path, monkeypatch):
    state = make_state()
    params = {
        "Conv_0": {"kernel": jnp.zeros((3, 3, 1, 4)), "bias": jnp.zeros((2,), jnp.bfloat16)},
        "offset": jnp.zeros(()),
    }
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        checkpoints.wait()
        monkeypatch.setattr("common.checkpoint.store.read", lambda *_: pytest.fail("loaded"))
        with pytest.raises(InputError) as caught:
            checkpoints.restore_latest(state._replace(params=params))
        with pytest.raises(InputError, match=r"10 that differ .*opt_state/0/count: .* and 4 more; undo"):
            checkpoints.restore(state._replace(ema_params=(), opt_state=()), 1)
    message = str(caught.value)
    assert "\n" not in message
    for line in (
        "params/Conv_0/kernel: float32[3, 3, 1, 2] -> float32[3, 3, 1, 4]",
        "params/Conv_0/bias: float32[2] -> bfloat16[2]",
        "params/gain: only in the checkpoint",
        "params/offset: only in this run",
    ):
        assert line in message


def test_another_config_is_refused_key_by_key(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(), {})
    changed = CONFIG | {"optimizer": {"learning_rate": 0.2}, "train": {"steps": 10, "log_every": 7}, "new": 1}
    with pytest.raises(InputError) as caught, opened(tmp_path, config=changed, may_change=("train.log_every",)):
        pass
    message = str(caught.value)
    assert "optimizer.learning_rate: 0.1 -> 0.2" in message
    assert "new: (absent) -> 1" in message
    assert "log_every" not in message
    with pytest.raises(InputError, match="config of its checkpoint at step 1"):
        check_resume(tmp_path, config=changed)


def test_keys_that_may_change_do_not_matter(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(), {})
    changed = CONFIG | {"train": {"steps": 10, "log_every": 7}, "optimizer": {"learning_rate": 0.5}}
    with opened(tmp_path, config=changed, may_change=("train.log_every", "optimizer.*")) as checkpoints:
        assert checkpoints.restore_latest(make_state()).step == 1
    assert check_resume(tmp_path, config=changed, may_change=("train.*", "optimizer.*")) == 1


def test_other_data_is_refused_unless_unchecked(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(), {})
    with (
        pytest.raises(InputError, match=r"trained on \(fingerprint abc\), got other data \(xyz\)"),
        opened(tmp_path, data_fingerprint="xyz"),
    ):
        pass
    with opened(tmp_path, data_fingerprint=None) as checkpoints:
        assert checkpoints.restore_latest(make_state()).step == 1


@pytest.mark.parametrize("field", ["params", "stats", "ema_params"])
def test_values_that_are_not_finite_are_never_saved(tmp_path, field):
    bad = {"w": np.array([1.0, np.nan, 2.0], np.float32), "half": np.array([np.inf], ml_dtypes.bfloat16)}
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(), {})
        checkpoints.save(2, make_state()._replace(**{field: bad}), {})
        with pytest.raises(RunError, match=rf"step 2 is not saved: {field}/\w+ has values that are not finite.*step 1"):
            checkpoints.wait()
        checkpoints.save(3, make_state(), {})
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [".lock", "1", "3"]


def test_nothing_is_printed(tmp_path):
    code = f"""
import jax.numpy as jnp
from common.checkpoint import Checkpoints, restore_params
from common.training.step import TrainState
state = TrainState(jnp.int32(0), {{"w": jnp.ones(3)}}, {{}}, (), ())
with Checkpoints({str(tmp_path)!r}, config={{}}, keep=1) as checkpoints:
    checkpoints.save(1, state, {{}})
    checkpoints.save(2, state, {{}})
    checkpoints.restore_latest(state)
restore_params({str(tmp_path)!r})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_host_memory_is_flat_over_many_saves(tmp_path):
    step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state = TrainState(jnp.int32(0), {"w": jnp.zeros((1024, 1024))}, {}, {"w": jnp.zeros((1024, 1024))}, ())
    process, sizes = psutil.Process(), []
    with opened(tmp_path, keep=2) as checkpoints:
        for i in range(1, 121):
            state = step(state)
            checkpoints.save(i, state, {})
            checkpoints.wait()
            sizes.append(process.memory_info().rss)
    assert np.mean(sizes[100:]) < 1.05 * np.mean(sizes[10:30])


def test_a_work_directory_may_be_named_from_where_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    variables = {"w": np.arange(6.0, dtype=np.float32)}
    state = TrainState(np.int32(1), variables, {}, (), ())
    with Checkpoints("runs/x", config={}, keep=2) as checkpoints:
        checkpoints.save(1, state, {})
        checkpoints.wait()
        np.testing.assert_array_equal(checkpoints.restore_latest(state).state.params["w"], variables["w"])
    np.testing.assert_array_equal(restore_params("runs/x").params["w"], variables["w"])
