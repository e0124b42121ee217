"""The facts on which several results differ most. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kedit_glue import metrics
from kedit_glue.compare_table import Column
from kedit_glue.compare_values import GENERAL, Entry, Item, common, fact_values

MOST = 20
"""Facts that are shown."""


@dataclass(frozen=True)
class Spread:
    """One fact, and the metric on which its values lie farthest apart."""

    item: Item
    column: Column
    values: tuple[float | None, ...]
    """One a result, in their order; None where the result has none."""
    mean: float
    """Over the metrics, how far highest and lowest lie apart: 0 to 1."""


def most_different(entries: Sequence[Entry], columns: Sequence[Column], most: int = MOST) -> list[Spread]:
    """The facts with the largest mean spread over those columns that are shares; a fact that is alike is left out."""
    shares = [c for c in columns if c.protocol != GENERAL and c.percent and c.key != metrics.COUNTERFACT_S]
    shared = common(entries)
    by_column = [(c, [fact_values(entry, c.key, shared) for entry in entries]) for c in shares]
    found = []
    for item in shared:
        there = []
        for column, by_entry in by_column:
            values = tuple(values.get(item) for values in by_entry)
            known = [value for value in values if value is not None]
            if len(known) > 1:
                there.append((max(known) - min(known), column, values))
        if there:
            spread, column, values = max(there, key=lambda one: one[0])
            if spread > 0:
                found.append(Spread(item, column, values, sum(one[0] for one in there) / len(there)))
    return sorted(found, key=lambda one: -one.mean)[:most]
