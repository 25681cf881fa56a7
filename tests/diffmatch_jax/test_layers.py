"""Modules import each other in one direction, also inside functions, and the model knows no config, command or file."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "diffmatch_jax").rglob("*.py"))


def dotted(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {dotted(path): path for path in FILES}


def imported(path):
    """Returns the dotted names of every import of a module; of `from a import b` the module a.b where it is one."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in MODULES else node.module)
    return names


def test_no_circle():
    graph = {name: imported(path) & MODULES.keys() for name, path in MODULES.items()}

    def reached(name, seen):
        for each in graph[name] - seen:
            seen.add(each)
            reached(each, seen)
        return seen

    assert [name for name in graph if name in reached(name, set())] == []


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("diffmatch_jax.model.")])
def test_the_model_knows_nothing_above_it(name):
    for each in imported(MODULES[name]):
        assert each.split(".")[0] != "configs" and not each.startswith(("common.cli", "common.config", "common.plots"))
        assert not each.startswith("diffmatch_jax") or each.startswith("diffmatch_jax.model"), each
        # One module reads files of weights.
        assert name.endswith(".weights") or not each.startswith(("common.io", "common.imports", "pathlib")), each


def test_the_released_geometry_is_asked_for_in_one_module():
    holders = [dotted(path) for path in FILES if '"released"' in path.read_text()]
    assert set(holders) <= {"diffmatch_jax.model.released", "diffmatch_jax.import_weights"}
