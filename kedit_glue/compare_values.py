"""Results under their names, and their values fact by fact: what a comparison is computed from. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from kedit_glue import metrics, scores
from kedit_glue.result_fields import Result

GENERAL = "general"
"""Stands for the protocol in the key of a task of lm-eval: ``general.arc_easy``."""
S_PARTS = (metrics.EFFICACY_SCORE, metrics.PARAPHRASE_SCORE, metrics.NEIGHBORHOOD_SCORE)
"""ROME's score S is their harmonic mean, and has no value for a single fact."""
Item = tuple[str, str, str]
"""A fact: id, prompt, target."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A result under the name that it is shown by."""

    name: str
    result: Result
    _known: dict[tuple[str, bool], dict[Item, float]] = field(default_factory=dict, repr=False)

    @cached_property
    def items(self) -> tuple[Item, ...]:
        """The facts that scores are of, in their order."""
        return tuple((fact.id, fact.prompt, fact.target_new) for fact in self.result.reported)

    def values(self, metric: str, before: bool = False) -> dict[Item, float]:
        """The metric's value of each fact that has one, of several kinds their mean; ``before``: the original's."""
        if (metric, before) not in self._known:
            scored = (fact.before if before else fact.after for fact in self.result.reported)
            ones = [(item, scores.one_number(of.get(metric))) for item, of in zip(self.items, scored, strict=True)]
            self._known[metric, before] = {item: value for item, value in ones if value is not None}
        return self._known[metric, before]


def protocol_of(key: str) -> str:
    """Of a metric's name, or ``general`` for a task."""
    return GENERAL if key.startswith(f"{GENERAL}.") else key.split(".")[1]


def common(entries: Sequence[Entry]) -> list[Item]:
    """The facts that all results have, in the first one's order."""
    others = [set(entry.items) for entry in entries[1:]]
    return [item for item in entries[0].items if all(item in other for other in others)]


def fact_values(entry: Entry, metric: str, among: Sequence[Item], before: bool = False) -> dict[Item, float]:
    """``Entry.values`` of the facts ``among`` that have one; empty for metrics that have no values by fact.

    For ROME's score S the values of ``linearized``, whose mean is S.
    """
    if metric == metrics.COUNTERFACT_S:
        return linearized([fact_values(entry, part, among, before) for part in S_PARTS])
    values = entry.values(metric, before)
    return {item: values[item] for item in among if item in values}


def linearized(parts: Sequence[Mapping[Item, float]]) -> dict[Item, float]:
    """A harmonic mean of means, shared out among the facts (delta method): S and S's slope times the fact's deviation.

    Their mean is S, and the interval of their mean, or of their differences to another result's, is S's to first order.
    Empty where a part has no values; 0 for all where a part's mean is 0, for so is S.
    """
    if not all(parts):
        return {}
    facts = list(dict.fromkeys(item for part in parts for item in part))
    means = [sum(part.values()) / len(part) for part in parts]
    if not all(means):
        return dict.fromkeys(facts, 0.0)
    whole = len(parts) / sum(1 / mean for mean in means)
    found = dict.fromkeys(facts, whole)
    for part, mean in zip(parts, means, strict=True):
        slope = whole**2 / len(parts) / mean**2
        for item, value in part.items():
            found[item] += slope * (value - mean) * len(facts) / len(part)
    return found
