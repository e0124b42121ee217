"""What stands on a page: sections of figures, tables and texts, as plain data for the template. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kedit_glue import verdict
from kedit_glue.page.figure import Drawn, Figure, Missing
from kedit_glue.spreadsheet import Cell

MARKS = {verdict.SHIP: "✓", verdict.DO_NOT: "✕", verdict.UNKNOWN: "?"}
CLASSES = {verdict.SHIP: "good", verdict.DO_NOT: "bad", verdict.UNKNOWN: "open"}
MOST_ROWS = 200
"""Of a figure's numbers that stand on the page."""
MOST_OPEN = 12
"""A longer list of terms is folded."""
MET = {True: ("met", "met"), False: ("missed", "missed"), None: ("open", "cannot be told")}


@dataclass(frozen=True)
class Table:
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    numbers: bool = True
    """Whether cells stay on one line."""


@dataclass(frozen=True)
class Section:
    id: str
    title: str
    intro: str = ""
    places: Sequence[str] = ()
    """Figures by ``Figure.place``, in order."""
    tables: Sequence[Table] = ()
    texts: Sequence[tuple[str, str]] = ()
    lists: Sequence[tuple[str, Sequence[tuple[str, str]]]] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """``heads`` and ``orders`` of the browser of facts, where it stands here."""


@dataclass(frozen=True)
class Page:
    kind: str
    name: str
    about: str
    headline: str
    verdict: Mapping[str, Any]
    tiles: Sequence[Mapping[str, str]]
    sections: Sequence[Section]
    figures: Sequence[Drawn]
    facts: Sequence[Mapping[str, Any]]
    data: Mapping[str, Any]
    """More for the page's script."""
    footer: str


def banner(found: Mapping[str, Any], unasked: Sequence[str]) -> dict[str, Any]:
    """A verdict for the template."""
    more = f"Not asked for by any threshold: {', '.join(unasked)}." if unasked else ""
    return {
        "answer": found["answer"].capitalize(),
        "class": CLASSES[found["answer"]],
        "mark": MARKS[found["answer"]],
        "reasons": [
            {"class": MET[one["met"]][0], "word": MET[one["met"]][1], "says": one["says"]} for one in found["reasons"]
        ],
        "more": more,
    }


def group(place: str, figures: Sequence[Drawn]) -> dict[str, Any]:
    """The figures of one place, for the template."""
    there = [one for one in figures if one.place == place]
    missing = " ".join(one.why for one in there if isinstance(one, Missing))
    shown = [one for one in there if isinstance(one, Figure)]
    choices: dict[str, dict[str, None]] = {}
    for one in shown:
        for key, value in one.choice.items():
            choices.setdefault(key, {})[value] = None
    return {
        "id": place,
        "title": there[0].title if there else "",
        "missing": missing,
        "choices": [{"name": key, "values": list(values)} for key, values in choices.items() if len(values) > 1],
        "figures": [figure_of(one) for one in shown],
    }


def figure_of(figure: Figure) -> dict[str, Any]:
    head, rows = figure.table()
    name = ", ".join([figure.title, *figure.choice.values()])
    shown = [[form(cell) for cell in row] for row in rows[:MOST_ROWS]]
    return {
        "id": figure.id,
        "says": figure.says[:1].upper() + figure.says[1:],
        "note": figure.note,
        "name": name,
        "more": f"The first {MOST_ROWS} of {len(rows)} rows; the CSV has them all." if len(rows) > MOST_ROWS else "",
        "table": {"head": head, "rows": shown, "numbers": False},
    }


def form(cell: Cell) -> str:
    """A number as a person reads it."""
    if cell is None:
        return "–"
    if isinstance(cell, (str, int)):
        return str(cell)
    return (
        f"{cell:.0f}"
        if abs(cell) >= 10000 or cell == int(cell)
        else f"{cell:.2f}"
        if abs(cell) >= 0.1
        else f"{cell:.3g}"
    )


def section_of(section: Section, figures: Sequence[Drawn]) -> dict[str, Any]:
    """For the template: its groups of figures with all that they hold."""
    tables = [
        {"title": t.title, "head": t.head, "rows": t.rows, "note": t.note, "numbers": t.numbers} for t in section.tables
    ]
    return {
        "id": section.id,
        "title": section.title,
        "intro": section.intro,
        "groups": [made for place in section.places if (made := group(place, figures))["title"]],
        "tables": [table for table in tables if table["rows"]],
        "texts": [{"title": title, "text": text} for title, text in section.texts],
        "lists": [
            {"title": title, "rows": rows, "open": len(rows) <= MOST_OPEN} for title, rows in section.lists if rows
        ],
        "facts": bool(section.facts),
        "heads": section.facts.get("heads", []),
        "orders": section.facts.get("orders", []),
    }
