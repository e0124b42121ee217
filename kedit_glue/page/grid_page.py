"""The page of a study. Pure: its cells' results in, a ``Page`` out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from kedit_glue import strict_yaml, study_grid, study_report, study_text, verdict
from kedit_glue.page import facts, of_grid, ranking
from kedit_glue.page.cells import BY, Cell, Measure, cells_of, measures
from kedit_glue.page.content import Page, Section, Table, banner
from kedit_glue.page.values import names, said
from kedit_glue.problems import listed
from kedit_glue.report import counted
from kedit_glue.study_report import About, Result

FILE = "FILE"
"""Stands for a study's file, where its name was not recorded."""
MOST_NAMED = 4
"""Cells that the banner names of each answer."""


Probes = Mapping[str, Mapping[str, Sequence[facts.Row]]]
"""Of each run ``facts.answered``."""


def page(about: About, results: Sequence[Result], command: str = "", probes: Probes | None = None) -> Page:
    cells = cells_of(results, about.metrics)
    runs = [(r.cell, r.document) for r in results if r.document is not None]
    answers = {name: (document.get("verdict") or verdict.judged(document))["answer"] for name, document in runs}
    everything = len({(f["id"], f["prompt"], f["target_new"]) for _, document in runs for f in document["facts"]})
    groups = study_report.grouped(results)
    return Page(
        "Study",
        about.study,
        f"{counted(len(groups), 'cell', 'cells')} of {about.recipe}"
        + (f" · {len(results)} runs, one for each seed" if len(results) > len(groups) else "")
        + (f" · axes: {', '.join(about.axes)}" if about.axes else ""),
        ranking.headline(cells),
        overall(answers, results),
        tiles(cells),
        sections(about, results, answers, command),
        of_grid.figures(about, results),
        facts.across(runs, probes),
        {"cells": [name for name, _ in runs], "all": everything},
        "Made by kedit_glue from the cells' scores.json. This page asks no network.",
    )


def overall(answers: Mapping[str, str], results: Sequence[Result]) -> dict[str, Any]:
    """A banner: how many runs may ship, and of which cells; ``answers``: each run's."""
    counts, groups = Counter(answers.values()), of_seeds(answers, results)
    met = {verdict.SHIP: True, verdict.UNKNOWN: None, verdict.DO_NOT: False}
    best = next((answer for answer in met if counts[answer]), verdict.UNKNOWN)
    reasons = [
        {"met": met[answer], "says": f"{answer}: {listed(names, MOST_NAMED)}"}
        for answer in met
        if (names := [some(name, found.count(answer), len(found)) for name, found in groups.items() if answer in found])
    ]
    if lacking := [r.cell for r in results if r.document is None]:
        reasons.append({"met": False, "says": f"without a result: {listed(lacking, MOST_NAMED)}"})
    made = banner({"answer": best, "reasons": reasons}, ())
    runs = " runs" if len(results) > len(groups) else ""
    return {**made, "answer": f"{counts[verdict.SHIP]} of {len(results)}{runs} may ship"}


def of_seeds(answers: Mapping[str, str], results: Sequence[Result]) -> dict[str, list[str]]:
    """Each cell's answers, of every seed one; empty where a seed has none."""
    return {name: [answers.get(r.cell, "") for r in group] for name, group in study_report.grouped(results).items()}


def some(name: str, those: int, of: int) -> str:
    return name if those == of else f"{name} ({those} of {of})"


def tiles(cells: Sequence[Cell]) -> list[dict[str, str]]:
    """The best cell of each measure, or where nothing compares them its ends."""
    found = []
    for measure in measures(cells):
        if measure.better == "as before":
            continue
        if ranking.different(cells):
            found.append(ends(measure, cells))
            continue
        top = ranking.best(measure, cells)
        most = "" if measure.name in BY else "least " if measure.better == "lower" else "most "
        found.append({"title": f"{most}{measure.name}", "after": said(top[0].y), "before": names(top)})
    return found


def ends(measure: Measure, cells: Sequence[Cell]) -> dict[str, str]:
    """A tile that names no cell."""
    values = [y for cell in cells if (y := measure.at(cell, 0).y) is not None]
    of = f"lowest and highest of {counted(len(values), 'cell', 'cells')}"
    return {"title": measure.name, "after": ranking.span(values), "before": of}


def sections(about: About, results: Sequence[Result], answers: Mapping[str, str], command: str) -> list[Section]:
    lacking = [[r.cell, r.cause or study_report.NOT_YET] for r in results if r.document is None]
    groups = of_seeds(answers, results)
    means = {
        name: answer[0] if len(answer) == 1 else f"{answer.count(verdict.SHIP)} of {len(answer)} ship"
        for name, answer in groups.items()
    }
    tables = [cells_table("Every cell", study_report.table(about, results), means)]
    if len(results) > len(groups):
        tables.append(cells_table("Every seed", study_report.table(*of_grid.each_seed(about, results)), answers))
    return [
        Section("overview", "Overview", places=("cells", "radar")),
        Section("axes", "Along an axis", places=("curves",)),
        Section(
            "trade-offs",
            "Trade-offs",
            "Each point is a cell. On the Pareto front are the cells that no other beats in both.",
            places=("success_locality", "success_general", "generalization_locality", *of_grid.MORE_PAIRS),
        ),
        Section("compare", "Compared", places=("less", "general", "retention_curve", "retention")),
        Section("cost", "Cost", places=("cost", "worth")),
        Section(
            "cells",
            "Cells",
            tables=[
                *tables,
                Table("Without a result", ["cell", "cause"], lacking, numbers=False),
                Table(
                    "Settings",
                    ["cell", "sets"],
                    [[r.cell, study_grid.said(r.settings)] for r in results],
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
        reproduce(about, command),
    ]


def cells_table(title: str, document: Mapping[str, Any], verdicts: Mapping[str, str]) -> Table:
    """All measured cells, with intervals and costs."""
    rows = study_text.measured(document["cells"])
    part = {**document, "cells": rows}
    columns = [("cell", [row["cell"] for row in rows]), ("verdict", [verdicts[row["cell"]] for row in rows])]
    columns += study_text.axis_columns(part)
    columns += study_text.edit_columns(rows, study_text.mean)
    columns += study_text.cost_columns(part)
    return Table(
        title,
        [head for head, _ in columns],
        [list(cells) for cells in zip(*(values for _, values in columns), strict=True)],
        f"Edits: {study_text.edits_note(rows)}. General ability: {study_text.COST_NOTE}.",
    )


def reproduce(about: About, command: str) -> Section:
    settings = strict_yaml.dump(dict(about.set)).rstrip() if about.set else ""
    texts = [(title, text) for title, text in (("Command", command), ("Set in every cell", settings)) if text]
    unknown = f"{FILE} is the study's file, whose place was not recorded. " if FILE in command.split() else ""
    rows = [("recipe", about.recipe), ("baseline", about.baseline), ("axes", ", ".join(about.axes) or "none")]
    return Section(
        "reproduce",
        "How to reproduce",
        f"{unknown}Run it again: what is done stands. Each cell's own report.html is in its folder.",
        texts=texts,
        lists=[("Study", rows)],
    )
