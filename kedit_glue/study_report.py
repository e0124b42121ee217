"""A study's cells side by side: ``study.json``, ``study.md``, a picture. Pure functions but for ``draw``.

``study.json``
    schema       1
    study, recipe, baseline    names
    set          what is changed in every cell
    axes         keys of the grid
    cells        one entry a cell: {cell, settings, cause}; with a result also {metrics: name ->
                 {mean, half_95, facts}, general: as ``scores.general_change``, optimizer_steps,
                 train_seconds, merge_seconds, all_seconds, cost (as ``scores.json``'s, empty where a file has
                 none), method, harmonic (``harmonic``)}
    differences  one entry a cell with a result, but for the baseline: {cell, metrics: name ->
                 {difference, difference_95, facts, excludes_zero}}

Means and differences are over facts, each counting once; intervals are 95 % intervals by normal
approximation (None for a single fact). Differences pair the facts that both cells have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import harmonic_mean, mean
from typing import Any

from rich.table import Table
from rich.text import Text

from kedit_glue import methods, metrics, scores, strict_yaml, tables
from kedit_glue.progress import duration

SCHEMA = 1
METRICS = (metrics.SUCCESS, metrics.GENERALIZATION, metrics.PORTABILITY, metrics.LOCALITY)
EDITS_NOTE = "in %, ± half of the 95 % interval over facts"
COST_NOTE = (
    "change from the original with its 95 % interval; H: harmonic mean of edit success, generalization, locality and "
    "retained general ability; MB changed: weights that a batch may change; MB beside: kept beside the original's "
    "weights for asking; all: every stage, those taken from another cell included"
)
DIFFERENCE_NOTE = (
    "points, ± half of the 95 % interval of the mean difference over the same facts; * where it excludes zero"
)


@dataclass(frozen=True)
class Result:
    """A cell and its run's ``scores.json``, None where there is none and ``cause`` says why."""

    cell: str
    settings: Mapping[str, Any]
    document: Mapping[str, Any] | None = None
    cause: str = ""


@dataclass(frozen=True)
class About:
    """What the tables say of the study itself."""

    study: str
    recipe: str
    baseline: str
    set: Mapping[str, Any] = field(default_factory=dict)
    axes: Sequence[str] = ()


# -- numbers ------------------------------------------------------------------------------------


def table(about: About, results: Sequence[Result]) -> dict[str, Any]:
    """The document that the module's docstring describes."""
    return {
        "schema": SCHEMA,
        "study": about.study,
        "recipe": about.recipe,
        "baseline": about.baseline,
        "set": dict(about.set),
        "axes": list(about.axes),
        "cells": rows(results),
        "differences": differences(results, about.baseline),
    }


def rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One entry a cell."""
    found = []
    for result in results:
        entry: dict[str, Any] = {"cell": result.cell, "settings": dict(result.settings), "cause": result.cause}
        found.append(entry if result.document is None else entry | _measured(result.document))
    return found


def _measured(document: Mapping[str, Any]) -> dict[str, Any]:
    values = {metric: list(fact_values(document, metric).values()) for metric in METRICS}
    train = [b["training"] for b in document["batches"] if "training" in b]
    merge = [b["merge"] for b in document["batches"] if "merge" in b]
    return {
        "metrics": {m: _mean(v) for m, v in values.items() if v},
        "general": document["after"]["general_change"],
        "optimizer_steps": sum(t["optimizer_steps"] for t in train) if train else None,
        "train_seconds": round(sum(t["seconds"] for t in train), 3),
        "merge_seconds": round(sum(m["seconds"] for m in merge), 3),
        "all_seconds": document["seconds"]["all"],
        "method": document.get("method"),
        "harmonic": harmonic(document, values),
        "cost": document.get("cost") or {},
    }


def harmonic(document: Mapping[str, Any], values: Mapping[str, Sequence[float]]) -> float | None:
    """Harmonic mean of edit success, generalization, locality and retained general ability, each 0 to 1; higher is
    better, None where one was not measured.

    Retained: the mean over lm-eval's tasks of after / before (before / after where lower is better), at most 1.
    """
    kept = []
    for change in document["after"]["general_change"].values():
        before, after = change.get("before"), change.get("after")
        if before and after:
            kept.append(min(1.0, after / before if change["better"] == "higher" else before / after))
    of_edits = [values[m] for m in (metrics.SUCCESS, metrics.GENERALIZATION, metrics.LOCALITY)]
    if not kept or not all(of_edits):
        return None
    return float(harmonic_mean([*map(mean, of_edits), mean(kept)]))


def _mean(values: Sequence[float]) -> dict[str, Any]:
    mean, half = interval(values)
    return {"mean": mean, "half_95": half, "facts": len(values)}


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half-width of its 95 % interval; None for a single value, which has none."""
    mean, half = scores.interval(values)
    return mean, half if len(values) > 1 else None


