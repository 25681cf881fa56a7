import numpy as np

from common.networks.layers import hashed, mix


def test_hashes_change_with_every_word_and_its_place():
    seen = {int(hashed(*words)) for words in ((1, 2, 3), (3, 2, 1), (1, 2, 4), (1, 2), (1, 2, 3, 0))}
    assert len(seen) == 5


def test_words_are_broadcast():
    both = hashed(np.arange(3, dtype=np.uint32)[:, None], np.arange(4, dtype=np.uint32))
    assert both.shape == (3, 4) and int(both[2, 3]) == int(hashed(2, 3))


def test_mix_is_a_bijection_on_a_sample():
    values = np.arange(1 << 16, dtype=np.uint32)
    assert len(np.unique(mix(values))) == len(values)
