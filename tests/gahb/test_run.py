"""A whole run through the command line: train, resume, evaluate, sample, figures, and what others may rely on."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import gahb
from common import config as configs
from common.checkpoint import restore_params
from common.checkpoint.store import only_writer
from common.cli.dispatch import main
from common.errors import InputError
from common.io import results, row_store
from common.io.metrics_log import read_metrics
from common.sampling import StoredSamples
from gahb import figures, method
from gahb.__main__ import APP

pytestmark = pytest.mark.usefixtures("quick_compilation")

SETTINGS = {
    "data.fit": "none",
    "data.size": "8",
    "model.num_kernels": "2",
    "model.num_blocks": "1",
    "train.steps": "4",
    "train.batch_size": "4",
    "train.log_every": "2",
    "train.preview_every": "4",
    "ema.decay": "0.9",
    "checkpoint.every": "2",
    "evaluate.sigmas": "(0.1, 0.2)",
    "evaluate.curve_db": "(20, 10)",
    "evaluate.num_images": "3",
    "evaluate.panel_size": "0",
    "evaluate.wiener_images": "8",
    "sampler.num": "3",
    "sampler.max_steps": "5",
}


def command(*argv, code=0):
    assert main([str(each) for each in argv], APP) == code


def only(directory, pattern):
    """Returns the one path in `directory` that matches."""
    (path,) = directory.glob(pattern)
    return path


def new_run(directory, **changes):
    """Returns the arguments of a training command on a small file of images in `directory`."""
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1), np.uint8)
    np.savez(directory / "images.npz", train=images, test=images[:5] // 2)
    settings = {**SETTINGS, "data.source": f"npz:{directory}/images.npz", **changes}
    overrides = [f"--config.{key}={value}" for key, value in settings.items()]
    return ["train", "--config", "configs/gahb/photographs.py", "--workdir", directory / "run", *overrides]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run with one evaluation and one set of samples; tests that change it take a copy."""
    directory = tmp_path_factory.mktemp("run")
    command(*new_run(directory))
    workdir = directory / "run"
    command("evaluate", "--workdir", workdir)
    command("sample", "--workdir", workdir)
    return workdir


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_training_leaves_the_promised_files(trained):
    values = json.loads((trained / "config.json").read_text())
    assert values["train"]["steps"] == 4 and values["model"]["num_kernels"] == 2 and values["method"] == "gahb"
    records = read_metrics(trained)
    assert [each["step"] for each in records] == [2, 4]
    for key in ("loss", "psnr", "grad_norm", "learning_rate", "examples_per_s", "data_wait"):
        assert all(np.isfinite(each[key]) for each in records), key
    assert sorted(path.name for path in (trained / "checkpoints").iterdir() if path.name.isdigit()) == ["2", "4"]
    assert [path.name for path in (trained / "previews").iterdir()] == ["noisy-denoised-clean-00000004.png"]


def test_the_same_command_changes_nothing_when_done(copy, capsys):
    before = (copy / "metrics.jsonl").read_text()
    command("train", "--workdir", copy)
    assert "trained to step 4 of 4" in capsys.readouterr().out
    assert (copy / "metrics.jsonl").read_text() == before


def test_resumed_run_equals_uninterrupted_one(trained, copy):
    shutil.rmtree(copy / "checkpoints" / "4")
    command("train", "--workdir", copy)
    for ema in (True, False):
        whole, resumed = (restore_params(each, ema=ema) for each in (trained, copy))
        jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    volatile = ("time", "examples_per_s", "data_wait")
    whole, resumed = (
        [{key: value for key, value in each.items() if key not in volatile} for each in read_metrics(workdir)]
        for workdir in (trained, copy)
    )
    assert whole == resumed


