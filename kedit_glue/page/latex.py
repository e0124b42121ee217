"""A page's tables as LaTeX in the manner of papers (booktabs). Pure."""

from __future__ import annotations

from kedit_glue.compare_latex import PACKAGES, WORDY, escaped, float_of, stacked
from kedit_glue.page.content import Page, Table


def tables(page: Page) -> dict[str, str]:
    """File name without ending -> text, of every table that has rows."""
    return {
        f"{section.id}_{number}": latex(table, f"{section.id}_{number}")
        for section in page.sections
        for number, table in enumerate((t for t in section.tables if t.rows), 1)
    }


def latex(table: Table, label: str) -> str:
    """One table; the first column to the left, numbers to the right, long texts broken into lines."""
    heads = [f"{' & '.join(map(stacked, table.head))} \\\\"]
    body = [f"{' & '.join(map(escaped, row))} \\\\" for row in table.rows]
    caption = escaped(f"{table.title}. {table.note}".strip())
    return "\n".join([PACKAGES, *float_of(heads, body, form(table), caption, label), ""])


def form(table: Table) -> str:
    """The columns' letters."""
    if table.numbers:
        return "l" + "r" * (len(table.head) - 1)
    columns = list(zip(*table.rows, strict=True))
    wordy = [max(map(len, column)) > WORDY for column in columns]
    broken = f"p{{{0.6 / max(1, sum(wordy)):.2f}\\linewidth}}"
    return "".join(broken if long else "l" for long in wordy)
