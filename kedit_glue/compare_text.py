"""A comparison as text: for a terminal, Markdown and CSV; ``compare_latex`` has papers' tables. Pure."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from kedit_glue import report, tables
from kedit_glue.compare_facts import Spread
from kedit_glue.compare_same import Differs
from kedit_glue.compare_table import Column, Difference, Table, Value
from kedit_glue.compare_values import GENERAL
from kedit_glue.problems import printable
from kedit_glue.spreadsheet import safe

ARROWS = {"higher": "↑", "lower": "↓", "as before": "≈"}
NOISE = "†"
TITLES = {
    "teacher_forced": "teacher-forced",
    "generated": "generated",
    "likelihood": "likelihood",
    "sampled": "sampled",
    GENERAL: "general ability (lm-eval)",
}
HOW = {
    "teacher_forced": "each token of the answer is asked with the right tokens before it",
    "generated": "greedy generation, ended by the model itself",
    "likelihood": "which of two answers is more probable",
    "sampled": "sampled continuations",
    GENERAL: "lm-eval's tasks",
}
CSV_HEAD = (
    *("result", "protocol", "metric", "title", "better", "mean", "half_width_95", "facts", "best", "inside_noise"),
    *("original", "baseline", "difference", "difference_low_95", "difference_high_95", "not_the_same"),
)
FACTS_HEAD = ("fact", "prompt", "new answer", "differs most in")
BETWEEN = 3
"""Places in a line of a terminal between two cells."""
EDGES = 2
"""And at the two ends of the line."""
HEAD_WIDTH = 18
"""Longer heads are parted between words."""
FACTS_TITLE = "facts on which the results differ most"


@dataclass(frozen=True)
class Cell:
    text: str
    best: bool = False
    noise: bool = False


@dataclass(frozen=True)
class Section:
    """A table: ``head`` begins with the rows' own column."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


@dataclass(frozen=True)
class Page:
    """All that is said of a comparison."""

    table: Table
    spreads: Sequence[Spread] | None = None
    """None: not asked for."""
    anyway: Sequence[Differs] = ()
    """What differs, and was told to be compared all the same."""


# -- words --------------------------------------------------------------------------------------


def number(column: Column, mean: float) -> str:
    """As tables show it: shares in % with one digit, else two."""
    return f"{100 * mean:.1f}" if column.percent else f"{mean:.2f}"


def head(column: Column, table: Table) -> str:
    """Title, direction, and how many where that is not the table's number of facts."""
    counts = {value.facts for (_, key), value in table.values.items() if key == column.key}
    unit = "items" if column.protocol == GENERAL else "facts"
    odd = counts != {table.facts}
    said = f" ({'-'.join(map(str, sorted({min(counts), max(counts)})))} {unit})" if odd and counts else ""
    return f"{column.title} {ARROWS[column.better]}{said}"


def cell(column: Column, value: Value | None) -> Cell:
    if value is None:
        return Cell("-")
    return Cell(number(column, value.mean), value.best, bool(value.noise))


def change(column: Column, difference: Difference | None) -> Cell:
    """Points, or the metric's own unit, or for perplexities of a task a change in %; with the 95 % interval."""
    if difference is None:
        return Cell("-")
    factor, form = (100, "+.1f") if column.percent or difference.is_ratio else (1, "+.2f")
    unit = " %" if difference.is_ratio else ""
    said = f"{factor * difference.mean:{form}}"
    if difference.interval:
        low, high = difference.interval
        said += f" [{factor * low:{form}}, {factor * high:{form}}]"
    return Cell(said + unit)


def groups(table: Table) -> dict[str, list[Column]]:
    """Columns by protocol, in their order."""
    found: dict[str, list[Column]] = {}
    for column in table.columns:
        found.setdefault(column.protocol, []).append(column)
    return found


def title_of(protocol: str) -> str:
    return TITLES.get(protocol, protocol)


def value_rows(table: Table, columns: Sequence[Column]) -> tuple[tuple[str, tuple[Cell, ...]], ...]:
    """The original, where it is one and was measured, then the results."""
    rows = [(name, tuple(cell(c, table.values.get((name, c.key))) for c in columns)) for name in table.names]
    if any(column.key in table.original for column in columns):
        original = (Cell(number(c, table.original[c.key])) if c.key in table.original else Cell("-") for c in columns)
        rows.insert(0, ("(original)", tuple(original)))
    return tuple(rows)


