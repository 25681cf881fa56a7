import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from common.data import source
from common.data.source import ArraySource, BadRecordError, Source
from common.errors import InputError

IMAGES = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3, 1)


def test_elements_batches_and_size():
    data = ArraySource({"image": IMAGES, "label": np.arange(5)})
    assert len(data) == 5 and data.num_classes == 5 and data.num_random == 0
    np.testing.assert_array_equal(data[3]["image"], IMAGES[3])
    batch = data.read([4, 0, 4])
    np.testing.assert_array_equal(batch["image"], IMAGES[[4, 0, 4]])
    np.testing.assert_array_equal(batch["label"], [4, 0, 4])
    assert data.nbytes == IMAGES.nbytes + 5 * 8
    assert data.fixed() is data


def test_the_device_gathers_what_indexing_gives():
    held = ArraySource({"image": IMAGES}).on_device()
    found = held.gather(held.arrays, jnp.asarray([2, 2, 0]), None)
    np.testing.assert_array_equal(found["image"], IMAGES[[2, 2, 0]])


class Bare(Source):
    """What a source has to define, and nothing else."""

    fingerprint = "x"

    def __len__(self):
        return 300

    def __repr__(self):
        return "Bare()"

    def __getitem__(self, index):
        if index == 7:
            raise BadRecordError("seven", "torn")
        return {"image": np.full((2, 2, 1), index % 256, np.uint8)}


def test_a_source_of_bare_elements_can_be_held_and_measured():
    assert Bare().nbytes == 300 * 4
    with pytest.raises(BadRecordError, match="seven: torn"):
        Bare().on_device()
    whole = Bare()
    whole.__class__ = type("Whole", (Bare,), {"__getitem__": lambda self, i: {"image": np.full((2, 2, 1), i % 256)}})
    held = whole.on_device()
    assert held.arrays["image"].shape == (300, 2, 2, 1)
    np.testing.assert_array_equal(held.arrays["image"][:, 0, 0, 0], np.arange(300) % 256)
    assert Bare().name(3) == "Bare()[3]"


def test_elements_are_read_when_asked_for_and_errors_are_among_them():
    found = list(Bare().elements(range(6, 9)))
    assert [int(each["image"][0, 0, 0]) for each in (found[0], found[2])] == [6, 8]
    assert isinstance(found[1], BadRecordError) and found[1].record == "seven"
    next(Bare().elements(iter([0, 7])))  # the second one is not read


def test_fingerprint_follows_content():
    one = ArraySource({"image": IMAGES})
    changed = IMAGES.copy()
    changed[4, 3, 2, 0] ^= 1
    assert one.fingerprint == ArraySource({"image": IMAGES.copy()}).fingerprint
    assert one.fingerprint != ArraySource({"image": changed}).fingerprint
    assert one.fingerprint != ArraySource({"picture": IMAGES}).fingerprint
    assert one.fingerprint != ArraySource({"image": IMAGES.reshape(5, 3, 4, 1)}).fingerprint
    assert one.fingerprint != ArraySource({"image": IMAGES.astype(np.int16)}).fingerprint


def test_fingerprint_and_repr_are_the_same_in_another_process():
    program = (
        "import numpy as np; from common.data.source import ArraySource as A;"
        "print(A({'image': np.arange(60, dtype=np.uint8).reshape(5, 4, 3, 1)}))"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == repr(ArraySource({"image": IMAGES}))


def test_a_nan_is_named_by_array_and_index():
    images = np.zeros((300, 2, 2, 1), np.float32)
    images[[217, 250], 1, 0, 0] = np.nan, np.inf
    with pytest.raises(InputError, match=r"faces\[217\]: image has NaN or infinite numbers \(2 such records in all\)"):
        ArraySource({"image": images}, label="faces")
    data = ArraySource({"image": images}, label="faces", defer_bad=True)
    np.testing.assert_array_equal(np.flatnonzero(data.shapes()[:, 0] == 0), [217, 250])
    np.testing.assert_array_equal(data.shapes()[0], [2, 2, 1])
    assert data[0]["image"].shape == (2, 2, 1)
    with pytest.raises(BadRecordError, match=r"faces\[250\]"):
        data[250]
    with pytest.raises(BadRecordError, match=r"faces\[217\]"):
        data.on_device()


@pytest.mark.parametrize("arrays", [{}, {"image": np.zeros((0, 2))}, {"a": np.zeros(3), "b": np.zeros(4)}])
def test_empty_or_unequal_arrays_are_refused(arrays):
    with pytest.raises(InputError, match="some: expected arrays of one common length above 0"):
        ArraySource(arrays, label="some")


def test_digest_keeps_parts_apart():
    assert source.digest("ab", "c") != source.digest("a", "bc")
    assert source.digest(np.zeros(0)) != source.digest()
