"""The figures of one result: a run's, or a pair's. Pure: a document in (``scores.json``), figures out.

Percentages throughout; ends of intervals are 95 %.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from kedit_glue import metrics
from kedit_glue.compare_text import HOW
from kedit_glue.general_ability import in_unit, unit
from kedit_glue.metrics import METRICS
from kedit_glue.page import of_search
from kedit_glue.page.figure import SHARES, Axis, Drawn, Figure, Missing, Point, Series, front
from kedit_glue.page.of_batches import batches, by_age, heat_map, kept_after
from kedit_glue.page.values import (
    AGREE_WITH_THEMSELVES,
    FORCED,
    GENERATED,
    KEPT,
    kept,
    names,
    point,
    said,
    task_kept,
    title,
)
from kedit_glue.report import PROTOCOLS
from kedit_glue.report_notes import mode_note
from kedit_glue.result_fields import EDITING

Document = Mapping[str, Any]
ALONE = "edited, each batch alone"
"""Of a run whose batches have a model each: there is no edited model."""
TUNED_NOTE = (
    "The tuned model was not scored before its merge, so it has no line of its own: score.tuned: true in the recipe "
    "does that."
)
MOST = 6
"""Trade-offs that a caption names."""


def figures(document: Document) -> list[Drawn]:
    """All of them, in the order of the page."""
    return [
        *radars(document),
        *edits(document),
        general(document),
        *trade_offs(document),
        batches(document),
        heat_map(document),
        by_age(document),
        *of_search.figures(document),
        stages(document),
        batch_times(document),
        CURVES,
    ]


# -- before and after ---------------------------------------------------------------------------


def edited_name(document: Document) -> str:
    """What the edited model is called: ``merged`` where its last step was a merge."""
    if mode_note(document):
        return ALONE
    return "merged" if any("merge" in batch for batch in document["batches"]) else "edited"


def in_words(name: str) -> str:
    return name if name == ALONE else f"{name} model"


def radars(document: Document) -> list[Drawn]:
    """Base and edited model on the aspects and on general ability; asked in two ways."""
    note = TUNED_NOTE if edited_name(document) == "merged" and not document.get("tuned") else ""
    found: list[Drawn] = []
    for how, chosen in (("teacher-forced", FORCED), ("generated", GENERATED)):
        made = radar(document, chosen, how, note)
        if made is not None:
            found.append(made)
    return found or [
        Missing("radar", f"Base and {in_words(edited_name(document))}", "It takes three aspects that were measured.")
    ]


def radar(document: Document, chosen: Sequence[str], how: str, note: str) -> Figure | None:
    before, after = document["before"]["edits"], document["after"]["edits"]
    there = [metric for metric in chosen if after.get(metric, {}).get("mean") is not None]
    changes = {t: c for t, c in document["after"]["general_change"].items() if task_kept(c) is not None}
    if not there or len(there) + len(changes) < 3:
        return None
    base = [point(title(m), {"mean": 1.0, "facts": 1} if m in AGREE_WITH_THEMSELVES else before.get(m)) for m in there]
    base += [Point(f"{task}, kept", 100.0) for task in changes]
    edited = _aspects(document["after"], there, changes)
    between = [Series("tuned", _aspects(document["tuned"], there, changes))] if document.get("tuned") else []
    name = edited_name(document)
    told = ", ".join(f"{b.x} {said(b.y)} to {said(a.y)}" for b, a in zip(base, edited, strict=True))
    return Figure(
        f"radar_{how.replace('-', '_')}",
        f"Base{', tuned' if between else ''} and {in_words(name)}",
        f"Base to {in_words(name)}, {how}: {told}.",
        "radar",
        Axis("aspect"),
        Axis("score", "%", SHARES),
        [Series("base", base, quiet=True), *between, Series(name, edited)],
        note,
        "radar",
        {"asked": how},
    )


def _aspects(scored: Mapping[str, Any], metrics_there: Sequence[str], tasks: Iterable[str]) -> list[Point]:
    """A model's place on each of the radar's axes."""
    changes = scored["general_change"]
    aspects = [point(title(m), scored["edits"].get(m)) for m in metrics_there]
    return aspects + [Point(f"{task}, kept", task_kept(changes[task])) for task in tasks if task in changes]


def edits(document: Document) -> list[Drawn]:
    """Every metric that is a share, before and after, by how it was asked."""
    heading = "Edits, metric by metric"
    found: list[Drawn] = []
    for protocol, how in PROTOCOLS.items():
        after, before = document["after"]["edits"], document["before"]["edits"]
        there = [m for m in METRICS.values() if m.protocol == protocol and m.range == metrics.SHARE]
        there = [m for m in there if after.get(m.name, {}).get("mean") is not None]
        if not there:
            continue
        olds = [point(m.title, None if m.name in AGREE_WITH_THEMSELVES else before.get(m.name)) for m in there]
        news = [point(m.title, after[m.name]) for m in there]
        told = "; ".join(f"{p.x} {said(p.y)}" for p in news)
        found.append(
            Figure(
                f"edits_{protocol}",
                heading,
                f"{in_words(edited_name(document))}, {how}: {told}.",
                "dots",
                Axis("metric"),
                Axis("score", "%", SHARES),
                [Series("before", olds, quiet=True), Series("after", news)],
                f"{HOW[protocol].capitalize()}. Lines are 95 % intervals over facts.",
                "edits",
                {"asked": how},
            )
        )
    return found or [Missing("edits", heading, "No edit was scored.")]


def general(document: Document) -> Drawn:
    """Each task's change, turned so that right is better."""
    heading = "General ability: change from the original"
    measured = document["after"]["general_change"]
    changes = {task: change for task, change in measured.items() if change.get("change") is not None}
    without = [task for task in measured if task not in changes]
    if not changes:
        return Missing("general", heading, NO_CHANGE if without else no_general(document))
    points = []
    for task, change in changes.items():
        sign = 1 if change["better"] == "higher" else -1
        value, *ends = (sign * in_unit(change, v) + 0.0 for v in (change["change"], *change["change_95"]))
        inside = ", ".join(part for part in (unit(change).strip(), "" if sign > 0 else TURNED) if part)
        name = f"{task} ({inside})" if inside else task
        points.append(Point(name, value, min(ends), max(ends), count=change["items"]))
    told = "; ".join(f"{p.x} {p.y:+.1f}" for p in points)
    return Figure(
        "general",
        heading,
        f"Change of each task, above 0 is better: {told}.",
        "dots",
        Axis("task"),
        Axis("change (right: better)", mark=0.0),
        [Series("change", points)],
        "An interval across 0 is no change beyond the noise."
        + (f" {TURNED_NOTE}" if any(change["better"] != "higher" for change in changes.values()) else "")
        + (f" Without a change item by item, see the table: {', '.join(without)}." if without else ""),
    )