def test_resuming_between_calls_of_two_steps_meets_every_due_step(tmp_path):
    run = new_run(tmp_path, **{"train.steps": "6", "train.preview_every": "0", "checkpoint.every": "3"})
    command(*run)
    workdir = tmp_path / "run"
    whole, records = restore_params(workdir), read_metrics(workdir)
    shutil.rmtree(workdir / "checkpoints" / "6")
    command("train", "--workdir", workdir, "--config.train.steps_per_call=2", "--config.checkpoint.every=2")
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()) == ["3", "4", "6"]
    resumed = read_metrics(workdir)
    assert [each["step"] for each in resumed] == [2, 4, 6]
    # The mean at step 4 holds a step from before the interruption and one from after it.
    np.testing.assert_allclose([each["loss"] for each in resumed], [each["loss"] for each in records], rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), restore_params(workdir), whole)


def test_evaluation_result(trained):
    numbers, arrays = results.read(results.newest(trained / "results", "evaluate"))
    config = configs.read(trained)
    assert numbers["config_hash"] == configs.digest(config) and numbers["config_changes"] == []
    assert (numbers["seed"], numbers["step"], numbers["nfe"], numbers["num_images"]) == (0, 4, 1, 3)
    assert numbers["device"].endswith("cpu") and numbers["wall_s"] > 0 and numbers["versions"]["jax"] == jax.__version__
    assert [row["sigma"] for row in numbers["table"]] == [0.1, 0.2]
    assert arrays["panel.denoised"].shape == (2, 3, 8, 8, 1)


def test_results_are_a_function_of_checkpoint_and_seed(trained, copy):
    command("evaluate", "--workdir", copy)
    command("sample", "--workdir", copy)
    command("sample", "--workdir", copy, "--config.seed=1")
    for folder, name in (("results", "evaluate-step-4-seed-0-*.json"), ("samples", "step-4-seed-0-*.json")):
        (_, first), (_, again) = (results.read(only(each / folder, name)) for each in (trained, copy))
        assert first.keys() == again.keys()
        for key in first:
            np.testing.assert_array_equal(first[key], again[key])
    _, other = results.read(only(copy / "samples", "step-4-seed-1-*.json"))
    assert not np.array_equal(other["samples"], first["samples"])


def test_changes_to_the_config_are_told(copy, capsys):
    command("evaluate", "--workdir", copy, "--config.evaluate.num_images=2", "--dry-run")
    said = capsys.readouterr()
    assert said.err == "note: the config differs from the run's: evaluate.num_images: 3 -> 2\n"
    assert f"checked and writable: {copy}, with a whole checkpoint of step 4" in said.out
    command("evaluate", "--workdir", copy, "--config.evaluate.num_images=2", "--step", "2")
    numbers, _ = results.read(only(copy / "results", "evaluate-step-2-seed-0-*.json"))
    assert numbers["config_changes"] == ["evaluate.num_images: 3 -> 2"] and numbers["num_images"] == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["sample", "--step", "3"], "expected step 3, got steps [2, 4]; name one of those"),
        (
            ["sample", "--config.model.num_kernels=4"],
            "expected the config of its model, got another: model.num_kernels",
        ),
        (["train", "--config.train.batch_size=8"], "got another: train.batch_size: 4 -> 8"),
        (["import-weights", __file__], "expected an empty directory, got one that holds a run"),
        (["figures", "smaples"], 'figure: expected one of "training", "psnr", "denoising", "samples", '),
    ],
)
def test_refusals(trained, capsys, argv, message):
    command(*argv, "--workdir", trained, code=2)
    said = capsys.readouterr()
    assert message in said.err and said.err.startswith("error: ") and said.err.count("\n") == 1


def test_a_refused_second_run_leaves_the_config_of_the_first(copy, capsys):
    before = (copy / "config.json").read_bytes()
    with only_writer(copy / "checkpoints" / ".lock"):
        command("train", "--workdir", copy, "--config.train.log_every=4", code=2)
    assert "expected no other run that writes here, got one with pid" in capsys.readouterr().err
    assert (copy / "config.json").read_bytes() == before
    command("train", "--workdir", copy, "--config.train.log_every=4")
    assert configs.read(copy).train.log_every == 4


