"""A comparison as a LaTeX table in the manner of papers: booktabs, protocols above metrics. Pure."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Sequence

from kedit_glue.compare_table import Column
from kedit_glue.compare_text import NOISE, Cell, Page, Section, facts_section, head, less_rows, notes, title_of
from kedit_glue.compare_text import value_rows as values_of

SPECIAL = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "{}$&#_%"},
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}"},
    **{"↑": r"$\uparrow$", "↓": r"$\downarrow$", "≈": r"$\approx$", NOISE: r"$^{\dagger}$", "…": r"\dots{}"},
    **{"±": r"$\pm$", "−": "$-$"},
}
PACKAGES = "% needs \\usepackage{booktabs,graphicx,longtable}, and \\usepackage[T1]{fontenc} with pdfLaTeX"
"""``\\textquotedbl`` is in T1."""
HEAD_WIDTH = 12
"""A head of more characters is stacked."""
WORDY = 40
"""A column of texts with more characters than this is broken into lines."""
BREAK = "\x00"
"""Where a word may be broken."""
ONE_PAGE = 40
"""A table of more rows goes on over pages."""


def escaped(text: str) -> str:
    """Text that LaTeX prints as it stands, on one line; a bracket that begins a cell is no option of ``\\\\``."""
    flat = "".join(SPECIAL.get(sign, sign) for sign in " ".join(text.split()))
    return f"{{{flat[0]}}}{flat[1:]}" if flat[:1] in ("[", "*") else flat


def latex(page: Page) -> str:
    """The tables, one after another, each a float with its caption."""
    table = page.table
    lines = [PACKAGES]
    said = " ".join(escaped(note) for note in notes(page, "Bold"))
    lines += drawn(
        grouped_head(table.columns, [head(c, table) for c in table.columns]),
        values_of(table, table.columns),
        said,
        "compare",
    )
    if table.baseline:
        caption = f"Differences to {escaped(table.baseline)} in points or the metric's unit, with 95\\,\\% intervals."
        lines += drawn(
            grouped_head(table.columns, [c.title for c in table.columns]),
            less_rows(table, table.columns),
            caption,
            "less",
        )
    if (facts := facts_section(page)) is not None:
        lines += facts_table(facts)
    return "\n".join(lines) + "\n"


def grouped_head(columns: Sequence[Column], heads: Sequence[str]) -> list[str]:
    """Two rows: protocols over their columns with rules below, then titles."""
    spans, rules, at = [], [], 2
    for protocol, together in itertools.groupby(column.protocol for column in columns):
        width = len(list(together))
        spans.append(f"\\multicolumn{{{width}}}{{c}}{{{escaped(title_of(protocol))}}}")
        rules.append(f"\\cmidrule(lr){{{at}-{at + width - 1}}}")
        at += width
    return [f" & {' & '.join(spans)} \\\\", " ".join(rules), f" & {' & '.join(map(stacked, heads))} \\\\"]


def drawn(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell]]], caption: str, label: str) -> list[str]:
    width = len(rows[0][1]) if rows else 0
    body = [f"{escaped(name)} & {' & '.join(map(shown, cells))} \\\\" for name, cells in rows]
    if rows and rows[0][0] == "(original)":
        body.insert(1, "\\midrule")
    return float_of(heads, body, "l" + "r" * width, caption, label)


def facts_table(facts: Section) -> list[str]:
    body = [f"{escaped(name)} & {' & '.join(map(shown, cells))} \\\\" for name, cells in facts.rows]
    form = "lp{0.3\\linewidth}ll" + "r" * (len(facts.head) - 4)
    heads = [f"{' & '.join(map(stacked, facts.head))} \\\\"]
    return float_of(heads, body, form, f"{facts.title[:1].upper()}{facts.title[1:]}; shares in \\%.", "facts")


def stacked(text: str) -> str:
    """A column's head, in several lines where it is long; a metric's name may break behind its dots."""
    lines = textwrap.wrap(re.sub(r"(?<=[a-z]\.)(?=[a-z])", f"{BREAK} ", text), HEAD_WIDTH, break_long_words=False)
    joined = " \\\\ ".join(escaped(line.replace(f"{BREAK} ", "").replace(BREAK, "")) for line in lines)
    return f"\\shortstack{{{joined}}}" if len(lines) > 1 else joined


def float_of(heads: Sequence[str], body: Sequence[str], form: str, caption: str, label: str) -> list[str]:
    """A table no wider than a line, or over several pages where it is long."""
    if len(body) > ONE_PAGE:
        top = ["    \\toprule", *(f"    {line}" for line in heads), "    \\midrule"]
        return [
            "\\begingroup\\footnotesize\\setlength{\\tabcolsep}{3pt}",
            f"\\begin{{longtable}}{{{form}}}",
            f"    \\caption{{{caption}}}\\label{{tab:{label}}} \\\\",
            *top,
            "    \\endfirsthead",
            *top,
            "    \\endhead",
            *(f"    {line}" for line in body),
            "    \\bottomrule",
            "\\end{longtable}",
            "\\endgroup",
        ]
    return [
        "\\begin{table}[t]",
        "  \\centering",
        f"  \\caption{{{caption}}}",
        f"  \\label{{tab:{label}}}",
        "  \\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
        f"  \\begin{{tabular}}{{{form}}}",
        "    \\toprule",
        *(f"    {line}" for line in heads),
        "    \\midrule",
        *(f"    {line}" for line in body),
        "    \\bottomrule",
        "  \\end{tabular}}",
        "\\end{table}",
    ]


def shown(cell: Cell) -> str:
    text = escaped(cell.text)
    return f"\\textbf{{{text}}}" if cell.best else f"{text}$^{{\\dagger}}$" if cell.noise else text
