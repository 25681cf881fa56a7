"""The rules between the rooms of the house, read from the syntax trees."""

import ast
import functools
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
METHODS = ("gahb", "diffmatch_jax", "phase_bridge")
PACKAGES = ("common", *METHODS, "configs")

# Which modules may import a heavy dependency; a folder stands for everything in it.
DOORS = {
    "orbax": ["common/checkpoint"],
    "matplotlib": ["common/plots/plotting.py", *(f"{method}/figures.py" for method in METHODS)],
    "absl.flags": ["common/cli/dispatch.py"],
    "tensorflow_datasets": ["common/data"],
    "grain": ["common/data"],
    "tensorboardX": ["common/io/metrics_log.py"],
    "cv2": ["diffmatch_jax/model/geometry.py"],
}
# What configurations import beside each other: they describe, and compute nothing.
CONFIG_IMPORTS = ("collections", "ml_collections", "os", "pathlib", "typing")
NOWHERE = ("torch", "tensorflow", "torchvision")  # the product needs neither framework

# Names that know how many devices or hosts there are.
DEVICE_NAMES = {
    "device_count", "local_device_count", "devices", "local_devices", "process_index", "process_count", "pmap",
    "make_mesh", "Mesh", "NamedSharding", "PartitionSpec", "shard_map", "make_array_from_process_local_data",
}  # fmt: skip
DEVICE_DOORS = ["common/training/parallel.py"]
# Agreement between hosts is a matter of hosts too, but of no mesh.
HOST_NAMES = {"process_index", "process_count"}
HOST_DOORS = ["common/training/cluster.py", "common/training/hosts.py"]


def files() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(module: ast.Module) -> Iterator[str]:
    """Yields every imported dotted name; `from a import b` gives `a` and `a.b`."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import, line {node.lineno}"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def below(dotted: str, package: str) -> bool:
    return dotted == package or dotted.startswith(package + ".")


def behind(path: Path, doors: list[str]) -> bool:
    return any(name(path) == door or name(path).startswith(door + "/") for door in doors)


@pytest.mark.parametrize("path", files(), ids=name)
def test_imports(path):
    own = name(path).split("/")[0]
    for dotted in set(imports(tree(path))):
        for method in METHODS:
            allowed = own == method or (own not in ("common", "configs") and own not in METHODS)
            assert allowed or not below(dotted, method), f"{own} imports {dotted}"
        for package, doors in DOORS.items():
            assert behind(path, doors) or not below(dotted, package), f"{dotted} belongs to {doors}"
        for package in NOWHERE:
            assert not below(dotted, package), dotted
        if own == "configs":
            assert below(dotted, "configs") or dotted.split(".")[0] in CONFIG_IMPORTS, dotted


@pytest.mark.parametrize("path", [path for path in files() if name(path).startswith("common/")], ids=name)
def test_common_does_not_name_a_method(path):
    """Also not in a string, which could be imported by name; prose in docstrings and comments may."""
    module = tree(path)
    docstrings = {
        node.body[0].value
        for node in ast.walk(module)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            for method in METHODS:
                assert method not in node.value, f"line {node.lineno}: {node.value!r}"


@pytest.mark.parametrize("path", files(), ids=name)
def test_devices_are_known_in_one_place(path):
    if behind(path, DEVICE_DOORS):
        return
    for node in ast.walk(tree(path)):
        used = node.attr if isinstance(node, ast.Attribute) else None
        base = node.value.id if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) else None
        names = {used} if base in ("jax", "sharding", "shard_map") else set()
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "jax":
            names = {alias.name for alias in node.names}
        if behind(path, HOST_DOORS):
            names -= HOST_NAMES
        assert not names & DEVICE_NAMES, f"line {node.lineno}: {names & DEVICE_NAMES}"


@pytest.mark.parametrize("path", files(), ids=name)
def test_configs_are_read_by_attribute(path):
    """`config.get("typo", default)` would pass silently."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            target = ast.unparse(node.func.value)
            assert target.split(".")[-1] not in ("config", "configs", "cfg", "settings"), (
                f"line {node.lineno}: {target}.get"
            )
            assert "config." not in target, f"line {node.lineno}: {target}.get"


def test_rooms_of_common_import_each_other_in_one_direction():
    """No cycle, whether an import is at the top of a module or inside a function."""
    graph = {}
    for path in files():
        room = ".".join(name(path).removesuffix(".py").split("/")[:2])
        named = {".".join(dotted.split(".")[:2]) for dotted in imports(tree(path))}
        graph.setdefault(room, set()).update(named - {room})

    def reached(room: str, seen: set[str]) -> set[str]:
        for each in graph.get(room, set()) - seen:
            seen.add(each)
            reached(each, seen)
        return seen

    assert [room for room in graph if room.startswith("common.") and room in reached(room, set())] == []


@pytest.mark.parametrize("method", ["gahb", "phase_bridge"])
def test_modules_of_a_method_are_in_no_circle(method):
    """Neither at the top of a module nor inside a function: loading is on top of what it loads."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in files()
        if name(path).startswith(f"{method}/")
    }
    graph = {each: {dotted for dotted in imports(tree(path)) if dotted in modules} for each, path in modules.items()}

    def reached(module: str, seen: set[str]) -> set[str]:
        for each in graph[module] - seen:
            seen.add(each)
            reached(each, seen)
        return seen

    assert [module for module in graph if module in reached(module, set())] == []


# Modules of gahb that know arrays only, and what they may not import: any denoiser will do.
MATHS = {
    "datasets/calpha.py", "datasets/manifolds.py", "denoisers.py", "eigenbasis", "energy.py", "inverse.py", "metrics",
    "operators.py", "reference", "sampler_settings.py", "sampling.py",
}  # fmt: skip
EFFECTS = {
    "configs", "common.checkpoint", "common.cli", "common.config", "common.data", "common.io", "common.plots",
    "common.training", "flax", "pathlib", "gahb.method", "gahb.networks",
}  # fmt: skip


@pytest.mark.parametrize("path", [each for each in files() if behind(each, [f"gahb/{x}" for x in MATHS])], ids=name)
def test_maths_of_gahb_knows_arrays_only(path):
    """No config, no file, no framework of networks."""
    assert [dotted for dotted in imports(tree(path)) if any(below(dotted, each) for each in EFFECTS)] == []


def test_the_rules_can_be_broken():
    module = ast.parse("import orbax.checkpoint as ocp\nfrom grain import python\nfrom gahb.networks import UNet")
    found = set(imports(module))
    assert {"orbax.checkpoint", "grain", "grain.python", "gahb.networks", "gahb.networks.UNet"} == found
    assert below("orbax.checkpoint", "orbax") and not below("orbaxes", "orbax")
    assert behind(ROOT / "common/data/source.py", ["common/data"]) and not behind(
        ROOT / "common/data2.py", ["common/data"]
    )
    assert len(files()) > 20


@pytest.mark.parametrize("path", files(), ids=name)
def test_attributes_of_own_modules_exist(path):
    """A module that loses a function is still asked for it in code that only long commands reach."""
    module = tree(path)
    modules = {}
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] in PACKAGES:
            for alias in node.names:
                found = ROOT / node.module.replace(".", "/") / f"{alias.name}.py"
                if found.exists():
                    modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    stored = {each.id for each in ast.walk(module) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
    stored |= {each.arg for each in ast.walk(module) if isinstance(each, ast.arg)}
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            dotted = modules.get(node.value.id)
            if dotted and node.value.id not in stored:
                assert hasattr(importlib.import_module(dotted), node.attr), f"{dotted}.{node.attr}, line {node.lineno}"
