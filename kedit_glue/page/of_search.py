"""The figures of searches of a merge (``merge.search``). Pure: a document in, figures out; none without a search.

Percentages throughout; fitness and its parts are better when higher.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kedit_glue.page.figure import Axis, Figure, Point, Series, percent
from kedit_glue.page.values import said
from kedit_glue.report import counted
from kedit_glue.report_search import searches
from kedit_glue.search.fitness import PARTS

PLACES = ("search_fitness", "search_front")
SPACES = {"ps": "numbers", "dfs": "layers"}
"""What is searched."""
MOST_POINTS = 5000
"""Candidates that a page draws, of all searches together; of more they are taken evenly."""
Search = Mapping[str, Any]
Judged = Sequence[tuple[int, Mapping[str, Any]]]
"""Candidates that have a fitness, each with its number from 1."""


def figures(document: Mapping[str, Any]) -> list[Figure]:
    """Of each search its candidates in order; then of each whose front has several points the front."""
    made = searches(document)
    most = max(1, MOST_POINTS // max(1, len(made)))
    both = [draw(at, search, most) for draw in (in_order, front) for at, search in enumerate(made, 1)]
    return [one for one in both if one is not None]


def judged(search: Search) -> Judged:
    return [(at, one) for at, one in enumerate(search["candidates"], 1) if one.get("fitness") is not None]


def thinned(found: Judged, most: int) -> Judged:
    return found[:: max(1, -(-len(found) // most))]


def in_order(number: int, search: Search, most: int) -> Figure | None:
    """Fitness of each candidate, the best so far, the first one's level, the chosen one; None for one candidate."""
    there = judged(search)
    if not there or len(search["candidates"]) < 2:
        return None
    shown = thinned(there, most)
    end, first, best = len(search["candidates"]), search["first"], search["best"]
    series = [
        Series("candidates", [Point(at, percent(one["fitness"])) for at, one in shown], line=False),
        Series("best so far", [Point(at, percent(value)) for at, value in best_so_far(there, end)], steps=True),
    ]
    if first["fitness"] is not None:
        level = percent(first["fitness"])
        series.append(Series("first candidate's level", [Point(at, level) for at in (1, end)], quiet=True, steps=True))
    if best["fitness"] is not None:
        series.append(Series("chosen", [Point(best["number"], percent(best["fitness"]))], line=False, large=True))
    return Figure(
        f"search_fitness_{number}",
        "Fitness of each candidate",
        f"{where(search)}: {fitness_told(search, there)}",
        "lines",
        Axis("candidate"),
        Axis("fitness", "%"),
        series,
        f"Fitness: weighted harmonic mean of {listed(parts(there))}, on "
        f"{counted(len(search['facts']), 'fact', 'facts')} that no score is of." + of_all(len(shown), len(there)),
        PLACES[0],
        {"search": place(search)},
    )


def best_so_far(there: Judged, end: int) -> list[tuple[int, float]]:
    """Where it rises, and at the ``end``."""
    rises: list[tuple[int, float]] = []
    for at, one in there:
        if not rises or one["fitness"] > rises[-1][1]:
            rises.append((at, one["fitness"]))
    return rises if rises[-1][0] == end else [*rises, (end, rises[-1][1])]


def fitness_told(search: Search, there: Judged) -> str:
    first, best = search["first"], search["best"]
    start = "could not be judged" if first["fitness"] is None else f"has a fitness of {said(percent(first['fitness']))}"
    told = f"the first of {len(search['candidates'])} candidates {start}"
    if best["number"] == first["number"]:
        told += " and is the chosen one"
    else:
        told += f", the chosen one, number {best['number']}, {said(percent(best['fitness']))}"
    top, highest = max(there, key=lambda one: (one[1]["fitness"], -one[0]))
    if best["fitness"] is not None and highest["fitness"] > best["fitness"]:
        told += f"; the highest, number {top}, {said(percent(highest['fitness']))}"
    if failed := len(search["candidates"]) - len(there):
        return f"{told}. {failed} could not be judged and {'are' if failed > 1 else 'is'} not drawn."
    return f"{told}."


def front(number: int, search: Search, most: int) -> Figure | None:
    """Two parts of the fitness against each other, those that differ most between candidates."""
    there = [(at, one) for at, one in judged(search) if one.get("parts")]
    on = [(one["number"], one) for one in search["front"] if one["parts"]]
    if len(on) < 2 or len(names := parts(there)) < 2:
        return None
    x, y = widest(there, names)
    places = {at for at, _ in on}
    others = [(at, one) for at, one in there if at not in places]
    shown = thinned(others, most)
    of_front = points(sorted(on, key=lambda one: (one[1]["parts"][x], -one[1]["parts"][y])), x, y)
    series = [Series("Pareto front", of_front, line=len(names) == 2)]
    if shown:
        series.insert(0, Series("other candidates", points(shown, x, y), quiet=True, line=False))
    marked = {"first": search["first"], "chosen": search["best"]}
    if marked["first"]["number"] == marked["chosen"]["number"]:
        marked = {"first and chosen": search["best"]}
    named = {name: points([(one["number"], one)], x, y) for name, one in marked.items() if one["parts"]}
    series += [Series(name, one, line=False, large=True) for name, one in named.items()]
    told = "; ".join(
        f"{name}: {p.label}, {x} {said(float(p.x))}, {y} {said(p.y)}" for name, [p] in reversed(named.items())
    )
    return Figure(
        f"search_front_{number}",
        "What candidates trade",
        f"{where(search)}: {len(on)} of {len(there)} candidates are on the Pareto front: no other beats one of these "
        f"in one part without losing in another. {told[:1].upper()}{told[1:]}.",
        "points",
        Axis(x, "%"),
        Axis(y, "%"),
        series,
        "Up and to the right is better." + more_parts(names) + of_all(len(on) + len(shown), len(on) + len(others)),
        PLACES[1],
        {"search": place(search)},
    )


def points(found: Iterable[tuple[int, Mapping[str, Any]]], x: str, y: str) -> list[Point]:
    return [
        Point(percent(one["parts"][x]) or 0.0, percent(one["parts"][y]), label=f"candidate {at}") for at, one in found
    ]


def parts(there: Judged) -> list[str]:
    """What all of these were judged by."""
    return [name for name in PARTS if all(name in (one.get("parts") or {}) for _, one in there)]


def widest(there: Judged, names: Sequence[str]) -> tuple[str, str]:
    """The two parts with the largest range over these candidates, in the order of ``PARTS``."""
    values = {name: [one["parts"][name] for _, one in there] for name in names}
    chosen = sorted(names, key=lambda name: min(values[name]) - max(values[name]))[:2]
    x, y = (name for name in names if name in chosen)
    return x, y


def more_parts(names: Sequence[str]) -> str:
    if len(names) == 2:
        return ""
    return (
        f" The front is of {listed(names)}; shown are the two that differ most, in which alone a point of it may look "
        "beaten."
    )


def of_all(shown: int, there: int) -> str:
    return f" {shown} of {there} candidates are drawn." if shown < there else ""


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), *names[-1:]]) if len(names) > 1 else "".join(names)


def place(search: Search) -> str:
    return f"batch {search['batch']}, {SPACES[search['space']]}"


def where(search: Search) -> str:
    return f"Batch {search['batch']}, search of the merge's {SPACES[search['space']]}"
