"""The samplers' benchmark: its measures on known distributions, the rules it names, and (slow) its smallest run."""

import numpy as np
import pytest

from benchmarks import phase_bridge_solvers as benchmark
from phase_bridge import bridge as bridges
from phase_bridge.solvers import make_steps


def test_spread_is_that_of_the_modes():
    data = benchmark.draw_data(np.random.default_rng(0), 50_000)
    assert benchmark.spread_at(data, 1.0) == pytest.approx(benchmark.STD, rel=0.01)
    c_x = bridges.mean_coefficients(benchmark.BRIDGE, 0.9)[0]
    assert benchmark.spread_at(c_x * data, 0.9) == pytest.approx(c_x * benchmark.STD, rel=0.01)


def test_every_rule_and_order_has_a_row():
    rules = benchmark.ode_rules((0, 1))
    assert len(rules) == 1 + 2 * 2 * 2
    for options in rules.values():
        make_steps(benchmark.BRIDGE, [0.0, 0.4, 0.9], kind="ode", **options)
    rules = benchmark.sde_rules((0, 1))
    assert list(rules.values())[-1] == {}
    for options in rules.values():
        make_steps(benchmark.BRIDGE, [0.0, 0.4, 0.9], kind="sde", **options)


@pytest.mark.slow
def test_smallest_run():
    report = benchmark.run(benchmark.QUICK)
    published, best, sde, program = report.tables.values()
    assert [row["sampler"] for row in published] == list(benchmark.ode_rules(benchmark.QUICK.degrees))
    for row, other in zip(published, best, strict=True):
        assert float(other["5 NFE"].split()[0]) <= float(row["5 NFE (T=0.4)"]) + 0.1
    assert len(sde) == 4 and program[0]["wall"] > 0
