"""Loading, checking, durations, hashing and storing of configurations."""

import functools
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from common import config as configs
from common import config_values, migrations
from common.errors import InputError
from configs.base import base as shared
from configs.base import duration


def example() -> ConfigDict:
    """A base with one key of each type."""
    config = shared()
    config.evaluate = ConfigDict({"levels": (10.0, 25.0), "num": 4})
    return config


@pytest.fixture
def write_file(tmp_path):
    def write(body: str) -> str:
        path = tmp_path / "experiment.py"
        path.write_text(
            "from ml_collections import ConfigDict\nfrom configs.base import base\n\n\n"
            "def get_config():\n    config = base()\n"
            "    config.evaluate = ConfigDict({'levels': (10.0, 25.0), 'num': 4})\n"
            f"    {body}\n    return config\n"
        )
        return str(path)

    return write


def test_percents_are_of_the_run_and_of_nothing_else():
    known = {"batch_size": 4, "num_examples": 100, "field": "config.optimizer.warmup"}
    assert config_values.steps("2 percent", run_length=5000, **known) == 100
    assert config_values.steps("1 percent", run_length=50, **known) == 1
    assert config_values.steps("0.7 percent", run_length=1000, **known) == 7  # 7.000000000000001 in floating point
    with pytest.raises(InputError, match="warmup: expected steps, examples or epochs, got .2 percent"):
        config_values.steps("2 percent", **known)


def test_file_and_overrides(write_file):
    texts = {
        "train.steps": "5 epochs",
        "train.log_every": "20",
        "train.batch_size": "1e2",
        "data.flip": "False",
        "data.source": "npz:a=b.npz",
        "optimizer.learning_rate": "3e-3",
        "optimizer.clip_norm": "1",
        "evaluate.levels": "(15, 50.)",
    }
    config = configs.load(write_file("config.seed = 7"), texts, example())
    assert config.seed == 7
    assert config.train.steps == "5 epochs"
    assert config.train.log_every == 20 and isinstance(config.train.log_every, int)
    assert config.train.batch_size == 100 and isinstance(config.train.batch_size, int)
    assert config.data.flip is False
    assert config.data.source == "npz:a=b.npz"
    assert config.optimizer.learning_rate == 3e-3
    assert config.optimizer.clip_norm == 1.0 and isinstance(config.optimizer.clip_norm, float)
    assert config.evaluate.levels == (15.0, 50.0) and all(isinstance(each, float) for each in config.evaluate.levels)
    assert config.is_locked


@pytest.mark.parametrize("text", ["calpha-2,ray", "(calpha-2, ray)", '("calpha-2", "ray")', "'calpha-2',ray,"])
def test_names_of_a_tuple_need_no_quotes(write_file, text):
    file = write_file("config.names = ('disks',)")
    assert configs.load(file, {"names": text}).names == ("calpha-2", "ray")
    assert configs.load(file, {"names": "ray"}).names == configs.load(file, {"names": "'ray'"}).names == ("ray",)
    assert configs.load(file, {"names": "()"}).names == ()
    assert configs.load(file, {"names": "2,x"}).names == ("2", "x")


