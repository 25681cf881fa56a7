"""The Python file of an experiment: it is run, and what goes wrong in it is said in one line with its place."""

import contextlib
import io
import re
import traceback
from pathlib import Path

from ml_collections import ConfigDict

from common.errors import InputError, input_error, nearest, shown

# ConfigDict's message for an assignment of the wrong type.
_CAST = (
    r"Could not override field '(\w+)' \(reference\)\. (.*) is of original type <class '([\w.]+)'>.*<class '([\w.]+)'>"
)


def run(path: Path) -> ConfigDict:
    """Returns what `get_config()` of the file at `path` builds; any mistake in the file is an `InputError`."""
    if not path.is_file():
        others = [each.stem for each in path.parent.glob("*.py") if each.stem not in ("__init__", "base")]
        close = nearest(path.stem, others)
        fix = f"did you mean {path.with_name(close)}.py?" if close else "check --config"
        raise input_error(f"config file {path}", expected="a Python file", got="no such file", fix=fix)
    namespace = {"__file__": str(path), "__name__": "experiment", "__builtins__": __builtins__}
    printed = io.StringIO()
    try:
        # Commands promise what they print, so a file that only returns values must add nothing to it.
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            exec(compile(path.read_bytes(), str(path), "exec"), namespace)
            build = namespace.get("get_config")
            if not callable(build):
                raise input_error(
                    str(path), expected="a function get_config()", got="none", fix="see configs/base.py for the shape"
                )
            config = build()
    except SyntaxError as error:
        place = f"{error.filename}:{error.lineno}" if error.filename and error.lineno else str(path)
        raise InputError(f"{place}: {error.msg}; correct the config file") from error
    except InputError:
        raise
    # Any exception of a user's file, also SystemExit(0), is a mistake in that file and is reported with its line.
    except BaseException as error:
        raise InputError(f"{_place(error, path)}: {_reason(error)}") from error
    if text := printed.getvalue().strip():
        raise input_error(
            str(path), expected="a file that prints nothing", got=shown(text), fix="remove print from the config file"
        )
    if not isinstance(config, ConfigDict):
        raise input_error(
            str(path), expected="get_config() to return a ConfigDict", got=type(config).__name__, fix="return it"
        )
    return config


def _place(error: BaseException, path: Path) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}:{lines[-1]}" if lines else str(path)


def _reason(error: BaseException) -> str:
    """Returns a sentence for an error in a config file; ConfigDict's own are long, so they are reworded."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  the class is the file's own
        text = ""
    text = text.replace("\\n", "\n").replace("\\'", "'")
    if match := re.match(_CAST, text, re.DOTALL):
        wanted = "a section (ConfigDict)" if match[4].endswith("ConfigDict") else match[4]
        return f"{match[1]}: expected {wanted}, got {match[2]!r} ({match[3]}); give a value of that type"
    close = re.search(r'Did you mean "(\w+)"', text)
    if close and (match := re.match(r"""["']*(?:Key ")?(\w+)["']""", text)):
        return f'unknown key "{match[1]}"; did you mean "{close[1]}"?'
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"
