"""Generated warps, the released list of pairs, and data sets by name."""

import numpy as np
import pytest
from PIL import Image

from common.data.source import Source
from common.errors import InputError
from diffmatch_jax.data.warps import KINDS, Warps
from diffmatch_jax.evaluation.datasets import catalogue, listed, synthetic
from diffmatch_jax.evaluation.datasets.record import PairSource
from diffmatch_jax.model.pair_match import warped


def smooth(height, width, seed):
    y, x = np.mgrid[:height, :width] / 20
    waves = [np.sin(x * (1 + i) + seed) + np.cos(y * (2 - i) + x / 3) for i in range(3)]
    return np.uint8(127 + 60 * np.stack(waves, -1))


@pytest.fixture(scope="module")
def warps():
    return synthetic.warps([smooth(90, 120, 0), smooth(100, 80, 1)], count=6, size=32, names=["a", "b"])


def test_warps_are_exact(warps):
    assert warps.names[:3] == ("a/0", "b/1", "a/2") and warps.groups == KINDS * 2
    found = [warps.load(i) for i in range(3)]
    for each in found:
        inner = each.mask.copy()
        inner[[0, -1]] = inner[:, [0, -1]] = False
        away = np.abs(warped(each.source, each.flow).astype(float) - each.target)[inner]
        assert inner.mean() > 0.2 and away.mean() < 4
    again = warps.load(1)
    np.testing.assert_array_equal(again.target, found[1].target)  # a function of the index alone
    linear = found[1].flow[:, 1:] - found[1].flow[:, :-1]
    assert np.ptp(linear.reshape(-1, 2), axis=0).max() < 1e-3  # affine: the second kind


def test_settings_of_warps(warps):
    photographs = [smooth(90, 120, 0)]
    splines = synthetic.warps(photographs, count=2, size=32, settings=Warps(shares=(0, 0, 1)))
    assert splines.groups == ("thin_plate",) * 2
    assert synthetic.warps(photographs, count=2, size=32, seed=1).fingerprint != splines.fingerprint
    with pytest.raises(InputError, match="warps: expected at least 1 pair"):
        synthetic.warps(photographs, count=0)
    with pytest.raises(InputError, match="at least one photograph"):
        synthetic.warps([])


def test_listed_pairs(tmp_path):
    image = smooth(300, 400, 2)
    Image.fromarray(image).save(tmp_path / "p.png")
    identity = [1, 0, 0, 0, 1, 0] + [0] * 12
    square = np.asarray([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)])
    spline = [*square[:, 0], *square[:, 1]]
    shift = [1, 0, 24, 0, 1, -12, 0, 0, 1] + [0] * 9
    lines = [",".join(map(str, ["p.png", kind, *row])) for kind, row in enumerate((identity, spline, shift))]
    path = tmp_path / "list.csv"
    path.write_text("\n".join(["fname,type," + ",".join(f"t{i}" for i in range(18)), *lines]) + "\n")
    data = listed.listed(tmp_path, path, size=40)
    assert data.groups == ("affine", "thin_plate", "homography")
    for index in (0, 1):
        found = data.load(index)
        np.testing.assert_allclose(found.flow, 0, atol=1e-4)
        np.testing.assert_array_equal(found.source, found.target)
    moved = data.load(2)
    np.testing.assert_allclose(moved.flow, np.broadcast_to([-4, 2], (40, 40, 2)), atol=1e-5)  # 24 px at 240: 4 at 40
    np.testing.assert_array_equal(moved.mask, np.pad(np.ones((38, 36), bool), ((0, 2), (4, 0))))
    np.testing.assert_allclose(moved.target[:38, 4:].astype(int), moved.source[2:, :36], atol=1)
    source = PairSource(data)
    both = source.read([2, 0])
    assert both["target"].shape == (2, 40, 40, 3) and source.name(2) == "2/p.png" and isinstance(source, Source)
    np.testing.assert_array_equal(both["flow"][0], moved.flow)
    path.write_text(path.read_text().replace("p.png,1,", "p.png,5,"))
    with pytest.raises(InputError, match="list.csv, line 3: expected a name, a type from 0 to 2"):
        listed.read_list(path)
    with pytest.raises(InputError, match="kind: expected 0, 1 or 2"):
        listed.pair(image, 3, np.zeros(18), size=40)


def test_damaged_lists_of_pairs(tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    with pytest.raises(InputError, match="list.csv: expected a csv list of pairs"):
        listed.read_list(path)
    flat = [1, 2, 0, 2, 4, 0, 0, 0, 1] + [0] * 9
    path.write_text("\n".join(["fname,type", ",".join(map(str, ["p.png", 2, *flat]))]))
    with pytest.raises(InputError, match="list.csv, line 2: expected .* got a homography without an inverse"):
        listed.read_list(path)
    with pytest.raises(InputError, match="numbers: expected a homography with an inverse"):
        listed.pair(np.zeros((40, 40, 3), np.uint8), 2, np.asarray(flat), size=40)


def test_large_photographs_are_cut():
    image = smooth(500, 100, 0)
    cut = listed._cut(image, (96, 128))
    assert cut.shape == (144, 192, 3)
    np.testing.assert_array_equal(cut[:, 46:146], image[178:322])
    assert not cut[:, :46].any()
    assert listed._cut(image[:140], (96, 128)) is not None and listed._cut(image[:140], (96, 128)).shape[0] == 140


def test_data_sets_by_name(tmp_path):
    options = catalogue.Options(side=64, count=3, size=32)
    stereo, warps = catalogue.open_datasets("stereo, warps", options)
    assert stereo.name == "stereo" and len(warps) == 3 and max(stereo.load(0).target.shape) == 64
    for text, message in (
        ("oxfort:x", 'did you mean "oxford"'),
        ("oxford", "expected oxford:DIR"),
        ("stereo:x", "leave out what follows"),
        ("stereo,stereo", "each name once"),
        (",", "expected some of"),
        (f"kitti:{tmp_path / 'none'}", "no such directory"),
    ):
        with pytest.raises(InputError, match=message):
            catalogue.open_datasets(text, options)