def test_values_from_python(write_file):
    config = configs.load(write_file("pass"), {"train.steps": 200, "evaluate.levels": (1, 2)})
    assert (config.train.steps, config.evaluate.levels) == (200, (1.0, 2.0))


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("train.stps", "3", 'config.train.stps: unknown key; did you mean "config.train.steps"?'),
        ("steps", "3", 'config.steps: unknown key; did you mean "config.train.steps"?'),
        ("zzzz", "3", "config.zzzz: unknown key; `describe` lists every key"),
        ("train.steps.x", "3", 'config.train.steps.x: unknown key; did you mean "config.train.steps"?'),
        ("train", "3", "config.train: expected one key, got a whole section; set config.train."),
        ("train.steps", "3.5", "config.train.steps: expected a number of steps, or a string such as"),
        ("train.steps", "5 epocs", "got '5 epocs'; did you mean \"epochs\"?"),
        ("train.batch_size", "many", "config.train.batch_size: expected a whole number (int), got 'many' (str)"),
        ("train.batch_size", "2.5", "config.train.batch_size: expected a whole number (int), got 2.5 (float)"),
        ("train.batch_size", True, "config.train.batch_size: expected a whole number (int), got True (bool)"),
        ("data.flip", "maybe", "config.data.flip: expected true or false, got 'maybe'"),
        ("optimizer.eps", "nan", "config.optimizer.eps: expected a finite number (float), got 'nan'"),
        ("optimizer.eps", float("inf"), "config.optimizer.eps: expected a finite number (float), got inf"),
        ("seed", "-1", "config.seed: expected 0 to 2**32 - 1, got -1; use a smaller one"),
        ("seed", "4294967296", "config.seed: expected 0 to 2**32 - 1, got 4294967296"),
        ("parallel", "pmpa", 'config.parallel: expected one of "jit", "pmap", got "pmpa"; did you mean "pmap"?'),
        ("optimizer.schedule", "?", '"cosine", "warmup_cosine", got "?"; choose one of these'),
        ("evaluate.levels", "(1, 'a')", "config.evaluate.levels[1]: expected a finite number (float), got 'a' (str)"),
        ("evaluate.levels", "x", "config.evaluate.levels: expected values in brackets (tuple)"),
    ],
)
def test_bad_overrides(write_file, key, text, message):
    with pytest.raises(InputError) as error:
        configs.load(write_file("pass"), {key: text}, example())
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("config.train.stps = 3", 'config.train.stps: unknown key; did you mean "config.train.steps"?'),
        ("config.trian.steps = 3", 'experiment.py:8: unknown key "trian"; did you mean "train"?'),
        ("config.train.batch_size = 'a'", "experiment.py:8: batch_size: expected int, got 'a' (str)"),
        ("config.model = 3", "config.model: unknown key"),
        ("config.train.steps = '5 parsecs'", "config.train.steps: expected a number of steps"),
        ("config.seed = True", "config.seed: expected a whole number (int), got True (bool)"),
        ("config.seed = None", "config.seed: expected a whole number (int), got None"),
        ("x = ", "experiment.py:8: invalid syntax"),
        ("import no_such_module_here", "experiment.py:8: ModuleNotFoundError: No module named 'no_such_module_here'"),
        ("1 / 0", "experiment.py:8: ZeroDivisionError: division by zero"),
        ("return 3", "expected get_config() to return a ConfigDict, got int"),
    ],
)
def test_bad_files(write_file, body, message):
    with pytest.raises(InputError) as error:
        configs.load(write_file(body), base=example())
    assert message in str(error.value) and "\n" not in str(error.value)


def test_missing_file_names_the_nearest(write_file):
    path = write_file("pass")
    with pytest.raises(InputError, match=r"expected a Python file, got no such file; did you mean .*experiment\.py\?"):
        configs.load(path.replace("experiment", "experimant"))
    with pytest.raises(InputError, match="no such file; check --config"):
        configs.load("nowhere/at/all.py")
    with pytest.raises(InputError, match="no such file; check --config"):
        configs.load(path.replace("experiment", "zzz"))  # the folder alone is no likeness


def test_file_without_get_config(tmp_path):
    path = tmp_path / "empty.py"
    path.write_text("")
    with pytest.raises(InputError, match=r"empty.py: expected a function get_config\(\), got none"):
        configs.load(path)


def test_base_is_left_alone(write_file):
    template = example().lock()
    configs.load(write_file("config.seed = 3"), {"train.steps": 5}, template)
    assert (template.seed, template.train.steps, template.is_locked) == (0, 1000, True)


