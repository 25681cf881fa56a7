"""Runs that are prolonged, changed and started from others, through the command line."""

import json
import shutil
import types

import jax
import numpy as np
import pytest

from common import config as configs
from common.checkpoint import restore_params
from common.checkpoint.manifest import named_leaves
from common.cli.dispatch import main
from common.io.metrics_log import read_metrics
from common.prng import Purpose, key_for
from common.sampling import weights_digest
from configs.phase_bridge.base import base
from gahb.__main__ import APP as GAHB
from phase_bridge import method
from phase_bridge.__main__ import APP

pytestmark = pytest.mark.usefixtures("quick_compilation")

SETTINGS = {
    "model.width": 8, "model.depth": 1, "train.steps": 4, "train.batch_size": 16, "train.log_every": 2,
    "optimizer.schedule": "constant", "optimizer.warmup": 1, "checkpoint.every": 2, "checkpoint.keep": 9,
    "ema.decay": 0.9,
}  # fmt: skip


@pytest.fixture
def command(capsys):
    """Returns `command(*argv, code=0) -> (stdout, stderr)`; a failure must write one line."""

    def run(*argv, code=0, app=APP):
        capsys.readouterr()
        assert main([str(each) for each in argv], app) == code, capsys.readouterr().err
        said = capsys.readouterr()
        # A signal, of what limits the time of the tests, would end a run early and leave lines out.
        assert "interrupted at" not in said.out, "this process was asked to stop"
        if code:
            assert said.err.splitlines()[-1].startswith("error: ")
        return said.out, said.err

    return run


def new_run(workdir, **changes):
    settings = {**SETTINGS, **{key.replace("__", "."): value for key, value in changes.items()}}
    overrides = [f"--config.{key}={value}" for key, value in settings.items()]
    return ["train", "--config", "configs/phase_bridge/spiral.py", "--workdir", workdir, *overrides]


def leaves(workdir, step):
    """Returns the checksums of all arrays of a checkpoint."""
    path = workdir / "checkpoints" / str(step) / "manifest" / "manifest.json"
    return {name: each["sha256"] for name, each in json.loads(path.read_text())["leaves"].items()}


def numbers(workdir):
    """Returns the metrics but for the times."""
    timing = ("time", "examples_per_s", "data_wait")
    return [{name: value for name, value in line.items() if name not in timing} for line in read_metrics(workdir)]


