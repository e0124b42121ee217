"""A study's cells that have a result, and what is measured of each. Pure."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kedit_glue import study_report
from kedit_glue.page.figure import Point, percent
from kedit_glue.page.values import FORCED, KEPT, kept, point, title
from kedit_glue.study_report import Result

HARMONIC = "harmonic mean H"


@dataclass(frozen=True)
class Cell:
    """A cell with a result, as ``study_report.rows`` measured it."""

    name: str
    row: Mapping[str, Any]
    document: Mapping[str, Any]
    at: Mapping[str, Any] = field(default_factory=dict)
    """Axis -> its place there; empty for a cell outside the grid."""

    @property
    def seconds_a_fact(self) -> float:
        """Of the stages that edit; 0 for files that do not say."""
        return float(self.row["cost"].get("seconds_a_fact", 0.0))

    @property
    def kept(self) -> tuple[float, float, float] | None:
        return kept(self.document["after"]["general_change"])

    def metric(self, x: str | float, name: str) -> Point:
        return point(x, self.row["metrics"].get(name), self.name)


def cells_of(results: Sequence[Result]) -> list[Cell]:
    """Those that have a result."""
    rows = study_report.rows(results)
    return [Cell(r.cell, row, r.document, r.at) for r, row in zip(results, rows, strict=True) if r.document is not None]


Measure = tuple[str, Callable[[Cell, str | float], Point]]
"""A name, and a cell's value of it at ``x``, in per cent."""


def measures(cells: Sequence[Cell]) -> list[Measure]:
    """What any cell has: the aspects, general ability, H."""
    there = [m for m in FORCED if any(m in cell.row["metrics"] for cell in cells)]
    found: list[Measure] = [(title(m), functools.partial(Cell.metric, name=m)) for m in there]
    if any(cell.kept for cell in cells):
        found.append((KEPT, ability))
    if any(cell.row["harmonic"] is not None for cell in cells):
        found.append((HARMONIC, harmonic))
    return found


def harmonic(cell: Cell, x: str | float) -> Point:
    return Point(x, percent(cell.row["harmonic"]), label=cell.name)


def ability(cell: Cell, x: str | float) -> Point:
    value, low, high = cell.kept or (None, None, None)
    return Point(x, value, low, high, label=cell.name)


def slug(text: str) -> str:
    """For a file's name."""
    return "_".join("".join(c if c.isascii() and c.isalnum() else " " for c in text).split()).lower() or "value"