def test_data_that_changed_is_refused(copy, capsys, tmp_path):
    path = copy / "config.json"
    values = json.loads(path.read_text())
    np.savez(tmp_path / "other.npz", train=np.zeros((16, 8, 8, 1), np.uint8), test=np.zeros((5, 8, 8, 1), np.uint8))
    source = values["data"]["source"].removeprefix("npz:")
    kept = shutil.copy(source, tmp_path / "kept.npz")
    try:
        shutil.copy(tmp_path / "other.npz", source)
        command("train", "--workdir", copy, "--dry-run", code=2)
    finally:
        shutil.copy(kept, source)
    assert "expected the data its checkpoint was trained on" in capsys.readouterr().err


def test_samples(trained):
    numbers, arrays = results.read(only(trained / "samples", "step-4-seed-0-*.json"))
    assert numbers["num_samples"] == 3 and numbers["nfe"] == arrays["nfe"].max()
    assert arrays["samples"].shape == (3, 8, 8, 1)
    assert Image.open(only(trained / "samples", "step-4-seed-0-*.png")).size == (2 * 16 + 2, 2 * 16 + 2)


def test_denoiser_from_a_workdir(trained):
    denoise = gahb.load_denoiser(trained)
    y = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    network, variables = method.load(trained)
    np.testing.assert_array_equal(denoise(y), gahb.denoiser(variables, network)(y))
    np.testing.assert_allclose(denoise(3.0 * y), 3.0 * denoise(y), rtol=1e-4, atol=1e-5)
    averaged, last = (restore_params(trained, ema=ema) for ema in (True, False))
    assert not np.array_equal(jax.tree.leaves(averaged.params)[0], jax.tree.leaves(last.params)[0])
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(denoise))


def test_denoiser_of_an_older_or_a_foreign_run(copy):
    path = copy / "config.json"
    values = json.loads(path.read_text())
    del values["model"]["first_layer_linear"]  # as if it had come later than this run
    path.write_text(json.dumps(values))
    y = np.ones((1, 8, 8, 1), np.float32)
    assert gahb.load_denoiser(copy)(y).shape == y.shape
    path.write_text(json.dumps({**values, "method": "other"}))
    with pytest.raises(InputError, match="expected a run of gahb, got one of other"):
        gahb.load_denoiser(copy)


def undrawn(capsys):
    """Returns the figures for which the one note says that there are no results."""
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith("note: no results yet for ")
    return set(note.removeprefix("note: no results yet for ").split(";")[0].split(", "))


def test_figures_and_page(copy, capsys):
    command("figures", "--workdir", copy)
    assert not undrawn(capsys) & {"training", "psnr", "denoising", "samples", "index"}
    for name in ("training", "psnr", "denoising-0", "denoising-2", "samples"):
        assert (copy / "figures" / f"{name}.png").stat().st_size > 500
    page = (copy / "index.html").read_text()
    numbers, _ = results.read(results.newest(copy / "results", "evaluate"))
    assert f"{numbers['table'][1]['denoised']:.2f}" in page and page.count("data:image/png") == 6


def test_figures_need_no_model(copy):
    """Only result files are read: the checkpoints may be gone."""
    shutil.rmtree(copy / "checkpoints")
    command("figures", "psnr", "--workdir", copy)
    before = (copy / "figures" / "psnr.png").read_bytes()
    command("figures", "psnr", "--workdir", copy)
    assert (copy / "figures" / "psnr.png").read_bytes() == before


def test_figures_without_results(copy, capsys):
    shutil.rmtree(copy / "samples")
    command("figures", "samples", "--workdir", copy, code=2)
    assert "expected samples, got none; run sample first" in capsys.readouterr().err
    command("figures", "--workdir", copy)
    assert "samples" in undrawn(capsys)
    with pytest.raises(InputError, match="expected training lines, got none"):
        figures.model.training(copy / "samples")


