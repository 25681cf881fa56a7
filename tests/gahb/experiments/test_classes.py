"""The comparison of classes: its plan, its measures on denoisers whose values are known, and the command."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import config as configs
from common.cli.dispatch import main
from common.data.fitted import Fitted
from common.data.source import BadRecordError
from common.errors import InputError
from common.io import results
from common.prng import Purpose, key_for
from configs.gahb.base import base
from gahb.__main__ import APP
from gahb.datasets import manifolds
from gahb.experiments.classes import Settings, build, config_of, means, measure, settings_of
from gahb.figures.classes import NAMES, first_of_each, read, section
from gahb.method import build as build_method
from gahb.method import load_denoiser, spread, spread_indices
from gahb.metrics import psnr as slopes
from gahb.metrics.psnr import psnr_curve

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = pathlib.Path(__file__).with_name("tiny_classes.py")
CURVE = (40.0, 36.0, 30.0, 26.0, 20.0, 18.0, 4.0)
SETTINGS = Settings(curve_db=CURVE, window_db=(4.0, 18.0), top=6, probes=256, bootstrap=20)
OF_FILE = Settings(curve_db=(34.0, 30.0, 24.0, 20.0, 16.0, 10.0))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "images.npz"
    smooth = np.random.default_rng(0).random((20, 2, 2, 1), np.float32).repeat(8, axis=1).repeat(8, axis=2)
    np.savez(path, train=smooth[:12], test=smooth[12:])
    return path


def config(data, **changes):
    return configs.load(CONFIG, {"data.source": f"npz:{data}", **changes}, base())


def held_out(data, name):
    whole = config(data, **{"classes.names": f'("{name}",)'})
    return build_method(config_of(whole, build(whole).members[0])).sources()["test"]


def projection(space):
    """The denoiser that projects on the span of pictures `space [D, H, W, C]`."""
    rows, _ = jnp.linalg.qr(jnp.asarray(space).reshape(len(space), -1).T)
    return lambda y: ((y.reshape(len(y), -1) @ rows) @ rows.T).reshape(y.shape)


@pytest.mark.parametrize("name", ["disks", "sinusoids", "scaled_image"])
def test_tangent_spaces_hold_the_derivatives_of_the_images(data, name):
    source = held_out(data, name)
    tangent = source.tangents([3])[0].reshape(manifolds.DIMENSIONS[name], -1)
    np.testing.assert_allclose(tangent @ tangent.T, np.eye(len(tangent)), atol=1e-5)
    image = source[3]["image"].ravel()
    if name == "scaled_image":
        np.testing.assert_allclose(np.abs(tangent[0] @ image), np.linalg.norm(image), rtol=1e-5)
        return
    key = jax.random.fold_in(jax.random.key(2 * 0 + 1), 3)
    if name == "disks":
        parameters, render = manifolds.draw_disk(key, 16), lambda p: manifolds.render_disk(p, 16)
    else:
        parameters, render = manifolds.draw_sinusoid(key), lambda p: manifolds.render_sinusoid(p, 16)
    np.testing.assert_allclose(render(parameters).ravel(), image, atol=1e-6)
    for i in range(len(parameters)):
        step = 1e-3 * jnp.eye(len(parameters))[i]
        moved = np.asarray(render(parameters + step) - render(parameters - step)).ravel()
        outside = moved - tangent.T @ (tangent @ moved)
        assert np.linalg.norm(outside) <= 0.03 * np.linalg.norm(moved)


def test_only_manifolds_have_tangent_spaces(data):
    assert held_out(data, "calpha-2").tangents([0]) is None


def test_projecting_on_a_ray_is_the_best(data):
    source = held_out(data, "scaled_image")
    images, few = spread(source, 64), spread(source, 2)
    tangents = source.tangents(spread_indices(source, 2))
    denoise = projection(tangents[0])
    numbers, arrays = measure(denoise, images, few, SETTINGS, jax.random.key(0), sigma=0.04, tangents=tangents)
    # One squared normal number an image: its mean over 64 images is within 40 % of 1.
    assert abs(numbers["shortfall"]) < 10 * np.log10(1.4)
    assert abs(numbers["slope"]["value"] - 1) < 0.15 and numbers["best_slope"] == 1
    assert abs(numbers["trace"] - 1) < 0.3  # from random probes
    np.testing.assert_allclose(numbers["tangent"]["mean_square_cosine"], 1, atol=1e-5)
    np.testing.assert_allclose(arrays["angles"], 0, atol=2e-3)
    np.testing.assert_allclose(arrays["basis.values"][:, 0], 1, atol=1e-5)
    np.testing.assert_allclose(arrays["curve.best"] - arrays["curve.input_psnr"], 10 * np.log10(16 * 16))


def test_three_directions_for_a_class_of_two_cost_their_ratio(data):
    source = held_out(data, "sinusoids")
    images, few = spread(source, 64), spread(source, 1)
    angle = 2 * np.pi * np.arange(16)[:, None] / 16 + np.zeros((1, 16))
    space = np.stack([np.ones((16, 16)), np.cos(angle), np.sin(angle)])[..., None].astype(np.float32)
    tangents = source.tangents(spread_indices(source, 1))
    numbers, arrays = measure(
        projection(space), images, few, SETTINGS, jax.random.key(0), sigma=0.04, tangents=tangents
    )
    assert abs(numbers["shortfall"] - 10 * np.log10(3 / 2)) < 0.7
    assert abs(numbers["trace"] - 3) < 0.6  # from random probes
    np.testing.assert_allclose(arrays["basis.values"][0, :4], [1, 1, 1, 0], atol=1e-4)


def test_the_plan_names_ordinary_experiments(data):
    whole = config(
        data, **{"classes.names": '("calpha-1.5", "scaled_image", "images", "shuffled")', "classes.sigmas": "(0.04,)"}
    )
    plan = build(whole)
    made = {each.name: config_of(whole, each) for each in plan.members}
    assert made["calpha-1.5"].data.source == "calpha" and made["calpha-1.5"].synthetic.alpha == 1.5
    assert plan.members[0].alpha == 1.5 and plan.members[0].sigma == 0.04 and plan.members[1].alpha is None
    assert made["scaled_image"].data.source == "scaled_image" and made["scaled_image"].synthetic.image == f"npz:{data}"
    assert made["images"].data.source == made["shuffled"].data.source == f"npz:{data}"
    assert made["shuffled"].synthetic.shuffle and not made["images"].synthetic.shuffle
    assert {each.train.steps for each in made.values()} == {4}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes.names": "()"}, "config.classes.names: expected different names"),
        ({"classes.names": '("disks", "disks")'}, "config.classes.names: expected different names"),
        ({"classes.names": '("discs",)'}, 'config.classes.names: expected "calpha-A"'),
        ({"classes.names": '("calpha-0",)'}, 'config.classes.names: expected "calpha-A"'),
        ({"classes.steps": "(1, 2)"}, "config.classes.steps: expected one positive number, or 3"),
        ({"classes.names": '("calpha-2", "calpha-2.0")'}, "config.classes.names: expected different names"),
        ({"classes.names": '("disks", "calpha-1e1", "calpha-10")'}, "config.classes.names: expected different names"),
        ({"classes.sigmas": "(0.0,)"}, "config.classes.sigmas: expected one positive number"),
        ({"classes.sigmas": "(51.0,)"}, "config.classes.sigmas: expected one positive number"),
        ({"classes.seeds": "0"}, "config.classes.seeds: expected at least 1, got 0"),
        ({"classes.oracle_images": "-1"}, "config.classes.oracle_images: expected at least 0, got -1"),
        ({"classes.top": "4"}, "config.classes.top: expected 5 to 256, got 4"),
        ({"evaluate.curve_db": "(30.0, 10.0, 6.0)"}, "config.evaluate.curve_db: expected two different levels"),
        ({"classes.window_db": "(18.0, 4.0)"}, "config.classes.window_db: expected (low, high)"),
        ({"classes.probes": "1"}, "config.classes.probes: expected at least 2"),
    ],
)
def test_impossible_plans_are_refused(data, changes, message):
    with pytest.raises(InputError) as caught:
        build(config(data, **changes))
    assert str(caught.value).startswith(message)


@pytest.fixture(scope="module")
def compared(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("classes")
    assert main(arguments(data, workdir), APP) == 0
    return workdir


def result(workdir, name):
    (path,) = (workdir / "results").glob(f"classes-{name}-????????.json")
    return results.read(path)


def arguments(data, workdir, *more):
    return ["classes", "--config", str(CONFIG), "--workdir", str(workdir), f"--config.data.source=npz:{data}", *more]


def test_results_are_those_of_the_trained_models(data, compared):
    for name in ("calpha-2", "disks"):
        numbers, arrays = result(compared, name)
        source = held_out(data, name)
        key = jax.random.split(key_for(jax.random.key(0), Purpose.EVALUATE), 3)
        sigmas = 10 ** (-np.array((34.0, 30.0, 24.0, 20.0, 16.0, 10.0)) / 20)
        curve = psnr_curve(load_denoiser(compared / name), spread(source, 6), sigmas, key[0], batch_size=4)
        np.testing.assert_allclose(arrays["curve.per_image"], curve.per_image, rtol=1e-5)
        fit = slopes.fit_slope(curve.input_psnr, curve.per_image, key[1], resamples=20)
        assert numbers["slope"]["value"] == pytest.approx(fit.slope, rel=1e-4)
        low, high = (curve.psnr_of_mean[np.abs(curve.input_psnr - db).argmin()] for db in (16, 20))
        assert numbers["slope_in_window"]["value"] == pytest.approx((high - low) / 4, rel=1e-4)
        assert numbers["sigma"] == 0.1
        assert numbers["step"] == 4 and numbers["class"] == name
    assert numbers["oracle"] is None and numbers["nominal_slope"] is None
    assert numbers["tangent"]["dimension"] == 5 and arrays["tangents"].shape == (2, 5, 16, 16, 1)
    shuffled = result(compared, "shuffled")[1]
    np.testing.assert_array_equal(np.sort(shuffled["order"]), np.arange(256))


def test_what_is_done_is_not_done_again(data, compared, capsys):
    before = {path: path.stat().st_mtime_ns for path in compared.rglob("*.json")}
    assert main(arguments(data, compared), APP) == 0
    assert {path: path.stat().st_mtime_ns for path in compared.rglob("*.json") if path.name != "config.json"} == {
        path: when for path, when in before.items() if path.name != "config.json"
    }
    assert "training" not in capsys.readouterr().out


def test_another_comparison_is_refused(data, compared, capsys):
    assert main(arguments(data, compared, "--config.evaluate.batch_size=5"), APP) == 2
    assert "expected the comparison of classes it already holds" in capsys.readouterr().err


def test_seeds_may_be_added_later(data, compared):
    whole, more = (config(data, **{"classes.seeds": seeds}) for seeds in (1, 2))
    member = build(whole).members[0]
    sources = build_method(config_of(whole, member)).sources()
    assert settings_of(whole, member, sources, "w") == settings_of(more, member, sources, "w")
    assert main(arguments(data, compared, "--config.classes.seeds=2", "--dry-run"), APP) == 0


def test_results_of_an_earlier_version_are_named(tmp_path):
    old = {"class": "cone", "moderate_slope": {}, "step": 4, "seed": 0}
    results.write(tmp_path / "results", "classes-cone", numbers=old, arrays={"a": np.zeros(1)}, settings={})
    with pytest.raises(InputError, match="got those of an earlier version; run classes first"):
        NAMES["classes-slopes"](tmp_path)


def test_figures_come_from_the_result_files_alone(compared, tmp_path):
    (tmp_path / "results").mkdir()
    for path in (compared / "results").iterdir():
        (tmp_path / "results" / path.name).write_bytes(path.read_bytes())
    for name, draw in NAMES.items():
        if name == "classes-shuffled":
            with pytest.raises(InputError, match='expected classes "images" and "shuffled"'):
                draw(tmp_path)
            continue
        for path in draw(tmp_path):
            assert path.stat().st_size > 2000
    drawn = {path.stem.removeprefix("classes-basis-") for path in (tmp_path / "figures").glob("classes-basis-*")}
    assert drawn == {json.loads(path.read_text())["class"] for path in (tmp_path / "results").glob("classes-*.json")}


def test_the_oracle_is_measured_beside_the_denoiser(data, compared):
    numbers, arrays = result(compared, "calpha-2")
    source = held_out(data, "calpha-2")
    error = source.oracle_mse(spread_indices(source, 3), OF_FILE.sigmas)
    best = -10 * np.log10(error.mean(1))
    np.testing.assert_allclose(arrays["curve.best"], best, rtol=1e-6)
    assert numbers["nominal_slope"] == pytest.approx(2 / 3) and numbers["oracle"]["num_images"] == 3
    low, high = best[4], best[3]  # 16 and 20 dB
    assert numbers["oracle"]["slope_in_window"]["value"] == pytest.approx((high - low) / 4, rel=1e-6)
    gap = (best - arrays["curve.psnr_of_mean"])[[3, 4]].mean()
    assert numbers["oracle"]["gap_to_oracle"] == pytest.approx(gap, rel=1e-6) and gap > 0
    rows = {row["class"]: row for row in json.loads((compared / "results" / "class-means.json").read_text())["classes"]}
    assert rows["calpha-2"]["gap"] == numbers["oracle"]["gap_to_oracle"] and rows["disks"]["gap"] is None
    assert rows["calpha-2"]["error"] == numbers["slope"]["standard_error"]


def test_errors_are_over_seeds_where_there_are_several():
    def model(name, seed, slope):
        line = {"value": slope, "standard_error": 0.5}
        fits = {"slope": line, "slope_in_window": line, "nominal_slope": 0.5, "oracle": None}
        return {"class": name, "step": 4, **fits, "shortfall": None, "trace": 1.0 + seed, "tangent": None}

    several = [model("calpha-1", seed, slope) for seed, slope in enumerate((0.4, 0.6, 0.8))]
    many, one = means([*several, model("calpha-2", 0, 1.0)])
    assert many["seeds"] == 3 and many["slope"] == pytest.approx(0.6) and many["trace"] == 2.0
    assert many["error"] == many["error in window"] == pytest.approx(0.2 / np.sqrt(3))
    assert one["seeds"] == 1 and one["error"] == 0.5 and one["oracle"] is None and many["nominal"] == 0.5


def test_every_seed_is_a_run_of_its_own(data):
    whole = config(data, **{"classes.names": '("disks", "calpha-2")', "classes.seeds": 2, "seed": 5})
    members = build(whole).members
    assert [member.title for member in members] == ["disks", "disks-seed-1", "calpha-2", "calpha-2-seed-1"]
    experiments = [config_of(whole, member) for member in members]
    assert [each.seed for each in experiments] == [5, 6, 5, 6]
    assert len({each.synthetic.seed for each in experiments}) == 1


@pytest.mark.parametrize("flags", [["--dry-run"], []], ids=["dry", "run"])
def test_bad_data_is_known_before_anything_is_trained(tmp_path, flags, capsys):
    """The last class needs images that are not there, or that cannot be read."""
    folder, workdir = tmp_path / "images", tmp_path / "run"
    names = ["--config.classes.names=('disks', 'images')", "--config.data.fit=resize"]
    for source in (f"npz:{tmp_path}/none.npz", f"folder:{folder}"):
        argv = ["classes", "--config", str(CONFIG), "--workdir", str(workdir), f"--config.data.source={source}"]
        assert main([*argv, *names, *flags], APP) == 2
        assert capsys.readouterr().err.startswith("error: ")
        assert not (workdir / "disks").exists()
        folder.mkdir(exist_ok=True)
        for i in range(8):
            (folder / f"{i}.png").write_bytes(b"no picture")


def test_images_that_are_read_late_are_read_before_training(data, tmp_path, monkeypatch, capsys):
    """Large sets are not decoded when they are opened; those that will be measured are."""
    elements = Fitted.elements

    def broken(self, indices):
        if len(self) == 8 and 7 in indices:  # the last held-out image
            yield BadRecordError("images/7.png", "no image that can be read")
            return
        yield from elements(self, indices)

    monkeypatch.setattr(Fitted, "elements", broken)
    argv = arguments(data, tmp_path / "run", "--config.classes.num_images=8", "--dry-run")
    assert main([*argv, "--config.classes.names=('disks',)"], APP) == 0
    assert main([*argv, "--config.classes.names=('disks', 'shuffled')"], APP) == 2
    assert "images/7.png: no image that can be read" in capsys.readouterr().err


def test_a_dry_run_lists_the_models_and_writes_nothing(data, tmp_path, capsys):
    argv = arguments(data, tmp_path / "run", "--dry-run", "--config.classes.seeds=2")
    assert main(argv, APP) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("calpha-2" in line for line in lines) == 2 and not (tmp_path / "run").exists()


def test_measuring_shows_progress(data, tmp_path, capsys):
    argv = arguments(data, tmp_path, "--config.classes.names=('calpha-2',)", "--config.classes.steps=(1,)")
    assert main(argv, APP) == 0
    # Six levels, two images with a basis, three with an oracle.
    assert "measuring calpha-2: 11 of 11" in capsys.readouterr().err


def made_up(alpha, seed, slope):
    """Numbers and arrays of a model whose curve is a line, beside an oracle one dB above it."""
    x = np.array([34.0, 30.0, 24.0, 20.0, 16.0, 10.0])
    line = {"value": slope, "standard_error": 0.1, "intercept": 10.0, "from_db": 16.0, "to_db": 20.0}
    picture = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8, 1)
    numbers = {
        **results.provenance(config_hash="0", seed=seed, step=4, device="cpu", wall_s=1.0, nfe=1),
        "class": f"calpha-{alpha}",
        "batch_size": 4,
        "num_images": 6,
        "sigma": 0.1,
        "nominal_slope": 0.5,
        "best_slope": 0.4,
        "slope": line,
        "slope_in_window": line,
        "shortfall": None,
        "tangent": None,
        "trace": 3.0,
        "oracle": {"num_images": 3, "slope": line, "slope_in_window": {**line, "value": 0.4}, "gap_to_oracle": 1.0},
        "bases": [],
    }
    arrays = {
        "curve.input_psnr": x,
        "curve.psnr_of_mean": 10 + slope * x,
        "curve.best": 11 + 0.4 * x,
        "slope.local": np.full(5, slope),
        "slope.local_input_psnr": (x[1:] + x[:-1])[::-1] / 2,
        "slope.best": np.full(5, 0.4),
        "basis.values": np.ones((1, 6)),
        "basis.vectors": np.ones((1, 6, 8, 8, 1)),
        **{f"basis.{name}": picture for name in ("clean", "noisy", "denoised")},
    }
    return numbers, arrays


def test_the_page_has_means_over_seeds_and_the_oracle(tmp_path):
    for seed, slope in ((3, 0.5), (4, 0.7)):
        numbers, arrays = made_up(1, seed, slope)
        title = "classes-calpha-1" if seed == 3 else "classes-calpha-1-seed-1"
        results.write(tmp_path / "results", title, numbers=numbers, arrays=arrays, settings={"seed": seed})
    assert [each.numbers["seed"] for each in read(tmp_path)] == [3, 4]
    assert [each.numbers["seed"] for each in first_of_each(tmp_path)] == [3]
    text, table, *pictures = section(tmp_path)
    (row,) = table.rows
    values = dict(zip(table.columns, row, strict=True))
    assert values["seeds"] == 2 and values["in window"] == pytest.approx(0.6) and values["oracle"] == 0.4
    assert values["error in window"] == pytest.approx(0.1) and values["gap"] == 1.0 and values["nominal"] == 0.5
    assert any("σ = 0.1," in each.caption for each in pictures)
    assert (tmp_path / "figures" / "classes-slopes.png").stat().st_size > 2000
