"""Homographies and poses in the benchmark: areas under the recall, data sets with such truth, and any peer."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from diffmatch_jax.evaluation import evaluate, metrics
from diffmatch_jax.evaluation.baselines import open_baselines
from diffmatch_jax.evaluation.corruptions.pairs import corruption
from diffmatch_jax.evaluation.datasets import catalogue, planar, record, sparse

needs_opencv = pytest.mark.skipif(find_spec("cv2") is None, reason="OpenCV, which is optional, is not installed")

MATRIX = np.array([[0.9, 0.05, 8.0], [-0.04, 1.05, 3.0], [1e-4, 2e-4, 1.0]])


def image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def projected(matrix, places):
    moved = np.concatenate([places, np.ones((*places.shape[:-1], 1))], -1) @ matrix.T
    return moved[..., :2] / moved[..., 2:]


def test_area_under_the_recall():
    """Of one error e it is 1 - e / (2 t) with the straight line from 0; of none below t it is 0."""
    np.testing.assert_allclose(metrics.auc([1.0], [2.0, 4.0]), [0.75, 0.875])
    assert metrics.auc([np.inf, 9.0], [3.0]) == [0.0]
    # Two errors: recall rises to 1/2 at 1 and to 1 at 2.
    np.testing.assert_allclose(metrics.auc([2.0, 1.0], [4.0]), [(0.25 + 0.75 + 2) / 4])
    np.testing.assert_allclose(metrics.auc([0.0, 0.0], [3.0, 5.0]), [1, 1])


def test_homographies_follow_the_size():
    example = planar.example_of("", image(60, 80), image(50, 90, 1), MATRIX, target_size=(25, 45))
    small = record.resized(example, 32)
    for each in (example, small):
        places = record.centres(each.mask.shape)
        flow = projected(each.homography, places) - places
        assert each.mask.sum() > 100
        np.testing.assert_allclose(each.flow[each.mask], flow[each.mask], atol=0.15)


@needs_opencv
def test_a_true_flow_has_no_error_and_a_shifted_one_its_shift():
    example = planar.example_of("", image(60, 80), image(60, 80, 1), MATRIX)
    assert evaluate.geometry_errors(example.flow, None, example)["corner_error"] < 0.01
    moved = evaluate.geometry_errors(example.flow + np.float32([3, 4]), np.ones(example.mask.shape), example)
    np.testing.assert_allclose(moved["corner_error"], 5, atol=0.05)
    assert np.isnan(moved["pose_error"])
    assert np.isnan(
        list(evaluate.geometry_errors(example.flow, None, example._replace(homography=None)).values())
    ).all()


@pytest.mark.parametrize("kind", ["contrast", "elastic_transform"])
def test_corruptions_keep_the_homography_unless_they_move_pixels(kind):
    example = planar.example_of("", image(60, 80), image(60, 80, 1), MATRIX)
    changed = corruption(kind)(example, 0)
    assert (changed.homography is None) == (kind == "elastic_transform")


@needs_opencv
def test_a_table_of_homographies():
    truth = planar.example_of("", image(60, 80), image(60, 80, 1), MATRIX)
    data = record.make("planes", [("a", "one"), ("b", "two")], lambda index: truth, content=[])
    shift = iter([0.0, 4.0])
    rows = []
    for _ in range(2):
        by = next(shift)
        rows.append(evaluate.measure_pair(lambda s, t, by=by: (truth.flow + np.float32([by, 0]), None), truth))
    rows = {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}
    found = evaluate.summary(rows, data)
    assert found["one"]["homography_auc_3"] > 0.99 and found["two"]["homography_auc_3"] == 0
    # Errors of 0 and 4: recall is 1/2 from 0 on and rises to 1 at 4.
    np.testing.assert_allclose(found["all"]["homography_auc_5"], (4 * 0.75 + 1) / 5, atol=0.01)
    assert "pose_auc_3" not in found["all"]


def write_posed(folder, names, rotations, translations, camera):
    cameras = {}
    for index, (name, rotation, translation) in enumerate(zip(names, rotations, translations, strict=True)):
        Image.fromarray(image(48, 64, index)).save(folder / name)
        cameras[name] = {"K": camera.tolist(), "R": rotation.tolist(), "t": translation.tolist()}
    (folder / "cameras.json").write_text(json.dumps(cameras))


@needs_opencv
def test_poses_of_images_with_cameras(tmp_path):
    """A plane at depth 5 in front of the first camera, seen by two that turn and move."""
    camera = np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])
    angle = np.radians(8)
    rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    translation = np.array([-0.6, 0.1, 0.2])
    write_posed(tmp_path, ["0.png", "1.png"], [np.eye(3), rotation], [np.zeros(3), translation], camera)
    (data,) = catalogue.open_datasets(f"cameras:{tmp_path}")
    assert data.names == ("0-1",) and data.groups == ("1 apart",)
    example = data.load(0)
    np.testing.assert_allclose(example.cameras.rotation, rotation, atol=1e-12)
    np.testing.assert_allclose(example.cameras.translation, translation, atol=1e-12)
    places = record.centres((48, 64))
    depth = 5 + np.random.default_rng(0).uniform(-2, 2, (48, 64, 1))
    world = depth * (np.concatenate([places, np.ones((48, 64, 1))], -1) @ np.linalg.inv(camera).T)
    moved = (world @ rotation.T + translation) @ camera.T
    flow = moved[..., :2] / moved[..., 2:] - places
    row = evaluate.measure_pair(lambda s, t: (flow, None), example)
    assert row["pose_error"] < 0.5 and row["valid"] == 0 and np.isnan(row["corner_error"])
    rows = {name: np.asarray(value)[None] for name, value in row.items()}
    found = evaluate.summary(rows, data)["all"]
    assert found["pose_auc_5"] > 0.9 and np.isnan(found["aepe"])
    half = record.resized(example, 32)
    np.testing.assert_allclose(half.cameras.source, [[30, 0, 15.75], [0, 30, 11.75], [0, 0, 1]])


def test_damaged_cameras_are_named(tmp_path):
    with pytest.raises(InputError, match="cameras.json: expected K, R and t of each image, got No such file"):
        sparse.posed(tmp_path)
    (tmp_path / "cameras.json").write_text('{"a.png": {"K": [1, 2]}}')
    with pytest.raises(InputError, match="cameras.json: expected K, R and t"):
        sparse.posed(tmp_path)


def test_wxbs_as_published(tmp_path):
    for category, pair in (("WGABS", "kremlin"), ("WLABS", "ministry")):
        folder = tmp_path / category / pair
        folder.mkdir(parents=True)
        Image.fromarray(image(30, 40)).save(folder / "01.png")
        Image.fromarray(image(50, 60, 1)).save(folder / "02.png")
        # Two points, and one that lies outside the second image.
        (folder / "corrs.txt").write_text("10.2 5.1 30.0 20.5\n3 4 8 9\n7 7 70 7\n")
    (data,) = catalogue.open_datasets(f"wxbs:{tmp_path}")
    assert data.names == ("WGABS/kremlin", "WLABS/ministry") and data.groups == ("WGABS", "WLABS")
    example = data.load(0)
    assert example.target.shape == (30, 40, 3) and example.source.shape == (50, 60, 3)
    assert example.mask.sum() == 2
    np.testing.assert_allclose(example.flow[5, 10], [19.8, 15.4], atol=1e-5)
    np.testing.assert_allclose(example.flow[4, 3], [5, 5], atol=1e-5)
    with pytest.raises(InputError, match="expected CATEGORY/PAIR/corrs.txt, got none"):
        sparse.wxbs(tmp_path / "WGABS")
    (tmp_path / "WGABS" / "kremlin" / "corrs.txt").write_text("1 2 x 4\n")
    with pytest.raises(InputError, match="corrs.txt: expected rows x1 y1 x2 y2"):
        data.load(0)


def test_any_function_stands_in_the_table(tmp_path, monkeypatch):
    (tmp_path / "my_peer.py").write_text(
        "import numpy as np\n"
        "def match(source, target):\n"
        "    return np.full((*target.shape[:2], 2), 2.0, np.float32), np.ones(target.shape[:2])\n"
        "match.identity = 'weights of May'\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (peer,) = open_baselines("mine=function:my_peer:match")
    assert (peer.name, peer.title) == ("mine", "mine")
    assert peer.identity == {"function": "my_peer:match", "own": "weights of May"}
    example = record.Example("", image(20, 30), image(20, 30), np.full((20, 30, 2), 2.0), np.ones((20, 30), bool))
    assert evaluate.measure_pair(peer.matcher, example)["aepe"] == 0
    for text, words in (
        ("a=function:none_such:match", "expected LABEL=function:MODULE:NAME of an importable module, got No module"),
        ("a=function:my_peer:other", "has no attribute 'other'"),
        ("a=function:my_peer:number", "expected a function at my_peer:number, got int"),
        ("a/b=function:my_peer:match", "expected a label of letters"),
    ):
        with pytest.raises(InputError, match=words):
            open_baselines(text)
