"""Paintings, masks, and images made from them by a small network through the command line."""

import numpy as np
import pytest

from common.cli.dispatch import main
from phase_bridge.__main__ import APP
from phase_bridge.conditioning import around_hole, painting

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = {
    "data.size": 8, "model.channels": 8, "model.multipliers": "(1,)", "model.num_blocks": 1, "model.attention": "()",
    "train.steps": 2, "train.batch_size": 4, "train.log_every": 1, "checkpoint.every": 2, "optimizer.warmup": 1,
}  # fmt: skip


def test_paintings_have_the_means_of_their_cells():
    images = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3))
    painted = painting(images, 2)
    np.testing.assert_allclose(painted[1, :4, 4:], np.broadcast_to(images[1, :4, 4:].mean((0, 1)), (4, 4, 3)))
    np.testing.assert_allclose(painting(images, 8), images)


def test_holes():
    known = around_hole(8, 0.5)
    assert known.shape == (1, 8, 8, 1) and known.sum() == 64 - 16 and known[0, 2:6, 2:6].sum() == 0


def test_from_the_command_line(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    classes = np.arange(6)
    np.savez(tmp_path / "images.npz", train=images, test=images, train_labels=classes, test_labels=classes)
    argv = ["--config", "configs/phase_bridge/cifar10_small.py", f"--config.data.source=npz:{tmp_path}/images.npz"]
    run = tmp_path / "run"
    assert main(["train", *argv, "--workdir", str(run), *(f"--config.{k}={v}" for k, v in SMALL.items())], APP) == 0
    assert main(["edit", "--workdir", str(run), "--num", "2", "--nfe", "4", "--cells", "2"], APP) == 0
    arrays = np.load(next((run / "results").glob("edited-*.npz")))
    assert arrays["stroke"].shape == arrays["inpainting"].shape == (2, 8, 8, 3)
    assert np.abs(arrays["stroke"] - arrays["free"]).max() > 1e-3  # the painting counts
    known = np.broadcast_to(arrays["known"] > 0, arrays["original"].shape)
    np.testing.assert_array_equal(arrays["inpainting"][known], arrays["original"][known])
    np.testing.assert_allclose(arrays["painting"], painting(arrays["original"], 2))
    np.testing.assert_allclose(arrays["original"], 2 * (images[arrays["labels"]] / np.float32(255)) - 1, rtol=1e-6)
    assert main(["figures", "edited", "--workdir", str(run)], APP) == 0
    assert (run / "figures" / "edited.png").stat().st_size > 500
    capsys.readouterr()
    for flags, message in ((["--cells", "3"], "--cells: expected a divisor"), (["--hole", "1"], "--hole: expected")):
        assert main(["edit", "--workdir", str(run), *flags], APP) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("fraction", [0.25, 0.75])
def test_the_hole_is_central(fraction):
    known = around_hole(16, fraction)[0, :, :, 0]
    np.testing.assert_array_equal(known, known[::-1, ::-1])
