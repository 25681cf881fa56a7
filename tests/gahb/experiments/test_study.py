"""The generalisation study from end to end: its sets, its measures, its interruptions and its figures."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from common import config as configs
from common.checkpoint import restore_params, restore_variables
from common.cli.dispatch import main
from common.data.source import choose
from common.errors import InputError
from common.io import results
from common.prng import Purpose, key_for
from common.sampling import weights_digest
from configs.gahb.base import base
from gahb.__main__ import APP
from gahb.experiments.study_plan import build, config_of, images
from gahb.method import build as build_method
from gahb.method import build_network
from gahb.metrics.generalisation import ORIGINS
from gahb.metrics.psnr import psnr_curve
from gahb.networks import denoiser

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = pathlib.Path(__file__).with_name("tiny_study.py")
VOLATILE = ("wall_s", "created")


def make_images(path):
    """Pictures of 4x4 squares; two of the test images are training images."""
    drawn = np.random.default_rng(0).random((20, 4, 4, 1), np.float32).repeat(3, axis=1).repeat(3, axis=2)
    np.savez(path, train=drawn[:12], test=drawn[10:])
    return drawn[:12], drawn[12:]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "images.npz"
    train, new = make_images(path)
    return path, train, new


def arguments(data, workdir, *more):
    source = f"--config.data.source=npz:{data[0]}"
    return ["study", "--config", str(CONFIG), "--workdir", str(workdir), source, *more]


@pytest.fixture(scope="module")
def study(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("study")
    assert main(arguments(data, workdir), APP) == 0
    return workdir


def config(data, **changes):
    return configs.load(CONFIG, {"data.source": f"npz:{data[0]}", **changes}, base())


def measured(workdir):
    """Returns everything that two runs of the study must have in common."""
    found = {}
    for path in sorted((workdir / "results").glob("study-*.json")):
        numbers, arrays = results.read(path)
        found[path.name] = ({key: numbers[key] for key in numbers if key not in VOLATILE}, arrays)
    return found


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, (numbers, arrays) in first.items():
        assert numbers == second[name][0]
        assert arrays.keys() == second[name][1].keys()
        for key, array in arrays.items():
            np.testing.assert_array_equal(array, second[name][1][key], err_msg=key)


def result(workdir, size):
    (path,) = (workdir / "results").glob(f"study-N-{size:05d}-*.json")
    return results.read(path)


def unit(images):
    flat = images.reshape(len(images), -1).astype(np.float64)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def test_all_sets_are_disjoint(data):
    _, train, new = data
    plan = build(config(data))
    training, held_out, dropped = images(APP, config(data), plan)
    assert dropped <= 2 and len(held_out) == 6
    held_out_bytes = {each.tobytes() for each in held_out}
    sets = [{each.tobytes() for each in half} for half in training]
    assert not (sets[0] & sets[1] or sets[0] & held_out_bytes or sets[1] & held_out_bytes)
    assert [len(each) for each in sets] == [2, 2]
    for half in (1, 2):
        for part in plan.parts:
            own = build_method(config_of(config(data), part, half)).sources()["train"]
            expected = train[choose(len(train), half=half, subset=part.size)]
            np.testing.assert_array_equal(np.stack([own[i]["image"] for i in range(len(own))]), expected)
            np.testing.assert_array_equal(training[half - 1][: part.size], expected)


def test_training_images_are_not_held_out(data):
    whole = config(data, **{"study.sizes": "(6,)", "study.num_images": 100})
    _, held_out, dropped = images(APP, whole, build(whole))
    assert dropped == 2
    np.testing.assert_array_equal(held_out, data[2])


def test_near_duplicates_of_training_images_are_not_held_out(data, tmp_path):
    """Brighter copies, copies with a little noise, and negatives are no new images."""
    noise = np.random.default_rng(1).normal(0, 0.005, data[1].shape)
    near = [0.2 + 0.7 * data[1][:2], data[1][2:4] + noise[2:4], 1 - data[1][4:6]]
    np.savez(tmp_path / "images.npz", train=data[1], test=np.concatenate([*near, data[2]]).clip(0, 1).astype("f4"))
    whole = config([tmp_path / "images.npz"], **{"study.sizes": "(6,)", "study.num_images": 100})
    _, held_out, dropped = images(APP, whole, build(whole))
    assert dropped == 6
    np.testing.assert_array_equal(held_out, data[2])


def test_halves_that_share_an_image_are_refused(tmp_path):
    drawn = np.random.default_rng(0).random((3, 12, 12, 1), np.float32)
    np.savez(tmp_path / "images.npz", train=np.repeat(drawn[:2], 2, axis=0), test=drawn[2:])
    twice = config([tmp_path / "images.npz"], **{"study.sizes": "(2,)"})
    with pytest.raises(InputError, match="drop_duplicates=true"):
        images(APP, twice, build(twice))


def test_models_are_ordinary_runs(study, data):
    for size in (1, 2):
        for half in (1, 2):
            folder = study / f"N-{size:05d}" / str(half)
            weights = weights_digest(restore_variables(folder)[0])
            assert json.loads((folder / "trained.json").read_text()) == {"step": 80, "weights": weights, "size": size}
            assert (folder / "checkpoints" / "80").is_dir()
    seeds = [config_of(config(data, seed=3), build(config(data)).parts[0], half).seed for half in (1, 2)]
    assert seeds == [6, 7]


@pytest.mark.parametrize("size", [1, 2])
def test_measures_from_the_arrays(study, data, size):
    numbers, arrays = result(study, size)
    converged = arrays["converged"]
    assert converged.shape == (2, 5) and converged.any(1).all(), "the test needs samples"
    assert numbers["converged"] == {"models": converged.sum(1).tolist(), "both": converged.all(0).sum(), "of": 5}
    training = [data[1][choose(12, half=half, subset=size)] for half in (1, 2)]
    pixels = numbers["similarity"]["pixels"]
    alike = (unit(arrays["samples"][0]) * unit(arrays["samples"][1])).sum(1)
    np.testing.assert_allclose(arrays["similarity.pixels.pair"], alike, atol=1e-6)
    assert pixels["pair"]["mean"] == pytest.approx(alike[converged.all(0)].mean(), abs=1e-6)
    for m in range(2):
        matrix = unit(arrays["samples"][m]) @ unit(training[m]).T
        np.testing.assert_allclose(arrays["similarity.pixels.nearest"][m], matrix.max(1), atol=1e-6)
        np.testing.assert_array_equal(arrays["nearest"][m], training[m][matrix.argmax(1)])
        other = unit(arrays["samples"][m]) @ unit(training[1 - m]).T
        np.testing.assert_allclose(arrays["similarity.pixels.nearest_other_set"][m], other.max(1), atol=1e-6)
        control = unit(arrays["held_out"]) @ unit(training[m]).T
        np.testing.assert_allclose(arrays["similarity.pixels.held_out"][m], control.max(1), atol=1e-6)
    assert pixels["nearest"]["count"] == converged.sum() and pixels["held_out"]["count"] == 12


def test_patch_origins_by_brute_force(study, data):
    numbers, arrays = result(study, 2)
    for m in range(2):
        training = data[1][choose(12, half=m + 1, subset=2)]
        for i, sample in enumerate(arrays["samples"][m]):
            origins, values = [], []
            for row in (0, 4, 8):
                for column in (0, 4, 8):
                    cut = np.s_[:, row : row + 4, column : column + 4]
                    alike = unit(sample[None][cut]) @ unit(training[cut]).T
                    origins.append(alike.argmax())
                    values.append(alike.max())
            np.testing.assert_array_equal(arrays[f"patches.samples.{m}.index"][i], origins)
            np.testing.assert_allclose(arrays[f"patches.samples.{m}.value"][i], values, atol=1e-5)
    fractions = numbers["origins"]["samples"]["fractions"]
    chosen = arrays["origin.samples"][arrays["converged"]]
    assert fractions == {name: (chosen == i).mean() for i, name in enumerate(ORIGINS)}
    assert sum(fractions.values()) == pytest.approx(1)


def test_curves_and_gap(study, data):
    """The test curve once more from the checkpoint, the gap from the curves."""
    numbers, arrays = result(study, 2)
    sigma = arrays["psnr.test.0.sigma"]
    np.testing.assert_allclose(-20 * np.log10(sigma), [20, 10, 0])
    part = build(config(data)).parts[1]
    noise_key, _ = jax.random.split(key_for(jax.random.key(0), Purpose.EVALUATE))
    errors = []
    for m in range(2):
        own = config_of(config(data), part, m + 1)
        denoise = denoiser(restore_params(study / part.name / str(m + 1)), build_network(own))
        key = jax.random.fold_in(noise_key, 1)
        curve = psnr_curve(denoise, arrays["held_out"], sigma, key, batch_size=4)
        np.testing.assert_allclose(arrays[f"psnr.test.{m}.per_image"], curve.per_image, rtol=1e-6)
        errors.append(144 * 10 ** (-curve.per_image / 10))
        weights = np.array([sigma[1] - sigma[0], sigma[2] - sigma[0], sigma[2] - sigma[1]]) / 2 / (sigma[2] - sigma[0])
        difference = arrays[f"psnr.train.{m}.mean_psnr"] - arrays[f"psnr.test.{m}.mean_psnr"]
        told = numbers["gap"]["sigma"][m]
        assert told["mean"] == pytest.approx(weights @ difference)
        assert told["low"] < told["mean"] < told["high"]
    # Of two vectors, the squared distance lies within these bounds of their squared lengths.
    apart = arrays["scores.squared_distance"]
    low, high = (np.square(np.sqrt(errors[0]) + sign * np.sqrt(errors[1])) for sign in (-1, 1))
    assert (low * (1 - 1e-5) <= apart).all() and (apart <= high * (1 + 1e-5)).all()
    # The levels are 0.1, 0.32 and 1; sampling ends at 0.2, between the first two.
    values, x = apart / 144 / sigma[:, None] ** 2, np.log(sigma)
    start = np.log(0.2)
    between = values[0] + (start - x[0]) / (x[1] - x[0]) * (values[1] - values[0])
    area = (between + values[1]) / 2 * (x[1] - start) + (values[1] + values[2]) / 2 * (x[2] - x[1])
    told = numbers["scores"]
    assert told["disagreement"]["mean"] == pytest.approx((area / (x[2] - start)).mean()) and told["lowest"] == 0.2


def times(workdir, size, half):
    (path,) = (workdir / "results").glob(f"times-N-{size:05d}-{half}-*.json")
    return results.read(path)


def test_measures_over_training_time(study, data):
    """The last checkpoint once more from its weights; the ratios from the images."""
    numbers, arrays = times(study, 2, 1)
    assert numbers["steps"] == [20, 40, 60, 80][-len(numbers["steps"]) :] and len(numbers["steps"]) >= 2
    training = data[1][choose(12, half=1, subset=2)].astype(np.float64)
    own = config_of(config(data), build(config(data)).parts[1], 1, more={"sampler.num": 3})
    variables = restore_params(study / "N-00002" / "1")
    samples = build_method(own).sample(variables, key_for(jax.random.key(0), Purpose.SAMPLE))
    np.testing.assert_allclose(arrays["samples"][-1], samples.arrays["samples"], atol=1e-5)
    distances = np.sqrt(np.square(samples.arrays["samples"][:, None] - training).mean((2, 3, 4)))
    np.testing.assert_allclose(arrays["nearest"][-1], distances.min(1), rtol=1e-3)
    np.testing.assert_allclose(arrays["second_nearest"][-1], distances.max(1), rtol=1e-3)
    ratio = (distances.min(1) / distances.max(1))[arrays["converged"][-1]]
    assert numbers["memorised"][-1] == (pytest.approx((ratio < 1 / 3).mean()) if len(ratio) >= 1.5 else None)
    quality = np.mean(numbers["psnr_held_out"], axis=1)
    assert numbers["tau_gen"] == numbers["steps"][np.argmax(quality >= quality.max() - 0.25)]
    assert times(study, 1, 2)[0]["memorised"] == [None] * len(numbers["steps"])  # of one image there is no second


def test_measures_beside_machines(study, data):
    (path,) = (study / "results").glob("machines-N-00002-2-*.json")
    numbers, arrays = results.read(path)
    np.testing.assert_allclose(arrays["sigma"], 10 ** (-np.array([14.0, 2.0]) / 20))
    for split in ("train", "held_out"):
        assert set(numbers["explained"][split]) == {"empirical", "local", "equivariant", "wiener", "twin"}
        assert arrays[f"{split}.local.output"].shape == (2, 2)
        assert set(numbers["windows"][split]) <= {3, 5}
    assert np.isfinite(numbers["explained"]["held_out"]["twin"]["residual"]).all()
    assert len(numbers["implied_noise"]["implied"]) == 2


def test_measures_stopped_between_checkpoints(study, data, tmp_path):
    """What is there of a run's checkpoints is read, the rest measured; the same result."""
    copy = shutil.copytree(study, tmp_path / "study")
    for path in (copy / "results").glob("times-N-00002-1-*"):
        path.unlink()
    pieces = sorted((copy / "results" / "checkpoints").glob("N-00002-1-step-*.json"))
    pieces[0].unlink()
    before = {path: path.stat().st_mtime_ns for path in pieces[1:]}
    assert main(arguments(data, copy, "--measure-only"), APP) == 0
    assert {path: path.stat().st_mtime_ns for path in pieces[1:]} == before
    first, second = times(study, 2, 1), times(copy, 2, 1)
    assert {k: first[0][k] for k in first[0] if k not in VOLATILE} == {
        k: second[0][k] for k in second[0] if k not in VOLATILE
    }
    for key, array in first[1].items():
        np.testing.assert_array_equal(array, second[1][key], err_msg=key)


