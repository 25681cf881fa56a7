"""The command line itself: what it parses, how it fails, and that help costs nothing."""

import argparse
import errno
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from common.cli import workdirs
from common.cli.app import App, Request, Verb
from common.cli.dispatch import main, split_overrides
from common.errors import InputError, RunError
from common.plots.report import text_table
from configs.base import base

ROOT = Path(__file__).parents[3]


def app(run=lambda app, request: None) -> App:
    """A method without a model, and one verb of its own."""

    def shared() -> ConfigDict:
        config = base()
        config.method = "demo"
        return config

    def arguments(parser):
        parser.add_argument("--number", type=int, default=3)

    return App(
        name="demo",
        summary="Demo.",
        base=shared,
        build=None,
        import_weights=None,
        read_weights=None,
        figures=dict,
        extra_verbs=[Verb("own", "an own verb", "Details.", arguments, run)],
        examples=["own --number 4"],
    )


@pytest.fixture
def fails(capsys):
    """Runs a command that must fail; returns the one line it wrote."""

    def run(*argv, code=2, **how):
        assert main(argv, app(**how)) == code
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and err.startswith("error: "), (out, err)
        return err[len("error: ") : -1]

    return run


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "verb: expected one of train, sample, evaluate, figures, describe, import-weights, own, got none"),
        (("trian",), 'got "trian"; did you mean "train"?'),
        (("--workdir", "x", "train"), "first, got --workdir; see `python -m demo --help`"),
        (("own", "--numbr", "4"), '--numbr: unknown flag; did you mean "--number"?'),
        (("own", "--num=4"), '--num: unknown flag; did you mean "--number"?'),
        (("own", "--parallel", "pmap"), "--parallel: unknown flag; did you mean --config.parallel=pmap?"),
        (("train", "--steps", "100"), "--steps: unknown flag; did you mean --config.train.steps=100?"),
        (("sample", "--steps", "100"), '--steps: unknown flag; did you mean "--step"?'),
        (("train", "--train.steps=5"), "--train.steps: unknown flag; did you mean --config.train.steps=5?"),
        (("train", "-config.train.steps=5"), "did you mean --config.train.steps=5?"),
        (("evaluate", "--seed=1"), "--seed: unknown flag; did you mean --config.seed=1?"),
        (("own", "--lr", "-1e-3"), "--lr: unknown flag; did you mean --config.optimizer.learning_rate=-1e-3?"),
        (("own", "--batch-size", "4"), "--batch-size: unknown flag; did you mean --config.train.batch_size=4?"),
        (("own", "--epochs", "5"), "did you mean --config.train.steps='5 epochs'?"),
        (("own", "--remat"), "did you mean --config.train.remat=true?"),
        (("own", "--no-flip"), "did you mean --config.data.flip=false?"),
        (("own", "--wight-decay", "0.1"), "did you mean --config.optimizer.weight_decay=0.1?"),
        (("own", "--train.stpes", "3"), "did you mean --config.train.steps=3?"),
        (("own", "--work-dir", "x"), '--work-dir: unknown flag; did you mean "--workdir"?'),
        (("own", "--output_dir=x"), '--output_dir: unknown flag; did you mean "--workdir"?'),
        (("own", "--zzzz", "3"), "--zzzz: unknown flag; see `python -m demo own --help`"),
        (("import-weights", "--work-dir", "x"), '--work-dir: unknown flag; did you mean "--workdir"?'),
        (("figures", "--seed", "1"), "--seed: unknown flag; see `python -m demo figures --help`"),
        (("own", "train.steps=5"), "train.steps: unknown argument; write --config.train.steps=5"),
        (("own", "4"), "4: unknown argument; see `python -m demo own --help`"),
        (("own", "--number", "x"), "argument --number: invalid int value: 'x'; see `python -m demo own --help`"),
        (("own", "--number", "9" * 5000), f"argument --number: invalid int value: '{'9' * 59} ... 99"),
        (("own", "--config.seed"), "config.seed: expected a value, got none; write --config.seed=VALUE"),
        (("own", "--config.seed", "--number"), "config.seed: expected a value, got none; write --config.seed=VALUE"),
        (("train", "--config", "x.py"), "--workdir: expected a path, got none; add --workdir runs/x"),
        (("train", "--workdir", "nowhere"), "--config: expected a path, got none; add --config"),
        (("evaluate", "--workdir", "nowhere"), "workdir nowhere: expected the config.json of a run, got none"),
        (("figures", "--workdir", "nowhere"), "workdir nowhere: expected the directory of a run, got none"),
        (("describe",), "--config: expected a path, got none; add --config FILE, or --workdir DIR of a run"),
        (
            ("import-weights", "nowhere.pt", "--workdir", "x"),
            "nowhere.pt: expected a file of weights, got no such file",
        ),
    ],
)
def test_wrong_use(fails, argv, message):
    assert message in fails(*argv)


