"""A study's cells side by side: ``study.json`` and a picture; ``study_text`` has the words. Pure but for ``draw``.

``study.json``
    schema       1
    study, recipe, baseline    names
    set          what is changed in every cell
    axes         names of the grid's axes
    metrics      those of the tables
    cells        one entry a cell, where there are seeds one for all of them: {cell, settings, at (axis -> value),
                 cause}, with seeds runs: name -> seed, lacking: name -> {seed, cause}; with a result also
                 {metrics: name -> {mean, half_95, facts, with seeds seeds_95}, general: as
                 ``scores.general_change``, optimizer_steps, train_seconds, merge_seconds, all_seconds, cost (as
                 ``scores.json``'s, empty where a file has none), method, harmonic (``harmonic``)}
    differences  one entry a cell with a result, but for the baseline: {cell, metrics: name ->
                 {difference, difference_95, facts, excludes_zero}}
    place        how the file was last written: study (its file), set (after ``--set``), cwd

Means and differences are over facts, each counting once; intervals are 95 % intervals by normal
approximation (None for a single fact). Differences pair the facts that both cells have. With seeds a fact's
score is its mean over them, and so is everything else; ``seeds_95`` and ``general``'s intervals are over seeds,
by Student's t.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import harmonic_mean, mean, stdev
from typing import Any

from kedit_glue import metrics, scores
from kedit_glue.general_ability import share_left
from kedit_glue.report_search import chose

SCHEMA = 1
NOT_YET = "not run yet"
"""The cause of a cell that has no result because it did not begin."""
METRICS = (metrics.SUCCESS, metrics.GENERALIZATION, metrics.PORTABILITY, metrics.LOCALITY)


@dataclass(frozen=True)
class Result:
    """A cell and its run's ``scores.json``, None where there is none and ``cause`` says why."""

    cell: str
    settings: Mapping[str, Any]
    document: Mapping[str, Any] | None = None
    cause: str = ""
    at: Mapping[str, Any] = field(default_factory=dict)
    """Axis -> its value, or that value's name."""
    group: str = ""
    """The cell's name without its seed; empty where there are no seeds."""


@dataclass(frozen=True)
class About:
    """What the tables say of the study itself."""

    study: str
    recipe: str
    baseline: str
    set: Mapping[str, Any] = field(default_factory=dict)
    axes: Sequence[str] = ()
    collect: Sequence[str] = ()
    """Metrics that tables show beside the usual ones."""

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*METRICS, *self.collect)))


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
        "metrics": list(about.metrics),
        "cells": rows(results, about.metrics),
        "differences": differences(results, about.baseline, about.metrics),
    }