@given(
    number=st.integers(1, 10_000),
    batch_size=st.integers(1, 512),
    num_examples=st.integers(1, 100_000),
)
@settings(max_examples=50, deadline=None)
def test_durations_round_up(number, batch_size, num_examples):
    known = {"batch_size": batch_size, "num_examples": num_examples, "field": "config.train.steps"}
    assert config_values.steps(number, **known) == config_values.steps(f"{number} steps", **known) == number
    examples = config_values.steps(f"{number} examples", **known)
    assert (examples - 1) * batch_size < number <= examples * batch_size
    epochs = config_values.steps(f"{number} epochs", **known)
    assert (epochs - 1) * batch_size < number * num_examples <= epochs * batch_size


def test_durations_are_exact():
    known = {"batch_size": 10, "num_examples": 1000, "field": "f"}
    assert config_values.steps("0.7 epochs", **known) == 70  # in floating point 0.7 * 1000 / 10 rounds up to 71
    assert config_values.steps("1e3 examples", **known) == 100
    assert config_values.steps("1_000 step", **known) == 1000
    assert config_values.steps("1 epoch", **known) == 100
    assert config_values.steps("12", **known) == 12
    assert config_values.steps(0, **known) == 0


def test_epochs_need_a_size():
    with pytest.raises(InputError, match=r'train.steps: expected a number of steps or examples, got "2 epochs"'):
        config_values.steps("2 epochs", batch_size=4, num_examples=None, field="train.steps")


@pytest.mark.parametrize("value", [-1, "-1", 1.5, "1.5 steps", "x", None, True, "3 epochs later"])
def test_bad_durations(value):
    with pytest.raises(InputError, match="train.steps: expected a number of steps"):
        config_values.steps(value, batch_size=4, num_examples=4, field="train.steps")


def test_write_and_read(write_file, tmp_path):
    config = configs.load(write_file("pass"), {"train.steps": "2 epochs"}, example())
    path = configs.write(config, tmp_path)
    assert json.loads(path.read_text())["train"]["steps"] == "2 epochs"
    assert [each.name for each in tmp_path.glob(".config.json-*")] == []
    for again in (configs.read(tmp_path), configs.read(tmp_path, example())):
        assert again == config and configs.digest(again) == configs.digest(config)
    changed = configs.read(tmp_path, example(), {"train.steps": "7", "evaluate.num": "9"})
    assert (changed.train.steps, changed.evaluate.num) == (7, 9)


