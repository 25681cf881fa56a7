"""Inverse problems: what is measured stays, what is not is filled in, and the command writes what it says."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from PIL import Image

import gahb
from common.cli.dispatch import main
from common.errors import InputError
from common.io import results
from common.prng import Purpose, key_for
from gahb import inverse, operators
from gahb.__main__ import APP
from gahb.reference import empirical
from gahb.sampler_settings import SamplerSettings
from gahb.sampling import rms

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHAPE = (8, 8, 1)
KEY = jax.random.key(0)
LEVELS = np.geomspace(0.01, 2.0, 24)
SETTINGS = {"sigma_L": 0.02, "h0": 0.05, "beta": 0.3, "max_steps": 500}


def images(count=6):
    return (np.random.default_rng(0).uniform(size=(count, *SHAPE)) > 0.5).astype(np.float32)


def shrink(factor, y):
    return factor * y


@pytest.mark.parametrize("name", inverse.PROBLEMS)
def test_minimum_norm_agrees_and_nothing_nearer_does(name):
    operator = inverse.problems([name], KEY, SHAPE, fraction=0.3)[name]
    x, other = jnp.asarray(images(2)), jax.random.normal(KEY, (2, *SHAPE))
    m = operator.analyze(x)
    found = inverse.minimum_norm(operator, m, 0.5)
    np.testing.assert_allclose(operator.analyze(found), m, atol=1e-5)
    # Any other image that agrees differs by something that is not measured, which is orthogonal to found - 1/2.
    hidden = other - operators.project(operator, other)
    np.testing.assert_allclose(jnp.sum(hidden * (found - 0.5), (1, 2, 3)), 0, atol=1e-4)
    assert (rms(found + hidden - 0.5) > rms(found - 0.5)).all()


def test_random_problems_depend_on_key_and_name_alone():
    alone = inverse.problems(["random_pixels"], KEY, SHAPE)["random_pixels"]
    among = inverse.problems(inverse.PROBLEMS, KEY, SHAPE, fraction=0.1)["random_pixels"]
    other = inverse.problems(["random_pixels"], jax.random.key(1), SHAPE)["random_pixels"]
    ones = jnp.ones((1, *SHAPE))
    np.testing.assert_array_equal(alone.analyze(ones), among.analyze(ones))
    assert (alone.analyze(ones) != other.analyze(ones)).any()
    assert inverse.problems(["inpainting"], KEY, SHAPE, hole=0.5)["inpainting"].analyze(ones).sum() == 64 - 16


def test_with_the_memorising_prior_the_measured_image_comes_back():
    x = images()
    operator = inverse.problems(["inpainting"], KEY, SHAPE, hole=0.75)["inpainting"]
    arrays = inverse.restore(empirical(x, LEVELS), KEY, x[:3], operator, samples=2, **SETTINGS)
    assert arrays["converged"].all() and arrays["restored"].shape == (3, 2, *SHAPE)
    np.testing.assert_allclose(arrays["restored"], np.repeat(x[:3, None], 2, axis=1), atol=0.02)
    assert arrays["mismatch"].max() < 0.01
    assert (arrays["psnr"] > arrays["minimum_norm_psnr"][:, None] + 10).all()
    # The gray in the hole is wrong by 1/2 in 36 of 64 pixels.
    np.testing.assert_allclose(arrays["minimum_norm_psnr"], -10 * np.log10(36 / 64 / 4), rtol=1e-5)
    row = inverse.summary("inpainting", arrays)
    assert row["converged"] == "6/6" and row["gain"] == pytest.approx(row["restored"] - row["minimum_norm"])


@pytest.mark.parametrize(("size", "hole"), [(12, 0.25), (13, 0.25), (9, 0.4)])
def test_the_hole_has_the_side_asked_for(size, hole):
    operator = inverse.problems(["inpainting"], KEY, (size, size, 1), hole=hole)["inpainting"]
    lost = np.asarray(operator.analyze(jnp.ones((1, size, size, 1))))[0, ..., 0] == 0
    side = int(hole * size)
    assert lost.sum() == side**2 and lost.any(0).sum() == lost.any(1).sum() == side
    assert abs(np.argwhere(lost).mean(0) - (size - 1) / 2).max() <= 0.5


def test_batches_give_the_samples_of_one_run():
    x, counted = images(3), []
    operator = inverse.problems(["super_resolution"], KEY, SHAPE)["super_resolution"]
    denoise = Partial(shrink, jnp.float32(0.2))
    settings = SamplerSettings(sigma_L=0.3, hold=4)
    whole = inverse.restore(denoise, KEY, x, operator, settings, samples=2)
    parts = inverse.restore(denoise, KEY, x, operator, settings, samples=2, batch_size=4, add=counted.append)
    assert counted == [4, 2]
    for name, array in whole.items():
        np.testing.assert_allclose(parts[name], array, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("name", "fixed_step"),
    [("inpainting", True), ("super_resolution", False), ("random_basis", False), ("spectral", True)],
)
def test_imposing_the_measurement(name, fixed_step):
    x = jnp.asarray(images(2))
    operator = inverse.problems([name], KEY, SHAPE, fraction=0.3)[name]
    denoise = Partial(shrink, jnp.float32(0.2))
    settings = {"operator": operator, "measurement": operator.analyze(x), "sigma_L": 0.6, "h0": 0.2, "mean": 0.0}
    free, info = gahb.sample(denoise, KEY, (2, *SHAPE), fixed_step=fixed_step, **settings)
    imposed, same = gahb.sample(denoise, KEY, (2, *SHAPE), fixed_step=fixed_step, impose=True, **settings)
    np.testing.assert_allclose(operator.analyze(imposed), operator.analyze(x), atol=1e-5)
    assert np.abs(operator.analyze(free) - operator.analyze(x)).max() > 0.1
    # Only the measured part of the result changes.
    hidden = [each - operators.project(operator, each) for each in (free, imposed)]
    np.testing.assert_allclose(*hidden, atol=1e-5)
    for field in ("steps", "sigma", "converged", "nfe"):
        np.testing.assert_array_equal(info[field], same[field])


def test_both_ends_of_a_run_that_does_not_converge():
    operator = operators.inpainting(SHAPE, box=(4, 4, 4, 4))
    unfinished = inverse.restore(lambda y: 0.0 * y, KEY, images(2), operator, sigma_L=1e-6, max_steps=5)
    assert not unfinished["converged"].any() and (unfinished["steps"] == 5).all()
    away = inverse.restore(lambda y: -9.0 * y, KEY, images(2), operator, divergence=2.0, h0=0.5, beta=1.0)
    assert not away["converged"].any() and (away["steps"] < 5).all()


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        (["inpaint"], {}, 'problems: expected one of .* got "inpaint"; did you mean "inpainting"'),
        ([], {}, "problems: expected some of inpainting, .* got none"),
        (["super_resolution"], {"scale": 3}, "scale: expected a number that divides 8 and 8, got 3"),
        (["inpainting"], {"hole": 0.1}, "hole: expected a fraction of the side below 1, at least 2 pixels, got 0.1"),
        (["random_pixels"], {"fraction": 1.5}, r"fraction: expected a fraction in \(0, 1\]"),
        (["spectral"], {"fraction": 0.02}, "fraction: expected a fraction .* with a frequency of 8x8"),
    ],
)
def test_mistakes_are_named(names, settings, message):
    with pytest.raises(InputError, match=message):
        inverse.problems(names, KEY, SHAPE, **settings)


def test_a_basis_that_is_too_large():
    with pytest.raises(InputError, match="fraction: expected at most 4096 basis vectors of 65536 pixels, got 0.1"):
        inverse.check(["random_basis"], (256, 256, 1))
    inverse.check(["random_pixels"], (256, 256, 1))


def command(*argv, code=0):
    assert main([str(each) for each in argv], APP) == code


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny trained run on crops of a few larger pictures."""
    directory = tmp_path_factory.mktemp("restore")
    for split, count in (("train", 3), ("test", 4)):
        (directory / "images" / split).mkdir(parents=True)
        for i in range(count):
            pixels = np.random.default_rng(i).integers(0, 256, (24, 24), np.uint8)
            Image.fromarray(pixels).save(directory / "images" / split / f"{i}.png")
    settings = {
        "data.source": f"folder:{directory}/images",
        "data.size": 8,
        "model.num_kernels": 2,
        "model.num_blocks": 1,
        "train.steps": 2,
        "train.batch_size": 4,
        "train.preview_every": 0,
        "checkpoint.every": 2,
        "evaluate.panel_size": 0,
        "evaluate.restore.num": 2,
        "evaluate.restore.samples": 2,
        "evaluate.restore.fraction": 0.2,
        "evaluate.restore.baseline_steps": 4,
        "sampler.max_steps": 6,
        "sampler.sigma_L": 1e-9,
    }
    overrides = [f"--config.{key}={value}" for key, value in settings.items()]
    command("train", "--config", "configs/gahb/photographs.py", "--workdir", directory / "run", *overrides)
    return directory / "run"


