"""Which of a study's cells is best, in words: several where they are equal, none where nothing compares them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from kedit_glue.page.cells import BY, Cell, Measure, leading
from kedit_glue.page.figure import Point
from kedit_glue.page.values import names, said
from kedit_glue.report import counted
from kedit_glue.report_search import chose

MOST_SOURCES = 4
"""Sets of facts whose best cell the headline names."""
DIFFERENT = "These cells were asked about different facts: a difference between them may be the facts'."


def best(measure: Measure, cells: Sequence[Cell]) -> list[Point]:
    """Of those that have it the best, as ``Measure.better`` says: all that a reader sees the same number of."""
    points = [p for cell in cells if (p := measure.at(cell, cell.name)).y is not None]
    return extreme(points, lowest=measure.better == "lower")


def extreme(points: Sequence[Point], lowest: bool = False) -> list[Point]:
    """The highest or lowest, with all that are written alike; some that are measured have to be there."""
    values = [p.y for p in points if p.y is not None]
    end = said(min(values) if lowest else max(values))
    return [p for p in points if p.y is not None and said(p.y) == end]


def are(points: Sequence[Point]) -> str:
    return "are" if len(points) > 1 else "is"


def sources(cells: Sequence[Cell]) -> dict[str | None, list[Cell]]:
    """Cells by the hash of the facts that they were asked about; those of results that do not say, as if about the
    same as the first of the others."""
    known = [(cell, (cell.document.get("facts_source") or {}).get("hash")) for cell in cells]
    first = next((found for _, found in known if found), None)
    groups: dict[str | None, list[Cell]] = {}
    for cell, found in known:
        groups.setdefault(found or first, []).append(cell)
    return groups


def different(cells: Sequence[Cell]) -> bool:
    return len(sources(cells)) > 1


def headline(cells: Sequence[Cell]) -> str:
    by = leading(cells)
    if not cells:
        return "No cell has a result yet."
    if by is None:
        return f"{counted(len(cells), 'cell has', 'cells have')} a result."
    groups = sources(cells)
    if len(groups) == 1:
        part = "" if len({chose(cell.document) for cell in cells}) == 1 else " Not all are scored on the same facts."
        return f"Best by {BY[by.name]}: {winner(by, cells)}.{part}"
    there = [group for group in groups.values() if sum(by.at(cell, 0).y is not None for cell in group) > 1]
    named = {group[0].document["facts_source"]["name"]: group for group in there}
    if not 0 < len(there) == len(named) <= MOST_SOURCES:
        return f"{len(cells)} cells have a result, asked about different facts: none is called the best."
    told = "; ".join(f"{name}: {winner(by, group)}" for name, group in named.items())
    return f"Asked about different facts. Best by {BY[by.name]}, of each facts' cells: {told}."


def span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return said(high) if said(low) == said(high) else f"{low:.1f} to {said(high)}"


def winner(by: Measure, cells: Sequence[Cell]) -> str:
    top = best(by, cells)
    seeds = {len(cell.row.get("runs", ())) for cell in cells if cell.name in {p.x for p in top}}
    over = f", mean over {counted(min(seeds), 'seed', 'seeds')}" if len(seeds) == 1 and min(seeds) else ""
    return f"{names(top)}, {said(top[0].y)}{over}"