def test_measure_only_trains_nothing(data, tmp_path, capsys):
    assert main(arguments(data, tmp_path / "new", "--measure-only"), APP) == 0
    assert not list((tmp_path / "new").glob("N-*"))
    assert main(arguments(data, tmp_path / "new", "--measure-only", "--only", "1/1"), APP) == 2
    assert "--measure-only: expected no --only" in capsys.readouterr().err


def test_models_trained_on_other_images_are_refused(study, data, tmp_path, capsys):
    """The data beside a finished study have changed: it would be compared with images it was not trained on."""
    np.savez(tmp_path / "images.npz", train=data[1][::-1], test=data[2])
    copy = shutil.copytree(study, tmp_path / "study")
    source = f"npz:{tmp_path / 'images.npz'}"
    for path in copy.rglob("config.json"):
        path.write_text(path.read_text().replace(f"npz:{data[0]}", source))
    assert main(["study", "--workdir", str(copy)], APP) == 2
    assert "expected the data its checkpoint was trained on" in capsys.readouterr().err


def test_trajectories_lead_to_the_samples(study):
    _, arrays = result(study, 1)
    np.testing.assert_allclose(arrays["trajectory.frames"][:, -1], arrays["samples"][:, :2], atol=1e-4)


def test_done_parts_are_not_done_again(study, data, capsys):
    before = {path: path.stat().st_mtime_ns for path in (study / "results").iterdir()}
    assert main(arguments(data, study), APP) == 0
    assert {path: path.stat().st_mtime_ns for path in (study / "results").iterdir()} == before
    printed = capsys.readouterr().out
    assert "training N" not in printed and "held-out nearest" in printed


