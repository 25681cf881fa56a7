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


def test_one_moving_line_on_a_terminal():
    stream = Terminal()
    run(stream, [0.0, 0.1, 1.0], counts=[10, 10, 80]).close()
    assert stream.getvalue() == "\r\x1b[K10 of 100\r\x1b[K100 of 100, 90 img/s\n"
    empty = Terminal()
    Progress(0, stream=empty).close()
    assert empty.getvalue() == ""
