"""Several results side by side as numbers: means over the same facts, the best ones, what is inside the noise.

A difference is inside the noise where its 95 % interval holds 0 (normal approximation, one difference at a time). It is
paired: over the facts that all results of the column have. Where values by fact are not in a result - fluency, tasks of
lm-eval - half the interval's width is taken as the sum of the two results' own half-widths: a standard deviation of a
difference is at most the sum of the two, so that marks too much as noise rather than too little. Pure.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kedit_glue import metrics, scores
from kedit_glue.compare_same import base_models
from kedit_glue.compare_values import GENERAL, Entry, Item, common, fact_values, protocol_of
from kedit_glue.general_ability import is_share
from kedit_glue.problems import CannotStart, did_you_mean
from kedit_glue.result_fields import GeneralChange

PROTOCOLS = ("teacher_forced", "generated", "likelihood", "sampled")
"""In the order of the tables; others follow, general ability is last."""


@dataclass(frozen=True)
class Column:
    """A metric, or a task of lm-eval."""

    key: str
    """The metric's name, or ``general.`` and the task's."""
    title: str
    better: str
    """``higher``, ``lower`` or ``as before``."""
    percent: bool
    """Shown times 100."""

    @property
    def protocol(self) -> str:
        return protocol_of(self.key)


@dataclass(frozen=True)
class Value:
    """A column's value of one result, and how it compares with the best."""

    mean: float
    half: float | None
    """Half the width of its own 95 % interval."""
    facts: int
    """Facts, or items of a task."""
    best: bool = False
    noise: bool | None = None
    """Whether the difference to the best is inside the noise; None for the best, and where that cannot be told."""


@dataclass(frozen=True)
class Difference:
    """A result less another, in the column's unit; of perplexities of a task the ratio minus 1."""

    mean: float
    interval: tuple[float, float] | None
    """95 %, low and high; None where it cannot be told."""
    facts: int
    is_ratio: bool = False

    @property
    def noise(self) -> bool | None:
        return None if self.interval is None else self.interval[0] <= 0 <= self.interval[1]


@dataclass(frozen=True)
class Table:
    """Rows are results in the order given, by name; a value that is not there was not measured."""

    names: tuple[str, ...]
    columns: tuple[Column, ...]
    values: Mapping[tuple[str, str], Value]
    """(name, column's key) -> value."""
    original: Mapping[str, float]
    """Column's key -> the original model's mean, where the results have the same one."""
    baseline: str | None
    less: Mapping[tuple[str, str], Difference]
    """(name, column's key) -> difference to the baseline; empty without one."""
    facts: int
    """In how many facts the results are compared."""


def compare(entries: Sequence[Entry], columns: Sequence[Column], baseline: str | None = None) -> Table:
    """``entries`` have facts in common; whether they may be compared is not asked here (``compare_same``)."""
    shared, one_original = common(entries), base_models(entries) is None
    values: dict[tuple[str, str], Value] = {}
    less: dict[tuple[str, str], Difference] = {}
    original: dict[str, float] = {}
    for column in columns:
        found = measured(entries, column, shared)
        for name, value in marked(found, column).items():
            values[name, column.key] = value
        if baseline in found:
            for name in found.keys() - {baseline}:
                less[name, column.key] = difference(found[baseline], found[name])
        befores = [one.before for one in found.values()]
        # the original agrees with itself: a number there would look like a measurement
        if one_original and not column.key.startswith("locality.") and (before := the_one(befores)) is not None:
            original[column.key] = before
    names = tuple(entry.name for entry in entries)
    return Table(names, tuple(columns), values, original, baseline, less, len(shared))