def test_read_fills_keys_of_a_newer_version(tmp_path):
    values = configs.to_dict(example())
    del values["ema"]["warmup"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert configs.read(tmp_path, example()).ema.warmup is True


def test_read_refuses_what_is_no_configuration(tmp_path):
    with pytest.raises(InputError, match=r"expected the config.json of a run, got none"):
        configs.read(tmp_path)
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(InputError, match="config.json: expected readable JSON"):
        configs.read(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match="expected readable JSON, got a JSON list"):
        configs.read(tmp_path)


def test_digest_sees_values_and_not_order():
    config = example()
    before = configs.digest(config)
    assert len(before) == 64 and before == configs.digest(configs.to_dict(config))
    assert before == configs.digest(dict(reversed(list(configs.to_dict(config).items()))))
    config.ema.decay = 0.5
    assert configs.digest(config) != before


def test_diff():
    old, new = example(), example()
    new.train.batch_size = 64
    new.data.workers = 7
    new.checkpoint.keep = 1
    assert configs.diff(old, new) == ["checkpoint.keep: 3 -> 1", "data.workers: 2 -> 7", "train.batch_size: 32 -> 64"]
    assert configs.diff(old, new, configs.RESUME_MAY_CHANGE) == ["train.batch_size: 32 -> 64"]
    partial = configs.to_dict(new)
    del partial["seed"]
    assert "seed: (absent) -> 0" in configs.diff(partial, old)


def test_duration_accepts_every_unit():
    config = ConfigDict({"steps": duration(5)})
    config.steps = "5 epochs"
    config.steps = 3
    assert config.steps == 3


def test_choices_hold_their_defaults():
    for key, options in configs.CHOICES.items():
        section, _, name = key.rpartition(".")
        assert (shared()[section] if section else shared())[name] in options, key


def test_sections_of_the_resume_list_exist():
    sections = {name: each for name, each in shared().items() if isinstance(each, ConfigDict)}
    keys = {f"{name}.{key}" for name, section in sections.items() for key in section} | set(shared())
    for each in (*configs.RESUME_MAY_CHANGE, *configs.CONTINUE_MAY_CHANGE):
        assert each in keys or each.removesuffix(".*") in sections or each in ("evaluate.*", "sampler.*"), each


HUGE = ["1e99999999", "1e-99999999", "1e9999999999999999999999", "9" * 5000, 10**400, 1e300, f"{10**40} epochs"]


@pytest.mark.parametrize("value", HUGE, ids=range(len(HUGE)))
def test_huge_durations_end_in_a_line(value):
    with pytest.raises(InputError, match="train.steps: expected ") as error:
        config_values.steps(value, batch_size=4, num_examples=4, field="train.steps")
    assert len(str(error.value)) < 400


def test_the_longest_duration():
    known = {"batch_size": 4, "num_examples": 4, "field": "train.steps"}
    assert config_values.steps(2**31 - 1, **known) == 2**31 - 1
    for value in (2**31, 10**23, "1e23", f"{2**31} epochs"):
        with pytest.raises(InputError, match="train.steps: expected at most 2147483647 steps, got"):
            config_values.steps(value, **known)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("evaluate.levels", "(" + "-" * 20_000 + "1,)", "config.evaluate.levels: expected values in brackets (tuple)"),
        ("evaluate.levels", "-" * 9_000 + "1", "config.evaluate.levels: expected values in brackets (tuple)"),
        ("evaluate.levels", "(" * 300 + ")" * 300, "config.evaluate.levels"),
        ("evaluate.levels", "{[]: 1}", "config.evaluate.levels: expected values in brackets (tuple)"),
        ("evaluate.levels", "(1" + "0" * 400 + ",)", "config.evaluate.levels[0]: expected a finite number (float)"),
        ("train.batch_size", "9" * 5_000, "config.train.batch_size: expected a whole number below 2**63, got '99"),
        ("train.batch_size", str(2**63), "config.train.batch_size: expected a whole number below 2**63"),
        ("train.batch_size", "1e400", "config.train.batch_size: expected a whole number (int), got inf"),
        ("train.batch_size", 10**5000, "config.train.batch_size: expected a whole number below 2**63"),
        ("optimizer.eps", 10**400, "config.optimizer.eps: expected a finite number (float), got 1000"),
    ],
    ids=range(10),
)
def test_texts_too_large_to_read(write_file, key, text, message):
    with pytest.raises(InputError) as error:
        configs.load(write_file("pass"), {key: text}, example())
    assert message in str(error.value) and len(str(error.value)) < 400 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise SystemExit(0)", "experiment.py:8: SystemExit: 0"),
        ("exit()", "experiment.py:8: SystemExit"),
        ("raise KeyboardInterrupt", "experiment.py:8: KeyboardInterrupt: no message"),
        ("raise GeneratorExit", "experiment.py:8: GeneratorExit: no message"),
        ("raise BaseException('a\\nb')", "experiment.py:8: BaseException: a"),
        ("return (lambda f: f(f))(lambda f: f(f))", "experiment.py:8: RecursionError: maximum recursion depth"),
        ("class E(Exception):\n        __str__ = None\n    raise E", "experiment.py:10: E: no message"),
        (
            "at = config.unlock()\n    for _ in range(3000):\n        at.a = ConfigDict()\n        at = at.a",
            "experiment.py: expected a configuration, got sections nested too deeply; use fewer levels",
        ),
        ("print('hello')", "experiment.py: expected a file that prints nothing, got 'hello'; remove print"),
        ("import sys; sys.stderr.write('x')", "expected a file that prints nothing, got 'x'"),
    ],
)
def test_files_that_do_more_than_return_values(write_file, capfd, body, message):
    with pytest.raises(InputError) as error:
        configs.load(write_file(body), base=example())
    assert message in str(error.value) and "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x = 1\0\n", "experiment.py: source code string cannot contain null bytes; correct the config file"),
        (b"# \xff\xfe\nx = 1\n", "experiment.py"),
    ],
)
def test_files_that_are_no_text(tmp_path, content, message):
    path = tmp_path / "experiment.py"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        configs.load(path)
    assert message in str(error.value) and "None" not in str(error.value)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"history": "x"}, "config.json: expected the record of a run under history, got 'x'; restore the file"),
        ({"history": [3]}, "config.json: expected the record of a run under history, got [3]; restore the file"),
        ({"init_from": [1]}, "config.json: expected the record of a run under init_from, got [1]; restore the file"),
        (
            {"init_from": {"path": 1}},
            "config.json: expected the record of a run under init_from, got {'path': 1}; restore",
        ),
    ],
)
def test_a_damaged_record_is_refused(tmp_path, record, message):
    write_stored(tmp_path, {"method": "", **record})
    with pytest.raises(InputError) as error:
        configs.read_record(tmp_path)
    assert message in str(error.value)