def test_interrupted_between_everything(study, data, tmp_path):
    """As if stopped after the first model's training, and in the middle of the second's."""
    copy = shutil.copytree(study, tmp_path / "study")
    for path in (copy / "results").glob("study-N-00002-*"):
        path.unlink()
    (copy / "N-00002" / "2" / "trained.json").unlink()
    shutil.rmtree(copy / "N-00002" / "2" / "checkpoints" / "80")
    assert main(arguments(data, copy, "--only", "2/2"), APP) == 0
    assert not list((copy / "results").glob("study-N-00002-*.json"))
    assert main(arguments(data, copy), APP) == 0
    assert_same(measured(study), measured(copy))


def test_dry_run(study, data, tmp_path, capsys):
    assert main(arguments(data, tmp_path / "new", "--dry-run"), APP) == 0
    printed = capsys.readouterr().out
    assert "6 held out" in printed and "N-00002" in printed
    assert not (tmp_path / "new").exists()


def test_figures_from_the_results_alone(study, tmp_path):
    shutil.copytree(study / "results", tmp_path / "results")
    assert main(["figures", "--workdir", str(tmp_path)], APP) == 0
    written = {path.name for path in (tmp_path / "figures").iterdir()}
    wanted = {"study-psnr", "study-gap", "study-bifurcation", "study-samples-N-00001", "study-trajectory-N-00002-1"}
    wanted |= {f"study-similarity-{feature}" for feature in ("pixels", "cosine", "gradients")}
    wanted |= {"study-times", "study-checkpoints-N-00002-1", "study-machines-output", "study-implied-noise"}
    assert {f"{name}.png" for name in wanted} <= written
    page = (tmp_path / "index.html").read_text()
    assert "From memory to generalisation" in page and "N = 2" in page
    assert "Memory over training time" in page and "Beside score machines" in page