TURNED = "sign turned"
TURNED_NOTE = (
    f"{TURNED.capitalize()}: of what is better when lower, such as perplexity, a rise stands left of 0; the table of "
    "general ability has the change itself."
)
NO_CHANGE = "No task has a change item by item; the table has the values before and after."
NO_GENERAL = "General ability was not measured: name lm-eval's tasks under score.general.tasks."
NO_GENERAL_ALONE = (
    "Each batch was edited alone: no model holds all edits, so that there is no general ability after them."
)


def no_general(document: Document) -> str:
    return NO_GENERAL_ALONE if mode_note(document) else NO_GENERAL


# -- trade-offs ---------------------------------------------------------------------------------


State = tuple[str, Mapping[str, Any], tuple[float, float | None, float | None] | None]
"""A model: its name, its summaries by metric, how much general ability it kept with an interval, in per cent."""


def states(document: Document) -> list[State]:
    """The original, the model after each batch, the edited model; of batches that were edited alone, all together."""
    count = len(document["batches"])
    whole = {"mean": 1.0, "facts": 1}
    changes = document["after"]["general_change"]
    found: list[State] = [
        ("original", {**document["before"]["edits"], metrics.LOCALITY: whole}, (100.0, None, None) if changes else None)
    ]
    for batch in document["batches"][:-1]:
        if "all_so_far" in batch:
            found.append((f"after batch {batch['batch']}", batch["all_so_far"], kept_after(document, batch)))
    name = ALONE if mode_note(document) else f"after batch {count}" if count else "edited"
    return [*found, (name, document["after"]["edits"], kept(changes))]


