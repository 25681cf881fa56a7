"""The progress line: what it says, and how often."""

import io

from common.io.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(stream, times, *, counts=None, **how):
    clock = iter(times)
    bar = Progress(100, stream=stream, clock=lambda: now[0], **how)
    now = [0.0]
    for i, now[0] in enumerate(clock):
        bar.add(counts[i] if counts else 10)
    return bar


def test_rate_leaves_out_compilation_and_earlier_runs():
    bar = run(io.StringIO(), [60.0, 61.0, 62.0], done=20)
    assert bar.rate == 10 and bar.done == 50
    assert bar.line() == "50 of 100, 10 img/s, 5 s left"
    assert run(io.StringIO(), [60.0], unit="samples").line() == "10 of 100"
    assert run(io.StringIO(), [60.0]).rate is None


def test_lines_without_a_terminal_are_few():
    stream = io.StringIO()
    run(stream, [1.0 * i for i in range(1, 11)]).close()
    assert stream.getvalue().splitlines() == ["10 of 100", "100 of 100, 10 img/s"]


def test_a_bar_on_a_terminal():
    stream = Terminal()
    run(stream, [0.0, 0.1, 1.0], counts=[10, 10, 80], what="drawing").close()
    assert "drawing, compiling" in stream.getvalue() and "100/100" in stream.getvalue()
    empty = Terminal()
    Progress(0, stream=empty).close()
    assert empty.getvalue() == ""


def test_compilation_is_said_before_the_first_result():
    stream = io.StringIO()
    run(stream, [1.0, 12.0], what="drawing").close()
    assert stream.getvalue().splitlines() == [
        "drawing: compiling", "drawing: 10 of 100", "drawing: 20 of 100, 0.9091 img/s, 1 min 28 s left"
    ]  # fmt: skip
    finished = io.StringIO()
    Progress(10, done=10, what="drawing", stream=finished).close()
    assert finished.getvalue() == ""
