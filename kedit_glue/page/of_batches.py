"""The figures of a run's batches: scores after each, what is left of earlier ones. Pure: a document in, figures out.

Percentages throughout; ends of intervals are 95 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

from kedit_glue.general_ability import share_left
from kedit_glue.page.figure import SHARES, Axis, Drawn, Figure, Missing, Point, Series, percent
from kedit_glue.page.values import FORCED, KEPT, point, said, title
from kedit_glue.report_notes import mode_note

Document = Mapping[str, Any]
MOST_ROWS = 60
"""Of a heat map: a longer run is shown in so many rows and columns, evenly."""
ONE_BATCH = "It takes two batches that were scored: this result has fewer, or was scored at the end only."

EACH_ALONE = "Each batch was edited alone: nothing was asked again after a later one."


def lacking(document: Document) -> str:
    """Why there is nothing to say of one batch after another."""
    return EACH_ALONE if mode_note(document) else ONE_BATCH


def kept_after(document: Document, batch: Mapping[str, Any]) -> tuple[float, None, None] | None:
    """General ability after a batch, where it was measured then; without items there is no interval."""
    shares = []
    for task, change in document["after"]["general_change"].items():
        values = batch.get("general", {}).get(task, {}).get("metrics", {})
        left = share_left(change.get("before"), values.get(change["metric"]), change["better"])
        if left is not None and change["metric"] in values:  # its value may be no number
            shares.append(left)
    return (100 * mean(shares), None, None) if shares else None


def batches(document: Document) -> Drawn:
    """The four aspects over all facts so far, after each batch."""
    heading = "Batch by batch"
    scored = [b for b in document["batches"] if "all_so_far" in b]
    if len(scored) < 2:
        return Missing("batches", heading, lacking(document))
    series = []
    for metric in FORCED:
        points = [point(b["batch"], b["all_so_far"].get(metric)) for b in scored]
        if any(p.y is not None for p in points):
            series.append(Series(title(metric), points))
    abilities = [(b["batch"], found) for b in scored if (found := kept_after(document, b))]
    if len(abilities) > 1:
        series.append(Series(KEPT, [Point(number, value) for number, (value, *_) in abilities]))
    told = "; ".join(f"{s.name} {said(s.points[0].y)} to {said(s.points[-1].y)}" for s in series)
    return Figure(
        "batches",
        heading,
        f"From batch {scored[0]['batch']} to batch {scored[-1]['batch']}: {told}.",
        "lines",
        Axis("batches edited"),
        Axis("score on the facts so far", "%", SHARES),
        series,
    )


def heat_map(document: Document) -> Drawn:
    """What is left of each batch after each later one."""
    heading = "Retention, batch by batch"
    found = document.get("retention")
    if not found or len(found["after"]) < 2:
        return Missing("retention", heading, lacking(document))
    if found["matrix"] is None:
        return Missing("retention", heading, "The run has too many batches for a matrix; the curve says it in short.")
    rows = list(zip(found["after"], found["matrix"], strict=True))
    last = [value for value in rows[-1][1] if value is not None]
    if not last:
        return Missing("retention", heading, "After the last batch no fact was asked.")
    columns = evenly(range(len(found["matrix"][0])))
    shown = [rows[at] for at in evenly(range(len(rows)))]
    series = [
        Series(
            f"after batch {after}",
            [Point(f"batch {at + 1}", percent(cells[at])) for at in columns],
        )
        for after, cells in shown
    ]
    told = f"{title(found['metric'])} after the last batch is between {100 * min(last):.1f} and {100 * max(last):.1f} %"
    thinned = len(columns) < len(found["matrix"][0])
    return Figure(
        "retention",
        heading,
        f"{told} on the facts of each batch.",
        "heat",
        Axis("facts of"),
        Axis(title(found["metric"]), "%", SHARES),
        series,
        f"{MOST_ROWS} of {len(found['matrix'][0])} batches are shown." if thinned else "",
    )


def evenly(places: range) -> list[int]:
    """At most ``MOST_ROWS`` of the places, the first and the last among them."""
    if len(places) <= MOST_ROWS:
        return list(places)
    return sorted({round(n * (len(places) - 1) / (MOST_ROWS - 1)) for n in range(MOST_ROWS)})


def by_age(document: Document) -> Drawn:
    """Retention by how many batches ago a fact was taught."""
    heading = "Retention by age"
    found = document.get("retention")
    if not found or len(found["curve"]) < 2:
        return Missing("retention_curve", heading, lacking(document))
    series = [age_curve(title(found["metric"]), found)]
    first, last = series[0].points[0], series[0].points[-1]
    return Figure(
        "retention_curve",
        heading,
        f"{title(found['metric'])} is {said(first.y)} on facts just taught and {said(last.y)} on facts taught {last.x} "
        "batches ago.",
        "lines",
        Axis("batches since the fact was taught"),
        Axis(title(found["metric"]), "%", SHARES),
        series,
        "Earlier facts were sampled: intervals hold the error of that, too." if found["sampled"] else "",
    )


def age_curve(name: str, found: Mapping[str, Any]) -> Series:
    return Series(name, [point(p["age"], {**p, "facts": p["answers"]}) for p in found["curve"]])
