"""Tables for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from kedit_glue.problems import printable

SHORT = 9  # columns of such cells stay on one line on a narrow terminal


def short(value: float, decimals: int = 1, sign: str = "") -> str:
    """A number with ``decimals``, or two digits and an exponent from ten thousand on: what broke down reaches that.

    ``sign``: "+" writes it in front of positive numbers, too.
    """
    return f"{value:{sign}.{decimals}f}" if abs(value) < 1e4 else f"{value:{sign}.1e}"


def percent(value: float | None) -> str:
    """A share as a cell."""
    return "-" if value is None else f"{short(100 * value)} %"


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for position, name in enumerate(head):
        short = all(len(cells[position]) <= SHORT for cells in [head, *rows])
        table.add_column(name, overflow="fold", no_wrap=short)
    for row in rows:
        table.add_row(*(Text("\n".join(map(printable, cell.split("\n")))) for cell in row))
    return table


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def row(cells: Sequence[str]) -> str:
        flat = [" ".join(c.splitlines()) for c in cells]
        return "| " + " | ".join(c.replace("\\", "\\\\").replace("|", "\\|") for c in flat) + " |"

    return [row(head), row(["---"] * len(head)), *(row(r) for r in rows)]
