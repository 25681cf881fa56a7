"""Flow files, KITTI and Sintel from small files in their layouts, and the stereo pair."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from diffmatch_jax.evaluation.datasets import catalogue, flow_files, motion
from diffmatch_jax.model.pair_match import warped


def deep_png(values, kinds):
    """Writes a 16-bit PNG `[H, W, 3]` whose rows have filters `kinds`, by the definition of each."""
    height, width, _ = values.shape
    raw = values.astype(">u2").tobytes()
    rows = np.frombuffer(raw, np.uint8).reshape(height, width * 6).astype(int)
    lines = []
    for y, kind in enumerate(kinds):
        line = [kind]
        for x in range(width * 6):
            left = rows[y, x - 6] if x >= 6 else 0
            up = rows[y - 1, x] if y else 0
            corner = rows[y - 1, x - 6] if y and x >= 6 else 0
            guess = left + up - corner
            nearest = min((left, up, corner), key=lambda each: abs(guess - each))
            line.append((rows[y, x] - (0, left, up, (left + up) // 2, nearest)[kind]) % 256)
        lines.append(bytes(line))

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    packed = zlib.compress(b"".join(lines))
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", packed[:9]) + chunk(b"IDAT", packed[9:]) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def picture(seed, shape=(6, 9, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_flo_round_trip(tmp_path):
    flow = np.random.default_rng(0).normal(size=(5, 7, 2)).astype(np.float32)
    known = np.ones((5, 7), bool)
    known[2, 3] = False
    path = flow_files.write_flo(tmp_path / "a.flo", flow, known)
    assert path.read_bytes()[:12] == struct.pack("<fii", 202021.25, 7, 5)
    got, mask = flow_files.read_flo(path)
    np.testing.assert_array_equal(mask, known)
    np.testing.assert_array_equal(got[known], flow[known])
    assert (got[2, 3] == 0).all()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="a.flo: expected 12 bytes and 8 a pixel, got 7 x 5 in 291 bytes"):
        flow_files.read_flo(path)
    path.write_bytes(b"JPEG" + bytes(20))
    with pytest.raises(InputError, match="expected a .flo file"):
        flow_files.read_flo(path)


def test_all_filters_of_a_deep_png(tmp_path):
    values = np.random.default_rng(1).integers(0, 2**16, (7, 11, 3))
    path = tmp_path / "deep.png"
    for kinds in ((0, 1, 2, 3, 4, 3, 1), (4, 4, 3, 2, 1, 0, 4)):
        path.write_bytes(deep_png(values, kinds))
        np.testing.assert_array_equal(flow_files.read_deep_png(path), values)
    save(path, picture(0))
    with pytest.raises(InputError, match="expected a PNG of three channels of 16 bits.*got 8 bits"):
        flow_files.read_deep_png(path)
    path.write_bytes(deep_png(values, (0,) * 7)[:200])
    with pytest.raises(InputError, match="too early"):
        flow_files.read_deep_png(path)


def test_kitti_from_files(tmp_path):
    values = np.zeros((6, 9, 3), int)
    values[..., 0], values[..., 1] = 2**15 + 64 * 3, 2**15 - 32
    values[1:4, :, 2] = 1
    for frame in (10, 11):
        save(tmp_path / "image_2" / f"000007_{frame}.png", picture(frame))
    for folder, rows in (("flow_occ", 3), ("flow_noc", 1)):
        (tmp_path / folder).mkdir()
        kept = values.copy()
        kept[1 + rows :, :, 2] = 0
        (tmp_path / folder / "000007_10.png").write_bytes(deep_png(kept, (1,) * 6))
    data = motion.kitti(tmp_path)
    found = data.load(0)
    assert data.names == ("000007",) and found.mask.sum() == 27 and not found.mask[0].any()
    np.testing.assert_array_equal(found.target, picture(10))  # flow starts at frame 10
    np.testing.assert_array_equal(found.source, picture(11))
    assert (found.flow[found.mask] == [3, -0.5]).all()
    assert motion.kitti(tmp_path, occluded=False).load(0).mask.sum() == 9
    save(tmp_path / "image_2" / "000007_10.png", picture(0, (5, 9, 3)))
    with pytest.raises(InputError, match="expected flow of the image's size"):
        data.load(0)
    with pytest.raises(InputError, match="name KITTI's folder training"):
        motion.kitti(tmp_path / "image_2")


def test_sintel_from_files(tmp_path):
    flow = np.random.default_rng(0).normal(size=(6, 9, 2)).astype(np.float32)
    for frame in (1, 2, 3):
        save(tmp_path / "clean" / "alley_1" / f"frame_{frame:04d}.png", picture(frame))
        save(tmp_path / "final" / "alley_1" / f"frame_{frame:04d}.png", picture(10 + frame))
    (tmp_path / "flow" / "alley_1").mkdir(parents=True)
    for frame in (1, 2):
        flow_files.write_flo(tmp_path / "flow" / "alley_1" / f"frame_{frame:04d}.flo", flow * frame)
    invalid, hidden = np.zeros((2, 6, 9), np.uint8)
    invalid[0, 0] = hidden[0, 1] = 255
    save(tmp_path / "invalid" / "alley_1" / "frame_0002.png", invalid)
    save(tmp_path / "occlusions" / "alley_1" / "frame_0002.png", hidden)
    data = motion.sintel(tmp_path)
    assert data.groups == ("alley_1", "alley_1") and data.load(0).mask.all()
    found = data.load(1)
    np.testing.assert_array_equal(found.flow, flow * 2)
    np.testing.assert_array_equal(found.target, picture(2))
    np.testing.assert_array_equal(found.source, picture(3))
    assert not found.mask[0, 0] and found.mask[0, 1]
    assert not motion.sintel(tmp_path, occluded=False).load(1).mask[0, 1]
    np.testing.assert_array_equal(motion.sintel(tmp_path, render="final").load(0).target, picture(11))
    with pytest.raises(InputError, match='did you mean "clean"'):
        motion.sintel(tmp_path, render="clear")
    flow_files.write_flo(tmp_path / "flow" / "alley_1" / "frame_one.flo", flow)
    with pytest.raises(InputError, match="frame_one.flo: expected frame_0001.flo"):
        motion.sintel(tmp_path)


def pfm(values, order):
    """Returns a PFM file as the format is defined: rows from the bottom, the scale's sign for the order of bytes."""
    height, width = values.shape
    scale = {"<": "-0.003922", ">": "1"}[order]
    numbers = b"".join(struct.pack(f"{order}{width}f", *row) for row in values[::-1].tolist())
    return f"Pf\n{width} {height}\n{scale}\n".encode() + numbers


