"""The figures of a study: its cells side by side, and along an axis that the reader chooses. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kedit_glue import metrics, study_report
from kedit_glue.page import of_cost, ranking
from kedit_glue.page.along import curves
from kedit_glue.page.cells import HARMONIC, Cell, ability, cells_of, leading, measures, no_general, shares, slug, slugs
from kedit_glue.page.figure import SHARES, Axis, Drawn, Figure, Missing, Point, Series, percent
from kedit_glue.page.of_batches import age_curve, heat_map
from kedit_glue.page.of_run import cross, trade_off
from kedit_glue.page.values import AGREE_WITH_THEMSELVES, FORCED, KEPT, kept, names, point, said, task_kept, title
from kedit_glue.report_search import chose
from kedit_glue.study_report import About, Result

MOST_CELLS = 8
"""Lines in a figure that has one for each cell; the best are shown."""
MOST_RADAR = 4
PAIRS = {
    "success_locality": (metrics.SUCCESS, metrics.LOCALITY),
    "generalization_locality": (metrics.GENERALIZATION, metrics.LOCALITY),
}
MORE_PAIRS = {
    "efficacy_neighborhood": (metrics.EFFICACY_SCORE, metrics.NEIGHBORHOOD_SCORE),
    "paraphrase_neighborhood": (metrics.PARAPHRASE_SCORE, metrics.NEIGHBORHOOD_SCORE),
    "exact_agreement": ("edit_success.generated.exact_match", metrics.AGREEMENT),
    "withheld_agreement": (metrics.WITHHELD, metrics.AGREEMENT),
    "withheld_locality": (metrics.WITHHELD, metrics.LOCALITY),
}
"""Trade-offs up and to the right; these where both were collected."""
NO_CELL = "No cell has a result yet."
NO_ORIGINAL = "No line is the original's: these cells edited different models, or were asked about different facts."


def figures(about: About, results: Sequence[Result]) -> list[Drawn]:
    """All of them, in the order of the page; differences are over seeds, where there are some."""
    less = less_baseline(about, results)
    about, results = each_seed(about, results)
    cells = cells_of(results, about.metrics)
    if not cells:
        return [Missing("cells", "Cells side by side", NO_CELL)]
    return [
        *side_by_side(cells),
        radar(about, cells),
        *curves(about, cells),
        *trade_offs(about, cells),
        *less,
        general(cells),
        ages(cells),
        *heat_maps(cells),
        *of_cost.figures(cells),
    ]


# -- side by side -------------------------------------------------------------------------------


def best(cells: Sequence[Cell], most: int) -> list[Cell]:
    """At most so many: the best by the leading measure, those without it last; in the cells' own order."""
    by = leading(cells)
    values = {cell.name: by.at(cell, 0).y if by else None for cell in cells}
    ranked = sorted(values.items(), key=lambda one: -1.0 if one[1] is None else one[1], reverse=True)
    chosen = [name for name, _ in ranked[:most]]
    return [cell for cell in cells if cell.name in chosen]


def best_of(cells: Sequence[Cell], most: int) -> str:
    """Which these are, in words."""
    by = leading(cells)
    return f"The {most} best of {len(cells)} cells by {by.name}" if by else f"The first {most} of {len(cells)} cells"


def each_seed(about: About, results: Sequence[Result]) -> tuple[About, list[Result]]:
    """Cells that differ in their seed as cells of their own; the baseline is the first of its own that has a result."""
    own = [r for r in results if about.baseline in (r.cell, r.group)]
    base = next((r.cell for r in own if r.document is not None), own[0].cell if own else about.baseline)
    return replace(about, baseline=base), [replace(result, group="") for result in results]


def side_by_side(cells: Sequence[Cell]) -> list[Drawn]:
    """Each measure over all cells, the best on top."""
    found: list[Drawn] = []
    for measure in measures(cells):
        name = measure.name
        points = [measure.at(cell, cell.name) for cell in cells]
        there = sorted((p for p in points if p.y is not None), key=lambda p: -(p.y or 0.0))
        notes = [
            "Lines are 95 % intervals." if any(p.low is not None for p in there) else "",
            ranking.DIFFERENT if ranking.different(cells) else "",
        ]
        ranked = there[::-1] if measure.better == "lower" else there
        found.append(
            Figure(
                f"cells_{slug(name)}",
                "Cells side by side",
                f"{name}: {highest_and_lowest(there)}.",
                "dots",
                Axis("cell"),
                Axis(name, "%"),
                [Series(name, [Point(p.x, p.y, p.low, p.high, count=p.count) for p in ranked])],
                " ".join(note for note in notes if note),
                "cells",
                {"measure": name},
            )
        )
    # H says most in one number, where there is one
    return found[-1:] + found[:-1] if found and found[-1].id == f"cells_{slug(HARMONIC)}" else found


