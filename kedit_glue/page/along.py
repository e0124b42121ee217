"""A study along an axis that the reader chooses: layer curves, batch-size curves and the like. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kedit_glue import strict_yaml
from kedit_glue.page.cells import Cell, Measure, measures, slug, slugs
from kedit_glue.page.figure import SHARES, Axis, Drawn, Figure, Missing, Point, Series
from kedit_glue.page.values import said
from kedit_glue.study_grid import labels
from kedit_glue.study_report import About, seeds_interval

ALONG = "Scores along an axis"
ALL = "all"
NO_AXIS = "The study has no axes: its cells are named one by one. axes: in the study's file makes curves."


def curves(about: About, cells: Sequence[Cell]) -> list[Drawn]:
    """For each axis every measure along it: one figure where nothing else differs, else one for each measure with a
    line for each combination of the other axes. Of the grid's cells alone: at one place they differ in their seed."""
    found: list[Drawn] = []
    names = labels(list(about.axes))
    there = [cell for cell in cells if all(key in cell.at for key in names)]
    for (key, name), file in zip(names.items(), slugs(names), strict=True):
        values = ordered([cell.at[key] for cell in there])
        if len(values) < 2:
            continue
        others = list(dict.fromkeys(rest(cell, key, names) for cell in there))
        if len(others) == 1:
            found += [
                curve(file, key, name, there, values, shown, called)
                for called, shown in together(measures(there)).items()
            ]
        else:
            found += [curve(file, key, name, there, values, [one], one.name, others, names) for one in measures(there)]
    if found:
        return found
    why = NO_AXIS if not about.axes else "No two values of an axis have a result yet."
    return [Missing("curves", ALONG, why)]


def together(found: Sequence[Measure]) -> dict[str, list[Measure]]:
    """What stands in one figure: those of one protocol, ``all`` where there is no other."""
    by: dict[str, list[Measure]] = {}
    for measure in found:
        by.setdefault(measure.protocol.replace("_", "-"), []).append(measure)
    return by if len(by) > 1 else {ALL: list(found)}


def rest(cell: Cell, key: str, names: Mapping[str, str]) -> str:
    """A cell's other axes, in words."""
    return ", ".join(f"{name} {text(cell.at[k])}" for k, name in names.items() if k != key)


def curve(
    file: str,
    key: str,
    name: str,
    cells: Sequence[Cell],
    values: Sequence[Any],
    shown: Sequence[Measure],
    called: str,
    others: Sequence[str] = ("",),
    names: Mapping[str, str] | None = None,
) -> Figure:
    series = []
    for measure in shown:
        for other in others:
            mine = [c for c in cells if names is None or rest(c, key, names) == other]
            at = [(place(v, values), c) for v in values for c in mine if text(c.at[key]) == text(v)]
            points = over_seeds([p for x, cell in at if (p := measure.at(cell, x)).y is not None])
            if points:
                series.append(Series(other or measure.name, points))
    numeric = all(not isinstance(place(v, values), str) for v in values)
    spread = [float(place(v, values)) for v in values] if numeric else []
    ends = f"over {name} {form(place(values[0], values))} to {form(place(values[-1], values))}"
    told = "; ".join(f"{s.name} {said(s.points[0].y)} to {said(s.points[-1].y)}" for s in series[:6])
    return Figure(
        f"curve_{file}" + ("" if called == ALL else f"_{slug(called)}"),
        ALONG,
        f"{ends}: {told}.",
        "lines",
        Axis(name, log=bool(spread) and spread[0] > 0 and spread[-1] / spread[0] >= 50),
        Axis(called if names else "score", "%", None if names else SHARES),
        series,
        "Bars are 95 % intervals over facts, or over seeds where a cell has several."
        + (" A line for each combination of the other axes." if names else ""),
        "curves",
        {"axis": name, "measure": called},
    )


def over_seeds(points: Sequence[Point]) -> list[Point]:
    """One point at each x: where there are several, their mean with its interval over them."""
    found: dict[str | float, list[Point]] = {}
    for point in points:
        found.setdefault(point.x, []).append(point)
    return [together[0] if len(together) == 1 else mean_of(together) for together in found.values()]


def mean_of(points: Sequence[Point]) -> Point:
    """Of percentages: an interval ends at 0 and 100."""
    middle, half = seeds_interval([p.y for p in points if p.y is not None])
    low, high = (None, None) if half is None else (max(0.0, middle - half), min(100.0, middle + half))
    return Point(points[0].x, middle, low, high, label=", ".join(p.label for p in points), count=points[0].count)


def ordered(values: Sequence[Any]) -> list[Any]:
    """Each value once; numbers by size, others as they come."""
    once = list({text(v): v for v in values}.values())
    return sorted(once, key=lambda v: number(v) or 0.0) if numbers(once) else once


def place(value: Any, values: Sequence[Any]) -> str | float:
    """Where a value stands on its axis, of which ``values`` are all, each once: a number where all are, else a name."""
    found = number(value)
    return found if found is not None and numbers(values) else text(value)


def numbers(values: Sequence[Any]) -> bool:
    """Whether all are numbers, and no two of them the same one (``4`` and ``[4]`` are)."""
    found = [number(v) for v in values]
    return None not in found and len(set(found)) == len(found)


def number(value: Any) -> float | None:
    """A setting as a number: also a single layer in a list, as in ``train.layers: [4]``."""
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def form(at: str | float) -> str:
    return at if isinstance(at, str) else f"{at:g}"


def text(value: Any) -> str:
    return strict_yaml.dump(value, flow=True).strip()