def grouped(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results that differ in their seed alone, by their common name."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.group or result.cell, []).append(result)
    return found


def rows(results: Sequence[Result], shown: Sequence[str] = METRICS) -> list[dict[str, Any]]:
    """One entry a cell; cells that differ in their seed alone are one."""
    found = []
    for name, group in grouped(results).items():
        settings = {k: v for k, v in group[0].settings.items() if len(group) == 1 or k != "seed"}
        lacking = [r for r in group if r.document is None]
        causes = [f"{r.cell}: {r.cause}" if len(group) > 1 else r.cause for r in lacking]
        entry: dict[str, Any] = {
            "cell": name,
            "settings": settings,
            "at": dict(group[0].at),
            "cause": "; ".join(causes),
        }
        documents = [r.document for r in group if r.document is not None]
        if name != group[0].cell:  # a run's folder has its seed in its name, where there is one seed as well
            entry["runs"] = {r.cell: r.settings["seed"] for r in group if r.document is not None}
            entry["lacking"] = {r.cell: {"seed": r.settings["seed"], "cause": r.cause} for r in lacking}
        if documents:
            entry |= _measured(documents, shown)
        if len(group) > 1 and len(documents) == 1:  # an interval over facts would stand among those over seeds
            entry["metrics"] = {m: value | {"half_95": None} for m, value in entry["metrics"].items()}
        found.append(entry)
    return found


def _measured(documents: Sequence[Mapping[str, Any]], shown: Sequence[str]) -> dict[str, Any]:
    """Of one run; of several, which differ in their seed, the mean over them."""
    every = [_one(document, shown) for document in documents]
    if len(every) == 1:
        return every[0]
    values = {metric: list(over_seeds(documents, metric).values()) for metric in shown}
    means = {m: [one["metrics"][m]["mean"] for one in every if m in one["metrics"]] for m in shown}
    costs = [one["cost"] for one in every if one["cost"]]
    whole = {m: {"mean": mean(v), "half_95": None} for m, v in means.items() if v and not values[m]}
    of_facts = {m: _mean(v) for m, v in values.items() if v}
    return {
        "metrics": {m: v | {"seeds_95": seeds_interval(means[m])[1]} for m, v in (of_facts | whole).items()},
        "general": _general([one["general"] for one in every]),
        **{key: average([one[key] for one in every]) for key in ("optimizer_steps", *SECONDS, "harmonic")},
        "method": every[0]["method"],
        "cost": {key: average([c.get(key) for c in costs]) for key in dict.fromkeys(k for c in costs for k in c)},
    }


SECONDS = ("train_seconds", "merge_seconds", "all_seconds")


def _one(document: Mapping[str, Any], shown: Sequence[str]) -> dict[str, Any]:
    values = {metric: list(fact_values(document, metric).values()) for metric in shown}
    steps = [s for b in document["batches"] if (s := b.get("training", {}).get("optimizer_steps")) is not None]
    train = [b["training"] for b in document["batches"] if "training" in b]
    merge = [b["merge"] for b in document["batches"] if "merge" in b]
    whole = {m: found for m in shown if m not in METRICS and not values[m] and (found := _whole(document, m))}
    return {
        "metrics": {m: _mean(v) for m, v in values.items() if v} | whole,
        "general": document["after"]["general_change"],
        "optimizer_steps": sum(steps) if steps else None,
        "train_seconds": round(sum(t["seconds"] for t in train), 3),
        "merge_seconds": round(sum(m["seconds"] for m in merge), 3),
        "all_seconds": all_seconds(document),
        "method": document.get("method"),
        "harmonic": harmonic(document, values),
        "cost": document.get("cost") or {},
    }


def all_seconds(document: Mapping[str, Any]) -> float:
    """Of every stage of a run, those taken from another run included."""
    seconds: Mapping[str, float] = document["seconds"]
    return seconds["all"] if "all" in seconds else sum(seconds.values())


def _whole(document: Mapping[str, Any], metric: str) -> dict[str, Any] | None:
    """A score that no single fact has, such as CounterFact's S: of all facts together, without an interval."""
    found = document["after"].get("edits", {}).get(metric)
    if not found or found["mean"] is None:
        return None
    return {"mean": found["mean"], "half_95": None, "facts": found["facts"]}


def average(values: Sequence[float | None]) -> float | None:
    """Their mean; None where one of them is not known."""
    known = [value for value in values if value is not None]
    return mean(known) if known and len(known) == len(values) else None


def seeds_interval(means: Sequence[float]) -> tuple[float, float | None]:
    """Mean over seeds and half-width of its 95 % interval by Student's t; None for a single seed."""
    if len(means) < 2:
        return mean(means), None
    from scipy.stats import t

    return mean(means), float(t.ppf(0.975, len(means) - 1)) * stdev(means) / len(means) ** 0.5


def _general(every: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of each task the mean change over seeds, with its interval over them."""
    found = {}
    for task, first in every[0].items():
        changes = [one[task]["change"] for one in every if "change" in one.get(task, {})]
        if len(changes) == len(every):
            middle, half = seeds_interval(changes)
            found[task] = {**first, "change": middle, "change_95": [middle - (half or 0.0), middle + (half or 0.0)]}
    return found


def over_seeds(documents: Sequence[Mapping[str, Any]], metric: str) -> dict[tuple[str, str, str], float]:
    """Each fact's score, the mean over the documents that have it."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for document in documents:
        for fact, value in fact_values(document, metric).items():
            found.setdefault(fact, []).append(value)
    return {fact: mean(values) for fact, values in found.items()}


def harmonic(document: Mapping[str, Any], values: Mapping[str, Sequence[float]]) -> float | None:
    """Harmonic mean of edit success, generalization, locality and retained general ability, each 0 to 1; higher is
    better, None where one was not measured.

    Retained: the mean over lm-eval's tasks of ``general_ability.share_left``.
    """
    changes = document["after"]["general_change"].values()
    left = [share_left(one["before"], one["after"], one["better"]) for one in changes if one.get("before")]
    kept = [share for share in left if share is not None]
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
    """Each fact's score of the edited model, its kinds' mean where it has kinds.

    Facts without one are left out, and those that chose the merge (``merge.search``).
    """
    found = {}
    seen = chose(document)
    for fact in document["facts"]:
        if fact["id"] in seen:
            continue
        value = fact["after"].get(metric)
        if isinstance(value, Mapping):
            kinds = [v for v in value.values() if v is not None]
            value = sum(kinds) / len(kinds) if kinds else None
        if value is not None:
            found[fact["id"], fact["prompt"], fact["target_new"]] = float(value)
    return found


def differences(results: Sequence[Result], baseline: str, shown: Sequence[str] = METRICS) -> list[dict[str, Any]]:
    """Each cell less the baseline, fact by fact and over the seeds that both have; empty while there are none."""
    groups = {name: by_seed(group) for name, group in grouped(results).items()}
    base = groups.pop(baseline, {})
    found = []
    for name, documents in groups.items():
        both = [seed for seed in documents if seed in base]
        pair = [documents[seed] for seed in both], [base[seed] for seed in both]
        if both:
            found.append({"cell": name, "metrics": {m: d for m in shown if (d := _difference(*pair, m))}})
    return found


def by_seed(group: Sequence[Result]) -> dict[Any, Mapping[str, Any]]:
    """The documents of cells that differ in their seed alone; None stands for the seed of a study without seeds."""
    seeded = [(r.settings.get("seed") if r.group not in ("", r.cell) else None, r.document) for r in group]
    return {seed: document for seed, document in seeded if document is not None}


def _difference(
    documents: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]], metric: str
) -> dict[str, Any] | None:
    before, after = over_seeds(base, metric), over_seeds(documents, metric)
    pairs = [after[fact] - value for fact, value in before.items() if fact in after]
    if not pairs:
        return None
    middle, half = interval(pairs)
    low_high = None if half is None else [middle - half, middle + half]
    return {
        "difference": middle,
        "difference_95": low_high,
        "facts": len(pairs),
        "excludes_zero": low_high is not None and not low_high[0] <= 0 <= low_high[1],
    }


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
