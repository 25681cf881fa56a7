"""What setup.py, the Makefile and pyproject.toml promise: bounds, accelerators, and deprecations that are errors."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import tomllib
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETUP = (ROOT / "setup.py").read_text(encoding="utf-8")
ACCELERATORS = ("cuda12", "cuda13", "tpu")


def requirements() -> list[tuple[str, int]]:
    """Returns every requirement in setup.py with the number of its line."""
    texts = [node for node in ast.walk(ast.parse(SETUP)) if isinstance(node, ast.Constant) and type(node.value) is str]
    return [(node.value, node.lineno) for node in texts if re.fullmatch(r"[\w-]+(>=[^\s,]+)(,<\S+)?", node.value)]


def test_bounds():
    lines = SETUP.splitlines()
    bounded = [(text, line) for text, line in requirements() if ">=" in text]
    assert len(bounded) > 25
    for text, line in bounded:
        assert re.match(r"[\w-]+>=\d", text), text
        if "<" in text:  # an upper bound has its reason beside it
            assert "#" in lines[line - 1] or lines[line - 2].lstrip().startswith("#"), text


def test_every_package_ships_its_types():
    assert '"": ["py.typed"]' in SETUP
    for name in ("common", "configs", "diffmatch_jax", "gahb", "phase_bridge"):
        assert (ROOT / name / "py.typed").is_file(), name


@pytest.mark.parametrize(
    ("module", "is_ours"),
    [
        *((f"{name}{rest}", True) for name in ("common", "configs", "diffmatch_jax", "gahb", "phase_bridge")
          for rest in ("", ".network", ".a.b")),
        ("commonmark", False), ("gahbx.y", False), ("jax.common", False), ("numpy", False),
    ],
)  # fmt: skip
def test_deprecations_that_our_code_meets_are_errors(module, is_ours):
    options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("ignore")
        for line in options["filterwarnings"]:
            action, message, category, pattern = line.split(":")
            assert (message, category) == ("", "DeprecationWarning")
            warnings.filterwarnings(action, category=DeprecationWarning, module=pattern)
        try:
            warnings.warn_explicit("old", DeprecationWarning, "file.py", 1, module=module)
        except DeprecationWarning:
            assert is_ours
        else:
            assert not is_ours


def make(folder: Path, *words: str) -> subprocess.CompletedProcess:
    # The tests may run inside `make test`, whose variables would make this one a part of it.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--dry-run", *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path):
    if shutil.which("make") is None:
        pytest.skip("no make")
    for name in ("Makefile", "setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


@pytest.mark.parametrize("accelerator", [None, "cpu", *ACCELERATORS])
def test_jax_is_installed_for_the_accelerator(checkout, accelerator):
    done = make(checkout, "install", *([f"ACCELERATOR={accelerator}"] if accelerator else []))
    extras = "test" if accelerator in (None, "cpu") else f"test,{accelerator}"
    assert f"--editable '.[{extras}]'" in done.stdout and "--clear" not in done.stdout
    assert f'"{accelerator}": ["jax[{accelerator}]"]' in SETUP or accelerator in (None, "cpu")


def test_other_targets_keep_the_accelerator_and_another_one_makes_the_environment_anew(checkout):
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "installed-cuda13").touch()
    for target in ("install", "demo-gahb", "test"):
        assert "pip" not in make(checkout, target).stdout
    changed = make(checkout, "install", "ACCELERATOR=cuda12").stdout
    assert "-m venv --clear .venv" in changed and "'.[test,cuda12]'" in changed


@pytest.mark.parametrize("value", ["cuda", "", "CUDA13", "cpu tpu", "%"])
def test_another_accelerator_is_refused_in_one_line(checkout, value):
    done = make(checkout, "install", f"ACCELERATOR={value}")
    assert done.returncode == 2 and done.stdout == ""
    assert f'ACCELERATOR: expected one of cpu cuda12 cuda13 tpu, got "{value}"' in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_lowest_versions_are_those_of_setup_py():
    pytest.importorskip("packaging")
    spec = importlib.util.spec_from_file_location("lowest", ROOT / "tests" / "lowest.py")
    lowest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lowest)
    lines = ["a>=1.2", "b>=3.0.1,<4", 'c>=5; extra == "test"']
    assert list(lowest.constraints(lines)) == ["a==1.2", "b==3.0.1"]
