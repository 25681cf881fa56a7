"""The harness on invented times, and the smallest benchmark end to end; no test depends on how fast anything is."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import (
    diffmatch,
    eigenbasis,
    harness,
    kills,
    overheads,
    phase_bridge_sampler,
    phase_bridge_solvers,
    phase_bridge_tables,
    song_unet,
    start,
    unet,
)
from benchmarks.harness import Goal, Report, Seconds
from benchmarks.workload import (
    batches_for,
    constant_batches,
    denoiser_config,
    first_batch,
    make_steps,
)
from benchmarks.workload import workload as make_workload
from common.errors import InputError

TINY = {"num_kernels": 4, "num_blocks": 1, "size": 16, "batch_size": 4}


def seconds(*walls):
    return [Seconds(wall, 2 * wall) for wall in walls]


def scripted_clock(*points):
    ticks = iter(points)
    return lambda: Seconds(*next(ticks))


def report(**changes):
    return Report(
        **{
            "config": {"a": {"b": 1}},
            "seed": 5,
            "samples": {"one": seconds(1.0, 2.0, 6.0)},
            "tables": {"numbers": [{"what": "x", "value": 0.25, "absent": None}]},
            "goals": [Goal("low", 1.01, 1.02)],
            **changes,
        }
    )


def test_a_block_times_the_work_alone_and_divides_by_its_units():
    order = []
    clock = scripted_clock((10.0, 3.0), (14.0, 9.0))
    block = harness.timed(lambda: order.append("work"), before=lambda: order.append("before"), per=4, clock=clock)
    assert block() == Seconds(1.0, 1.5)
    assert order == ["before", "work"]


def test_blocks_take_turns_and_warmup_does_not_count():
    order = []

    def block(name):
        def run():
            order.append(name)
            return Seconds(float(len(order)), 0.0)

        return run

    samples = harness.alternate({name: block(name) for name in "ab"}, rounds=3, warmup=1)
    assert "".join(order) == "ba" + "ab" + "ba" + "ab"
    assert [s.wall for s in samples["a"]] == [3.0, 6.0, 7.0]
    assert [s.wall for s in samples["b"]] == [4.0, 5.0, 8.0]


def test_ratios_are_of_medians_and_of_pairs():
    found = harness.compare("a / b", seconds(3.0, 1.0, 8.0), seconds(2.0, 1.0, 4.0))
    assert found == {
        "ratio of": "a / b",
        "wall": 1.5,
        "cpu": 1.5,
        "pairs median": 1.5,
        "quartile 1": 1.25,
        "quartile 3": 1.75,
        "min": 1.0,
        "max": 2.0,
    }
    with pytest.raises(ValueError):
        harness.compare("a / b", seconds(1.0, 2.0), seconds(1.0))


def test_one_pair_has_no_spread():
    found = harness.compare("a / b", seconds(3.0), [Seconds(2.0, 0.0)])
    assert found["quartile 1"] == found["quartile 3"] == found["max"] == 1.5
    assert found["cpu"] is None


def test_summary():
    assert harness.summary(seconds(1.0, 6.0, 2.0)) == {
        "count": 3,
        "wall_s": {"median": 2.0, "min": 1.0, "max": 6.0},
        "cpu_s": {"median": 4.0, "min": 2.0, "max": 12.0},
    }


@pytest.mark.parametrize(("least", "size"), [(0.0, 4), (0.05, 8), (0.051, 16), (9.0, 24)])
def test_calibration_doubles_until_the_work_is_long_enough(least, size):
    def seconds_at(count):
        return {4: 0.03, 8: 0.05, 16: 0.1}[count]

    assert harness.calibrate(seconds_at, start=4, least=least, most=24) == size


def test_goals():
    assert Goal("x", 1.02, 1.02).met and not Goal("x", 1.021, 1.02).met
    assert Goal("x", 50.0, 50.0, at_least=True).met and not Goal("x", 49.0, 50.0, at_least=True).met


def test_what_a_save_adds():
    added, ratio = overheads.save_overhead(seconds(1.5, 1.25, 3.0), seconds(1.0, 1.0, 1.0), every_s=60.0)
    assert added == 0.5
    assert ratio == 60.5 / 60


def test_records_are_appended_and_complete(tmp_path):
    record = harness.make_record("made-up", report(), load_average=(0.5, 0.25, 0.125), quick=True)
    assert record["samples"]["one"]["wall_s"] == {"median": 2.0, "min": 1.0, "max": 6.0}
    assert record["goals"] == [{"what": "low", "value": 1.01, "limit": 1.02, "at_least": False, "met": True}]
    assert record["load_average_before"] == [0.5, 0.25, 0.125]
    assert (record["seed"], record["config"], record["quick"]) == (5, {"a": {"b": 1}}, True)
    assert record["date"].endswith("+00:00")
    assert record["hardware"]["device"] == f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    assert record["hardware"]["cores"] >= 1 and record["hardware"]["cpu"]
    assert record["versions"]["jax"] == jax.__version__
    assert set(record) >= {"benchmark", "commit", "environment", "tables"}
    path = harness.append(record, tmp_path / "new")
    assert harness.append({**record, "seed": 6}, tmp_path / "new") == path == tmp_path / "new" / "made-up.json"
    first, second = json.loads(path.read_text())
    assert first == record and second["seed"] == 6
    text = "\n".join(harness.lines(record))
    assert "2000.00" in text and "0.2500" in text and "at most 1.02  met" in text


def test_a_damaged_list_of_records_is_not_overwritten(tmp_path):
    (tmp_path / "made-up.json").write_text("[1, 2")
    with pytest.raises(InputError, match="list of records"):
        harness.append({"benchmark": "made-up"}, tmp_path)
    assert (tmp_path / "made-up.json").read_text() == "[1, 2"


def test_commit_is_unknown_outside_a_repository(tmp_path):
    assert harness.commit(tmp_path) is None


def test_a_constant_batch_is_the_first_real_one():
    work = make_workload(denoiser_config(**TINY))
    batches = batches_for(work, "device")
    batch = first_batch(batches, 4)
    constant = constant_batches(batch)
    position = jnp.arange(4, dtype=jnp.int32)
    for step in (0, 7):
        fetched = jax.tree.map(lambda x: x[0], constant.fetch(step))
        taken = constant.assemble(constant.resident, fetched, position, jax.random.key(step))
        np.testing.assert_array_equal(taken["image"], batch["image"])
    part = constant.assemble(constant.resident, {}, position[2:], None)
    np.testing.assert_array_equal(part["image"], batch["image"][2:])


def test_drivers_take_the_same_steps_whatever_feeds_them():
    work = make_workload(denoiser_config(**TINY))
    streamed = batches_for(work, "stream")
    try:
        one, other = make_steps(work, batches_for(work, "device")), make_steps(work, streamed)
        metrics = [np.asarray(steps.take(3)["loss"]) for steps in (one, other)]
        parts = one.take_parts()
    finally:
        streamed.close()
    np.testing.assert_array_equal(*metrics)
    assert (one.step, other.step) == (4, 3)
    assert int(one.state.step) == 4
    assert set(parts) == {"fetch", "place", "dispatch", "compute", "read metrics"}


def test_the_loop_and_the_bare_steps_take_turns():
    work = make_workload(denoiser_config(**TINY))
    samples = overheads.measure_loop(work, rounds=2, block=10)
    assert [len(each) for each in samples.values()] == [2, 2]
    assert all(s.wall > 0 for each in samples.values() for s in each)
    with pytest.raises(ValueError, match="block=7"):
        overheads.measure_loop(work, rounds=2, block=7)


def test_the_sampler_is_compared_to_as_many_calls():
    samples = overheads.measure_sampler(**TINY, iterations=3, rounds=2)
    assert {name: len(each) for name, each in samples.items()} == {"sampler, per call": 2, "denoiser call": 2}


@pytest.mark.parametrize("unit", ["example", "pair"])
def test_a_row_of_throughput(unit):
    program = unet.Program(None, flops=6e9, bytes=3 * 2**20)
    found = unet.row("x", program, seconds(1.0, 2.0, 3.0), several=4, peak=12e9, unit=unit)
    assert found == {
        "what": "x",
        f"{unit}s": 4,
        "wall s": 2.0,
        "CPU s": 4.0,
        f"{unit}s/s": 2.0,
        f"GFLOP/{unit}": 1.5,
        "GFLOP/s": 3.0,
        "peak GFLOP/s": 12.0,
        "MFU": 0.25,
        "MiB": 3.0,
    }


def test_the_counted_flops_of_a_matrix_product():
    a = jax.ShapeDtypeStruct((32, 32), jnp.float32)
    assert unet.count(jax.jit(jnp.matmul).lower(a, a)) == pytest.approx(2 * 32**3, rel=1e-3)


def test_a_benchmark_through_the_command_line(tmp_path, capsys):
    assert command.main(["unet", "--quick", "--out", str(tmp_path)]) == 0
    (record,) = json.loads((tmp_path / "unet.json").read_text())
    assert record["benchmark"] == "unet" and record["quick"]
    rows = {row["what"]: row for row in record["tables"]["throughput"]}
    assert {"forward, float32", "training step, float32"} <= set(rows)
    for name in ("forward, float32", "training step, float32"):
        median = record["samples"][name]["wall_s"]["median"]
        assert rows[name]["wall s"] == median
        assert rows[name]["examples/s"] == unet.QUICK.batch_size / median
    # A step has the forward pass and two as large products for the gradients.
    forward, step = (rows[name]["GFLOP/example"] for name in ("forward, float32", "training step, float32"))
    assert 2 < step / forward < 4
    assert "training step, float32" in capsys.readouterr().out


def test_every_name_is_a_benchmark():
    modules = (overheads, start, unet, eigenbasis, phase_bridge_solvers, phase_bridge_sampler, diffmatch,
               song_unet, phase_bridge_tables, kills)  # fmt: skip
    for name, module in zip(command.NAMES, modules, strict=True):
        assert module.__name__ == f"benchmarks.{name}"
        assert module.__doc__ and callable(module.run) and module.FULL != module.QUICK


def test_an_unknown_name_is_told_in_one_line(capsys):
    assert command.main(["unets"]) == 2
    assert capsys.readouterr().err == (
        'error: NAME: expected one of "overheads", "start", "unet", "eigenbasis", "phase_bridge_solvers", '
        '"phase_bridge_sampler", "diffmatch", "song_unet", "phase_bridge_tables", "kills", got "unets"; '
        'did you mean "unet"?\n'
    )
