"""The README, the pages and the tutorials: their code runs, their commands and links exist, their names are public."""

import doctest
import importlib
import importlib.util
import inspect
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import skimage.transform

import gahb
from common.cli.dispatch import main

pytestmark = pytest.mark.usefixtures("quick_compilation")

ROOT = Path(__file__).parents[1]
METHODS = ("gahb", "phase_bridge", "diffmatch_jax")
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")), *PAGES]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(text: str, language: str) -> list[str]:
    """Returns the fenced blocks of a language, also those that are indented in a tab."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE)
    return [re.sub(f"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def execute(block: str, scope: dict, where: str) -> dict:
    exec(compile(block, where, "exec"), scope)
    return scope


def app(method: str):
    return importlib.import_module(f"{method}.__main__").APP


# Code


def test_the_readme_is_one_screen_with_three_examples():
    assert len(README.splitlines()) <= 110
    assert len(blocks(README, "python")) == 3


def test_the_matching_example_is_nearer_than_the_best_cells():
    result = execute(blocks(README, "python")[0], {}, "README.md")["result"]
    _, _, disparity = skimage.data.stereo_motorcycle()
    seen = np.isfinite(disparity)
    truth = np.stack([-disparity[seen], np.zeros(seen.sum())], -1)
    ours, wta = (np.linalg.norm(flow[seen] - truth, axis=-1).mean() for flow in (result.flow, result.wta_flow))
    assert ours < 0.95 * wta < 10
    assert result.confidence.shape == (500, 741)


def test_the_denoising_example_gains_8_db_and_has_a_verified_basis():
    scope = execute(blocks(README, "python")[1], {}, "README.md")
    photograph = skimage.data.camera()[80:144, 190:254, None] / 255
    before, after = (10 * np.log10(1 / np.mean((scope[key] - photograph) ** 2)) for key in ("noisy", "clean"))
    assert after > before + 7.5
    basis = scope["basis"]
    assert basis.converged
    linear = gahb.eigenbasis.linearise(scope["denoise"], scope["noisy"])
    products = gahb.eigenbasis.symmetric(linear, basis.vectors)
    np.testing.assert_allclose(products, basis.values[:, None, None, None] * basis.vectors, atol=2e-3)


def test_the_sampling_example_gives_faces():
    scope = execute(blocks(README, "python")[2], {}, "README.md")
    faces = np.asarray(scope["faces"])
    assert faces.shape == (16, 32, 32, 1) and scope["info"]["nfe"] == 10
    assert abs(faces.mean()) < 0.1 and 0.35 < faces.std() < 0.55  # of the data: 0.03, 0.44
    # Mean faces look alike: those of other photographs, which come with scikit-image, and the inner part of these.
    others = skimage.transform.resize(skimage.data.lfw_subset()[:100].mean(0), (24, 24))
    assert np.corrcoef(faces.mean(0)[4:28, 4:28, 0].ravel(), others.ravel())[0, 1] > 0.4
    assert np.corrcoef(faces.reshape(16, -1))[np.triu_indices(16, 1)].max() < 0.95  # no face twice


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns a directory in which `runs/x` is a trained and exported denoiser of 32x32 crops."""
    place = tmp_path_factory.mktemp("docs")
    tiny = ["--config", str(ROOT / "tests/gahb/tiny.py"), "--config.data.size=32"]
    assert main(["train", *tiny, "--workdir", str(place / "runs/x")], app("gahb")) == 0
    assert main(["export", "--workdir", str(place / "runs/x")], app("gahb")) == 0
    return place


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page.read_text(encoding="utf-8"), "python")], ids=name
)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, trained, monkeypatch):
    monkeypatch.chdir(trained)
    scope = {}
    for block in blocks(page.read_text(encoding="utf-8"), "python"):
        execute(block, scope, name(page))
    if page.name == "get_started.md":
        assert scope["restored"].shape == (1, 512, 512, 1) and scope["samples"].shape == (4, 32, 32, 1)
    if page.name == "own_network.md":  # the mean of a 3x3 window of zeros around the image, of products of cosines
        factor = ((1 + 2 * np.cos(np.pi / 17)) / 3) ** 2
        np.testing.assert_allclose(scope["basis"].values[0], factor, rtol=1e-5)
        np.testing.assert_allclose(scope["samples"], 0.5, atol=0.3)