def less_rows(table: Table, columns: Sequence[Column]) -> tuple[tuple[str, tuple[Cell, ...]], ...]:
    others = [name for name in table.names if name != table.baseline]
    return tuple((name, tuple(change(c, table.less.get((name, c.key))) for c in columns)) for name in others)


def facts_section(page: Page) -> Section | None:
    if not page.spreads:
        return None
    rows = []
    for one in page.spreads:
        values = [Cell("-" if value is None else number(one.column, value)) for value in one.values]
        fact, prompt, target = (printable(" ".join(text.split())) for text in one.item)
        about = (prompt, target, f"{one.column.title} ({title_of(one.column.protocol)})")
        rows.append((fact, (*(Cell(text) for text in about), *values)))
    return Section(FACTS_TITLE, (*FACTS_HEAD, *page.table.names), tuple(rows))


def sections(page: Page) -> list[Section]:
    """A table for each protocol; then the same less the baseline; then facts."""
    table, found = page.table, []
    for protocol, columns in groups(table).items():
        heads = ("", *(head(column, table) for column in columns))
        found.append(Section(f"{title_of(protocol)}: {HOW.get(protocol, protocol)}", heads, value_rows(table, columns)))
    for protocol, columns in groups(table).items() if table.baseline else ():
        heads = ("", *(f"{column.title} {ARROWS[column.better]}" for column in columns))
        title = f"{title_of(protocol)}, less {table.baseline}, with 95 % intervals"
        found.append(Section(title, heads, less_rows(table, columns)))
    if (facts := facts_section(page)) is not None:
        found.append(facts)
    return found


def notes(page: Page, best: str) -> list[str]:
    """How to read it; ``best`` says what marks the best."""
    table = page.table
    found = [
        f"{best} is the best of a column, {NOISE} is inside the noise: the 95 % interval of its difference to the "
        "best, over the same facts, holds 0 (normal approximation, not corrected for several comparisons)",
        f"Over {report.counted(table.facts, 'fact', 'facts')}; shares in %; {ARROWS['higher']} higher, "
        f"{ARROWS['lower']} lower is better, {ARROWS['as before']} as the original is",
    ]
    for protocol, columns in groups(table).items():
        names = "; ".join(f"{column.title} = {column.key}" for column in columns if protocol != GENERAL)
        if names:
            found.append(f"{title_of(protocol).capitalize()}: {names}")
    if unknown := [column.title for column in table.columns if untold(table, column)]:
        found.append(f"No values by fact, so that the noise is not known: {', '.join(unknown)}")
    if page.anyway:
        found.append(
            f"NOT THE SAME, compared all the same over the {report.counted(table.facts, 'fact', 'facts')} that all "
            f"have: {'. '.join(str(one) for one in page.anyway)}"
        )
    if page.spreads is not None and not page.spreads:
        found.append("No fact has another score in one result than in another")
    return [f"{note}." for note in found]


def untold(table: Table, column: Column) -> bool:
    """Whether the best of a column is marked, and of another value it cannot be told whether it is inside the noise."""
    values = [value for (_, key), value in table.values.items() if key == column.key]
    return any(value.best for value in values) and any(not value.best and value.noise is None for value in values)


# -- formats ------------------------------------------------------------------------------------


def wrapped(section: Section, place: int) -> tuple[str, int]:
    """A column's head on several lines, no word broken, and the column's width."""
    cells = max((len(plain(cells[place - 1])) for _, cells in section.rows), default=0)
    head = section.head[place]
    for arrow in ARROWS.values():
        head = head.replace(f" {arrow}", f"\N{NO-BREAK SPACE}{arrow}")
    words = max(map(len, head.split(" ")))
    lines = textwrap.wrap(head, max(HEAD_WIDTH, cells, words), break_on_hyphens=False)
    return "\n".join(lines), max(cells, *map(len, lines))


