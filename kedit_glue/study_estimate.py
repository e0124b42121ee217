"""How long a study's cells will take and how much they will leave, from the cells that are done. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measured:
    """A run: how it edited, how much, and what that took."""

    method: str
    facts: int
    seconds: float
    size: int
    """Bytes of its folder."""


@dataclass(frozen=True)
class Expected:
    """What a run will take: in proportion to its facts, as the run that is most like it."""

    seconds: float
    size: int


def measured(document: Mapping[str, Any], size: int) -> Measured:
    """Of ``scores.json`` and the size of its folder in bytes."""
    return Measured(document.get("method") or "", len(document["facts"]), document["seconds"]["all"], size)


def expected(method: str, facts: int | None, done: Iterable[Measured]) -> Expected | None:
    """Of a run by this method over so many facts (None: all of a file, as many as the other); None: nothing to go by.

    The run most like it: one by the same method where there is one, then the one with the nearest number of facts.
    """
    ranked = sorted(done, key=lambda one: (one.method != method, abs(one.facts - (facts or one.facts))))
    if not ranked:
        return None
    nearest = ranked[0]
    share = (facts or nearest.facts) / max(nearest.facts, 1)
    return Expected(nearest.seconds * share, int(nearest.size * share))


def added(every: Sequence[Expected | None]) -> Expected | None:
    """All of them; None where one is not known."""
    known = [one for one in every if one is not None]
    if len(known) < len(every):
        return None
    return Expected(sum(one.seconds for one in known), sum(one.size for one in known))
