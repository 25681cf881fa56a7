"""Hooks of the documentation site (mkdocs.yml): pages made of files outside docs/, and equations.

- `::: public PACKAGE [LEVEL]` becomes an entry for each name in the package's `__all__`, from where it is defined.
- `::: include FILE [SECTION]` becomes the text of a file, or of it between comments `[SECTION]` and `[/SECTION]`.
- A tutorial, examples/NAME.py in percent cells, runs and becomes a page with its output, and a notebook.
- A link out of docs/ (`../benchmarks/results/unet.json`) leads to a copy in the site.
- Equations become MathML, which browsers render without scripts or fonts.
- Examples in docstrings become code, and named tuples list their fields.
"""

import contextlib
import html
import importlib
import inspect
import io
import json
import posixpath
import re
import sys
from pathlib import Path

import griffe
import matplotlib
from latex2mathml.converter import convert
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).parent

_CELL = re.compile(r"^# %%(?P<kind> \[markdown\])?[^\n]*\n", re.MULTILINE)
_SPECIAL = re.compile(r"^>>> .*?(?=\n[ \t]*\n|\Z)|`[^`]*`|<", re.DOTALL | re.MULTILINE)  # of a docstring
_EQUATION = re.compile(r'<(div|span) class="arithmatex">\\[\[(](.*?)\\[\])]</\1>', re.DOTALL)
_INCLUDE = re.compile(r"^::: include (\S+)(?: (\S+))?$", re.MULTILINE)
_LINK_OUT = re.compile(r"(?<=\]\()\.\./[^)#\s]+(?=[)#])")
_SHIM = "https://unpkg.com/iframe-worker/shim"  # named by the offline plugin; docs/assets has a copy
_PUBLIC = re.compile(r"^::: public (\S+)(?: (\d))?$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Puts examples into fences, keeps `<` from becoming a tag, and lists the fields of named tuples."""

    def on_instance(self, *, obj, **kwargs):
        def shown(match):
            text = match[0]
            return f"```pycon\n{text}\n```" if text.startswith(">>>") else "&lt;" if text == "<" else text

        if obj.docstring:
            obj.docstring.value = _SPECIAL.sub(shown, obj.docstring.value)

    def on_class_members(self, *, cls, **kwargs):
        if cls.docstring and any(str(base) == "NamedTuple" for base in cls.bases):
            fields = [f"- `{name}: {each.annotation}`" for name, each in cls.attributes.items() if not each.docstring]
            cls.docstring.value = "\n".join([cls.docstring.value, "", *fields])


def on_config(config):
    sys.path.insert(0, str(ROOT))  # here, since MkDocs restores the path after it has loaded this module
    matplotlib.use("Agg")


@event_priority(100)  # before the plugins, which then treat these files like those in docs/
def on_files(files, config):
    for path in sorted((ROOT / "examples").glob("*.py")):
        page, pictures = tutorial(path)
        name = f"examples/{path.stem}"
        files.append(File.generated(config, f"{name}.md", content=page))
        files.append(File.generated(config, f"{name}.ipynb", content=notebook(path)))
        for number, picture in enumerate(pictures):
            files.append(File.generated(config, f"{name}-{number}.png", content=picture))
    outside = set()
    for file in files.documentation_pages():
        outside.update(_inside(link, file.src_uri) for link in _LINK_OUT.findall(file.content_string))
    for path in sorted(outside):
        if files.get_file_from_path(path) is None and (ROOT / path).is_file():
            files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown, page, config, files):
    here = page.file.src_uri

    def link(match):
        return posixpath.relpath(_inside(match[0], here), posixpath.dirname(here) or ".")

    markdown = _INCLUDE.sub(lambda match: included(match[1], match[2]), markdown)
    return _PUBLIC.sub(lambda match: public(match[1], int(match[2] or 2)), _LINK_OUT.sub(link, markdown))


def on_post_page(output, page, config):
    return output.replace(_SHIM, get_relative_url("assets/iframe-worker.js", page.url))


def on_post_template(output, template_name, config):
    return output.replace(_SHIM, "assets/iframe-worker.js")


def on_page_content(content, page, config, files):
    def mathml(match):
        return convert(html.unescape(match[2]), display="block" if match[1] == "div" else "inline")

    return _EQUATION.sub(mathml, content)


def _inside(link: str, page: str) -> str:
    """Returns the site's path of a link on a page: that in docs/, or that of a file outside under its name there."""
    return posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link)).removeprefix("docs/")


def included(name: str, section: str | None) -> str:
    """Returns the text of a file of the project, with links as seen from docs/."""
    text = (ROOT / name).read_text(encoding="utf-8")
    if section:
        text = text.split(f"<!-- [{section}] -->")[1].split(f"<!-- [/{section}] -->")[0]
    return text.replace("](docs/", "](").strip()


def public(package: str, level: int) -> str:
    """Returns Markdown with an entry, under a heading of that level, for each public name of a package."""
    module = importlib.import_module(package)
    entries = []
    for name in module.__all__:
        value = getattr(module, name)
        is_module = inspect.ismodule(value)
        where = value.__name__ if is_module else f"{value.__module__}.{value.__qualname__}"
        options = {"heading": f"{package}.{name}", "toc_label": name, "heading_level": level}
        if is_module:
            options["members"] = list(getattr(value, "__all__", ())) or None
        entries.append(f"::: {where}\n    options: {json.dumps(options)}\n")
    return "\n".join(entries)


def cells(path: Path) -> list[tuple[bool, str]]:
    """Returns (whether it is Markdown, text) for each cell of a tutorial."""
    _, *parts = _CELL.split(path.read_text(encoding="utf-8"))
    found = []
    for kind, text in zip(parts[::2], parts[1::2], strict=True):
        if kind:
            text = re.sub(r"^# ?", "", text, flags=re.MULTILINE)
        found.append((bool(kind), text.strip("\n")))
    return found


def tutorial(path: Path) -> tuple[str, list[bytes]]:
    """Runs a tutorial; returns its page and the pictures of the figures that its cells leave open."""
    import matplotlib.pyplot as plt

    page, pictures, scope = [], [], {"__name__": "__main__"}
    for is_markdown, text in cells(path):
        if is_markdown:
            page.append(text)
            continue
        page.append(f"```python\n{text}\n```")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(text, str(path), "exec"), scope)
        if printed.getvalue():
            page.append(f"```text\n{printed.getvalue().rstrip()}\n```")
        for number in plt.get_fignums():
            stored = io.BytesIO()
            plt.figure(number).savefig(stored, dpi=100, bbox_inches="tight")
            page.append(f"![Figure made by the cell above]({path.stem}-{len(pictures)}.png)")
            pictures.append(stored.getvalue())
        plt.close("all")
    page.append(f"[This page as a notebook]({path.stem}.ipynb)")
    return "\n\n".join(page) + "\n", pictures


def notebook(path: Path) -> str:
    """Returns a tutorial as a Jupyter notebook without output."""
    rows = []
    for number, (is_markdown, text) in enumerate(cells(path)):
        row = {"id": f"cell-{number}", "metadata": {}, "source": text.splitlines(keepends=True)}
        code = {"cell_type": "code", "execution_count": None, "outputs": []}
        rows.append({**row, **({"cell_type": "markdown"} if is_markdown else code)})
    return json.dumps({"cells": rows, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1)