@pytest.mark.parametrize("depth", range(500, 1000, 40))
def test_nested_configurations_end_in_a_line(tmp_path, depth):
    write_stored(tmp_path, '{"method": "", "a":' + '{"a":' * depth + "1" + "}" * depth + "}")
    with pytest.raises(InputError):
        configs.read(tmp_path, example(), training=True)


def write_stored(directory, values):
    (directory / "config.json").write_text(values if isinstance(values, str) else json.dumps(values))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "config.json: expected the configuration of a run, got an empty one"),
        ('{"seed": 1}', 'config.json: expected the configuration of a run, got one without the key "method"'),
        ("[" * 100_000, "config.json: expected readable JSON, got JSON that is nested too deeply"),
        ('{"a":' * 100_000, "config.json: expected readable JSON, got JSON that is nested too deeply"),
        ('{"data": 3}', "config.data: expected a section of several keys, got 3; set config.data.KEY"),
        ('{"method": "", "data": 3}', "config.data: expected a section of several keys, got 3; set config.data.KEY"),
        ('{"method": "", "data": []}', "config.data: expected a section of several keys, got []"),
        ('{"method": "", "seed": {"a": 1}}', "config.seed: expected one value, got a section with the key a"),
        ('{"method": "", "config_version": 2}', "config.json: expected config_version 1 to 1, got 2; use the version"),
        ('{"method": "", "config_version": "1"}', "config.json: expected config_version 1 to 1, got '1'"),
        ('{"method": "", "config_version": true}', "config.json: expected config_version 1 to 1, got True"),
        ('{"method": "", "seed": 1e999}', "config.seed: expected a whole number (int), got inf"),
        ('{"method": "", "train": {"steps": "1e99999999"}}', "config.train.steps: expected a number of steps"),
        ("\0", "config.json: expected readable JSON"),
    ],
    ids=range(14),
)
def test_stored_files_that_are_no_configuration(tmp_path, content, message):
    write_stored(tmp_path, content)
    with pytest.raises(InputError) as error:
        configs.read(tmp_path, example())
    assert message in str(error.value) and "\n" not in str(error.value)


