import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from common.data import order

SEEDS = st.integers(0, 2**64 - 1)
EPOCHS = st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 3000), seed=SEEDS, epoch=EPOCHS)
def test_every_order_is_a_permutation(n, seed, epoch):
    there = order.permuted(np.arange(n), n=n, key=order.epoch_key(seed, epoch))
    np.testing.assert_array_equal(np.sort(there), np.arange(n))


@settings(deadline=None, max_examples=15)
@given(n=st.integers(1, 2**31 - 1), seed=SEEDS, epoch=EPOCHS, start=st.integers(0, 2**31 - 1))
def test_numpy_and_jax_agree(n, seed, epoch, start):
    position = (start + np.arange(16, dtype=np.int64)) % n
    host = order.permuted(position, n=n, key=order.epoch_key(seed, epoch))
    key = order.epoch_key(seed, jnp.uint32(epoch), xp=jnp)
    device = order.permuted(jnp.asarray(position, jnp.uint32), n=n, key=key, xp=jnp)
    np.testing.assert_array_equal(host, device)
    assert host.max() < n


def test_the_order_inside_a_compiled_function_is_the_same():
    def traced(epoch, position):
        return order.permuted(position, n=1001, key=order.epoch_key(7, epoch, xp=jnp), xp=jnp)

    position = np.arange(1001)
    host = order.permuted(position, n=1001, key=order.epoch_key(7, 3))
    np.testing.assert_array_equal(jax.jit(traced)(jnp.uint32(3), jnp.asarray(position, jnp.uint32)), host)


def test_scalars_and_keys_per_element():
    epochs = np.asarray([0, 1, 5, 5])
    position = np.asarray([3, 3, 3, 4])
    together = order.permuted(position, n=50, key=order.epoch_key(9, epochs))
    single = [order.permuted(p, n=50, key=order.epoch_key(9, e)) for p, e in zip(position, epochs, strict=True)]
    assert np.shape(single[0]) == ()
    np.testing.assert_array_equal(together, single)


def test_all_orders_of_three_are_equally_frequent():
    epochs = np.arange(6000)
    key = tuple(word[:, None] for word in order.epoch_key(1, epochs))
    orders = order.permuted(np.arange(3)[None], n=3, key=key)
    counts = np.unique(orders @ np.asarray([9, 3, 1]), return_counts=True)[1]
    assert len(counts) == 6
    assert ((counts - 1000) ** 2 / 1000).sum() < 20.5  # chi-square of 5 degrees of freedom, one in a thousand


def test_large_orders_look_random():
    n = 50021
    there = order.permuted(np.arange(n), n=n, key=order.epoch_key(3, 0)).astype(np.int64)
    steps = np.diff(there) % n
    assert (np.minimum(steps, n - steps) <= 1).sum() < 10  # two expected
    assert (there == np.arange(n)).sum() < 8  # one expected
    cells = np.bincount(steps * 100 // n, minlength=100)
    assert ((cells - n / 100) ** 2 / (n / 100)).sum() < 150  # 99 degrees of freedom, one in a thousand


def test_orders_differ_between_epochs_and_seeds():
    n = 1000
    orders = [
        order.permuted(np.arange(n), n=n, key=order.epoch_key(seed, epoch))
        for seed, epoch in ((0, 0), (0, 1), (1, 0), (2**40, 0))
    ]
    for first in range(4):
        for second in range(first):
            assert (orders[first] == orders[second]).sum() < 12


def test_hashes_change_with_every_word_and_its_place():
    seen = {int(order.hashed(*words)) for words in ((1, 2, 3), (3, 2, 1), (1, 2, 4), (1, 2), (1, 2, 3, 0))}
    assert len(seen) == 5


def test_mix_is_a_bijection_on_a_sample():
    values = np.arange(1 << 16, dtype=np.uint32)
    assert len(np.unique(order.mix(values))) == len(values)


@pytest.mark.parametrize("n", [0, -3, 2**31])
def test_a_length_out_of_range_is_refused(n):
    with pytest.raises(ValueError, match=f"n: expected 1 to 2147483647, got {n}"):
        order.permuted(np.arange(2), n=n, key=(1, 2))