def highest_and_lowest(there: Sequence[Point]) -> str:
    high, low = ranking.extreme(there), ranking.extreme(there, lowest=True)
    if len(high) == len(there) > 1:
        return f"all {len(there)} cells have {said(high[0].y)}"
    told = f"{names(high)} {ranking.are(high)} highest with {said(high[0].y)}"
    return f"{told}, {names(low)} lowest with {said(low[0].y)}"


def radar(about: About, cells: Sequence[Cell]) -> Drawn:
    """The original, where the cells have the same, the baseline and the best cells."""
    chosen = best(cells, MOST_RADAR)
    chosen = [c for c in cells if c.name == about.baseline and c not in chosen][:1] + chosen
    same = len({original(cell.document) for cell in chosen}) == 1
    heading = f"The {'original, the ' if same else ''}baseline and the best cells"
    there = [m for m in FORCED if all(m in cell.row["metrics"] for cell in chosen)]
    tasks = [
        task
        for task in chosen[0].document["after"]["general_change"]
        if all(task_kept(cell.document["after"]["general_change"].get(task, {})) is not None for cell in chosen)
    ]
    if len(there) + len(tasks) < 3:
        return Missing("radar", heading, "It takes three aspects that all of these cells have.")
    before = chosen[0].document["before"]["edits"]
    base = [point(title(m), {"mean": 1.0, "facts": 1} if m in AGREE_WITH_THEMSELVES else before.get(m)) for m in there]
    base += [Point(f"{task}, kept", 100.0) for task in tasks]
    series = [Series("original", base, quiet=True)] if same else []
    for cell in chosen:
        points = [cell.metric(title(m), m) for m in there]
        points += [Point(f"{task}, kept", task_kept(cell.document["after"]["general_change"][task])) for task in tasks]
        series.append(Series(cell.name, [Point(p.x, p.y, p.low, p.high) for p in points]))
    names = ", ".join(s.name for s in series)
    notes = [
        f"{best_of(cells, MOST_RADAR)}, and the baseline." if len(cells) > len(chosen) else "",
        "" if same else NO_ORIGINAL,
    ]
    return Figure(
        "radar",
        heading,
        f"Each on {len(there) + len(tasks)} scales: {names}; the numbers are in the table.",
        "radar",
        Axis("aspect"),
        Axis("score", "%", SHARES),
        series,
        " ".join(note for note in notes if note),
    )


def original(document: Mapping[str, Any]) -> tuple[Any, ...]:
    """What an original's scores are of: its weights, the facts, and those of them that no score is of; two files that
    both lack one are taken for the same in it."""
    source = document.get("facts_source") or {}
    return document["base"].get("weights"), source.get("hash"), chose(document)


# -- trade-offs ---------------------------------------------------------------------------------


def trade_offs(about: About, cells: Sequence[Cell]) -> list[Drawn]:
    """Success against locality and general ability; generalization against locality; what was collected; with the
    fronts."""
    found = [against(name, *pair, cells) for name, pair in PAIRS.items()]
    both = [c for c in cells if c.kept and c.metric(0, metrics.SUCCESS).y is not None]
    points = [cross(c.name, ability(c, 0), c.metric(0, metrics.SUCCESS)) for c in both]
    heading = "Edit success against general ability"
    success = Axis("edit success", "%")
    found.insert(1, trade_off("success_general", heading, Axis(KEPT, "%"), success, points, no_general(cells), ()))
    more = [against(name, *pair, cells) for name, pair in MORE_PAIRS.items()]
    found += [one for one in more if isinstance(one, Figure)]
    if not ranking.different(cells):
        return found
    return [replace(one, note=f"{one.note} {ranking.DIFFERENT}") if isinstance(one, Figure) else one for one in found]