def fact_values(document: Mapping[str, Any], metric: str) -> dict[tuple[str, str, str], float]:
    """Each fact's score of the edited model, its kinds' mean where it has kinds; facts without one are left out."""
    found = {}
    for fact in document["facts"]:
        value = fact["after"].get(metric)
        if isinstance(value, Mapping):
            kinds = [v for v in value.values() if v is not None]
            value = sum(kinds) / len(kinds) if kinds else None
        if value is not None:
            found[fact["id"], fact["prompt"], fact["target_new"]] = float(value)
    return found


def differences(results: Sequence[Result], baseline: str) -> list[dict[str, Any]]:
    """Each cell less the baseline, fact by fact; empty while the baseline has no result."""
    base = next((r.document for r in results if r.cell == baseline), None)
    if base is None:
        return []
    return [
        {"cell": r.cell, "metrics": {m: d for m in METRICS if (d := _difference(r.document, base, m))}}
        for r in results
        if r.document is not None and r.cell != baseline
    ]


def _difference(document: Mapping[str, Any], base: Mapping[str, Any], metric: str) -> dict[str, Any] | None:
    before, after = fact_values(base, metric), fact_values(document, metric)
    pairs = [after[fact] - value for fact, value in before.items() if fact in after]
    if not pairs:
        return None
    mean, half = interval(pairs)
    low_high = None if half is None else [mean - half, mean + half]
    return {
        "difference": mean,
        "difference_95": low_high,
        "facts": len(pairs),
        "excludes_zero": low_high is not None and not low_high[0] <= 0 <= low_high[1],
    }


# -- words --------------------------------------------------------------------------------------


def labels(keys: Sequence[str]) -> dict[str, str]:
    """``train.epochs`` as ``epochs``, where no other key ends so."""
    ends = {key: key.rpartition(".")[2] for key in keys}
    often = Counter(ends.values())
    return {key: end if often[end] == 1 else key for key, end in ends.items()}


def texts(settings: Mapping[str, Any]) -> list[str]:
    """Settings as after ``--set``."""
    return [f"{key}={strict_yaml.dump(value, flow=True)}" for key, value in settings.items()]


def said(settings: Mapping[str, Any]) -> str:
    """Settings on one line, as after ``--set``."""
    return ", ".join(texts(settings)) or "as it is"


Column = tuple[str, list[str]]
"""A head and a cell for each row."""


def axis_columns(document: Mapping[str, Any]) -> list[Column]:
    """The settings that make the grid."""

    def shown(row: Mapping[str, Any], key: str) -> str:
        return strict_yaml.dump(row["settings"][key], flow=True) if key in row["settings"] else "-"

    names = labels(document["axes"])
    return [(name, [shown(row, key) for row in document["cells"]]) for key, name in names.items()]


def edit_columns(rows: Sequence[Mapping[str, Any]], shown: Callable[[Mapping[str, Any]], str]) -> list[Column]:
    """The metrics that any of the rows has."""
    there = [m for m in METRICS if any(m in row.get("metrics", {}) for row in rows)]

    def cell(row: Mapping[str, Any], metric: str) -> str:
        entry = row.get("metrics", {}).get(metric)
        return "-" if entry is None else shown(entry)

    return [(metrics.METRICS[m].title, [cell(row, m) for row in rows]) for m in there]


def cost_columns(document: Mapping[str, Any]) -> list[Column]:
    """Change of general ability, steps, time."""
    cells = document["cells"]
    heads: dict[str, str] = {}
    for row in cells:
        for task, change in row.get("general", {}).items():
            heads.setdefault(task, f"{task} ({'%' if change.get('change_is') else 'points'})")
    found = [(head, [_change(row.get("general", {}).get(task, {})) for row in cells]) for task, head in heads.items()]
    found.append(("H", [_form("{:.1f}", row.get("harmonic"), 0.01) for row in cells]))
    found.append(("steps", [str(row.get("optimizer_steps") or "-") for row in cells]))
    costs = [row.get("cost", {}) for row in cells]
    found.append(("s a fact", [_form("{:.2f}", cost.get("seconds_a_fact")) for cost in costs]))
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


