"""Scenes with homographies: closed forms, both layouts from files, both protocols."""

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from diffmatch_jax.evaluation.datasets import catalogue, planar, record

MATRIX = np.asarray([[1.05, 0.1, 3.0], [-0.08, 0.95, 2.0], [4e-4, -3e-4, 1.0]])


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def photograph(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_flow_of_homography():
    flow, mask = planar.flow_of_homography(MATRIX, source=(30, 40), target=(28, 36))
    places = record.centres((28, 36))
    forth = np.concatenate([places + flow, np.ones((28, 36, 1))], -1) @ MATRIX.T
    np.testing.assert_allclose((forth[..., :2] / forth[..., 2:])[mask], places[mask], atol=1e-4)
    assert 0.3 < mask.mean() < 1
    x, y = np.moveaxis((places + flow)[mask], -1, 0)
    assert x.min() >= -1e-4 and x.max() <= 39 + 1e-4 and y.max() <= 29 + 1e-4


def test_what_is_behind_the_viewer_is_unknown():
    """The horizon crosses the target: beyond it source positions come back on the other side."""
    matrix = np.linalg.inv(np.asarray([[1.0, 0, 0], [0, 1, 0], [-0.1, 0, 1]]))  # source x = x / (1 - x / 10)
    flow, mask = planar.flow_of_homography(matrix, source=(5, 200), target=(5, 30))
    assert not mask[:, 10:].any() and mask[0, :9].all()
    # Were it not behind, x = 20 would be at -20; a source there is no reason to believe it.
    wide, seen = planar.flow_of_homography(-matrix, source=(5, 200), target=(5, 30))
    np.testing.assert_array_equal(seen, mask)
    np.testing.assert_allclose(wide[mask], flow[mask], atol=1e-5)
    assert np.isfinite(flow).all()


def test_scaled_homography_follows_the_pixels():
    sizes = {"source": ((30, 40), (15, 10)), "target": ((28, 36), (56, 12))}
    matrix = planar.scaled_homography(MATRIX, **sizes)
    point = np.asarray([3.0, 2.0])  # in the new source
    old = (point + 0.5) * [4, 2] - 0.5
    there = MATRIX @ [*old, 1]
    want = (there[:2] / there[2] + 0.5) * [12 / 36, 2] - 0.5
    got = matrix @ [*point, 1]
    np.testing.assert_allclose(got[:2] / got[2], want)
    released = planar.scaled_homography(MATRIX, **sizes, half_pixel=False)
    there = MATRIX @ [*(point * [4, 2]), 1]
    got = released @ [*point, 1]
    np.testing.assert_allclose(got[:2] / got[2], there[:2] / there[2] * [12 / 36, 2])


def test_scenes_from_files(tmp_path):
    for scene in ("wall", "graf"):
        for number in (1, 2, 10):
            write(tmp_path / scene / f"img{number}.png", photograph(20, 24 + number, number))
        for number in (2, 10):
            np.savetxt(tmp_path / scene / f"H1to{number}p", MATRIX)
    data = planar.scenes(tmp_path)
    assert data.names == ("graf/1-10", "graf/1-2", "wall/1-10", "wall/1-2") and data.groups[1:3] == ("graf", "wall")
    found = data.load(1)
    np.testing.assert_array_equal(found.source, photograph(20, 25, 1))
    np.testing.assert_array_equal(found.target, photograph(20, 26, 2))
    flow, mask = planar.flow_of_homography(MATRIX, source=(20, 25), target=(20, 26))
    np.testing.assert_array_equal(found.flow, flow)
    np.testing.assert_array_equal(found.mask, mask)
    small = planar.scenes(tmp_path, side=13)
    assert small.load(1).target.shape == (10, 13, 3) and small.fingerprint != data.fingerprint
    (tmp_path / "graf" / "img10.png").unlink()
    with pytest.raises(InputError, match=r"graf: expected img10.ppm .* got no such file"):
        planar.scenes(tmp_path)


def test_hpatches_from_files(tmp_path):
    for scene in ("v_one", "i_light"):
        for number in range(1, 7):
            write(tmp_path / scene / f"{number}.ppm", photograph(18 + number, 26, number))
            if number > 1:
                np.savetxt(tmp_path / scene / f"H_1_{number}", MATRIX)
    data = planar.hpatches(tmp_path)
    assert len(data) == 5 and data.groups == ("I", "II", "III", "IV", "V") and data.scheme == "groups"
    found = data.load(2)
    assert found.source.shape == found.target.shape == (22, 26, 3)  # the target's own size
    np.testing.assert_array_equal(found.target, photograph(22, 26, 4))
    fixed = planar.hpatches(tmp_path, size=16)
    assert fixed.name == "hpatches-16" and fixed.load(0).flow.shape == (16, 16, 2)
    exact = planar.hpatches(tmp_path, size=16, half_pixel=True).load(0)
    both = exact.mask & fixed.load(0).mask
    away = np.linalg.norm(exact.flow - fixed.load(0).flow, axis=-1)[both]
    assert 0.001 < away.max() < 0.5  # half-pixel shifts of both images nearly cancel
    named = catalogue.open_datasets(f"hpatches-exact:{tmp_path},hpatches-240-exact:{tmp_path},hpatches-240:{tmp_path}")
    for each, settings in zip(named, ((None, True), (240, True), (240, False)), strict=True):
        want = planar.hpatches(tmp_path, size=settings[0], half_pixel=settings[1]).load(1)
        np.testing.assert_array_equal(each.load(1).flow, want.flow)
    assert [each.name for each in named] == ["hpatches-exact", "hpatches-240-exact", "hpatches-240"]
    (tmp_path / "v_one" / "H_1_4").write_text("1 2 3\n4 5 6\n")
    with pytest.raises(InputError, match="H_1_4: expected a 3 x 3 homography"):
        data.load(2)
    (tmp_path / "v_one" / "H_1_4").unlink()
    with pytest.raises(InputError, match="H_1_4: expected a homography, got no such file"):
        planar.hpatches(tmp_path)


def test_missing_folders(tmp_path):
    with pytest.raises(InputError, match="expected a directory, got no such directory"):
        planar.scenes(tmp_path / "none")
    for reader in (planar.scenes, planar.hpatches):
        with pytest.raises(InputError, match="expected .* got none"):
            reader(tmp_path)