def against(name: str, up: str, right: str, cells: Sequence[Cell]) -> Drawn:
    """One metric against another."""
    both = [c for c in cells if c.metric(0, up).y is not None and c.metric(0, right).y is not None]
    points = [cross(c.name, c.metric(0, right), c.metric(0, up)) for c in both]
    heading = f"{title(up).capitalize()} against {title(right)}"
    why = f"{title(up).capitalize()} or {title(right)} was not measured."
    return trade_off(name, heading, Axis(title(right), "%"), Axis(title(up), "%"), points, why, ())


def less_baseline(about: About, results: Sequence[Result]) -> list[Drawn]:
    """Each metric less the baseline's, fact by fact."""
    heading = f"Difference to {about.baseline}"
    shown = shares(about.metrics)
    differ = study_report.differences(results, about.baseline, shown)
    found: list[Drawn] = []
    for metric in shown:
        there = [(d["cell"], one) for d in differ if (one := d["metrics"].get(metric))]
        if not there:
            continue
        points = [difference(cell, one) for cell, one in there]
        beyond = sum(bool(one["excludes_zero"]) for _, one in there)
        found.append(
            Figure(
                f"less_{slug(title(metric))}",
                heading,
                f"{title(metric)}: {beyond} of {len(there)} cells differ from {about.baseline} beyond the noise.",
                "dots",
                Axis("cell"),
                Axis(f"{title(metric)}, difference", "points", mark=0.0),
                [Series(title(metric), points)],
                "Over the same facts, with 95 % intervals; not corrected for several comparisons.",
                "less",
                {"metric": title(metric)},
            )
        )
    return found or [Missing("less", heading, "It takes a result of this cell and of another.")]


def difference(cell: str, one: Mapping[str, Any]) -> Point:
    low, high = one["difference_95"] or (None, None)
    return Point(cell, percent(one["difference"]), percent(low), percent(high), count=one["facts"])


def general(cells: Sequence[Cell]) -> Drawn:
    """Each task's value that is left, cell by cell."""
    heading = "General ability, task by task"
    tasks = list(dict.fromkeys(task for cell in cells for task in cell.document["after"]["general_change"]))
    series = []
    for task in tasks:
        changes = [(cell.name, cell.document["after"]["general_change"].get(task, {})) for cell in cells]
        points = [
            Point(name, found[0], found[1], found[2], count=change["items"])
            for name, change in changes
            if (found := kept({task: change}))
        ]
        if points:
            series.append(Series(task, points))
    if not series:
        return Missing("general", heading, no_general(cells))
    told = "; ".join(f"{s.name}: {said(min(p.y or 0.0 for p in s.points))} at least" for s in series[:4])
    return Figure(
        "general", heading, f"Kept of the original's value: {told}.", "dots", Axis("cell"), Axis("kept", "%"), series
    )


def ages(cells: Sequence[Cell]) -> Drawn:
    """Retention by age, a line a cell."""
    heading = "Retention by age"
    there = [c for c in cells if (found := c.document.get("retention")) and len(found["curve"]) > 1]
    if not there:
        return Missing("retention_curve", heading, "It takes a cell of two batches or more that were scored each.")
    series = [age_curve(cell.name, cell.document["retention"]) for cell in best(there, MOST_CELLS)]
    told = "; ".join(f"{s.name} {said(s.points[-1].y)} after {s.points[-1].x} batches" for s in series[:4])
    return Figure(
        "retention_curve",
        heading,
        f"Edit success on the oldest facts: {told}.",
        "lines",
        Axis("batches since the fact was taught"),
        Axis(title(there[0].document["retention"]["metric"]), "%"),
        series,
        f"{best_of(there, MOST_CELLS)}." if len(there) > MOST_CELLS else "",
    )


def heat_maps(cells: Sequence[Cell]) -> list[Figure]:
    """Retention batch by batch, a figure a cell to choose from; none where no cell has two batches that were scored."""
    drawn = {cell.name: heat_map(cell.document) for cell in cells}
    there = {name: figure for name, figure in drawn.items() if isinstance(figure, Figure)}
    having = [cell for cell in cells if cell.name in there]
    shown = best(having, MOST_CELLS)
    note = f"{best_of(having, MOST_CELLS)}." if len(having) > MOST_CELLS else ""
    return [
        replace(
            there[cell.name],
            id=f"retention_{file}",
            note=" ".join(text for text in (there[cell.name].note, note) if text),
            group="retention",
            choice={"cell": cell.name},
        )
        for cell, file in zip(shown, slugs([cell.name for cell in shown]), strict=True)
    ]
