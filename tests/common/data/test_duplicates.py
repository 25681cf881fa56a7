import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from common.data.duplicates import block_means, distinct
from common.errors import InputError


def brute_force(vectors, threshold, rule):
    kept = []
    for i in range(len(vectors)):
        earlier = range(i) if rule == "any" else kept
        if all(abs(float(vectors[i] @ vectors[j])) <= threshold for j in earlier):
            kept.append(i)
    return kept


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 60),
    block=st.integers(1, 70),
    rule=st.sampled_from(["any", "kept"]),
)
def test_blocks_give_what_all_pairs_give(seed, count, block, rule):
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(8, 12))
    vectors = centres[draw.integers(0, 8, count)] + 0.25 * draw.normal(size=(count, 12))
    vectors *= draw.choice([-1, 1], (count, 1))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kept = distinct(vectors, threshold=0.9, rule=rule, block=block)
    np.testing.assert_array_equal(kept, brute_force(vectors, 0.9, rule))


def test_a_chain_is_dropped_by_one_rule_and_broken_by_the_other():
    angles = np.radians([0, 15, 30, 45])  # cos 15 = 0.966, cos 30 = 0.866
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_array_equal(distinct(vectors, rule="any"), [0])
    np.testing.assert_array_equal(distinct(vectors, rule="kept"), [0, 2])


def test_numbers_without_a_mean_are_refused():
    images = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)
    images[1, 2, 3] = np.nan
    with pytest.raises(InputError, match="images: expected finite numbers, got 1 of 192"):
        block_means(images)
    with pytest.raises(InputError, match="uint8"):
        block_means(np.ones((3, 8, 8, 1), np.int32))


def test_block_means_are_centred_unit_vectors_of_means():
    images = np.random.default_rng(0).random((3, 40, 40, 1)).astype(np.float32)
    vectors = block_means(images)
    means = np.stack(
        [[image[r : r + 2, c : c + 2].mean() for r in range(0, 40, 2) for c in range(0, 40, 2)] for image in images]
    )
    means -= means.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize(("size", "expected"), [(80, 400), (20, 400), (12, 144), (50, 625)])
def test_the_grid_follows_the_size(size, expected):
    assert block_means(np.ones((1, size, size, 1))).shape == (1, expected)


def test_brightness_contrast_and_negatives_do_not_matter_but_constants_are_alone():
    draw = np.random.default_rng(1)
    image = draw.integers(40, 200, (1, 20, 20, 3)).astype(np.uint8)
    other = draw.integers(0, 256, (1, 20, 20, 3)).astype(np.uint8)
    flat = np.full_like(image, 77)
    images = np.concatenate([flat, image, 255 - image, other, image // 2 + 9, flat])
    np.testing.assert_array_equal(distinct(block_means(images)), [0, 1, 3, 5])
    np.testing.assert_allclose(block_means(images), block_means(images / np.float32(255)), atol=1e-5)
