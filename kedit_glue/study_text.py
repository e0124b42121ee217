"""A study's tables in words: for Markdown, for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from kedit_glue import methods, metrics, strict_yaml, tables
from kedit_glue.progress import duration
from kedit_glue.study_grid import labels, said
from kedit_glue.study_report import METRICS, NOT_YET

EDITS_NOTE = "shares in %, ± half of the 95 % interval over facts"
SEEDS_NOTE = "shares in %, mean over seeds ± half of its 95 % interval by Student's t"
COST_NOTE = (
    "change from the original with its 95 % interval; H: harmonic mean of edit success, generalization, locality and "
    "retained general ability; MB changed: weights that a batch may change; MB beside: kept beside the original's "
    "weights for asking; all: every stage, those taken from another cell included"
)
DIFFERENCE_NOTE = (
    "points, ± half of the 95 % interval of the mean difference over the same facts; * where it excludes zero"
)


Column = tuple[str, list[str]]
"""A head and a cell for each row."""


def axis_columns(document: Mapping[str, Any]) -> list[Column]:
    """The settings that make the grid."""

    def shown(row: Mapping[str, Any], key: str) -> str:
        value = row["at"].get(key, "-")
        return value if isinstance(value, str) else strict_yaml.dump(value, flow=True)

    names = labels(document["axes"])
    return [(name, [shown(row, key) for row in document["cells"]]) for key, name in names.items()]


def edit_columns(rows: Sequence[Mapping[str, Any]], shown: Callable[[str, Mapping[str, Any]], str]) -> list[Column]:
    """The metrics that any of the rows has, those asked for beyond the usual ones by their whole names."""
    there = dict.fromkeys(metric for row in rows for metric in row.get("metrics", {}))

    def cell(row: Mapping[str, Any], metric: str) -> str:
        entry = row.get("metrics", {}).get(metric)
        return "-" if entry is None else shown(metric, entry)

    return [(metrics.METRICS[m].title if m in METRICS else m, [cell(row, m) for row in rows]) for m in there]


def cost_columns(document: Mapping[str, Any]) -> list[Column]:
    """Change of general ability, steps, time."""
    cells = document["cells"]
    heads: dict[str, str] = {}
    for row in cells:
        for task, change in row.get("general", {}).items():
            heads.setdefault(task, f"{task} ({'%' if change.get('change_is') else 'points'})")
    found = [(head, [_change(row.get("general", {}).get(task, {})) for row in cells]) for task, head in heads.items()]
    found.append(("H", [_form("{:.1f}", row.get("harmonic"), 0.01) for row in cells]))
    found.append(("steps", [_count(row.get("optimizer_steps")) for row in cells]))
    costs = [row.get("cost", {}) for row in cells]
    found.append(("s a fact", [_form("{:.2f}", cost.get("seconds_a_fact")) for cost in costs]))
    found.append(("s once", [_form("{:.0f}", cost.get("seconds_once")) for cost in costs]))
    found.append(("peak GB", [_form("{:.1f}", cost.get("peak_memory_bytes"), 1e9) for cost in costs]))
    found.append(("MB changed", [_form("{:.1f}", cost.get("bytes_changed"), 1e6) for cost in costs]))
    found.append(("MB beside", [_form("{:.1f}", cost.get("bytes_at_inference"), 1e6) for cost in costs]))
    for kind in ("train", "merge", "all"):
        seconds = [row.get(f"{kind}_seconds") for row in cells]
        found.append((kind, ["-" if s is None else duration(s) for s in seconds]))
    return found


def difference_columns(document: Mapping[str, Any]) -> list[Column]:
    """Each metric less the baseline's, and over how many facts."""
    found = document["differences"]
    counts = [sorted({d["facts"] for d in row["metrics"].values()}) for row in found]
    facts = ["-".join(str(n) for n in sorted({c[0], c[-1]})) if c else "-" for c in counts]
    return [*edit_columns(found, _points), ("facts", facts)]


def _head_and_rows(rows: Sequence[Mapping[str, Any]], *columns: Column) -> tuple[list[str], list[list[str]]]:
    """A table whose first column names the cells."""
    every = [("cell", [row["cell"] for row in rows]), *columns]
    return [head for head, _ in every], [list(row) for row in zip(*(cells for _, cells in every), strict=True)]


def _form(form: str, value: float | None, unit: float = 1.0) -> str:
    return "-" if value is None else form.format(value / unit)


def _count(value: float | None) -> str:
    """A number of things, or a mean of such numbers."""
    return str(value or "-") if isinstance(value, int) else _form("{:.1f}", value)


def _unit(metric: str) -> tuple[float, str]:
    """What a number of this metric is multiplied with, and how it is written."""
    return (100.0, ".1f") if metrics.METRICS[metric].percent else (1.0, ".3f")


def mean(metric: str, entry: Mapping[str, Any]) -> str:
    times, form = _unit(metric)
    half = entry["seeds_95"] if entry.get("seeds_95") is not None else entry["half_95"]
    return f"{times * entry['mean']:{form}}" + ("" if half is None else f"±{times * half:{form}}")