def the_one(values: Sequence[float | None]) -> float | None:
    """The value that all are, None where they differ."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return known[0] if all(math.isclose(value, known[0], rel_tol=1e-9) for value in known) else None


# -- columns ------------------------------------------------------------------------------------


def columns_of(entries: Sequence[Entry]) -> list[Column]:
    """Every column that some result has a value for, by protocol, tasks last."""
    said = {name: metric for entry in reversed(entries) for name, metric in entry.result.metrics.items()}
    order = [*metrics.METRICS, *said]
    there = {n for e in entries for n, summary in e.result.after.edits.items() if summary.mean is not None}
    protocols = [*PROTOCOLS, *sorted({protocol_of(name) for name in there} - set(PROTOCOLS))]
    names = sorted(there, key=lambda name: (protocols.index(protocol_of(name)), order.index(name)))
    found = [
        Column(name, said[name].title, said[name].better, said[name].range in (metrics.SHARE, "-1 to 1"))
        for name in names
    ]
    tasks: dict[str, GeneralChange] = {}
    for entry in entries:
        for task, change in entry.result.after.general_change.items():
            if change.after is not None:
                tasks.setdefault(task, change)
    return found + [
        Column(
            f"{GENERAL}.{task}",
            f"{task}, {change.metric}",
            change.better,
            is_share(change.metric, change.before, change.after),
        )
        for task, change in tasks.items()
    ]


def chosen(columns: Sequence[Column], wanted: Sequence[str]) -> list[Column]:
    """The columns that words name, in the words' order: a name, a part of it (``locality``, ``generated``), a task, a
    pattern such as ``edit_success.*``. Raises CannotStart for a word that names none."""
    found: dict[str, Column] = {}
    for word in wanted:
        named = [c for c in columns if word in (c.key, c.title, *c.key.split(".")) or fnmatch.fnmatchcase(c.key, word)]
        if not named:
            known = [c.key for c in columns]
            parts = dict.fromkeys(part for key in known for part in key.split("."))
            hint = did_you_mean(word, [*known, *parts])
            raise CannotStart(
                f"no result has the metric {word}{f': {hint}' if hint else ''}\n  known: {', '.join(known)}"
            )
        found |= {column.key: column for column in named}
    return list(found.values())


# -- one column ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """What one result says of a column."""

    mean: float
    half: float | None
    facts: int
    before: float | None
    """The original's."""
    values: Mapping[Item, float]
    """By fact; empty where there are none."""
    befores: Mapping[Item, float]
    change: GeneralChange | None = None
    """Of a task."""


def measured(entries: Sequence[Entry], column: Column, shared: Sequence[Item]) -> dict[str, Measured]:
    """By name, for the results that have the column; means are over the facts that all of those have."""
    if column.protocol == GENERAL:
        return {
            entry.name: task_value(change)
            for entry in entries
            if (change := entry.result.after.general_change.get(column.key.partition(".")[2]))
            and change.after is not None
        }
    having = [e for e in entries if (s := e.result.after.edits.get(column.key)) and s.mean is not None]
    asked = [values for entry in having if (values := fact_values(entry, column.key, shared))]
    both = [item for item in shared if all(item in values for values in asked)]
    if asked and not both:
        return {}
    found = {}
    for entry in having:
        if one := from_facts(entry, column.key, both) or from_summary(entry, column.key):
            found[entry.name] = one
    return found


def from_facts(entry: Entry, metric: str, among: Sequence[Item]) -> Measured | None:
    """The mean over the facts; None where there are no values by fact."""
    values = fact_values(entry, metric, among)
    if not values:
        return None
    befores = fact_values(entry, metric, among, before=True)
    mean, half = scores.interval(list(values.values()))
    before = sum(befores.values()) / len(befores) if befores else None
    return Measured(mean, half if len(values) > 1 else None, len(values), before, values, befores)


def from_summary(entry: Entry, metric: str) -> Measured | None:
    """What the result says of all its facts."""
    summary, before = entry.result.after.edits[metric], entry.result.before.edits.get(metric)
    if summary.mean is None:
        return None
    return Measured(summary.mean, summary.half_width_95, summary.facts, before.mean if before else None, {}, {})


def task_value(change: GeneralChange) -> Measured:
    """A task's; of its interval only that of the change is known."""
    assert change.after is not None, "looked at before"
    return Measured(change.after, None, change.items, change.before, {}, {}, change)


