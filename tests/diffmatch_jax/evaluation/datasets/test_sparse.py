"""ETH3D's lists and MegaDepth's csv from small files in their layouts; hostile lists are refused."""

import pickle

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from diffmatch_jax.evaluation.datasets import sparse


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def matches(kind=np.float32):
    return {
        "source_image": "multiview_testing/lakeside/a.png",
        "target_image": "multiview_testing/lakeside/b.png",
        "Xs": kind([4.25, 1.0]),
        "Ys": kind([2.0, 3.0]),
        "Xt": kind([3.5, 6.0]),
        "Yt": kind([1.0, 0.0]),
    }


KINDS = {"list": list, "float32": np.float32, "float64": np.float64}


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_eth3d_lists(tmp_path, protocol, kind):
    path = tmp_path / "list"
    path.write_bytes(pickle.dumps([matches(KINDS[kind])], protocol=protocol))
    (row,) = sparse.read_matches(path)
    np.testing.assert_array_equal(row["Xs"], [4.25, 1.0])
    assert row["Yt"].dtype == np.float32 and row["source_image"].endswith("a.png")


def test_eth3d_from_files(tmp_path):
    (tmp_path / "info_ETH3D_files").mkdir()
    for rate in (3, 5):
        for sequence in ("lakeside", "tunnel"):
            path = tmp_path / "info_ETH3D_files" / f"{sequence}_every_5_rate_of_{rate}"
            path.write_bytes(pickle.dumps([matches()] * (rate - 2)))
    image = np.random.default_rng(0).integers(0, 256, (5, 8, 3), np.uint8)
    save(tmp_path / "multiview_testing/lakeside/a.png", image)
    save(tmp_path / "multiview_testing/lakeside/b.png", image[::-1])
    data = sparse.eth3d(tmp_path, rates=(3, 5), sequences=("lakeside", "tunnel"))
    assert data.groups == ("rate 3",) * 2 + ("rate 5",) * 6 and data.scheme == "rates"
    assert data.sequences == ("lakeside", "tunnel") + ("lakeside",) * 3 + ("tunnel",) * 3
    found = data.load(0)
    np.testing.assert_array_equal(found.source, image)
    assert found.mask.sum() == 2 and found.mask[1, 4] and found.mask[0, 6]
    np.testing.assert_array_equal(found.flow[1, 4], [0.75, 1.0])
    with pytest.raises(InputError, match="expected a list of matches, got No such file"):
        sparse.eth3d(tmp_path)


class Hostile:
    def __reduce__(self):
        return eval, ("1/0",)


@pytest.mark.parametrize(
    "content",
    [
        [Hostile()],
        [{**matches(), "source_image": "../../etc/passwd"}],
        [{**matches(), "Xs": np.float32([1.0])}],
        [{**matches(), "Xs": np.float32([1.0, np.nan])}],
        [{**matches(), "Xs": np.asarray([1 + 2j, 3])}],
        {"no": "list"},
    ],
    ids=["code", "path", "length", "nan", "complex", "dictionary"],
)
def test_bad_lists(tmp_path, content):
    (tmp_path / "list").write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match="expected a pickled list of pairs with matches"):
        sparse.read_matches(tmp_path / "list")


def test_megadepth_from_files(tmp_path):
    folder = tmp_path / "Test"
    image = np.zeros((960, 1300, 3), np.uint8)
    save(folder / "test1600Pairs" / "0015" / "a.png", image)
    save(folder / "test1600Pairs" / "b.png", image[:, :1000])
    head = "source_image,target_image,XA,YA,XB,YB,scene\n"
    rows = "0015/a.png,b.png,100;20;1400,50;8;3,40;60;80,30.5;90;5,/\na.png,a.png,1;2,3;4,5;6,7;8,0015\n"
    (folder / "test1600Pairs.csv").write_text(head + rows)
    data = sparse.megadepth(tmp_path)
    assert data.groups == ("all", "0015")
    found = data.load(0)
    # 960 -> 480; 1300 -> 650 and cut to 640; 1000 -> 500 and cut to 496.
    assert found.source.shape == (480, 640, 3) and found.target.shape == (480, 496, 3)
    assert found.mask.sum() == 2  # the third point is outside the source
    place = np.asarray([40 * 496 / 1000, 30.5 / 2])
    want = [100 * 640 / 1300 - place[0], 50 / 2 - place[1]]
    np.testing.assert_allclose(found.flow[round(place[1]), round(place[0])], want, atol=1e-4)
    (folder / "test1600Pairs.csv").write_text(head + rows.replace("40;60;80", "40;60"))
    with pytest.raises(InputError, match="expected numbers|expected as many"):
        data = sparse.megadepth(tmp_path)
        data.load(0)
    (folder / "test1600Pairs.csv").write_text(head + rows + "a.png,a.png,1;2\n")
    with pytest.raises(InputError, match="test1600Pairs.csv: expected the list of pairs, got pair 2 with fewer"):
        sparse.megadepth(tmp_path)
    (folder / "test1600Pairs.csv").write_text("source_image,target_image\na,b\n")
    with pytest.raises(InputError, match="no column XA, YA, XB, YB, scene"):
        sparse.megadepth(tmp_path)