def test_no_study_to_draw(tmp_path, capsys):
    assert main(["figures", "study-gap", "--workdir", str(tmp_path)], APP) == 2
    assert "expected results of a generalisation study" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("study.sizes=(2, 2)", "config.study.sizes: expected different numbers above 0"),
        ("study.steps=(1, 2, 3)", "config.study.steps: expected one number of steps, or 2"),
        ("study.patch=13", "config.study.patch: expected at most config.data.size=12"),
        ("study.windows=(3, 4)", "config.study.windows: expected odd numbers"),
        ("study.memorised_ratio=1.5", "config.study.memorised_ratio: expected a number between 0 and 1"),
        ("study.checkpoint_db=()", "config.study.checkpoint_db: expected at least one PSNR"),
        ("study.bootstrap=0", "config.study.bootstrap: expected at least 1"),
        ("data.flip=true", "config.data.flip: expected false"),
        ("data.fit=crop", "config.data.fit: expected whole images"),
        ("data.half=1", "config.data.half: expected 0"),
        ("study.sizes=(1, 7)", "config.data.subset: expected 0 (all) to 6"),
    ],
)
def test_bad_studies(data, tmp_path, capsys, change, message):
    assert main(arguments(data, tmp_path / "new", f"--config.{change}"), APP) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_another_study_is_refused(study, data, capsys):
    assert main(arguments(data, study, "--config.sampler.num=4"), APP) == 2
    assert "sampler.num: 5 -> 4" in capsys.readouterr().err
    assert main(arguments(data, study, "--only", "3/1"), APP) == 2
    assert "--only: expected one of 1/1, 1/2, 2/1, 2/2" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_random(study, data, tmp_path):
    chance = random.Random(5)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [sys.executable, "-m", "gahb", *arguments(data, tmp_path / "killed")]
    killed = 0
    while True:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if killed < 6:
            time.sleep(chance.uniform(3, 25))
            process.send_signal(signal.SIGKILL)
        output = process.communicate()[0]
        assert "Traceback" not in output, output
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, output
        killed += 1
    assert killed >= 1
    assert_same(measured(study), measured(tmp_path / "killed"))
