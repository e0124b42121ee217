"""Which results may be compared: those over the same items, asked in the same way, from the same original. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kedit_glue.compare_values import GENERAL, Entry, Item, common, fact_values, protocol_of
from kedit_glue.report import counted

NOT_COMPARED = {("sampled", "seed"), ("sampled", "facts"), ("generated", "facts")}
"""Settings that may differ: several seeds are what one compares, and the facts are looked at for each metric."""


@dataclass(frozen=True)
class Differs:
    """What is not the same: each value with the results that have it."""

    what: str
    values: tuple[tuple[str, tuple[str, ...]], ...]
    more: str = ""

    def __str__(self) -> str:
        said = "; ".join(f"{value} ({', '.join(names)})" for value, names in self.values)
        return f"{self.what}: {said}{self.more}"


def differences(entries: Sequence[Entry], keys: Sequence[str]) -> list[Differs]:
    """All that keeps the results from being compared in the columns ``keys``; empty where nothing does."""
    shared = common(entries)
    found = [base_models(entries), modes(entries), other_items(entries, shared)]
    metrics = [key for key in keys if protocol_of(key) != GENERAL]
    for protocol in dict.fromkeys(map(protocol_of, metrics)):
        found += settings(entries, protocol)
    for key in metrics:
        having = [entry for entry in entries if key in entry.result.after.edits]
        found.append(same(f"better values of {key}", [(e, d := e.result.metrics[key].better, d) for e in having]))
        found.append(same(f"facts with a value of {key}", [(e, *asked(e, key, shared)) for e in having]))
    for task in (key.partition(".")[2] for key in keys if protocol_of(key) == GENERAL):
        changes = {e: change for e in entries if (change := e.result.after.general_change.get(task))}
        found.append(same(f"metric of the task {task}", [(e, c.metric, c.metric) for e, c in changes.items()]))
        found.append(same(f"items of the task {task}", [(e, c.items, str(c.items)) for e, c in changes.items()]))
    return [one for one in found if one is not None]


def same(what: str, rows: Iterable[tuple[Entry, Hashable, str]], more: str = "") -> Differs | None:
    """None where all rows (a result, its value, the value in words) have the same value."""
    by_value: dict[Hashable, tuple[str, list[str]]] = {}
    for entry, value, text in rows:
        by_value.setdefault(value, (text, []))[1].append(entry.name)
    if len(by_value) < 2:
        return None
    return Differs(what, tuple((text, tuple(names)) for text, names in by_value.values()), more)


def base_models(entries: Sequence[Entry]) -> Differs | None:
    """By weights where every result knows them, else by name."""
    bases = [(entry, entry.result.base) for entry in entries]
    if not all(base.weights for _, base in bases):
        return same("base model", [(entry, base.model, base.model) for entry, base in bases])
    return same("base model", [(entry, base.weights, f"{base.model}, weights {base.weights}") for entry, base in bases])


def modes(entries: Sequence[Entry]) -> Differs | None:
    """One model that holds all edits, or each batch's own."""
    of = [(entry, entry.result.mode or "sequential") for entry in entries]
    return same("edits.mode", [(entry, mode, mode) for entry, mode in of])


def other_items(entries: Sequence[Entry], shared: Sequence[Item]) -> Differs | None:
    """Other facts, or other probes of the same facts."""
    facts = [(entry, frozenset(entry.items), counted(len(entry.items), "fact", "facts")) for entry in entries]
    if found := same("items", facts, f"; {len(shared)} in common"):
        return found
    sources = [(entry, source) for entry in entries if (source := entry.result.facts_source)]
    return same(
        "items: probes of the same facts", [(entry, s.hash, f"{s.name}, hash {s.hash}") for entry, s in sources]
    )


def settings(entries: Sequence[Entry], protocol: str) -> list[Differs | None]:
    """Scorer, template and the like, among the results that used the protocol."""
    used: dict[Entry, dict[str, Any]] = {
        entry: found.model_dump()
        for entry in entries
        if (found := getattr(entry.result.protocol, protocol, None)) is not None
    }
    names = dict.fromkeys(name for found in used.values() for name in found if (protocol, name) not in NOT_COMPARED)
    return [
        same(f"{name} ({protocol})", [(e, found[name], str(found[name] or "none")) for e, found in used.items()])
        for name in names
    ]


def asked(entry: Entry, metric: str, among: Sequence[Item]) -> tuple[Hashable, str]:
    """The facts that have a value, and their number; metrics without values by fact are known by their number."""
    found = frozenset(fact_values(entry, metric, among))
    count = len(found) or entry.result.after.edits[metric].facts
    return found or count, str(count)