@pytest.mark.parametrize("order", ["<", ">"])
def test_pfm_files(tmp_path, order):
    values = np.float32(np.random.default_rng(0).normal(size=(3, 5)) * 100)
    values[1, 2] = np.inf
    path = tmp_path / "a.pfm"
    path.write_bytes(pfm(values, order))
    np.testing.assert_array_equal(flow_files.read_pfm(path), values)
    path.write_bytes(pfm(values, order)[:-1])
    with pytest.raises(InputError, match="a.pfm: expected .* bytes and 4 a pixel, got 5 x 3 in"):
        flow_files.read_pfm(path)
    path.write_bytes(b"PF\n5 3\n-1\n" + bytes(180))
    with pytest.raises(InputError, match="a.pfm: expected a gray PFM file"):
        flow_files.read_pfm(path)


def test_middlebury_from_files(tmp_path):
    disparity = np.full((6, 9), 2.5, np.float32)
    disparity[0, 4] = np.inf
    seen = np.full((6, 9), 255, np.uint8)
    seen[3, 5], seen[4, 5] = 128, 0
    for scene, file in (("Piano", "disp0.pfm"), ("Adirondack", "disp0GT.pfm")):
        for view in (0, 1):
            save(tmp_path / scene / f"im{view}.png", picture(view))
        save(tmp_path / scene / "mask0nocc.png", seen)
        (tmp_path / scene / file).write_bytes(pfm(disparity, "<"))
    data = motion.middlebury(tmp_path)
    assert data.names == ("Adirondack", "Piano")
    found = data.load(1)
    np.testing.assert_array_equal(found.target, picture(0))  # flow starts at the left view
    np.testing.assert_array_equal(found.source, picture(1))
    # What is nearer is farther to the left in the right view; its first columns do not see the rest.
    want = np.arange(9) >= 2.5
    want = np.broadcast_to(want, (6, 9)) & np.isfinite(disparity)
    np.testing.assert_array_equal(found.mask, want)
    np.testing.assert_array_equal(found.flow[want], np.broadcast_to([-2.5, 0], (want.sum(), 2)))
    (both,) = catalogue.open_datasets(f"middlebury-noc:{tmp_path}", catalogue.Options(count=1))
    np.testing.assert_array_equal(both.load(0).mask, want & (seen == 255))
    (tmp_path / "Piano" / "mask0nocc.png").unlink()
    with pytest.raises(InputError, match="Piano/mask0nocc.png: expected a file, got none"):
        motion.middlebury(tmp_path, occluded=False)
    (tmp_path / "Piano" / "disp0.pfm").write_bytes(pfm(disparity[1:], "<"))
    with pytest.raises(InputError, match="disp0.pfm: expected flow of the image's size"):
        data.load(1)
    with pytest.raises(InputError, match="expected SCENE/im0.png, got none"):
        motion.middlebury(tmp_path / "Piano")


def test_stereo_pair():
    """The true flow explains the left view by the right one far better than no flow."""
    found = motion.stereo(side=160).load(0)
    assert found.target.shape == (108, 160, 3) and 0.85 < found.mask.mean() < 1
    assert (found.flow[..., 0][found.mask] < 0).all() and np.abs(found.flow[..., 1]).max() < 1e-3

    def away(image):
        return np.abs(image.astype(float) - found.target)[found.mask].mean()

    assert away(warped(found.source, found.flow)) < 0.5 * away(found.source)
    assert motion.stereo().fingerprint != motion.stereo(side=160).fingerprint
