"""Tables for a terminal."""

from collections.abc import Mapping, Sequence


def text_table(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Returns aligned lines for rows given as column name to value: numbers to the right, floats with two decimals."""
    if not rows:
        return []
    columns = list(rows[0])
    cells = [columns, *([_cell(row[name]) for name in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    left = [isinstance(rows[0][name], str) for name in columns]
    return [
        "  ".join(
            cell.ljust(width) if is_left else cell.rjust(width)
            for cell, width, is_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in cells
    ]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