def test_stored_files_that_are_no_files(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(InputError, match="config.json: expected readable JSON, got a directory"):
        configs.read(tmp_path, example())
    (tmp_path / "config.json").rmdir()
    os.mkfifo(tmp_path / "config.json")  # reading it would wait for ever
    with pytest.raises(InputError, match="config.json: expected readable JSON, got a pipe or a device"):
        configs.read(tmp_path, example())


def test_a_new_key_takes_its_default_and_is_named_once(tmp_path, capsys):
    values = configs.to_dict(example())
    del values["train"]["remat"], values["evaluate"]
    write_stored(tmp_path, values)
    for training in (False, True):
        found = configs.read(tmp_path, example(), training=training)
        assert configs.digest(found) == configs.digest(example())
    assert capsys.readouterr().err == (
        f"note: {tmp_path}/config.json: keys that are newer than it take their default: evaluate.levels=[10.0, 25.0], "
        "evaluate.num=4, train.remat=False\n"
    )
    # A checkpoint of that run holds the same values, and is the same run.
    assert configs.diff(configs.filled(values, example()), example()) == []
    changed = configs.read(tmp_path, example(), {"train.remat": "true"})
    assert configs.diff(configs.filled(values, example()), changed) == ["train.remat: false -> true"]


def test_a_removed_key_is_ignored_for_inference_and_named_for_training(tmp_path, capsys):
    values = configs.to_dict(example())
    values["data"]["gone"] = 3
    values["old"] = {"section": 1}
    write_stored(tmp_path, values)
    assert configs.digest(configs.read(tmp_path, example())) == configs.digest(example())
    assert "note: " in (err := capsys.readouterr().err) and err.count("\n") == 1
    assert "keys that this version has no more are ignored: data.gone=3, old.section=1" in err
    with pytest.raises(InputError, match=r"got removed keys: data.gone=3, old.section=1; .*--init-from"):
        configs.read(tmp_path, example(), training=True)
    assert configs.diff(configs.filled(values, example()), example()) == [
        "data.gone: 3 -> (absent)",
        "old.section: 1 -> (absent)",
    ]


def rename(names, values):
    return {names.get(key, key): value for key, value in values.items()}


def test_renamed_keys_are_read_under_their_new_names(tmp_path, monkeypatch, capsys):
    names = {2: {"train.count": "train.batch"}, 3: {"train.batch": "train.batch_size", "size": "data.size"}}
    table = {since: functools.partial(rename, each) for since, each in names.items()}
    monkeypatch.setattr(migrations, "MIGRATIONS", table)
    for version, old in ((None, "count"), (1, "count"), (2, "batch"), (3, "batch_size")):
        values = configs.to_dict(example())
        values["train"][old] = 5
        if old != "batch_size":
            del values["train"]["batch_size"]
        if version in (None, 1, 2):
            values["size"] = 48
            del values["data"]["size"]
        write_stored(tmp_path, values if version is None else {"config_version": version, **values})
        for training in (False, True):
            found = configs.read(tmp_path, example(), training=training)
            assert (found.train.batch_size, found.data.size) == (5, 48 if version != 3 else 32), version
        assert configs.filled(json.loads((tmp_path / "config.json").read_text()), example())["train.batch_size"] == 5
    assert capsys.readouterr().err == ""
    configs.write(found, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["config_version"] == 3


def test_stored_values_without_a_meaning_today_are_refused(tmp_path, monkeypatch):
    def refuse(values):
        raise ValueError(f"data.size={values['data.size']}")

    monkeypatch.setattr(migrations, "MIGRATIONS", {2: refuse})
    write_stored(tmp_path, configs.to_dict(example()))
    with pytest.raises(InputError, match=r"config\.json: .* of this version, got data\.size=32; use"):
        configs.read(tmp_path, example())


def test_the_record_of_a_run_is_no_part_of_its_experiment(tmp_path):
    config = example()
    record = {
        "history": [{"step": 4, "changes": ["seed: 0 -> 1"]}],
        "init_from": {"path": "a", "partial": False, "weights": "b"},
    }
    configs.write(config, tmp_path, record)
    assert configs.read_record(tmp_path) == record
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["config_version"] == 1 and values["history"] == record["history"]
    assert configs.digest(values) == configs.digest(config) and configs.diff(values, config) == []
    assert configs.digest(configs.read(tmp_path, example())) == configs.digest(config)