def tutorial(stem: str, **sizes: int) -> dict:
    """Runs a tutorial with other values of the constants at its top, and a tiny network where it trains one."""
    text = (ROOT / "examples" / f"{stem}.py").read_text(encoding="utf-8")
    for constant, value in sizes.items():
        text, count = re.subn(rf"^{constant} = \d+", f"{constant} = {value}", text, flags=re.MULTILINE)
        assert count == 1
    text = re.sub(r'(--config(", "| ))photographs\b', rf"\g<1>{ROOT / 'tests/gahb/tiny.py'}", text)
    assert text.startswith("# %% [markdown]\n# # ")
    return execute(text, {"__name__": "__main__"}, stem)


@pytest.fixture
def plots(monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the commands that a tutorial starts
    yield
    plt.close("all")


def test_match_photographs(plots):
    scope = tutorial("match_photographs", SIDE=371)
    difference, confident = scope["difference"], scope["confident"]
    assert difference.mean() < 0.6 * np.abs(scope["source"] - scope["target"]).mean()
    assert difference[confident].mean() < difference[~confident].mean()


def test_look_into_a_denoiser(plots):
    scope = tutorial("look_into_a_denoiser", STEPS=5, SIDE=16, TOP=4)
    basis = scope["basis"]
    assert basis.vectors.shape == (4, 16, 16, 1) and basis.residuals.max() < 1e-2
    np.testing.assert_allclose(scope["twice"], 2 * scope["restored"], rtol=1e-3, atol=1e-4)


def test_memorise_or_generalise(plots):
    scope = tutorial("memorise_or_generalise", STEPS=150, KERNELS=8, COUNT=2)
    between, nearest = scope["between"], scope["nearest"]
    assert between[1] < 0.25 and between[50] > between[1] + 0.3
    assert nearest[1] > 0.8 > nearest[50]
    first, second = scope["sets"][50]
    assert np.abs(np.asarray(first)[:, None] - np.asarray(second)).max((2, 3, 4)).min() > 0.1  # no face is in both sets


def test_few_steps_compared(plots):
    scope = tutorial("few_steps_compared", COUNT=300, REFERENCE=100)
    modes = np.linalg.norm(scope["reference"][:, None] - np.array(scope["means"]), axis=-1).min(1)
    np.testing.assert_allclose(np.sqrt(np.mean(modes**2) / 2), 0.08, rtol=0.15)
    errors = scope["errors"]
    assert all(row[-1] < 0.6 * row[0] for row in errors.values())  # 20 evaluations against 5
    euler, published, corrected = (
        errors[each][-1] for each in ("euler", "gddim, degree 2 (published)", "data_multistep, degree 1, corrector")
    )
    assert corrected < published < 0.2 * euler
    spreads = scope["spreads"]
    assert all(spreads[path, 10] < 0.5 * spreads[path, 3] for path in scope["paths"])
    assert 0.04 < spreads["bridge", 10] < 0.09


def test_train_and_resume(plots, capsys):
    scope = tutorial("train_and_resume", STEPS=8)
    assert "parameters equal, bit for bit: True" in capsys.readouterr().out
    assert scope["running"].returncode == 0 and max(scope["losses"]) <= 8


def test_bring_a_pytorch_model(plots):
    scope = tutorial("bring_a_pytorch_model", WIDTH=3)
    np.testing.assert_allclose(scope["ours"], scope["with_scipy"](scope["y"]), atol=1e-5)
    assert scope["basis"].residuals.max() < 1e-3
    denoise, batch = scope["denoise"], scope["batch"]
    np.testing.assert_allclose(scope["wrapped"](batch), denoise(batch), atol=1e-5)
    if importlib.util.find_spec("torch"):
        np.testing.assert_allclose(scope["in_torch"](batch), denoise(batch), atol=1e-5)
        np.testing.assert_allclose(scope["in_torch_basis"].values, scope["basis"].values, atol=1e-4)


# Commands


def commands(path: Path) -> list[str]:
    lines = "".join(blocks(path.read_text(encoding="utf-8"), "sh")).replace("\\\n", " ").splitlines()
    return [
        line[line.index("python -m") :]
        for line in lines
        if re.match(rf"([A-Z_]+=\S+ )*python -m ({'|'.join(METHODS)})", line)
    ]


@pytest.mark.parametrize("path", [path for path in TEXTS if commands(path)], ids=name)
def test_every_command_names_a_verb_flags_keys_and_files_that_exist(path, capsys):
    for command in commands(path):
        _, _, method, verb, *words = shlex.split(command, comments=True)
        if verb == "--help":
            continue
        with pytest.raises(SystemExit) as exit_code:
            main([verb, "--help"], app(method))
        shown = capsys.readouterr().out
        assert exit_code.value.code == 0, command
        base = importlib.import_module(f"configs.{method}.base").base()
        for before, word in zip(["", *words], words, strict=False):
            if word.startswith("--config."):
                value = base
                for key in word.removeprefix("--config.").split("=")[0].split("."):
                    assert key in value, command
                    value = value[key]
            elif word.startswith("--"):
                assert word.split("=")[0] in shown, command
            if before == "--config" and word != "FILE":
                file = ROOT / word if word.endswith(".py") else ROOT / "configs" / method / f"{word}.py"
                assert file.is_file(), command


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join(path.read_text(encoding="utf-8") for path in TEXTS)
    named = set(re.findall(r"make ([a-z]+(?:-[a-z]+)*)", " ".join([*blocks(text, "sh"), *re.findall("`[^`]*`", text)])))
    assert {"install", "demo", "test", "docs"} <= named <= targets


def test_every_named_experiment_and_test_exists():
    for path in TEXTS:
        for named in re.findall(
            r"`((?:configs|tests|benchmarks|examples|docs)/[\w./]+)`", path.read_text(encoding="utf-8")
        ):
            assert (ROOT / named).exists() or "METHOD" in named, f"{name(path)}: {named}"


# Tables


def test_tables_of_results_are_those_of_the_json_files():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs/tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    used = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        used += re.findall(r"<!-- table (\S+) -->", text)
        assert tables.filled(text) == text, f"{name(page)}: run `python docs/tables.py`"
        assert text.count("<!-- table ") == text.count("<!-- /table -->") == len(tables.MARKED.findall(text))
    assert sorted(used) == sorted(tables.TABLES)
    page = (ROOT / "docs/diffmatch.md").read_text(encoding="utf-8")
    wrong = page.replace("| clean | **2.02** |", "| clean | **1.02** |")
    assert wrong != page and tables.filled(wrong) == page


# Links


def slugs(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_links_lead_somewhere(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match("[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = Path(os.path.normpath(path.parent / place)) if place else path
        made_of = ROOT / "examples" / f"{target.stem}.py"  # the site makes a page of it
        assert target.is_file() or (target.parent == ROOT / "docs/examples" and made_of.is_file()), link
        if anchor and target.parent != ROOT / "docs/api":
            assert anchor in slugs(target), link


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    made = {f"examples/{path.stem}.md" for path in (ROOT / "examples").glob("*.py")}
    assert listed == {page.relative_to(ROOT / "docs").as_posix() for page in PAGES} | made


# Names


@pytest.mark.parametrize(
    "package", re.findall(r"^::: public (\S+)", "\n".join(p.read_text() for p in PAGES), re.MULTILINE)
)
def test_public_names_are_there_and_described(package):
    module = importlib.import_module(package)
    assert module.__all__
    for each in module.__all__:
        value = getattr(module, each)
        where = value.__name__ if inspect.ismodule(value) else value.__module__
        assert value.__doc__ and where.split(".")[0] in ("common", *METHODS), each


def public_functions() -> dict[str, list]:
    """Returns the functions of the API pages by the module that defines them."""
    found = {}
    for package in (
        "gahb",
        "gahb.eigenbasis",
        "gahb.operators",
        "gahb.reference",
        "phase_bridge",
        "diffmatch_jax",
        "common.imports",
    ):
        module = importlib.import_module(package)
        names = getattr(module, "__all__", None) or [each for each in vars(module) if not each.startswith("_")]
        for function in (inspect.unwrap(getattr(module, each)) for each in names):
            if inspect.isfunction(function) and (hasattr(module, "__all__") or function.__module__ == package):
                found.setdefault(function.__module__, []).append(function)
    return found


@pytest.mark.parametrize("module", sorted(public_functions()))
def test_every_public_function_has_an_example_that_runs(module):
    for function in public_functions()[module]:
        assert ">>> " in function.__doc__, f"{module}.{function.__name__} has no example"
    results = doctest.testmod(importlib.import_module(module))
    assert results.failed == 0


def test_the_citation_has_the_version_of_the_package():
    citation, setup = ((ROOT / each).read_text(encoding="utf-8") for each in ("CITATION.cff", "setup.py"))
    assert re.search(r"^version: (\S+)$", citation, re.MULTILINE)[1] == re.search(r'version="(.*?)"', setup)[1]
    assert citation.count("type: conference-paper") == 3
