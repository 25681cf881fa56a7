"""The comparison of classes: its plan, its measures on denoisers whose values are known, and the command."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import config as configs
from common.cli.dispatch import main
from common.errors import InputError
from common.io import results
from common.training.keys import Purpose, key_for
from configs.gahb.base import base
from gahb import manifolds, slopes
from gahb.__main__ import APP
from gahb.analysis import psnr_curve
from gahb.api import load_denoiser
from gahb.class_figures import NAMES
from gahb.class_measures import Settings, measure
from gahb.classes import build, config_of
from gahb.method import build as build_method
from gahb.method import spread, spread_indices

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = pathlib.Path(__file__).with_name("tiny_classes.py")
SETTINGS = Settings(curve_db=(40.0, 36.0, 30.0, 26.0, 20.0, 18.0, 4.0), top=6, probes=256, bootstrap=20)


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


@pytest.mark.parametrize("name", ["disks", "cone", "ray"])
def test_tangent_spaces_hold_the_derivatives_of_the_images(data, name):
    source = held_out(data, name)
    tangent = source.tangents([3])[0].reshape(manifolds.DIMENSIONS[name], -1)
    np.testing.assert_allclose(tangent @ tangent.T, np.eye(len(tangent)), atol=1e-5)
    image = source[3]["image"].ravel()
    if name == "ray":
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
    source = held_out(data, "ray")
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
    source = held_out(data, "cone")
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
    whole = config(data, **{"classes.names": '("calpha-1.5", "ray", "images", "shuffled")', "classes.levels": "(9.0,)"})
    plan = build(whole)
    made = {each.name: config_of(whole, each) for each in plan.members}
    assert made["calpha-1.5"].data.source == "calpha" and made["calpha-1.5"].synthetic.alpha == 1.5
    assert plan.members[0].alpha == 1.5 and plan.members[0].level == 9.0 and plan.members[1].alpha is None
    assert made["ray"].data.source == "ray" and made["ray"].synthetic.image == f"npz:{data}"
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
        ({"classes.levels": "(0.0,)"}, "config.classes.levels: expected one positive number"),
        ({"classes.top": "4"}, "config.classes.top: expected 5 to 256, got 4"),
        ({"evaluate.curve_db": "(30.0, 10.0, 6.0)"}, "config.evaluate.curve_db: expected two different levels"),
        ({"classes.moderate_db": "(18.0, 4.0)"}, "config.classes.moderate_db: expected (low, high)"),
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
        low, high = (curve.psnr_of_mean[np.abs(curve.input_psnr - db).argmin()] for db in (10, 16))
        assert numbers["moderate_slope"]["value"] == pytest.approx((high - low) / 6, rel=1e-4)
        assert numbers["step"] == 4 and numbers["class"] == name
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
    assert drawn == {json.loads(path.read_text())["class"] for path in (tmp_path / "results").glob("*.json")}