def test_overrides_are_taken_out():
    argv = ["--workdir", "x", "--config.a.b=1=2", "--config", "f.py", "--config.c", "(1, 2)", "--config.a.b=3", "name"]
    overrides, rest = split_overrides(argv)
    assert overrides == {"a.b": "3", "c": "(1, 2)"}
    assert rest == ["--workdir", "x", "--config", "f.py", "name"]


def test_request_reaches_the_verb():
    seen = []
    argv = ["own", "--number", "4", "--config.seed=2", "--workdir", "w"]
    assert main(argv, app(run=lambda app, request: seen.append(request))) == 0
    (request,) = seen
    assert (request.flags.number, request.flags.workdir, request.flags.config) == (4, "w", None)
    assert request.overrides == {"seed": "2"}


def raising(error):
    def run(app, request):
        raise error

    return run


def test_kinds_of_failure(fails):
    assert fails("own", run=raising(InputError("a:\n b"))) == "a: b"
    assert fails("own", run=raising(RunError("lost")), code=1) == "lost"
    assert fails("own", run=raising(KeyboardInterrupt()), code=130) == "interrupted"
    full = errno.ENOSPC, "No space left on device"
    assert fails("own", run=raising(OSError(*full, "runs/x")), code=1) == "runs/x: No space left on device"
    assert fails("own", run=raising(OSError(*full)), code=1) == "a file: No space left on device"


@pytest.mark.parametrize("flag", ["--workdir", "--config"])
def test_paths_that_cannot_be(fails, tmp_path, flag):
    (tmp_path / "loop").symlink_to("loop")
    given = {"--workdir": str(tmp_path / "run"), "--config": "demo/x"}
    for path, says in (("x" * 5000, "File name too long"), (str(tmp_path / "loop"), "")):
        words = [word for pair in {**given, flag: path}.items() for word in pair]
        assert says in fails("train", *words)


def test_too_large_for_the_memory(fails):
    said = fails("own", run=raising(MemoryError("Unable to allocate 7.28 TiB for an array")), code=1)
    assert "Unable to allocate 7.28 TiB" in said and said.endswith("use smaller numbers or sizes")
    assert "the memory is full" in fails("own", run=raising(MemoryError()), code=1)


def test_a_bug_traces_back():
    with pytest.raises(ZeroDivisionError):
        main(["own"], app(run=raising(ZeroDivisionError())))
    with pytest.raises(OSError, match="odd"):
        main(["own"], app(run=raising(OSError("odd"))))


def test_help(capsys):
    assert main(["--help"], app()) == 0
    text = capsys.readouterr().out
    for each in (
        "usage: python -m demo VERB",
        "train, or resume",
        "an own verb",
        "own --number 4",
        "--config.KEY=VALUE",
    ):
        assert each in text, each
    with pytest.raises(SystemExit) as exit_code:
        main(["own", "--help"], app())
    assert exit_code.value.code == 0
    text = capsys.readouterr().out
    for each in ("usage: python -m demo own", "Details.", "--number", "--workdir DIR", "'5 epochs'"):
        assert each in text, each


@pytest.mark.parametrize("verb", ["", "train", "sample", "evaluate", "figures", "describe", "import-weights"])
def test_help_imports_nothing_heavy(verb):
    code = (
        "import sys\nfrom gahb.__main__ import APP, main\n"
        f"try:\n    main({[verb] * bool(verb) + ['--help']!r}, APP)\nexcept SystemExit: pass\n"
        "heavy = {'jax', 'flax', 'orbax', 'matplotlib', 'numpy', 'tensorflow_datasets'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m gahb")