def _percent(entry: Mapping[str, Any]) -> str:
    half = "" if entry["half_95"] is None else f"±{100 * entry['half_95']:.1f}"
    return f"{100 * entry['mean']:.1f}{half}"


def _change(entry: Mapping[str, Any]) -> str:
    if "change" not in entry:
        return "-"
    low, high = entry["change_95"]
    return f"{100 * entry['change']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _points(entry: Mapping[str, Any]) -> str:
    if entry["difference_95"] is None:
        return f"{100 * entry['difference']:+.1f}"
    low, high = entry["difference_95"]
    return f"{100 * entry['difference']:+.1f}±{50 * (high - low):.1f}{' *' if entry['excludes_zero'] else ''}"


def without_result(document: Mapping[str, Any]) -> list[str]:
    """``cell: cause`` of each cell that has none."""
    return [f"{row['cell']}: {row['cause']}" for row in document["cells"] if "metrics" not in row]


def markdown(document: Mapping[str, Any], picture: str = "") -> str:
    """``study.md``; ``picture`` is a file beside it."""
    cells, differ = document["cells"], document["differences"]
    edits = edit_columns(cells, _percent)
    lines = [
        f"# {document['study']}: a study of {document['recipe']}",
        "",
        f"In every cell: {said(document['set'])}.",
        "",
        *tables.markdown_table(*_head_and_rows(cells, *axis_columns(document), *edits, *cost_columns(document))),
        "",
        f"Edits: {EDITS_NOTE}. General ability: {COST_NOTE}.",
        "",
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
    lines += ["## Cells", "", *(f"- {row['cell']}: {said(row['settings'])}" for row in cells), ""]
    lines += ["## What the numbers mean", ""]
    lines += [f"- {metrics.METRICS[m].title}: {metrics.METRICS[m].definition}." for m in METRICS]
    return "\n".join([*lines, ""])


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
    cells, differ, name = document["cells"], document["differences"], document["study"]
    found: list[Table | Text] = []
    if any("metrics" in row for row in cells):
        edits = _head_and_rows(cells, *edit_columns(cells, _percent))
        cost = _head_and_rows(cells, *cost_columns(document))
        found += [Text(), tables.table(f"{name}: edits", *edits), Text(EDITS_NOTE)]
        found += [Text(), tables.table(f"{name}: general ability and cost", *cost), Text(COST_NOTE)]
        found += map(Text, remembering(cells))
    if differ:
        compared = _head_and_rows(differ, *difference_columns(document))
        found += [Text(), tables.table(f"{name}: less {document['baseline']}", *compared), Text(DIFFERENCE_NOTE)]
    if missing := without_result(document):
        found.append(Text("\n  ".join(["\nwithout a result:", *missing])))
    return found


# -- a picture ----------------------------------------------------------------------------------


def draw(path: Path, cells: Sequence[Mapping[str, Any]]) -> bool:
    """Locality against generalization, one point a cell with its intervals; False where there is nothing to draw."""
    both = (metrics.GENERALIZATION, metrics.LOCALITY)
    shown = [row for row in cells if all(m in row.get("metrics", {}) for m in both)]
    if not shown:
        return False
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:  # it comes with LLaMA-Factory, which tables do not need
        return False
    with matplotlib.rc_context({"svg.hashsalt": "kedit_glue", "svg.fonttype": "none"}):  # the same file each time
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.add_subplot()
        colours = [matplotlib.colormaps["tab20"](n) for n in range(20)]
        for number, row in enumerate(shown):
            x, y = (row["metrics"][m] for m in both)
            halves = [100 * (value["half_95"] or 0.0) for value in (x, y)]
            axes.errorbar(
                100 * x["mean"],
                100 * y["mean"],
                xerr=halves[0],
                yerr=halves[1],
                fmt="osD^v"[number % 5],
                color=colours[number % len(colours)],
                capsize=2,
                elinewidth=0.6,
                label=row["cell"],
            )
        for text in figure.legend(loc="outside right upper", fontsize=8).get_texts():
            text.set_parse_math(False)
        axes.set_xlabel("generalization, %")
        axes.set_ylabel("locality, %")
        axes.grid(alpha=0.3)
        figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None})
    return True
