"""The page of a study. Pure: its cells' results in, a ``Page`` out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from kedit_glue import strict_yaml, study_grid, study_report, study_text, verdict
from kedit_glue.page import facts, of_grid
from kedit_glue.page.cells import BY, Cell, Measure, cells_of, leading, measures
from kedit_glue.page.content import Page, Section, Table, banner
from kedit_glue.page.figure import Point
from kedit_glue.problems import listed
from kedit_glue.report import counted
from kedit_glue.study_report import About, Result

MOST_NAMED = 4
"""Cells that the banner names of each answer."""


def page(about: About, results: Sequence[Result], study_file: str = "") -> Page:
    figures = of_grid.figures(about, results)
    about, results = of_grid.each_seed(about, results)
    cells = cells_of(results, about.metrics)
    document = study_report.table(about, results)
    rows = facts.across([(cell.name, cell.document) for cell in cells])
    verdicts = {cell.name: cell.document.get("verdict") or verdict.judged(cell.document) for cell in cells}
    everything = len({(f["id"], f["prompt"], f["target_new"]) for cell in cells for f in cell.document["facts"]})
    return Page(
        "Study",
        about.study,
        f"{counted(len(results), 'cell', 'cells')} of {about.recipe}"
        + (f" · axes: {', '.join(about.axes)}" if about.axes else ""),
        headline(cells),
        overall(verdicts, results),
        tiles(cells),
        sections(about, document, verdicts),
        figures,
        rows,
        {"cells": [cell.name for cell in cells], "all": everything},
        "Made by kedit_glue from the cells' scores.json. This page asks no network.",
    )


def headline(cells: Sequence[Cell]) -> str:
    by = leading(cells)
    if not cells:
        return "No cell has a result yet."
    if by is None:
        return f"{counted(len(cells), 'cell has', 'cells have')} a result."
    top = best(by, cells)
    return f"Best by {BY[by.name]}: {top.x}, {top.y:.1f} %."


def overall(verdicts: Mapping[str, Mapping[str, Any]], results: Sequence[Result]) -> dict[str, Any]:
    """A banner: how many cells may ship, and which."""
    counts = Counter(found["answer"] for found in verdicts.values())
    met = {verdict.SHIP: True, verdict.UNKNOWN: None, verdict.DO_NOT: False}
    best = next((answer for answer in met if counts[answer]), verdict.UNKNOWN)
    reasons = [
        {"met": met[answer], "says": f"{answer}: {listed(names, MOST_NAMED)}"}
        for answer in met
        if (names := [cell for cell, found in verdicts.items() if found["answer"] == answer])
    ]
    if lacking := [r.cell for r in results if r.document is None]:
        reasons.append({"met": False, "says": f"without a result: {listed(lacking, MOST_NAMED)}"})
    made = banner({"answer": best, "reasons": reasons}, ())
    return {**made, "answer": f"{counts[verdict.SHIP]} of {len(results)} may ship"}


def tiles(cells: Sequence[Cell]) -> list[dict[str, str]]:
    """The best cell of each measure."""
    found = []
    for measure in measures(cells):
        if measure.better == "as before":
            continue
        top = best(measure, cells)
        most = "" if measure.name in BY else "least " if measure.better == "lower" else "most "
        found.append({"title": f"{most}{measure.name}", "after": f"{top.y:.1f} %", "before": str(top.x)})
    return found


def best(measure: Measure, cells: Sequence[Cell]) -> Point:
    """Of those that have it, as ``Measure.better`` says."""
    points = [p for cell in cells if (p := measure.at(cell, cell.name)).y is not None]
    return min(points, key=lambda p: (p.y or 0.0) * (1 if measure.better == "lower" else -1))


def sections(about: About, document: Mapping[str, Any], verdicts: Mapping[str, Mapping[str, Any]]) -> list[Section]:
    lacking = [[row["cell"], row["cause"] or "not run yet"] for row in document["cells"] if "metrics" not in row]
    return [
        Section("overview", "Overview", places=("cells", "radar")),
        Section("axes", "Along an axis", places=("curves",)),
        Section(
            "trade-offs",
            "Trade-offs",
            "Each point is a cell. On the Pareto front are the cells that no other beats in both.",
            places=("success_locality", "success_general", "generalization_locality", *of_grid.MORE_PAIRS),
        ),
        Section("compare", "Compared", places=("less", "general", "retention_curve")),
        Section("cost", "Cost", places=("cost", "worth")),
        Section(
            "cells",
            "Cells",
            tables=[
                cells_table(document, verdicts),
                Table("Without a result", ["cell", "cause"], lacking, numbers=False),
                Table(
                    "Settings",
                    ["cell", "sets"],
                    [[r["cell"], study_grid.said(r["settings"])] for r in document["cells"]],
                    numbers=False,
                ),
            ],
        ),
        Section(
            "facts",
            "Facts",
            "Those that most cells miss come first. A cell misses a fact when an answer token behind the edit's own "
            "prompt is wrong, or the generated answer is.",
            facts={
                "heads": ["missed", "prompt", "new answer", "before"],
                "orders": [("failed", "most missed first")],
            },
        ),
        reproduce(about),
    ]


def cells_table(document: Mapping[str, Any], verdicts: Mapping[str, Mapping[str, Any]]) -> Table:
    """All measured cells, with intervals and costs."""
    rows = [row for row in document["cells"] if "metrics" in row]
    part = {**document, "cells": rows}
    columns = [("cell", [row["cell"] for row in rows]), ("verdict", [verdicts[row["cell"]]["answer"] for row in rows])]
    columns += study_text.axis_columns(part)
    columns += study_text.edit_columns(rows, study_text.mean)
    columns += study_text.cost_columns(part)
    return Table(
        "Every cell",
        [head for head, _ in columns],
        [list(cells) for cells in zip(*(values for _, values in columns), strict=True)],
        f"Edits: {study_text.EDITS_NOTE}. General ability: {study_text.COST_NOTE}.",
    )


def reproduce(about: About) -> Section:
    texts = [("Set in every cell", strict_yaml.dump(dict(about.set)).rstrip())] if about.set else []
    rows = [("recipe", about.recipe), ("baseline", about.baseline), ("axes", ", ".join(about.axes) or "none")]
    return Section(
        "reproduce",
        "How to reproduce",
        "Run the study's file again with python -m kedit_glue.study: what is done stands. Each cell's own report.html "
        "is in its folder.",
        texts=texts,
        lists=[("Study", rows)],
    )