ENDLESS = """
import sys
from common.cli.app import App, Verb, print_lines
from common.cli.dispatch import main

def run(app, request):
    for number in range(10**6):
        print_lines(number)

verb = Verb("own", "summary", "details", lambda parser: None, run)
sys.exit(main(["own"], App("demo", "Demo.", None, None, None, None, None, [verb])))
"""


def test_output_cut_short_is_no_error():
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", ENDLESS], cwd=ROOT, **pipes) as process:
        assert process.stdout.readline() == b"0\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


@pytest.fixture
def experiment(tmp_path):
    path = tmp_path / "experiment.py"
    body = "    config = base()\n    config.method = 'demo'\n    return config\n"
    path.write_text(f"from configs.base import base\n\n\ndef get_config():\n{body}")
    return path


def request(overrides=(), **flags) -> Request:
    return Request(argparse.Namespace(**{"config": None, "workdir": None, **flags}), dict(overrides))


def test_train_config_comes_from_file_then_from_workdir(experiment, tmp_path):
    from common import config as configs

    workdir = tmp_path / "run"
    given = request({"train.steps": "7"}, config=str(experiment), workdir=str(workdir))
    config, where = workdirs.to_train(app(), given)
    assert (config.train.steps, where) == (7, workdir)
    assert not workdir.exists()

    workdir.mkdir()
    configs.write(config, workdir)
    again, _ = workdirs.to_train(app(), request({"train.log_every": "2"}, workdir=str(workdir)))
    assert (again.train.steps, again.train.log_every) == (7, 2)
    with pytest.raises(InputError, match=r"holds, got another: train.steps: 7 -> 1000; choose a new --workdir"):
        workdirs.to_train(app(), request(config=str(experiment), workdir=str(workdir)))


def test_trained_config(experiment, tmp_path):
    from common import config as configs

    stored, _ = workdirs.to_train(app(), request({"train.steps": "7"}, config=str(experiment), workdir=str(tmp_path)))
    configs.write(stored, tmp_path)
    own = workdirs.of_trained(app(), request(workdir=str(tmp_path)))
    assert own.config == stored and own.changes == []
    other = workdirs.of_trained(app(), request({"seed": "3"}, config=str(experiment), workdir=str(tmp_path)))
    assert other.changes == ["seed: 0 -> 3", "train.steps: 7 -> 1000"]
    with pytest.raises(InputError, match="expected the config of its model, got another: data.channels: 1 -> 3"):
        workdirs.of_trained(app(), request({"data.channels": "3"}, workdir=str(tmp_path)))


def test_experiment_of_another_method(experiment, tmp_path):
    experiment.write_text(experiment.read_text().replace("'demo'", "'other'"))
    with pytest.raises(InputError, match="expected an experiment of demo, got one of other; use python -m other"):
        workdirs.to_describe(app(), request(config=str(experiment)))


def test_check_writable_leaves_no_trace(tmp_path):
    workdirs.check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"workdir .*file/x: expected a directory, got .*file, a file"):
        workdirs.check_writable(tmp_path / "file" / "x")


@pytest.mark.parametrize("name", ["checkpoints", "samples", "results", "figures"])
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path, name):
    (tmp_path / "file" / name).parent.mkdir()
    (tmp_path / "file" / name).write_text("")
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / name).symlink_to("nowhere")
    for workdir in ("file", "link"):
        with pytest.raises(InputError, match=f"expected a directory {name}, got .*; move it away"):
            workdirs.check_writable(tmp_path / workdir)
    (tmp_path / "good" / name).mkdir(parents=True)
    workdirs.check_writable(tmp_path / "good")


def test_text_table():
    rows = [{"block": "a", "n": 1234, "x": 1.0}, {"block": "total", "n": 7, "x": None}]
    assert text_table(rows) == ["block      n     x", "a      1,234  1.00", "total      7     -"]
    assert text_table([]) == []