def _change(entry: Mapping[str, Any]) -> str:
    if "change" not in entry:
        return "-"
    low, high = entry["change_95"]
    return "{} [{}, {}]".format(*(tables.short(100 * value, sign="+") for value in (entry["change"], low, high)))


def _points(metric: str, entry: Mapping[str, Any]) -> str:
    times, form = _unit(metric)
    if entry["difference_95"] is None:
        return f"{times * entry['difference']:+{form}}"
    low, high = entry["difference_95"]
    mark = " *" if entry["excludes_zero"] else ""
    return f"{times * entry['difference']:+{form}}±{times * (high - low) / 2:{form}}{mark}"


def without_result(document: Mapping[str, Any]) -> list[str]:
    """``cell: cause`` of each cell that has none, or not of every seed; those that did not begin in one line, last."""
    found, waiting = [], []
    for row in document["cells"]:
        if not_begun(row):
            waiting.append(row["cell"])
        elif lacking := row.get("lacking"):
            done = len(row["runs"])
            found.append(f"{row['cell']}: {done} of {done + len(lacking)} seeds; {row['cause']}")
        elif "metrics" not in row:
            found.append(f"{row['cell']}: {row['cause']}")
    return [*found, *([f"{NOT_YET}: {', '.join(waiting)}"] if waiting else [])]


def not_begun(row: Mapping[str, Any]) -> bool:
    """Whether none of its seeds has begun."""
    causes = [one["cause"] for one in row.get("lacking", {}).values()] or [row["cause"]]
    return not measured([row]) and set(causes) == {NOT_YET}


def measured(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The cells with a result, which tables have a row for."""
    return [row for row in rows if "metrics" in row]


def markdown(document: Mapping[str, Any], picture: str = "") -> str:
    """``study.md``; ``picture`` is a file beside it."""
    cells, differ = measured(document["cells"]), document["differences"]
    lines = [
        f"# {document['study']}: a study of {document['recipe']}",
        "",
        f"In every cell: {said(document['set'])}.",
        "",
        *whole_table({**document, "cells": cells}),
        *(line for note in remembering(cells) for line in (note, "")),
    ]
    if missing := without_result(document):
        lines += ["Without a result:", "", *(f"- {line}" for line in missing), ""]
    if picture:
        lines += [f"![locality against generalization]({picture})", ""]
    lines += [f"## Less {document['baseline']}", ""]
    if differ:
        compared = _head_and_rows(differ, *difference_columns(document))
        lines += [*tables.markdown_table(*compared), "", f"In {DIFFERENCE_NOTE}.", ""]
    else:
        lines += ["Nothing to compare yet: that takes a result of this cell and of another.", ""]
    lines += ["## Cells", "", *(f"- {row['cell']}: {said(row['settings'])}" for row in document["cells"]), ""]
    lines += ["## What the numbers mean", ""]
    lines += [f"- {metrics.METRICS[m].title} (`{m}`): {metrics.METRICS[m].definition}." for m in document["metrics"]]
    return "\n".join([*lines, ""])


def whole_table(document: Mapping[str, Any]) -> list[str]:
    """In Markdown: a row a cell, its place on the axes, edits, general ability, cost; and what they mean."""
    cells = document["cells"]
    if not cells:
        return ["No cell has a result yet.", ""]
    columns = [*axis_columns(document), *edit_columns(cells, mean), *cost_columns(document)]
    notes = f"Edits: {edits_note(cells)}. General ability: {COST_NOTE}."
    return [*tables.markdown_table(*_head_and_rows(cells, *columns)), "", notes, ""]


def edits_note(cells: Sequence[Mapping[str, Any]]) -> str:
    several = any(len(row.get("runs", ())) + len(row.get("lacking", ())) > 1 for row in cells)
    return SEEDS_NOTE if several else EDITS_NOTE


def remembering(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """A note on cells whose method leaves the weights alone, where there are some."""
    names = [row["cell"] for row in cells if row.get("method") in methods.REMEMBERED]
    if not names:
        return []
    return [
        f"{', '.join(names)}: the weights stay, facts are remembered beside the model and scored through that memory; "
        "general ability is the original's."
    ]


def terminal(document: Mapping[str, Any]) -> list[Table | Text]:
    """The tables as rich renderables, narrower than in ``study.md``, and what has no result."""
    cells, differ, name = measured(document["cells"]), document["differences"], document["study"]
    found: list[Table | Text] = []
    if cells:
        edits = _head_and_rows(cells, *edit_columns(cells, mean))
        cost = _head_and_rows(cells, *cost_columns({**document, "cells": cells}))
        found += [Text(), tables.table(f"{name}: edits", *edits), Text(edits_note(cells))]
        found += [Text(), tables.table(f"{name}: general ability and cost", *cost), Text(COST_NOTE)]
        found += map(Text, remembering(cells))
    if differ:
        compared = _head_and_rows(differ, *difference_columns(document))
        found += [Text(), tables.table(f"{name}: less {document['baseline']}", *compared), Text(DIFFERENCE_NOTE)]
    if missing := without_result(document):
        found.append(Text("\n  ".join(["\nwithout a result:", *missing])))
    return found