def fitting(section: Section, width: int) -> list[Section]:
    """The section, or several with some of its columns each, so that no word of a head or cell has to be broken."""
    first = max(len(name) for name in (section.head[0], *(name for name, _ in section.rows)))
    parts: list[list[int]] = [[]]
    left = room = width - EDGES - first
    for place in range(1, len(section.head)):
        needed = BETWEEN + wrapped(section, place)[1]
        if parts[-1] and needed > left:
            parts.append([])
            left = room
        parts[-1].append(place)
        left -= needed
    return [
        Section(
            section.title if part is parts[0] else f"{section.title} (continued)",
            (section.head[0], *(section.head[place] for place in part)),
            tuple((name, tuple(cells[place - 1] for place in part)) for name, cells in section.rows),
        )
        for part in parts
    ]


def terminal(page: Page, width: int) -> list[RichTable | Text]:
    """As rich's renderables; the best bold and with ``*``, for a file has no bold."""
    found: list[RichTable | Text] = []
    whole = sections(page)
    for section in (part for one in whole for part in ([one] if one.title == FACTS_TITLE else fitting(one, width))):
        found.append(Text(f"\n{section.title}", style="bold"))
        drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
        drawn.add_column(Text(section.head[0]), overflow="fold")
        for place, name in enumerate(section.head[1:], 1):
            if section.title == FACTS_TITLE:
                drawn.add_column(Text(name), justify="left" if place < len(FACTS_HEAD) else "right", overflow="fold")
            else:
                drawn.add_column(Text(wrapped(section, place)[0]), justify="right", overflow="fold")
        for name, cells in section.rows:
            drawn.add_row(Text(name), *(Text(plain(c), style="bold" if c.best else "") for c in cells))
        found.append(drawn)
    return [*found, *(Text(note) for note in notes(page, "*"))]


def plain(cell: Cell) -> str:
    return cell.text + ("*" if cell.best else NOISE if cell.noise else "")


def markdown(page: Page) -> str:
    lines: list[str] = []
    for section in sections(page):
        rows = [[name, *(marked(c) for c in cells)] for name, cells in section.rows]
        lines += [
            f"**{section.title[:1].upper()}{section.title[1:]}**",
            "",
            *tables.markdown_table(section.head, rows),
            "",
        ]
    return "\n".join([*lines, *(f"{line}\n" for line in notes(page, "**Bold**"))])


def marked(cell: Cell) -> str:
    return f"**{cell.text}**" if cell.best else f"{cell.text}{NOISE}" if cell.noise else cell.text


def comma_separated(page: Page) -> str:
    """One line a result and metric, in the metrics' own units (shares 0 to 1); or, of facts, one line a fact."""
    out = io.StringIO()
    not_the_same = ". ".join(str(one) for one in page.anyway)
    rows = (
        csv_of_results(page, not_the_same) if page.spreads is None else csv_of_facts(page, page.spreads, not_the_same)
    )
    csv.writer(out, lineterminator="\n").writerows([safe(cell) for cell in row] for row in rows)
    return out.getvalue()


def csv_of_facts(page: Page, spreads: Sequence[Spread], not_the_same: str) -> Iterator[Sequence[str | float | None]]:
    yield ("id", "prompt", "target_new", "metric", "mean_spread", *page.table.names, "not_the_same")
    for one in spreads:
        yield (*one.item, one.column.key, one.mean, *one.values, not_the_same)


def csv_of_results(page: Page, not_the_same: str) -> Iterator[Sequence[str | float | None]]:
    yield CSV_HEAD
    for name in page.table.names:
        for column in page.table.columns:
            if (value := page.table.values.get((name, column.key))) is not None:
                yield (*csv_row(page.table, name, column, value), not_the_same)


def csv_row(table: Table, name: str, column: Column, value: Value) -> list[str | float]:
    difference = table.less.get((name, column.key))
    low, high = (difference.interval if difference else None) or ("", "")
    return [
        *(name, column.protocol, column.key, column.title, column.better, value.mean),
        *("" if value.half is None else value.half, value.facts),
        *(str(value.best).lower(), "" if value.noise is None else str(value.noise).lower()),
        *(table.original.get(column.key, ""), table.baseline or ""),
        *(("" if difference is None else difference.mean), low, high),
    ]