def test_command_and_figures(run, capsys):
    command("restore", "--workdir", run, "--config.evaluate.restore.size=16", "--config.evaluate.restore.impose=true")
    said = capsys.readouterr().out
    assert "super_resolution" in said and "next: python -m gahb figures restore" in said
    numbers, arrays = results.read(results.newest(run / "results", "restore"))
    assert [row["problem"] for row in numbers["table"]] == list(inverse.PROBLEMS)
    assert numbers["num_images"] == 2 and numbers["step"] == 2 and numbers["nfe"] == 7
    assert any("restore.size: 0 -> 16" in each for each in numbers["config_changes"])
    assert arrays["original"].shape == (2, 16, 16, 1)
    assert list(numbers["baselines"]) == ["dps", "diffpir"]
    for solver, rows in numbers["baselines"].items():
        assert [row["problem"] for row in rows] == list(inverse.PROBLEMS)
        for row, ours in zip(rows, numbers["table"], strict=True):
            assert row["minimum_norm"] == ours["minimum_norm"]
            per_image = arrays[f"{row['problem']}.{solver}.psnr"].mean(1)
            assert row["restored"] == pytest.approx(per_image.mean())
            assert row["error"] == pytest.approx(per_image.std(ddof=1) / np.sqrt(2))
    assert "dps" in said and "super_resolution: 6 steps; 0 of 4 converged (0.00), 4 not a denoiser" in said
    centre = np.asarray(Image.open(json.loads((run / "config.json").read_text())["data"]["source"][7:] + "/test/0.png"))
    np.testing.assert_allclose(arrays["original"][0, ..., 0], centre[4:20, 4:20] / 255, atol=1e-6)
    for name in inverse.PROBLEMS:
        assert arrays[f"{name}.restored"].shape == (2, 2, 16, 16, 1)
        assert arrays[f"{name}.mismatch"].max() < 1e-5
    command("figures", "restore", "--workdir", run)
    for name in inverse.PROBLEMS:
        assert Image.open(run / "figures" / f"restore-{name}.png").size[0] > 100
    command("figures", "--workdir", run)
    assert "Linear inverse problems" in (run / "index.html").read_text()
    size = "--config.evaluate.restore.size=16"
    some = "--config.evaluate.restore.problems=('random_pixels',)"
    command("restore", "--workdir", run, size, some, "--config.evaluate.restore.impose=true")
    _, again = results.read(results.newest(run / "results", "restore"))
    assert again.keys() == {"original", *(name for name in arrays if name.startswith("random_pixels."))}
    for name, array in again.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)