def test_describe(trained, capsys):
    command("describe", "--workdir", trained)
    text = capsys.readouterr().out
    config = configs.read(trained)
    count = sum(leaf.size for leaf in jax.tree.leaves(restore_params(trained).params))
    assert configs.digest(config) in text and '"num_kernels": 2' in text
    (total,) = (line for line in text.splitlines() if line.startswith("total") and "." not in line)
    assert total.split()[1] == f"{count:,}"
    for each in ("arithmetic per example: forward", "training step", "moving average", "optimizer", "MiB"):
        assert each in text, each


def test_many_samples_are_the_few_and_more(copy, capsys):
    few = results.read(only(copy / "samples", "step-4-seed-0-*.json"))[1]
    command("sample", "--workdir", copy, "--num", "5", "--type", "float32")
    (directory,) = (path for path in (copy / "samples").glob("many-step-4-seed-0-*") if path.is_dir())
    store = row_store.open_store(directory)
    found = store.load("samples", 5)
    np.testing.assert_allclose(found[:3], few["samples"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(store.load("nfe", 5)[:3], few["nfe"])
    numbers, _ = results.read(directory.with_suffix(".json"))
    assert numbers["num_samples"] == 5 and numbers["step"] == 4 and numbers["chunks"] == directory.name
    assert numbers["settings"]["sampler"]["max_steps"] == 5 and numbers["config_changes"] == []
    before = (directory / "chunk-000000.npz").read_bytes()
    command("sample", "--workdir", copy, "--num", "4", "--type", "float32")
    assert (directory / "chunk-000000.npz").read_bytes() == before
    capsys.readouterr()
    # As images, and with another sampler, they go elsewhere.
    command("sample", "--workdir", copy, "--num", "5")
    command("sample", "--workdir", copy, "--num", "5", "--config.sampler.h0=0.02")
    kinds = sorted(path for path in (copy / "samples").glob("many-*") if path.is_dir())
    assert len(kinds) == 3
    (images,) = (StoredSamples(each, num=5) for each in kinds if _kind(each) == "uint8" and not _changes(each))
    np.testing.assert_array_equal(images[2]["image"], np.round(np.clip(found[2], 0, 1) * 255).astype(np.uint8))


def _changes(directory):
    return results.read(directory.with_suffix(".json"))[0]["config_changes"]


def _kind(directory):
    return row_store.read_index(directory)["identity"]["type"]


def test_many_samples_go_on_after_a_kill(trained, copy, capsys):
    command("sample", "--workdir", copy, "--num", "6")
    (directory,) = (path for path in (copy / "samples").glob("many-*") if path.is_dir())
    whole = (directory / "chunk-000000.npz").read_bytes()
    (directory / "chunk-000000.npz").unlink()
    (directory / ".chunk-000000.npz-left").write_bytes(whole[:99])
    command("sample", "--workdir", copy, "--num", "6")
    assert (directory / "chunk-000000.npz").read_bytes() == whole
    assert "wrote 6 samples to" in capsys.readouterr().out
    for argv, message in (
        (["--num", "0"], "--num: expected at least 1, got 0"),
        (["--type", "uint8"], "--type: expected --num with it, got none"),
        (["--num", "2", "--type", "png"], '--type: expected one of "uint8", "float32", got "png"'),
    ):
        command("sample", "--workdir", copy, *argv, code=2)
        assert message in capsys.readouterr().err


def test_other_settings_stand_beside_the_first_result(copy):
    before = {path: path.read_bytes() for path in (*(copy / "results").iterdir(), *(copy / "samples").iterdir())}
    for flags in (["--config.evaluate.sigmas=(0.04,)"], ["--step", "2"], ["--no-ema"], ["--config.seed=1"]):
        command("evaluate", "--workdir", copy, *flags)
    for flags in (["--config.sampler.sigma_L=0.1"], ["--config.sampler.num=2"], ["--step", "2"], ["--no-ema"]):
        command("sample", "--workdir", copy, *flags)
    assert {path: path.read_bytes() for path in before} == before
    assert len(list((copy / "results").glob("evaluate-*.json"))) == len(list((copy / "samples").glob("*.json"))) == 5
    # How it is computed, and what it does not read, decide nothing: these rewrite the first result.
    command("evaluate", "--workdir", copy, "--config.parallel=pmap", "--config.train.log_every=1")
    command("sample", "--workdir", copy, "--config.evaluate.sigmas=(0.04,)")
    assert len(list((copy / "results").glob("evaluate-*.json"))) == len(list((copy / "samples").glob("*.json"))) == 5
    numbers, _ = results.read(only(copy / "results", "evaluate-step-2-seed-0-*.json"))
    settings = numbers["settings"]
    assert (settings["step"], settings["ema"], settings["seed"]) == (2, True, 0)
    assert settings["config"]["evaluate"]["sigmas"] == [0.1, 0.2] and "train" not in settings["config"]
    # The page lists all of them, and in what they differ.
    command("figures", "index", "--workdir", copy)
    page = (copy / "index.html").read_text()
    for path in (copy / "results").glob("evaluate-*.json"):
        assert path.stem in page
    assert "evaluate.sigmas=[0.04]" in page and "ema=false" in page and "sampler.num=2" in page


def test_new_data_under_the_same_path_make_another_result(copy, tmp_path):
    source = configs.read(copy).data.source.removeprefix("npz:")
    kept = shutil.copy(source, tmp_path / "kept.npz")
    try:
        np.savez(source, train=np.zeros((16, 8, 8, 1), np.uint8), test=np.zeros((5, 8, 8, 1), np.uint8))
        command("evaluate", "--workdir", copy)
    finally:
        shutil.copy(kept, source)
    assert len(list((copy / "results").glob("evaluate-*.json"))) == 2


def test_a_damaged_result_is_no_missing_one(copy, capsys):
    numbers, arrays = (only(copy / "results", f"evaluate-*.{ending}") for ending in ("json", "npz"))
    whole = {path: path.read_bytes() for path in (numbers, arrays)}
    for path, content in ((numbers, b"{"), (numbers, b"[" * 10**5), (arrays, b"PK"), (arrays, whole[arrays][:200])):
        path.write_bytes(content)
        command("figures", "--workdir", copy, code=2)
        said = capsys.readouterr()
        assert said.err.startswith(f"error: {numbers}: expected a ") and said.err.count("\n") == 1
        path.write_bytes(whole[path])
    arrays.unlink()
    command("figures", "psnr", "--workdir", copy, code=2)
    assert f"{numbers}: expected a readable result, got {arrays.name}: no such file" in capsys.readouterr().err
    values = json.loads(numbers.read_text())
    arrays.write_bytes(whole[arrays])
    numbers.write_text(json.dumps({name: each for name, each in values.items() if name != "table"}))
    command("figures", "--workdir", copy, code=2)
    assert f'error: {numbers}: expected "table", got only ' in capsys.readouterr().err
    numbers.write_bytes(whole[numbers])
    (copy / "metrics.jsonl").write_text('{"step": 1, "loss": 2}\n' + "[" * 10**5 + '\n{"step": 2, "loss": 1}\n')
    command("figures", "--workdir", copy, code=2)
    err = capsys.readouterr().err
    assert "metrics.jsonl:2: expected a JSON object with `step`, got '[[" in err and "; remove the line" in err


def test_a_smaller_number_of_samples_replaces_no_record(copy):
    command("sample", "--workdir", copy, "--num", "5")
    path = only(copy / "samples", "many-*.json")
    before = path.read_bytes()
    command("sample", "--workdir", copy, "--num", "3")
    assert path.read_bytes() == before and json.loads(before)["num_samples"] == 5
    command("sample", "--workdir", copy, "--num", "6")
    assert json.loads(path.read_text())["num_samples"] == 6
