"""The benchmark of the dense matcher: what it is about, how it counts, and (slow) its smallest run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from benchmarks import diffmatch as benchmark
from benchmarks import flops
from common import config as configs
from common.networks.convolution import convolve
from configs.diffmatch_jax import bsds, bsds_stage2, paper, paper_stage2
from diffmatch_jax.model import features

TYPES = ['compute_dtype: "float32" -> "bfloat16"', 'features.compute_dtype: "float32" -> "bfloat16"']


def test_the_networks_are_those_of_the_experiments():
    for name, experiment in (("bsds", bsds), ("bsds_stage2", bsds_stage2)):
        changed = configs.diff(experiment.get_config(), benchmark.config_for(benchmark.FULL, name, "float32"))
        assert [line.split(":")[0] for line in changed] == ["data.source"]
    for name, experiment in (("paper", paper), ("paper_stage2", paper_stage2)):
        changed = configs.diff(experiment.get_config(), benchmark.config_for(benchmark.ACCELERATOR, name, "bfloat16"))
        assert sorted(set(changed) & set(TYPES)) == TYPES
        others = {line.split(":")[0] for line in changed} - {"compute_dtype", "features.compute_dtype"}
        assert others <= {"data.source", "features.pyramid"}


def test_stage_2_is_trained_on_stage_1_without_any_file():
    stages = benchmark.stages_for(benchmark.ACCELERATOR, "bfloat16", **benchmark.COUNTED)
    params, stats = jax.eval_shape(stages[1].method.init, jax.random.key(0), {})
    for each in (params, stats["stage1"]):
        assert sum(leaf.size for leaf in jax.tree.leaves(each)) == 121_153_794
    widths = [leaf.shape[-1] for leaf in jax.tree.leaves(stats["pyramid"]) if leaf.ndim == 4]
    assert sorted(set(widths)) == list(features.VGG_WIDTHS) and len(widths) == 10
    matcher_config = benchmark.plan_for(stages)
    assert matcher_config.first.network == matcher_config.second.network
    assert (matcher_config.conditioning.cells, matcher_config.conditioning.fine_cells, matcher_config.nfe(3)) == (
        64,
        256,
        30,
    )


def test_loops_count_as_often_as_they_run():
    a, b = jnp.ones((4, 5)), jnp.ones((5, 5))
    x, kernel = jnp.ones((2, 8, 8, 6)), jnp.ones((3, 3, 3, 4))

    def product(a, b):
        return a @ b

    def loop(a, b):
        return lax.scan(lambda carry, _: (carry @ b, None), a, None, length=7)[0]

    def choice(a, b):
        return lax.cond(a[0, 0] > 0, loop, product, a, b)

    def convolution(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=numbers, feature_group_count=2)

    def count(function, *arrays):
        return flops.products(jax.jit(function).trace(*arrays))

    assert count(product, a, b) == 2 * 4 * 5 * 5
    assert count(loop, a, b) == count(choice, a, b) == 7 * count(product, a, b)
    assert count(jax.grad(lambda *each: loop(*each).sum(), argnums=(0, 1)), a, b) == 3 * count(loop, a, b)
    assert count(convolution, x, kernel) == 2 * (2 * 4 * 4 * 4) * (3 * 3 * 3)
    gradient = jax.grad(lambda *each: (convolution(*each) ** 2).sum(), argnums=(0, 1))
    assert count(gradient, x, kernel) == 3 * count(convolution, x, kernel)


def test_gradients_of_our_convolution_count_as_two_more():
    x, kernel = jnp.ones((2, 8, 8, 16)), jnp.ones((3, 3, 16, 16))
    forward = 2 * x.size * 3 * 3 * 16
    assert flops.products(jax.jit(convolve).trace(x, kernel)) == forward
    gradient = jax.value_and_grad(lambda *each: (convolve(*each) ** 2).sum(), argnums=(0, 1))
    assert flops.products(jax.jit(gradient).trace(x, kernel)) == 3 * forward


def test_counts_agree_with_those_of_the_compiler():
    def network(x, kernel, b):
        for _ in range(3):
            x = jnp.tanh(
                lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            )
        return (x.reshape(4, -1) @ b).sum()

    arrays = jnp.ones((4, 16, 16, 8)), jnp.ones((3, 3, 8, 8)), jnp.ones((800, 50))
    whole = jax.jit(jax.value_and_grad(network, argnums=(1, 2)))
    told = whole.lower(*arrays).cost_analysis()["flops"]
    # The compiler counts all additions too, and nothing of the zeros around what the gradient is convolved with.
    np.testing.assert_allclose(flops.products(whole.trace(*arrays)), told, rtol=0.3)


@pytest.mark.slow
def test_smallest_run():
    report = benchmark.run(benchmark.QUICK)
    rows, (ratio,), whole = report.tables.values()
    whats = ["inference, both stages", "training step, stage 1", "training step, stage 2"]
    assert [row["what"] for row in rows[:3]] == [f"{what}, float32" for what in whats]
    for row in rows[:3]:
        assert row["wall s"] == report.samples[row["what"]][0].wall
        assert row["pairs"] == 2 and row["pairs/s"] == 2 / row["wall s"]
    above, below = (
        report.samples[f"{each}, float32"][0].wall for each in ("stage 1: 2 hypotheses drawn", "2 network calls")
    )
    assert ratio["wall"] == above / below
    assert [row["what"] for row in whole] == ["match, 64 x 64, float32", "match, 80 x 64, float32"]
    assert all(row["pairs/s"] == 1 / row["wall s"] and row["MiB resident"] > 50 for row in whole)
