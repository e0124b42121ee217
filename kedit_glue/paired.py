"""Is a change of general ability more than noise? Tests and intervals over the same items, before and after.

Pure functions. A pair is one item's value before and after; items that only one side has are no pair.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

Z_95 = 1.959963984540054
"""The normal distribution's 97.5 % point."""


@dataclass(frozen=True)
class Turned:
    """Of the same items, how many became better, worse, or stayed."""

    better: int
    worse: int
    same: int

    @property
    def items(self) -> int:
        return self.better + self.worse + self.same

    @property
    def p(self) -> float:
        """``sign_test`` of the items that changed."""
        return sign_test(self.better, self.worse)


def turned(pairs: Iterable[tuple[float, float]], higher_is_better: bool = True) -> Turned:
    """Counts pairs (before, after); a log-likelihood is better when higher, a perplexity when lower."""
    better = worse = same = 0
    for before, after in pairs:
        if before == after:
            same += 1
        elif (after > before) == higher_is_better:
            better += 1
        else:
            worse += 1
    return Turned(better, worse, same)


def right_or_wrong(pairs: Iterable[tuple[float, float]]) -> bool:
    """Whether every value is 0 or 1, so that ``difference_interval`` applies."""
    return all(value in (0, 1) for pair in pairs for value in pair)


def sign_test(better: int, worse: int) -> float:
    """Two-sided p value, exact: how often a fair coin splits the changed items at least so unevenly.

    For items that are right or wrong this is McNemar's test in its exact form (Psychometrika 12, 1947). It asks whether
    more items got better than worse, not by how much; items that did not change say nothing. 1 where none changed.
    """
    if better < 0 or worse < 0:
        raise ValueError(f"counts of items cannot be negative: {better} better, {worse} worse")
    changed, fewer = better + worse, min(better, worse)
    tail, term = 0, 1
    for k in range(fewer + 1):
        tail += term
        term = term * (changed - k) // (k + 1)
    return min(1.0, 2 * tail / (1 << changed))


def difference_interval(better: int, worse: int, items: int) -> tuple[float, float]:
    """95 % interval of the change in the share of right answers, as a share from -1 to 1.

    ``better``: items that were wrong and are right now; ``worse``: the other way round; ``items``: all pairs. Half an
    item is added to each of the four cells before the normal approximation (Agresti and Min, Statistics in Medicine 24,
    2005): without it the interval of few items is too narrow, and has no width at all where no item changed.
    """
    if min(better, worse) < 0 or better + worse > items:
        raise ValueError(f"{better} better and {worse} worse do not fit {items} items")
    count = items + 2
    gained, lost = better + 0.5, worse + 0.5
    change = (gained - lost) / count
    half = Z_95 * math.sqrt((gained + lost - (gained - lost) ** 2 / count) / count**2)
    return max(-1.0, change - half), min(1.0, change + half)