def trade_offs(document: Document) -> list[Drawn]:
    """Success against what it cost: the original, and the model after each batch."""
    local, able = [], []
    for name, edits_of, ability in states(document):
        success, locality = point(0, edits_of.get(metrics.SUCCESS)), point(0, edits_of.get(metrics.LOCALITY))
        if success.y is not None and locality.y is not None:
            local.append(cross(name, locality, success))
        if success.y is not None and ability is not None:
            able.append(cross(name, Point(0, *ability), success))
    success_axis = Axis("edit success", "%")
    why = "Locality or edit success was not measured."
    of_general = trade_off(
        "success_general",
        "Edit success against general ability",
        Axis(KEPT, "%"),
        success_axis,
        able,
        no_general(document),
    )
    heading = "Edit success against locality"
    return [trade_off("success_locality", heading, Axis("locality", "%"), success_axis, local, why), of_general]


def cross(label: str, x: Point, y: Point) -> Point:
    """One point of two measurements."""
    assert x.y is not None, "looked at before"
    return Point(x.y, y.y, y.low, y.high, x.low, x.high, label, y.count)


def trade_off(
    name: str, heading: str, x: Axis, y: Axis, points: Sequence[Point], why: str, quiet: Sequence[str] = ("original",)
) -> Drawn:
    """Points with the Pareto front of those that are not ``quiet``; up and to the right is better."""
    shown = [p for p in points if p.y is not None]
    ones = [p for p in shown if p.label not in quiet]
    if not ones:
        return Missing(name, heading, why)
    places = front([(float(p.x), p.y) for p in ones if p.y is not None])
    best, beaten = [ones[at] for at in places], set(range(len(ones))) - set(places)
    others = [ones[at] for at in sorted(beaten)]
    series = [Series("Pareto front", best, shows_labels=True)]
    series += [Series("others", others, quiet=True, line=False)] if others else []
    still = [p for p in shown if p.label in quiet]
    series += [Series(p.label, [p], quiet=True, line=False, shows_labels=True) for p in still]
    return Figure(
        name,
        heading,
        f"Best trade-offs, none of which another beats in both: {named(best, x, y)}.",
        "points",
        x,
        y,
        series,
        "Up and to the right is better; lines across are 95 % intervals.",
    )


def named(points: Sequence[Point], x: Axis, y: Axis) -> str:
    """The first trade-offs with their values, those that are written alike together; ``points`` by ``x``."""
    told = [
        f"{names(list(alike))}: {x.title} {across}, {y.title} {up}"
        for (across, up), alike in groupby(points, lambda p: (said(float(p.x)), said(p.y)))
    ]
    return "; ".join(told[:MOST]) + (f"; and {len(told) - MOST} more" if len(told) > MOST else "")


# -- cost ---------------------------------------------------------------------------------------


def stages(document: Document) -> Drawn:
    """Wall time by kind of stage."""
    spent = {kind: value for kind, value in document["seconds"].items() if kind != "all"}
    if not spent:
        return Missing("stages", "Time by kind of stage", "No times were recorded.")
    ordered = sorted(spent.items(), key=lambda one: -one[1])
    return Figure(
        "stages",
        "Time by kind of stage",
        f"{sum(spent.values()):.0f} seconds in all; most of them, {ordered[0][1]:.0f}, in {ordered[0][0]}.",
        "bars",
        Axis("stage"),
        Axis("wall time", "s"),
        [Series("seconds", [Point(kind, value) for kind, value in ordered])],
    )


def batch_times(document: Document) -> Drawn:
    """What each batch's edit took."""
    heading = "Time of each batch's edit"
    there = [b for b in document["batches"] if any(kind in b for kind in EDITING)]
    if len(there) < 2:
        return Missing("batch_times", heading, "It takes two batches whose times were recorded.")
    series = [
        Series(kind, [Point(b["batch"], b[kind]["seconds"]) for b in there if kind in b])
        for kind in EDITING
        if any(kind in b for b in there)
    ]
    first, last = (sum(b[kind]["seconds"] for kind in EDITING if kind in b) for b in (there[0], there[-1]))
    return Figure(
        "batch_times",
        heading,
        f"{first:.1f} seconds in the first batch, {last:.1f} in the last.",
        "lines",
        Axis("batch"),
        Axis("wall time", "s", (0.0, 0.0)),
        series,
    )


CURVES = Missing(
    "curves",
    "Layer and batch-size curves",
    "A run has one setting. A study over train.layers, methods.<method>.layers or edits.batch_size draws them: "
    "python -m kedit_glue.study.",
)
"""What a single run cannot show."""
