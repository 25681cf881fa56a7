"""Figures: same numbers, same file; no global state."""

import matplotlib
import numpy as np
import pytest
from PIL import Image

from common.plots import plotting


def draw(path, scale=1.0):
    with plotting.figure(path, width=2, height=1.5) as axes:
        plotting.curves(axes, [0, 10, 20], {"a": [1, None, 3 * scale], "b": [2, 2, 2]}, xlabel="x", ylabel="y")
        plotting.identity(axes, [0, 20])
        return {line.get_label(): (line.get_xdata(), line.get_ydata()) for line in axes.get_lines()}


def test_same_numbers_same_file(tmp_path):
    for suffix in ("png", "pdf"):
        draw(tmp_path / f"1.{suffix}")
        draw(tmp_path / f"2.{suffix}")
        draw(tmp_path / f"3.{suffix}", scale=2.0)
        first, second, third = ((tmp_path / f"{i}.{suffix}").read_bytes() for i in (1, 2, 3))
        assert first == second != third


def test_what_is_drawn(tmp_path):
    drawn = draw(tmp_path / "x.png")
    np.testing.assert_array_equal(drawn["a"][1], [1, np.nan, 3])
    np.testing.assert_array_equal(drawn["noisy input"], [[0, 20], [0, 20]])
    assert Image.open(tmp_path / "x.png").size == (400, 300)


def test_losses_of_training_and_held_out_data(tmp_path):
    lines = [{"step": 2, "held_out_loss": 0.75}, {"step": 2, "loss": 1.0}, {"step": 4, "loss": None}]
    with plotting.figure(tmp_path / "x.png") as axes:
        plotting.losses(axes, lines, ylabel="loss", log=True)
        drawn = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
        assert [line.get_marker() for line in axes.get_lines()] == ["", "o"]  # one point needs a marker
        assert axes.get_yscale() == "log" and len(axes.get_legend().get_texts()) == 2
    assert drawn["held-out data"] == [[2, 0.75]] and drawn["training batches"][0] == [2, 1.0]
    with plotting.figure(tmp_path / "x.png") as axes:
        plotting.losses(axes, [{"step": 2, "loss": -1.0}], ylabel="loss", log=True)
        assert axes.get_yscale() == "linear" and axes.get_legend() is None


def test_no_global_state(tmp_path):
    before = dict(matplotlib.rcParams)
    with plotting.figure(tmp_path / "x.png") as axes:
        plotting.history(axes, [1, 2], [0.5, 0.25], ylabel="loss", log=True)
        assert axes.get_yscale() == "log"
    assert dict(matplotlib.rcParams) == before


def test_nothing_is_written_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), plotting.figure(tmp_path / "x.png"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_every_line_differs_in_more_than_colour():
    assert len(plotting.COLOURS) == len(set(plotting.MARKERS)) == len(set(map(str, plotting.DASHES)))


def test_panels_show_every_image(tmp_path):
    images = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 2, 2, 1)
    rows = {"noisy": images, "denoised": images[::-1]}
    plotting.panels(tmp_path / "x.png", rows, columns=["10", "25"], notes={"denoised": ["20 dB", "21 dB"]})
    pixels = np.asarray(Image.open(tmp_path / "x.png").convert("L"))
    for value in np.round(images.ravel() * 255).astype(int):
        assert (np.abs(pixels.astype(int) - value) <= 1).sum() > 100, value


def test_grid_of_pictures_and_numbers(tmp_path):
    values = np.asarray([[1.0, 10.0, np.nan], [100.0, 1000.0, 0.1]])
    with plotting.grid(tmp_path / "a.png", rows=1, columns=2, width=4, height=2, title="t") as axes:
        plotting.bare(axes[0])
        plotting.value_map(axes[0], values, limits=(1, 100), log=True)
        plotting.number_table(axes[1], values, rows=["a", "b"], columns=["x", "y", "z"])
        shown = axes[0].images[0]
        assert len(axes) == 2 and shown.norm(10.0) == pytest.approx(0.5) and shown.norm(1000.0) == 1
        assert shown.get_array().mask.sum() == 1
        texts = {each.get_text(): each.get_fontweight() for each in axes[1].texts}
        assert len(texts) == 5 and texts["1.00"] == texts["0.10"] == "bold" and texts["10.00"] == "normal"
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (800, 400)
