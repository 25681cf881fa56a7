"""`analyse` on a small run, from the command line to its figures, and the numbers it writes."""

import json
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

import gahb
from common.cli.dispatch import main
from common.errors import InputError
from common.io import results
from gahb.__main__ import APP
from gahb.eigenbasis import coefficients, effective_dimension, sure, top_k
from gahb.experiments import analyse
from gahb.experiments.analyse import survey
from gahb.figures import model

pytestmark = pytest.mark.usefixtures("quick_compilation")

run_module = runpy.run_path(str(Path(__file__).parents[1] / "test_run.py"))


def command(*argv, code=0):
    assert main([str(each) for each in argv], APP) == code


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("analysed")
    command(*run_module["new_run"](directory))
    command("analyse", "--workdir", directory / "run", "--levels", "0.1,0.4", "--top", 5, "--images", 3)
    return directory / "run"


def test_results_are_those_of_the_tools(workdir):
    numbers, arrays = results.read(results.newest(workdir / "results", "eigenbasis"))
    assert numbers["step"] == 4 and numbers["nfe"] is None and numbers["config_hash"]
    assert [row["sigma"] for row in numbers["table"]] == [0.1] * 3 + [0.4] * 3
    np.testing.assert_allclose(arrays["sigma"], [0.1, 0.4])
    assert arrays["vectors"].shape == (2, 3, 5, 8, 8, 1)
    denoise = gahb.load_denoiser(workdir)
    for s, i in ((0, 1), (1, 2)):
        y, row = arrays["noisy"][s, i], numbers["table"][3 * s + i]
        noise = (y - arrays["clean"][i]) / arrays["sigma"][s]
        np.testing.assert_allclose(noise, (arrays["noisy"][0, i] - arrays["clean"][i]) / 0.1, atol=1e-5)
        basis = top_k(denoise, y, 5)
        np.testing.assert_allclose(arrays["values"][s, i], basis.values, atol=1e-6)
        np.testing.assert_allclose(
            arrays["clean_coefficients"][s, i],
            coefficients(basis._replace(vectors=arrays["vectors"][s, i]), arrays["clean"][i]),
            atol=1e-5,
        )
        np.testing.assert_allclose(arrays["denoised"][s, i], denoise(y[None])[0], atol=1e-6)
        exact = effective_dimension(denoise, y)
        assert abs(row["trace"] - exact.trace.value) <= 5 * row["trace_error"] + 1e-3
        assert abs(row["squares"] - exact.squares.value) <= 5 * row["squares_error"] + 1e-3
        risk = sure(denoise, y, float(arrays["sigma"][s]))
        assert abs(row["sure"] - risk.value) <= 5 * row["sure_error"] + 1e-5
        assert row["homogeneity"] < 1e-5 and row["residual"] < 1e-3


def test_figures_are_drawn_from_the_result_alone(workdir, tmp_path):
    (tmp_path / "results").mkdir()
    for path in (workdir / "results").glob("eigenbasis*"):
        (tmp_path / "results" / path.name).write_bytes(path.read_bytes())
    command("figures", "eigenbasis", "--workdir", tmp_path)
    made = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert made == sorted(
        ["eigenbasis-coefficients.png", "eigenbasis-factors.png"]
        + [f"eigenbasis-{s}-{i}.png" for s in range(2) for i in range(3)]
    )
    command("figures", "index", "--workdir", workdir)
    assert "Eigenvectors at image 2" in (workdir / "index.html").read_text()
    assert model.eigenbasis_section(tmp_path / "figures") == []
    with pytest.raises(InputError, match="run analyse first"):
        model.read_eigenbasis(tmp_path / "figures")


def test_what_does_not_reach_the_tolerance_is_said(workdir):
    denoise, images = gahb.load_denoiser(workdir), np.random.default_rng(0).uniform(size=(1, 24, 24, 1))
    table, arrays = survey(denoise, images, [0.1], 3, jax.random.key(0), num=4, tolerance=1e-9, max_products=6)
    assert not table[0]["converged"] and table[0]["products"] == 6
    assert table[0]["residual"] == arrays["residuals"].max() > 1e-9


def test_a_survey_costs_one_linearisation_and_the_products_it_reports():
    calls = {"function": 0, "jvp": 0, "vjp": 0}

    def counted(name, result):
        def function(*arrays):
            calls[name] += len(arrays[-1])
            return result(arrays[-1])

        return function

    half = gahb.from_callback(**{name: counted(name, lambda v: v / 2) for name in calls})
    image = np.random.default_rng(0).uniform(size=(1, 6, 6, 1)).astype(np.float32)
    table, _ = survey(half, image, [0.1], 3, jax.random.key(0), num=16)
    assert table[0]["products"] == 36  # the whole Jacobian
    assert calls == {"function": 1, "jvp": 36 + 16 + 1, "vjp": 16}  # one product for the homogeneity
    row, key = table[0], jax.random.fold_in(jax.random.key(0), 1)
    y = (
        image[0]
        + np.float32(0.1) * np.asarray(jax.random.normal(jax.random.fold_in(jax.random.key(0), 0), image.shape))[0]
    )
    assert row["trace"] == pytest.approx(18) and row["squares"] == pytest.approx(9) and row["asymmetry"] == 0
    risk = sure(lambda y: y / 2, y, 0.1, key=key, num=16)
    assert (row["sure"], row["sure_error"]) == (pytest.approx(risk.value), pytest.approx(risk.error, abs=1e-9))


def test_dry_run_writes_nothing(workdir):
    before = sorted(workdir.rglob("*"))
    command("analyse", "--workdir", workdir, "--dry-run")
    assert sorted(workdir.rglob("*")) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--levels", "0.1;0.2"], "--levels: expected noise in (0, 1], for images in [0, 1]"),
        (["--levels", "0"], "got '0'; try 0.04,0.1,0.2"),
        (["--levels", "nan"], "got 'nan'; try 0.04,0.1,0.2"),
        (["--levels", "0.1,25"], "got '0.1,25'; 25/255 = 0.098"),
        (["--top", "65"], "--top: expected 1 to 64, got 65; use 64 or less"),
        (["--images", "0"], "--images: expected at least 1"),
        (["--probes", "1"], "--probes: expected at least 2"),
        (["--size", "16"], "--size: expected 0"),
        (["--workdir", "nowhere"], "nowhere"),
    ],
)
def test_mistakes(workdir, flags, message, capsys):
    command("analyse", "--workdir", workdir, *flags, code=2)
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and told[0].startswith("error: ") and message in told[0]


def test_the_result_is_json(workdir):
    path = results.newest(workdir / "results", "eigenbasis")
    assert json.loads(path.read_text())["table"][0]["image"] == 0
    assert analyse.parse_levels("1, 0.25") == [1.0, 0.25]


def test_other_levels_stand_beside_the_first(workdir):
    before = {path: path.read_bytes() for path in (workdir / "results").glob("eigenbasis-*")}
    command("analyse", "--workdir", workdir, "--levels", "0.04", "--top", 5, "--images", 1)
    assert {path: path.read_bytes() for path in before} == before
    (path,) = set((workdir / "results").glob("eigenbasis-*.json")) - set(before)
    settings = results.read(path)[0]["settings"]
    assert settings["sigmas"] == [0.04] and (settings["images"], settings["top"], settings["size"]) == (1, 5, 0)
    command("analyse", "--workdir", workdir, "--levels", "0.040", "--top", 5, "--images", 1)
    assert len(list((workdir / "results").glob("eigenbasis-*.json"))) == 2
