"""What a study's cells took, and what that bought. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from kedit_glue.page import ranking
from kedit_glue.page.cells import Cell, leading, no_general
from kedit_glue.page.figure import Axis, Drawn, Figure, Missing, Point, Series
from kedit_glue.page.of_run import NO_GENERAL_ALONE
from kedit_glue.page.values import names, said
from kedit_glue.problems import listed
from kedit_glue.report import counted
from kedit_glue.standing import duration

MOST_NAMED = 4
"""Cells that a note names."""
UNKNOWN_ONCE = "What was prepared once before the first edit is not in these results"
SHARED = (
    "What was prepared once before the first edit (moments, directions, an editor's training) is shared by the facts."
)


def figures(cells: Sequence[Cell]) -> list[Drawn]:
    return [cost(cells), worth(cells)]


def cost(cells: Sequence[Cell]) -> Drawn:
    """Seconds a fact, and on top a fact's share of the seconds once."""
    ordered = sorted((c for c in cells if c.seconds_with_share), key=lambda cell: cell.seconds_with_share)
    if not ordered:
        return Missing("cost", "Time for a fact", "No cell's scores.json says what editing took.")
    first, last = ordered[0], ordered[-1]
    series = [Series("each fact", [Point(cell.name, cell.seconds_a_fact) for cell in ordered])]
    shares = [
        Point(cell.name, cell.seconds_once / max(cell.facts, 1), count=cell.facts)
        for cell in ordered
        if cell.seconds_once
    ]
    if shares:
        series.append(Series("once, shared by all facts", shares))
    return Figure(
        "cost",
        "Time for a fact",
        f"From {first.seconds_with_share:.2f} seconds a fact ({first.name}) to {last.seconds_with_share:.2f} "
        f"({last.name}).",
        "bars",
        Axis("cell"),
        Axis("editing, for each fact", "s"),
        series,
        f"Of the stages that edit; those taken from another cell included. {once_note(ordered)}",
    )


def once_note(cells: Sequence[Cell]) -> str:
    """What was prepared, and of which cells that is not known."""
    known = [
        f"{cell.name} {duration(cell.seconds_once)} for {counted(cell.facts, 'fact', 'facts')}"
        for cell in cells
        if cell.seconds_once
    ]
    lacking = [cell.name for cell in cells if cell.seconds_once is None]
    found = [f"Once before the first edit: {listed(known, MOST_NAMED)}."] if known else []
    if lacking:
        of = f"Not known of {listed(lacking, MOST_NAMED)}." if len(lacking) < len(cells) else f"{UNKNOWN_ONCE}."
        found.append(of)
    return " ".join(found) or "Nothing was prepared before the first edit."


def worth(cells: Sequence[Cell]) -> Drawn:
    """H, or what stands for it, against time."""
    heading, by = "What time buys", leading(cells)
    there = [c for c in cells if c.seconds_with_share > 0 and by and by.at(c, 0).y is not None]
    if by is None or not there:
        lacking = f" {NO_GENERAL_ALONE}" if no_general(cells) == NO_GENERAL_ALONE else ""
        return Missing(
            "worth", heading, f"H needs edit success, generalization, locality and general ability.{lacking}"
        )
    points = [by.at(c, c.seconds_with_share) for c in there]
    spread = [float(p.x) for p in points]
    differ = ranking.different(cells)
    once = [SHARED] if any(c.seconds_once for c in there) else []
    unknown = sum(c.seconds_once is None for c in there)
    if unknown:
        once.append(
            f"{UNKNOWN_ONCE}." if unknown == len(there) else f"Of {unknown} of {len(there)} cells it is not known."
        )
    return Figure(
        "worth",
        heading,
        f"{by.name}: {ranking.span([p.y or 0.0 for p in points])}." if differ else most_for_least(by.name, points),
        "points",
        Axis("editing, for each fact", "s", log=max(spread) / min(spread) >= 20),
        Axis(by.name, "%"),
        [Series("cells", points, line=False, shows_labels=True)],
        " ".join(["Up and to the left is better.", *once, *([ranking.DIFFERENT] if differ else [])]),
    )


def most_for_least(name: str, points: Sequence[Point]) -> str:
    """The highest of ``points``, of several equal ones that which took the least time first."""
    top = sorted(ranking.extreme(points), key=lambda p: float(p.x))
    more = " or more" if len(top) > 1 else ""
    return f"Highest {name}: {names(top)}, {said(top[0].y)}, at {float(top[0].x):.2f} seconds a fact{more}."