def stored(workdir):
    return json.loads((workdir / "config.json").read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of four steps; tests that change it take a copy."""
    workdir = tmp_path_factory.mktemp("run") / "run"
    assert main([str(each) for each in new_run(workdir)], APP) == 0
    return workdir


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copy")


def test_a_prolonged_run_is_the_long_one(command, copy, tmp_path):
    command(*new_run(tmp_path / "long", train__steps=8))
    out, _ = command("train", "--workdir", copy, "--config.train.steps=8")
    (line,) = [each for each in out.splitlines() if "train.steps" in each or "steps from step" in each]
    assert line == (
        "4 -> 8 steps from step 4 on: no setting depends on the length, so it is the run of that length from its start"
    )
    assert leaves(copy, 8) == leaves(tmp_path / "long", 8)
    assert numbers(copy) == numbers(tmp_path / "long")
    (entry,) = stored(copy)["history"]
    assert (entry["step"], entry["changes"]) == (4, ["train.steps: 4 -> 8"])
    assert stored(copy)["train"]["steps"] == 8
    # The same run, so the command without the change has nothing left to do, and the file's length is refused.
    assert "trained to step 8 of 8" in command("train", "--workdir", copy)[0]
    assert len(stored(copy)["history"]) == 1
    _, err = command(*new_run(copy)[: -len(SETTINGS)], code=2)
    assert "got another" in err and "train.steps: 8 -> " in err


def test_a_run_whose_optimizer_was_changed_is_not_the_long_one(command, copy):
    for steps, changes in ((5, ["--config.optimizer.learning_rate=1e-4"]), (6, [])):
        out, _ = command("train", "--workdir", copy, f"--config.train.steps={steps}", *changes)
        assert f"{steps - 1} -> {steps} steps from step {steps - 1} on: no setting depends on the length\n" in out
    assert len(stored(copy)["history"]) == 2


def test_a_run_of_another_method_is_refused_by_its_name(command, trained, tmp_path):
    for flags in (
        ["--workdir", trained],
        ["--workdir", tmp_path / "new", "--init-from", trained],
        ["--workdir", tmp_path / "new", "--config", "configs/phase_bridge/spiral.py"],
    ):
        _, err = command("train", *flags, code=2, app=GAHB)
        assert "expected an experiment of gahb, got one of phase_bridge; use python -m phase_bridge" in err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "record",
    [{"history": "x"}, {"history": [3]}, {"history": [{"step": 1}]}, {"init_from": "x"}, {"init_from": {"path": 3}}],
    ids=str,
)
def test_a_damaged_record_is_named(command, copy, record):
    (copy / "config.json").write_text(json.dumps({**stored(copy), **record}))
    before = (copy / "config.json").read_bytes()
    for flags in ((), ("--config.train.steps=5",), ("--dry-run",)):
        _, err = command("train", "--workdir", copy, *flags, code=2)
        assert f"config.json: expected the record of a run under {next(iter(record))}, got " in err
    assert (copy / "config.json").read_bytes() == before


def test_an_unfinished_run_is_prolonged_too(command, copy, tmp_path):
    command(*new_run(tmp_path / "long", train__steps=6))
    shutil.rmtree(copy / "checkpoints" / "4")
    out, _ = command("train", "--workdir", copy, "--config.train.steps=6")
    assert "4 -> 6 steps from step 2 on" in out
    assert leaves(copy, 6) == leaves(tmp_path / "long", 6)


def test_settings_that_depend_on_the_length_are_named(command, tmp_path):
    changes = {"optimizer__schedule": "cosine", "optimizer__warmup": "50 percent"}
    command(*new_run(tmp_path / "run", **changes))
    out, _ = command("train", "--workdir", tmp_path / "run", "--config.train.steps=8")
    assert (
        "4 -> 8 steps from step 4 on: optimizer.schedule=cosine, optimizer.warmup=50 percent depend on the length, "
        "and are those of 8 steps from here on\n"
    ) in out
    # Step 6 of a cosine over the four steps after a warm-up of four, as in a run of eight from the start.
    last = read_metrics(tmp_path / "run")[-2]
    rate = configs.read(tmp_path / "run").optimizer.learning_rate
    assert last["step"] == 6
    np.testing.assert_allclose(
        last["learning_rate"], rate * np.mean(0.5 * (1 + np.cos(np.pi * np.array([0, 1]) / 4))), rtol=1e-5
    )


def test_the_loss_may_depend_on_the_length(command, tmp_path):
    argv = ["train", "--config", "tests/gahb/tiny.py", "--workdir", tmp_path / "run"]
    argv += ["--config.noise.freeze_after=0.5", "--config.train.steps=2", "--config.optimizer.schedule=constant"]
    command(*argv, "--config.optimizer.warmup=1", app=GAHB)
    out, _ = command("train", "--workdir", tmp_path / "run", "--config.train.steps=4", "--dry-run", app=GAHB)
    assert "2 -> 4 steps from step 2 on: noise.freeze_after=0.5 depend on the length" in out


def test_no_run_is_shortened_below_its_step(command, copy):
    for flags in ((), ("--dry-run",)):
        _, err = command("train", "--workdir", copy, "--config.train.steps=3", *flags, code=2)
        assert err == (
            "error: config.train.steps: expected at least 4, the step of the newest checkpoint, got 3; "
            "use more steps, or choose a new --workdir\n"
        )
    assert stored(copy)["train"]["steps"] == 4


def test_other_keys_still_make_another_run(command, copy):
    _, err = command("train", "--workdir", copy, "--config.train.batch_size=8", code=2)
    assert "expected the experiment it already holds, got another: train.batch_size: 16 -> 8" in err
    _, err = command("train", "--workdir", copy, "--config.train.steps=8", "--config.seed=3", code=2)
    assert "seed: 0 -> 3" in err
    # A rate that only a file changes is a mistake rather than a wish.
    _, err = command(
        "train",
        "--config",
        "configs/phase_bridge/spiral.py",
        "--workdir",
        copy,
        *(f"--config.{key}={value}" for key, value in SETTINGS.items() if key != "optimizer.warmup"),
        code=2,
    )
    assert "add --config.optimizer.warmup=" in err and "to go on with that" in err


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer.learning_rate": "1e-05"},
        {"optimizer.name": "adam"},
        {"optimizer.clip_norm": "1e-3"},
        {"optimizer.schedule": "halving", "optimizer.halve_every": "2"},
    ],
    ids=lambda each: next(iter(each)),
)
def test_a_run_goes_on_with_another_optimizer(command, copy, changes):
    said = [f"--config.{key}={value}" for key, value in changes.items()]
    out, _ = command("train", "--workdir", copy, "--config.train.steps=6", *said)
    assert "changed from step 4 on: optimizer." in out
    (entry,) = stored(copy)["history"]
    assert entry["step"] == 4 and {each.partition(":")[0] for each in entry["changes"]} == {*changes, "train.steps"}
    # What was changed stays so without being said again, also before the next checkpoint.
    shutil.rmtree(copy / "checkpoints" / "6")
    before = numbers(copy)
    command("train", "--workdir", copy)
    assert numbers(copy) == before and len(stored(copy)["history"]) == 1
    if "optimizer.learning_rate" in changes:
        assert read_metrics(copy)[-1]["learning_rate"] == pytest.approx(1e-5)


def test_after_a_loss_that_is_not_finite_the_advised_command_goes_on(command, copy, monkeypatch):
    from phase_bridge import objectives

    honest = objectives.loss

    def loss(network, goal, variables, key, batch, **how):
        value, aux = honest(network, goal, variables, key, batch, **how)
        return value * jax.numpy.where(batch["progress"] * 12 >= 5, jax.numpy.inf, 1.0), aux

    with monkeypatch.context() as patch:
        patch.setattr(objectives, "loss", loss)
        _, err = command("train", "--workdir", copy, "--config.train.steps=12", code=1)
    rate = configs.read(copy).optimizer.learning_rate / 10
    advised = f"python -m phase_bridge train --workdir {copy} --config.optimizer.learning_rate={rate:g}"
    assert f"`{advised}` goes on from step 4" in err
    command(*advised.split()[3:])
    assert read_metrics(copy)[-1]["step"] == 12
    assert [each["changes"] for each in stored(copy)["history"]][1][0].startswith("optimizer.learning_rate: ")


def test_a_new_run_starts_from_the_parameters_of_another(command, trained, copy, tmp_path):
    own = tmp_path / "own"
    argv = new_run(own, train__steps=2, optimizer__learning_rate=0.0, seed=5)
    out, _ = command(*argv, "--init-from", copy)
    assert f"starts from {copy} (step 4): " in out
    # A rate of zero leaves the parameters; the average, which started from the source's, moves towards them.
    jax.tree.map(np.testing.assert_array_equal, restore_params(own, ema=False), restore_params(copy, ema=False))
    jax.tree.map(np.testing.assert_array_equal, restore_params(own, step=0), restore_params(copy))
    record = stored(own)["init_from"]
    assert record == {
        "path": str(copy),
        "step": 4,
        "weights": weights_digest((restore_params(copy, ema=False), restore_params(copy).params)),
        "partial": False,
    }
    # From its first checkpoint on it needs the other no more, with and without the flag.
    last = leaves(own, 2)
    shutil.rmtree(own / "checkpoints" / "2")
    shutil.rmtree(copy)
    command("train", "--workdir", own)
    assert leaves(own, 2) == last
    shutil.rmtree(own / "checkpoints" / "2")
    command(*argv, "--init-from", copy)
    assert leaves(own, 2) == last and stored(own)["init_from"] == record
    _, err = command(*argv, "--init-from", trained, code=2)
    assert f"--init-from {trained}: expected none, got {own}, a run that started from {copy}" in err


def test_a_run_without_checkpoint_remembers_where_it_starts(command, trained, tmp_path):
    own = tmp_path / "own"
    command(*new_run(own, train__steps=2), "--init-from", trained)
    last = leaves(own, 2)
    shutil.rmtree(own / "checkpoints")
    command("train", "--workdir", own)
    assert leaves(own, 2) == last


def test_a_step_of_a_run_and_its_config_can_be_named(command, trained, tmp_path):
    own = tmp_path / "own"
    command(
        "train",
        "--workdir",
        own,
        "--init-from",
        trained / "checkpoints" / "2",
        "--config",
        "configs/phase_bridge/spiral.py",
        *new_run(own)[5:],
        "--config.train.steps=2",
    )
    jax.tree.map(np.testing.assert_array_equal, restore_params(own, step=0), restore_params(trained, step=2))
    for place in (trained, trained / "checkpoints" / "2"):
        out, _ = command("train", "--workdir", tmp_path / "other", "--init-from", place, "--dry-run")
        assert "run: 4 steps of 16 examples" in out and not (tmp_path / "other").exists()


def test_what_does_not_fit_is_listed(command, trained, tmp_path):
    given, wanted = _shapes({}), _shapes({"model.depth": 2})
    new = sorted(wanted.keys() - given.keys())
    different = sorted(name for name in wanted.keys() & given.keys() if wanted[name] != given[name])
    assert new and different
    for flags in ((), ("--dry-run",)):
        _, err = command(*new_run(tmp_path / "own", model__depth=2), "--init-from", trained, *flags, code=2)
        assert f"expected the arrays of this run, got {len(new) + len(different)} that differ" in err
        assert all(f"{name}: only in this run" in err for name in new)
        assert all(f"{name}: {given[name]} -> {wanted[name]}" in err for name in different)
    assert not (tmp_path / "own").exists()
    out, _ = command(*new_run(tmp_path / "own", model__depth=2, train__steps=2), "--init-from", f"{trained}:partial")
    (line,) = [each for each in out.splitlines() if each.startswith("starts from")]
    assert line.endswith(f"; random stay {', '.join(sorted(new + different))}")
    assert stored(tmp_path / "own")["init_from"]["random"] == sorted(new + different)
    one, other = (
        named_leaves(restore_params(workdir, ema=False, step=step)._asdict())
        for workdir, step in ((tmp_path / "own", 0), (trained, 4))
    )
    for name in wanted.keys() - {*new, *different}:
        np.testing.assert_array_equal(one[name], other[name])
    for name in different:
        assert list(one[name].shape) == wanted[name]


def _shapes(changes):
    """Returns the shapes of the parameters of the model of `SETTINGS` with changes, by name."""
    made = method.build(configs.load("configs/phase_bridge/spiral.py", {**SETTINGS, **changes}, base()))
    variables = jax.eval_shape(made.init, jax.random.key(0), {"data": np.zeros((1, 2), np.float32)})
    return {name: list(leaf.shape) for name, leaf in named_leaves(variables._asdict()).items()}


def test_nothing_to_start_from(command, tmp_path):
    for nothing in ("", ":partial"):
        _, err = command(*new_run(tmp_path / "own"), "--init-from", nothing, code=2)
        assert f'--init-from: expected a path, got "{nothing}"; name a run or a file of weights' in err
    _, err = command(*new_run(tmp_path / "own"), "--init-from", tmp_path / "none", code=2)
    assert f"--init-from {tmp_path}/none: expected a directory or a file, got none of that name" in err
    (tmp_path / "empty").mkdir()
    _, err = command(*new_run(tmp_path / "own"), "--init-from", tmp_path / "empty", "--dry-run", code=2)
    assert "expected checkpoints in checkpoints/, got none" in err


@pytest.fixture
def weights(tmp_path):
    """A file of weights as the authors of gahb release them, and the variables in it."""
    from safetensors.numpy import save_file

    from gahb.import_weights import export
    from gahb.networks import UNet, init

    network = UNet(num_kernels=4, num_blocks=1, channels=1)
    variables = init(network, jax.random.key(7), np.zeros((1, 16, 16, 1), np.float32))
    save_file(export(network, variables), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors", variables


def test_imported_weights_are_fine_tuned(command, weights, tmp_path):
    path, variables = weights
    fixed = ["--config", "tests/gahb/tiny.py", "--config.optimizer.learning_rate=0.0", "--config.optimizer.warmup=1"]
    fixed += ["--config.train.steps=2"]
    command("import-weights", path, "--workdir", tmp_path / "same", app=GAHB)
    command("train", "--workdir", tmp_path / "same", *fixed, "--dry-run", app=GAHB)
    out, _ = command("train", "--workdir", tmp_path / "same", *fixed, app=GAHB)
    assert "trained to step 2 of 2" in out and "starts from" in out
    command("train", "--workdir", tmp_path / "new", *fixed, "--init-from", tmp_path / "same/checkpoints/0", app=GAHB)
    command("train", "--workdir", tmp_path / "file", *fixed, "--init-from", path, app=GAHB)
    for name in ("same", "new", "file"):
        found = restore_params(tmp_path / name, ema=False)
        # Weight decay is scaled by the learning rate, so nothing moves but the running deviations.
        jax.tree.map(np.testing.assert_array_equal, found.params, jax.tree.map(np.asarray, variables.params))
        assert stored(tmp_path / name)["init_from"]["step"] == 0
    _, err = command(
        "train",
        "--workdir",
        tmp_path / "other",
        *fixed,
        "--config.model.num_kernels=2",
        "--init-from",
        path,
        "--dry-run",
        code=2,
        app=GAHB,
    )
    assert "expected the arrays of this run" in err


def test_a_dry_run_finds_checkpoints_of_another_model(command, copy):
    """As after a change of the code: the config is the same, the arrays are not."""
    import common.checkpoint.manifest as manifests

    state = manifests.named_leaves  # the names that a newer network would give its arrays
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifests, "named_leaves", lambda tree: {f"{n}_": leaf for n, leaf in state(tree).items()})
        _, err = command("train", "--workdir", copy, "--dry-run", code=2)
    assert "expected the arrays of this run, got" in err


def test_a_dry_run_finds_damaged_checkpoints(command, copy):
    for path in (copy / "checkpoints").rglob("*"):
        if path.is_file() and path.name != ".lock":
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    _, err = command("train", "--workdir", copy, "--dry-run", code=2)
    assert "expected at least one that is whole" in err


def test_a_dry_run_needs_what_tracking_needs(command, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    _, err = command(*new_run(tmp_path / "run", train__tracking="wandb"), "--dry-run", code=2)
    assert 'config.train.tracking: expected "" or an installed wandb' in err


def test_a_preempted_run_goes_on_in_weights_and_biases(command, copy, monkeypatch):
    opened, logged = [], []
    run = types.SimpleNamespace(log=lambda values, step: logged.append((step, values)), finish=lambda: None)
    fake = types.SimpleNamespace(init=lambda **how: opened.append(how) or run)
    monkeypatch.setitem(__import__("sys").modules, "wandb", fake)
    for steps in (6, 8):
        command("train", "--workdir", copy, f"--config.train.steps={steps}", "--config.train.tracking=wandb")
    assert len(opened) == 2 and opened[0]["id"] == opened[1]["id"] and opened[0]["resume"] == "allow"
    assert [each["config"]["train"]["steps"] for each in opened] == [6, 8]
    assert [step for step, _ in logged] == [6, 8] and logged[0][1]["loss"] > 0


def test_held_out_loss(command, tmp_path):
    changes = {"train__evaluate_every": 2, "train__evaluate_batches": 3, "optimizer__learning_rate": 0.0}
    changes |= {"ema__decay": 0.5, "ema__warmup": False}  # halves of equal numbers add up to them exactly
    workdir = tmp_path / "run"
    command(*new_run(workdir, **changes, data__points=64))
    lines = [each for each in numbers(workdir) if "held_out_loss" in each]
    assert [each["step"] for each in lines] == [2, 4] and all(set(each) == {"step", "held_out_loss"} for each in lines)
    # The parameters stay as they are, so the same batches with the same noise have the same loss.
    assert lines[0]["held_out_loss"] == lines[1]["held_out_loss"]
    config = configs.read(workdir)
    made, variables = method.build(config), restore_params(workdir)
    root = key_for(jax.random.key(config.seed), Purpose.HELD_OUT)
    from common.data.batches import make_batches

    batches = make_batches(made.sources()["test"], batch_size=16, seed=config.seed, augment=made.augment)
    position = np.arange(16, dtype=np.int32)
    expected = []
    for number in range(3):
        fetched = jax.tree.map(lambda x: x[0], batches.fetch(number))
        key = jax.random.fold_in(root, fetched["step"])
        augment_key, loss_key = jax.random.split(key)
        batch = batches.assemble(batches.resident, fetched, position, augment_key)
        batch |= {"position": position, "progress": np.float32(0)}
        expected.append(float(made.loss(variables, loss_key, batch)[0]))
    np.testing.assert_allclose(lines[0]["held_out_loss"], np.mean(expected), rtol=1e-5)


def test_held_out_loss_changes_no_number_of_the_run(command, trained, copy):
    shutil.rmtree(copy / "checkpoints" / "4")
    command("train", "--workdir", copy, "--config.train.evaluate_every=2")
    assert leaves(copy, 4) == leaves(trained, 4)
    assert [each for each in numbers(copy) if "loss" in each] == numbers(trained)


def test_both_back_ends_have_the_same_held_out_loss(command, tmp_path):
    found = []
    for parallel in ("jit", "pmap"):
        command(*new_run(tmp_path / parallel, train__evaluate_every=4, parallel=parallel))
        found.append(next(each["held_out_loss"] for each in numbers(tmp_path / parallel) if "held_out_loss" in each))
    np.testing.assert_allclose(*found, rtol=1e-5)


def test_a_profile_is_written(command, tmp_path):
    out, _ = command(*new_run(tmp_path / "run"), "--profile", 2)
    (line,) = [each for each in out.splitlines() if each.startswith("profile of 2 steps: ")]
    directory = tmp_path / "run" / "profile"
    assert line.split()[4].startswith(str(directory))
    assert list(directory.rglob("perfetto_trace.json.gz")) and list(directory.rglob("*.xplane.pb"))
    for number, message in (
        (0, "expected at least 1, got 0"),
        (4, "expected 1 to 3, the steps that follow"),
    ):
        _, err = command(*new_run(tmp_path / "other"), "--profile", number, "--dry-run", code=2)
        assert f"--profile: {message}" in err


def test_dry_runs_of_several_models_open_their_data(command, tmp_path):
    argv = ["classes", "--config", "tests/gahb/experiments/tiny_classes.py", "--workdir", tmp_path / "run", "--dry-run"]
    _, err = command(*argv, f"--config.data.source=npz:{tmp_path}/none.npz", code=2, app=GAHB)
    assert "none.npz" in err
    argv = ["compare", "--config", "configs/phase_bridge/spiral.py", "--workdir", tmp_path / "run", "--dry-run"]
    _, err = command(*argv, "--config.train.batch_size=0", code=2)
    assert "config.train.batch_size: expected 1 to 2147483647, got 0; use 1 or more" in err


def test_dry_runs_refuse_what_runs_refuse(command, trained, tmp_path):
    for argv, message in (
        (["sample", "--num", 2, "--type", "int8"], '--type: expected one of "uint8", "float32", got "int8"'),
        (["evaluate", "--config.evaluate.nfe=(3, 0)"], "config.evaluate.nfe: expected at least 1, got 0"),
    ):
        for flags in ((), ("--dry-run",)):
            _, err = command(*argv, "--workdir", trained, *flags, code=2)
            assert message in err
    argv = ["train", "--config", "tests/gahb/tiny.py", "--workdir", tmp_path / "run", "--config.train.steps=2"]
    argv += ["--config.optimizer.warmup=1"]
    command(*argv, app=GAHB)
    for flags in ((), ("--dry-run",)):
        argv = ["restore", "--workdir", tmp_path / "run", f"--config.data.source=npz:{tmp_path}/none.npz", *flags]
        assert "none.npz" in command(*argv, code=2, app=GAHB)[1]
