"""The benchmark of the sampler's cost: which network it is about, and (slow) its smallest run."""

import pytest

from benchmarks import phase_bridge_sampler as benchmark
from common import config as configs
from configs.phase_bridge import cifar10, cifar10_small


def test_the_network_is_that_of_the_experiment():
    assert configs.to_dict(benchmark.config_for(benchmark.FULL)) == configs.to_dict(cifar10_small.get_config())
    changed = configs.diff(cifar10.get_config(), benchmark.config_for(benchmark.ACCELERATOR))
    assert changed == ['compute_dtype: "float32" -> "bfloat16"']


@pytest.mark.slow
def test_smallest_run():
    report = benchmark.run(benchmark.QUICK)
    rows, ratios = report.tables.values()
    assert [row["evaluations"] for row in rows] == [2, 3]
    for n, ratio, goal in zip((2, 3), ratios, report.goals, strict=True):
        above, below = (report.samples[name(n)][0].wall for name in (benchmark.sampler_name, benchmark.network_name))
        assert ratio["wall"] == goal.value == above / below
        assert goal.limit == 1.05
