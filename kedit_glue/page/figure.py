"""A figure before it is drawn: its numbers, what they mean, what it says. ``interactive.py`` and ``paper.py`` draw it.

Kinds: ``radar``, ``lines``, ``points`` (both axes are measured), ``dots`` and ``bars`` (categories down the side,
values to the right; bars of several series follow each other), ``heat`` (a series is a row). Pure.
"""

from __future__ import annotations

import csv
import functools
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from kedit_glue.spreadsheet import Cell, safe

SHARES = (0.0, 100.0)
"""The range of percentages."""
Kind = Literal["radar", "lines", "points", "dots", "bars", "heat"]
PALETTE = ("#3d7fe0", "#d9730d", "#2a9964", "#a15fd0", "#c7508f", "#1694a4", "#9a7b1e", "#de4f49")
"""Each at a contrast of 3 or more to white and to the dark page."""
QUIET = "#858b95"
"""Of what is there to compare with."""
MARKS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "star")
MOST_LABEL = 44


@dataclass(frozen=True)
class Point:
    """A value ``y`` at ``x`` with the ends of its 95 % interval; None is what was not measured."""

    x: str | float
    y: float | None
    low: float | None = None
    high: float | None = None
    x_low: float | None = None
    x_high: float | None = None
    label: str = ""
    count: int | None = None
    """Facts, items or answers that it is over."""


@dataclass(frozen=True)
class Series:
    name: str
    points: Sequence[Point]
    quiet: bool = False
    """Grey: what the others are compared with."""
    line: bool = True
    """Whether points of ``lines`` and ``points`` are joined."""
    shows_labels: bool = False
    steps: bool = False
    """Of ``lines``: a value stays until the next point; joined by steps, without marks."""
    large: bool = False
    """Of ``lines`` and ``points``: marks that are seen over others in the same place."""


@dataclass(frozen=True)
class Axis:
    title: str
    unit: str = ""
    whole: tuple[float, float] | None = None
    """The range that is shown at least."""
    log: bool = False
    mark: float | None = None
    """A value with a line across, such as 0 for changes."""

    @property
    def head(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title


@dataclass(frozen=True)
class Figure:
    id: str
    """Letters, digits, ``_`` and ``-``; also the names of its files."""
    title: str
    says: str
    """What it shows, in a sentence for who cannot see it."""
    kind: Kind
    x: Axis
    y: Axis
    series: Sequence[Series]
    note: str = ""
    group: str = ""
    """Figures of a group stand in one place, one at a time."""
    choice: Mapping[str, str] = field(default_factory=dict)
    """What tells the figures of a group apart: ``{"axis": "epochs", "metric": "locality"}``."""

    @property
    def place(self) -> str:
        return self.group or self.id

    def categories(self) -> list[str]:
        """The names along the side of categories, in the order in which they come first."""
        return list(dict.fromkeys(str(p.x) for s in self.series for p in s.points))

    def totals(self) -> dict[str, float]:
        """By category the sum over all series."""
        found = dict.fromkeys(self.categories(), 0.0)
        for one in self.series:
            for p in one.points:
                found[str(p.x)] += p.y or 0.0
        return found

    def numeric(self) -> bool:
        """Whether every ``x`` is a number."""
        return all(not isinstance(p.x, str) for s in self.series for p in s.points)

    def table(self) -> tuple[list[str], list[list[Cell]]]:
        """Head and rows; columns that are empty all along are left out."""
        heads = ["series", self.x.head, self.y.head, "low 95 %", "high 95 %"]
        heads += [f"{self.x.title} low 95 %", f"{self.x.title} high 95 %", "name", "over"]
        rows: list[list[Cell]] = [
            [s.name, p.x, p.y, p.low, p.high, p.x_low, p.x_high, p.label or None, p.count]
            for s in self.series
            for p in s.points
        ]
        kept = [at for at in range(len(heads)) if at < 3 or any(row[at] is not None for row in rows)]
        return [heads[at] for at in kept], [[row[at] for at in kept] for row in rows]

    def csv(self) -> str:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        head, rows = self.table()
        writer.writerow([safe(cell) for cell in head])
        writer.writerows([safe(cell) for cell in row] for row in rows)
        return out.getvalue()


@dataclass(frozen=True)
class Missing:
    """A figure that cannot be drawn, and why."""

    id: str
    title: str
    why: str

    @property
    def place(self) -> str:
        return self.id


Drawn = Figure | Missing


def short(text: str, most: int = MOST_LABEL) -> str:
    """On one line, cut with an ellipsis."""
    flat = " ".join(text.split())
    return flat if len(flat) <= most else f"{flat[: most - 1]}…"


def both_ends(text: str, most: int) -> str:
    """On one line, cut in the middle."""
    flat = " ".join(text.split())
    end = (most - 1) // 2
    return flat if len(flat) <= most else f"{flat[: most - 1 - end]}…{flat[-end:]}"


def apart(names: Sequence[str], cut: Callable[[str], str], room: int) -> list[str]:
    """What ``cut`` leaves of each; names that it makes alike keep both ends, or else get a number."""
    once = list(dict.fromkeys(names))
    found = [cut(name) for name in once]
    often = Counter(found)
    found = [text if often[text] == 1 else cut(both_ends(name, room)) for name, text in zip(once, found, strict=True)]
    often = Counter(found)
    found = [text if often[text] == 1 else f"{at}. {text}" for at, text in enumerate(found, 1)]
    shown = dict(zip(once, found, strict=True))
    return [shown[name] for name in names]


def shortened(names: Sequence[str], most: int = MOST_LABEL) -> list[str]:
    """Each as ``short``, and no two names alike."""
    return apart(names, functools.partial(short, most=most), most)


def named(series: Sequence[Series]) -> Iterator[tuple[Series, str, str, str]]:
    """Each series with its name as it is drawn, its colour and mark."""
    loud = 0
    labels = shortened([one.name for one in series])
    for number, (one, label) in enumerate(zip(series, labels, strict=True)):
        yield one, label, QUIET if one.quiet else PALETTE[loud % len(PALETTE)], MARKS[number % len(MARKS)]
        loud += not one.quiet


def percent(value: float | None) -> float | None:
    """A share as a percentage."""
    return None if value is None else round(100 * value, 6)


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the Pareto front: of points that none is better than in both (higher is better), by the first value.

    Of equal points all are on it.
    """
    found: list[int] = []
    for at in sorted(range(len(points)), key=lambda at: points[at], reverse=True):
        if not found or points[at][1] > points[found[-1]][1] or points[at] == points[found[-1]]:
            found.append(at)
    return sorted(found, key=lambda at: points[at])
