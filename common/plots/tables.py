"""Tables: rows of named values, as text for a terminal, as Markdown, and for the pages of `common.plots.report`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """Rows of cells under `columns`; numbers are shown with `digits` decimals, None as a dash."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""
    digits: int = 2

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, object]], *, caption: str = "", digits: int = 2) -> Table:
        """Returns the table of rows given as column name to value; the first row says which columns there are."""
        columns = list(rows[0]) if rows else []
        return cls(columns, [[row[name] for name in columns] for row in rows], caption, digits)


def text_table(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Returns aligned lines for rows given as column name to value: numbers to the right, floats with two decimals."""
    if not rows:
        return []
    table = Table.of(rows)
    cells = [table.columns, *([_cell(value) for value in row] for row in table.rows)]
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


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
