"""A page's tables as LaTeX in the manner of papers (booktabs). Pure."""

from __future__ import annotations

from kedit_glue.compare_latex import PACKAGES, escaped, float_of
from kedit_glue.page.content import Page, Table

SIGNS = {"±": r"$\pm$", "−": "$-$"}


def tables(page: Page) -> dict[str, str]:
    """File name without ending -> text, of every table that has rows."""
    return {
        f"{section.id}_{number}": latex(table, f"{section.id}_{number}")
        for section in page.sections
        for number, table in enumerate((t for t in section.tables if t.rows), 1)
    }


def latex(table: Table, label: str) -> str:
    """One float; the first column to the left, the others to the right."""
    heads = [f"{' & '.join(map(cell, table.head))} \\\\", "\\midrule"]
    body = [f"{' & '.join(map(cell, row))} \\\\" for row in table.rows]
    side = "r" if table.numbers else "l"
    caption = cell(f"{table.title}. {table.note}".strip())
    lines = float_of([*heads, *body], "l" + side * (len(table.head) - 1), caption, label)
    return "\n".join([PACKAGES, *lines, ""])


def cell(text: str) -> str:
    return "".join(SIGNS.get(sign, sign) for sign in escaped(text))