def test_numbers_of_a_baseline_are_chosen_on_training_images(run):
    changes = {"problems": "('random_pixels',)", "baselines": "('diffpir',)", "tune_images": 2}
    changes |= {"diffpir_renewals": "(0.9, 0.2)", "size": 16}
    command(
        "restore", "--workdir", run, *(f"--config.evaluate.restore.{name}={each}" for name, each in changes.items())
    )
    numbers, arrays = results.read(results.newest(run / "results", "restore"))
    chosen = numbers["tuning"]["diffpir"]["random_pixels"]
    assert chosen["setting"] == "renewal" and chosen["tried"] == [0.9, 0.2] and chosen["num_images"] == 2
    assert chosen["chosen"] == chosen["tried"][int(np.argmax(chosen["psnr"]))]
    folder = json.loads((run / "config.json").read_text())["data"]["source"][7:]
    training = np.stack([np.asarray(Image.open(f"{folder}/train/{i}.png"))[4:20, 4:20, None] for i in (0, 1)])
    measure_key, key = (key_for(jax.random.key(0), each) for each in (Purpose.EVALUATE, Purpose.SAMPLE))
    operator = inverse.problems(["random_pixels"], measure_key, (16, 16, 1), fraction=0.2)["random_pixels"]
    settings = inverse.BaselineSettings(sigma_L=1e-9, steps=4)
    index = inverse.PROBLEMS.index("random_pixels")
    for renewal, psnr in zip(chosen["tried"], chosen["psnr"], strict=True):
        found = inverse.restore(
            gahb.load_denoiser(run),
            jax.random.fold_in(key, index),
            training,
            operator,
            settings._replace(renewal=renewal),
            solve=inverse.diffpir,
            samples=2,
        )
        assert psnr == pytest.approx(found["psnr"].mean(), abs=1e-3)
    (row,) = numbers["baselines"]["diffpir"]
    ours, theirs = (arrays[f"random_pixels.{name}psnr"].mean(1) for name in ("", "diffpir."))
    assert row["lead"] == pytest.approx((theirs - ours).mean())
    assert row["lead_error"] == pytest.approx((theirs - ours).std(ddof=1) / np.sqrt(2))
    assert row["ssim"] == pytest.approx(arrays["random_pixels.diffpir.ssim"].mean())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("problems=('inpaintng',)", 'config.evaluate.restore.problems: expected one of "inpainting"'),
        ("size=10", "expected a number that divides 10 and 10, got 4"),
        ("num=0", "config.evaluate.restore.num: expected at least 1, got 0"),
        ("baselines=('dsp',)", 'config.evaluate.restore.baselines: expected one of "dps", "diffpir", got "dsp"'),
        ("dps_weight=-1.0", "config.evaluate.restore.dps_weight: expected a positive number, got -1.0"),
        ("diffpir_renewal=2.0", "config.evaluate.restore.diffpir_renewal: expected a number in (0, 1], got 2.0"),
        ("baseline_steps=0", "config.evaluate.restore.baseline_steps: expected at least 1, got 0"),
        ("tune_images=-1", "config.evaluate.restore.tune_images: expected at least 0, got -1"),
    ],
)
def test_refusals(run, capsys, override, message):
    command("restore", "--workdir", run, f"--config.evaluate.restore.{override}", code=2)
    said = capsys.readouterr().err
    assert message in said and said.startswith("error: ") and said.count("\n") == 1


def test_candidates_are_checked(run, capsys):
    tuned = ("--workdir", run, "--config.evaluate.restore.tune_images=2")
    command("restore", *tuned, "--config.evaluate.restore.dps_weights=(0.3,-1.0)", code=2)
    assert "config.evaluate.restore.dps_weights: expected a positive number, got -1.0" in capsys.readouterr().err


def test_dry_run_writes_nothing(run, capsys):
    before = sorted((run / "results").glob("*"))
    command("restore", "--workdir", run, "--dry-run", "--config.seed=5")
    assert "nothing was compiled or written" in capsys.readouterr().out
    assert sorted((run / "results").glob("*")) == before


def test_figures_without_a_result(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    from gahb.figures.model import restoration

    with pytest.raises(InputError, match="expected the result of restore, got none; run restore first"):
        restoration(tmp_path)
