"""Tables as text and Markdown, and a static page of results: pictures are inside it, and it fetches nothing."""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.io import results
from common.io.files import write_atomically


class Table(NamedTuple):
    """Rows of cells under `columns`; numbers are shown with `digits` decimals, None as a dash."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""
    digits: int = 2

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, object]], *, caption: str = "", digits: int = 2) -> Table:
        """Returns the table of rows given as column name to value; the first row decides the columns."""
        columns = list(rows[0]) if rows else []
        return cls(columns, [[row[name] for name in columns] for row in rows], caption, digits)


def text_table(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Returns aligned lines for rows given as column name to value: numbers to the right, floats with two decimals."""
    if not rows:
        return []
    table = Table.of(rows)
    cells = [table.columns, *([_plain(value) for value in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    left = [isinstance(value, str) for value in table.rows[0]]
    return [
        "  ".join(
            cell.ljust(width) if is_left else cell.rjust(width)
            for cell, width, is_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in cells
    ]


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a Markdown table of texts."""
    head, *lines = ("| " + " | ".join(each) + " |" for each in (columns, *rows))
    return [head, "|---" * len(columns) + "|", *lines]


def _plain(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


_TYPES = {".png": "image/png", ".svg": "image/svg+xml", ".jpg": "image/jpeg"}

_MOST = 60  # characters of a setting that are shown

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5b6168; --paper: #fcfcfa; --line: #dcdcd6; --card: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e3; --soft: #9ba1a8; --paper: #16181b; --line: #34383d; --card: #1e2125; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-top: .9rem; border-top: 1px solid var(--line); }
p { max-width: 44rem; margin: .5rem 0; }
.lead, figcaption, footer { color: var(--soft); }
figure { margin: 1rem 0; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 4px; padding: 6px; }
figure.pixels img { image-rendering: pixelated; min-width: min(100%, 24rem); }
figcaption { font-size: .875rem; margin-top: .35rem; max-width: 44rem; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; }
.row > figure { flex: 1 1 22rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .8rem 0; background: var(--card); }
caption { text-align: left; color: var(--soft); font-size: .875rem; padding-bottom: .3rem; }
th, td { padding: .35rem .8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid var(--line); font-weight: 600; }
code, pre { font: .85em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { overflow-x: auto; padding: .8rem 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 4px; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .8rem; font-size: .875rem; }
"""


class Paragraph(NamedTuple):
    """A sentence or more of plain text."""

    text: str


class Code(NamedTuple):
    """Text shown as typed, such as commands."""

    text: str


class Picture(NamedTuple):
    """An image file that is copied into the page; `pixels` keeps small images sharp when they are enlarged."""

    path: str | os.PathLike
    caption: str
    pixels: bool = False


class Row(NamedTuple):
    """Pictures side by side where the window is wide enough."""

    pictures: Sequence[Picture]


Block = Paragraph | Code | Table | Picture | Row


def origins(workdir: Path, shown: Sequence[Any], *, command: str) -> list[Block]:
    """Returns where the results `shown` on a page come from, every other result of the run, and the page's command.

    `shown` are numbers as `common.io.results.read` returns them. Of several results of one kind the last column says
    in which settings they differ.
    """
    listed: list[Any] = [
        results.read_numbers(path)
        for folder in ("results", "samples")
        for path in sorted((workdir / folder).glob("*.json"))
    ]
    listed = [each for each in listed if "config_hash" in each]  # others are notes that belong to a result
    drawn = {each.path for each in shown}
    kinds: dict[tuple[Path, str], list[results.Fields]] = {}
    for each in listed:
        kinds.setdefault((each.path.parent, each.path.stem.partition("-")[0]), []).append(each)
    rows = []
    for group in kinds.values():
        differing = results.differences([each.get("settings", {}) for each in group])
        rows += [_origin(each, differ, each.path in drawn) for each, differ in zip(group, differing, strict=True)]
    versions = ", ".join(f"{name} {value}" for name, value in shown[0]["versions"].items())
    return [Table.of(rows, caption=versions, digits=1), Code(command)]


def _origin(numbers: results.Fields, differing: Mapping[str, Any], drawn: bool) -> dict[str, Any]:
    settings = ", ".join(f"{name.removeprefix('config.')}={_short(value)}" for name, value in differing.items())
    return {
        "result": numbers.path.stem,
        "on this page": "yes" if drawn else "no",
        **{name: numbers[name] for name in ("step", "seed", "nfe")},
        "wall time (s)": numbers["wall_s"],
        "device": numbers["device"],
        "config": numbers["config_hash"][:12],
        "made": numbers.get("created"),
        "differs in": settings,
    }


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= _MOST else f"{text[:_MOST]}..."


def write_report(
    path: str | os.PathLike,
    title: str,
    sections: Mapping[str, Sequence[Block]],
    *,
    lead: str = "",
    footer: str = "",
) -> Path:
    """Writes a self-contained HTML page: a title, a `lead` sentence, headed `sections` of blocks, and a `footer`."""
    return write_page(path, title, [render(sections)], lead=lead, footer=footer)


def render(sections: Mapping[str, Sequence[Block]]) -> str:
    """Returns headed `sections` of blocks as HTML, the body of a page or a part of one."""
    parts = []
    for heading, blocks in sections.items():
        parts += ["<section>", f"<h2>{_text(heading)}</h2>", *(_block(block) for block in blocks), "</section>"]
    return "\n".join(parts)


def write_page(
    path: str | os.PathLike, title: str, rendered: Sequence[str], *, lead: str = "", footer: str = ""
) -> Path:
    """Writes a self-contained HTML page of parts made by `render`."""
    body = [f"<h1>{_text(title)}</h1>"]
    if lead:
        body.append(f'<p class="lead">{_text(lead)}</p>')
    body += rendered
    if footer:
        body.append(f"<footer>{_text(footer)}</footer>")
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{_text(title)}</title>\n<link rel="icon" href="data:,">\n<style>{_STYLE}</style>\n</head>\n<body>\n'
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )
    return write_atomically(path, page.encode())


def _block(block: Block) -> str:
    match block:
        case Paragraph(text):
            return f"<p>{_text(text)}</p>"
        case Code(text):
            return f"<pre><code>{_text(text)}</code></pre>"
        case Table():
            return _table(block)
        case Picture():
            return _picture(block)
        case Row(pictures):
            return '<div class="row">' + "".join(_picture(each) for each in pictures) + "</div>"
    raise TypeError(f"block: expected one of {Block}, got {type(block).__name__}")


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_text(each)}</th>' for each in table.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_cell(each, table.digits)}</td>" for each in row) + "</tr>" for row in table.rows
    )
    caption = f"<caption>{_text(table.caption)}</caption>" if table.caption else ""
    return f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _picture(picture: Picture) -> str:
    path = Path(picture.path)
    content = base64.b64encode(path.read_bytes()).decode()
    kind = ' class="pixels"' if picture.pixels else ""
    return (
        f'<figure{kind}><img src="data:{_TYPES[path.suffix]};base64,{content}" alt="{_text(picture.caption)}">'
        f"<figcaption>{_text(picture.caption)}</figcaption></figure>"
    )


def _cell(value: object, digits: int) -> str:
    if value is None:
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, float) else _text(value)


def _text(value: object) -> str:
    return html.escape(str(value))
