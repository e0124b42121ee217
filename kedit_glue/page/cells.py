"""A study's cells that have a result, and what is measured of each. Pure."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kedit_glue import study_report
from kedit_glue.metrics import COUNTERFACT_S, METRICS, SHARE
from kedit_glue.page.figure import Point, percent
from kedit_glue.page.of_run import NO_GENERAL, NO_GENERAL_ALONE
from kedit_glue.page.values import KEPT, kept, point, title
from kedit_glue.report_notes import mode_note
from kedit_glue.study_report import Result

HARMONIC = "harmonic mean H"
SCORE = title(COUNTERFACT_S)
BY = {HARMONIC: "H, the harmonic mean", SCORE: "S, the harmonic mean of CounterFact's scores"}
"""What says most of a cell in one number, the first before the second."""


@dataclass(frozen=True)
class Cell:
    """A cell with a result, as ``study_report.rows`` measured it: over its seeds, where it has several."""

    name: str
    row: Mapping[str, Any]
    document: Mapping[str, Any]
    """Its ``scores.json``, of several the first."""
    at: Mapping[str, Any] = field(default_factory=dict)
    """Axis -> its place there; empty for a cell outside the grid."""

    @property
    def seconds_a_fact(self) -> float:
        """Of the stages that edit; 0 for files that do not say."""
        return float(self.row["cost"].get("seconds_a_fact", 0.0))

    @property
    def seconds_once(self) -> float | None:
        """What was prepared before the first edit; None for files that do not say."""
        found = self.row["cost"].get("seconds_once")
        return None if found is None else float(found)

    @property
    def facts(self) -> int:
        return len(self.document["facts"])

    @property
    def seconds_with_share(self) -> float:
        """A fact's seconds with its share of those once, as far as these are known."""
        return self.seconds_a_fact + (self.seconds_once or 0.0) / max(self.facts, 1)

    @property
    def kept(self) -> tuple[float, float, float] | None:
        return kept(self.row["general"])

    def metric(self, x: str | float, name: str) -> Point:
        return point(x, self.row["metrics"].get(name), self.name)


def cells_of(results: Sequence[Result], shown: Collection[str] = study_report.METRICS) -> list[Cell]:
    """Those that have a result, with the metrics ``shown`` that are shares."""
    rows = {row["cell"]: row for row in study_report.rows(results, shares(shown))}
    documents = {r.group or r.cell: r.document for r in reversed(results) if r.document is not None}
    return [Cell(name, row, documents[name], row["at"]) for name, row in rows.items() if name in documents]


class Measure(NamedTuple):
    """A name, and a cell's value of it at ``x`` in per cent."""

    name: str
    at: Callable[[Cell, str | float], Point]
    better: str = "higher"
    protocol: str = "teacher_forced"
    """Both as a metric says them."""


def shares(names: Collection[str]) -> list[str]:
    """Those of the metrics that figures show together: from 0 to 1, in their usual order."""
    return [name for name, metric in METRICS.items() if name in names and metric.range == SHARE]


def measures(cells: Sequence[Cell]) -> list[Measure]:
    """What any cell has: the metrics, general ability, H; CounterFact's S before all where it stands for H."""
    there = shares({name for cell in cells for name in cell.row["metrics"]})
    found = [
        Measure(title(m), functools.partial(Cell.metric, name=m), METRICS[m].better, METRICS[m].protocol) for m in there
    ]
    if any(cell.kept for cell in cells):
        found.append(Measure(KEPT, ability))
    if any(cell.row["harmonic"] is not None for cell in cells):
        return [*found, Measure(HARMONIC, harmonic)]
    return sorted(found, key=lambda one: one.name != SCORE)


def leading(cells: Sequence[Cell]) -> Measure | None:
    """The measure that says most in one number; None where no cell has such a one."""
    found = {one.name: one for one in measures(cells)}
    return next((found[name] for name in BY if name in found), None)


def harmonic(cell: Cell, x: str | float) -> Point:
    return Point(x, percent(cell.row["harmonic"]), label=cell.name)


def ability(cell: Cell, x: str | float) -> Point:
    value, low, high = cell.kept or (None, None, None)
    return Point(x, value, low, high, label=cell.name)


def slug(text: str) -> str:
    """For a file's name."""
    return "_".join("".join(c if c.isascii() and c.isalnum() else " " for c in text).split()).lower() or "value"


def slugs(texts: Collection[str]) -> list[str]:
    """For files' names, each with its place where two would be the same."""
    found = [slug(text) for text in texts]
    return found if len(set(found)) == len(found) else [f"{one}_{at}" for at, one in enumerate(found, 1)]


def no_general(cells: Sequence[Cell]) -> str:
    """Why no cell has it: by their mode, or by what the recipe asks."""
    return NO_GENERAL_ALONE if all(mode_note(cell.document) for cell in cells) else NO_GENERAL