# -- the best, and the noise --------------------------------------------------------------------


def marked(found: Mapping[str, Measured], column: Column) -> dict[str, Value]:
    """The values, the best ones marked, and those whose difference to one of the best is inside the noise."""
    values = {name: Value(one.mean, one.half, one.facts) for name, one in found.items()}
    goods = {name: goodness(one, column) for name, one in found.items()}
    if len(found) < 2 or any(good is None for good in goods.values()):
        return values
    top = max(good for good in goods.values() if good is not None)
    best = [name for name, good in goods.items() if good is not None and math.isclose(good, top, abs_tol=1e-12)]
    for name in found:
        if name in best:
            values[name] = replace(values[name], best=True)
            continue
        inside = [noise_between(found[one], found[name], column) for one in best]
        known = [one for one in inside if one is not None]
        values[name] = replace(values[name], noise=any(known) if known else None)
    return values


def goodness(one: Measured, column: Column) -> float | None:
    """Larger is better; None where that needs the original's value, which is not there."""
    if column.better == "as before":
        return None if one.before is None else -abs(one.mean - one.before)
    return one.mean if column.better == "higher" else -one.mean


def noise_between(a: Measured, b: Measured, column: Column) -> bool | None:
    """Whether the difference in goodness is inside the noise; None where that cannot be told."""
    if column.better != "as before":
        return difference(a, b).noise
    if a.befores and b.befores:
        far = distances(b)
        return paired([far[item] - value for item, value in distances(a).items() if item in far]).noise
    gap = abs((goodness(a, column) or 0.0) - (goodness(b, column) or 0.0))
    return around(gap, own_halves(a, b), 0).noise


def distances(one: Measured) -> dict[Item, float]:
    """By fact the change from the original, turned so that its mean is the distance of the means."""
    sign = 1.0 if one.before is None or one.mean >= one.before else -1.0
    return {item: sign * (value - one.befores[item]) for item, value in one.values.items() if item in one.befores}


def difference(a: Measured, b: Measured) -> Difference:
    """``b`` less ``a``; paired where both have values by fact."""
    if a.change is not None and b.change is not None:
        return task_difference(a.change, b.change)
    if a.values and b.values:
        return paired([b.values[item] - value for item, value in a.values.items() if item in b.values])
    return around(b.mean - a.mean, own_halves(a, b), min(a.facts, b.facts))


def paired(pairs: Sequence[float]) -> Difference:
    """Of the differences by fact; a single one has no interval."""
    mean, half = scores.interval(pairs)
    return around(mean, half if len(pairs) > 1 else None, len(pairs))


def around(mean: float, half: float | None, facts: int) -> Difference:
    return Difference(mean, None if half is None else (mean - half, mean + half), facts)


def own_halves(a: Measured, b: Measured) -> float | None:
    return None if a.half is None or b.half is None else a.half + b.half


def task_difference(a: GeneralChange, b: GeneralChange) -> Difference:
    """Of two changes from the same original on the same items; without an interval where these are not the same."""
    assert a.after is not None and b.after is not None, "looked at before"
    items, is_ratio = min(a.items, b.items), a.change_is is not None
    same = a.items == b.items and a.before is not None and b.before is not None and math.isclose(a.before, b.before)
    changes = (a.change_95, b.change_95) if same else (None, None)
    if not is_ratio:
        return around(b.after - a.after, half_sum(changes), items)
    found = around(
        math.log(b.after / a.after), half_sum([c and (math.log1p(c[0]), math.log1p(c[1])) for c in changes]), items
    )
    interval = found.interval and (math.expm1(found.interval[0]), math.expm1(found.interval[1]))
    return Difference(math.expm1(found.mean), interval, items, is_ratio=True)


def half_sum(intervals: Sequence[tuple[float, float] | None]) -> float | None:
    """Half of the widths' sum; None where one is not known."""
    known = [one for one in intervals if one is not None]
    return sum((high - low) / 2 for low, high in known) if len(known) == len(intervals) else None
