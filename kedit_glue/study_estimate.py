"""How long a study's cells will take and how much they will leave, from the cells that are done. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from statistics import fmean
from typing import Any

from kedit_glue.disk_use import DiskUse
from kedit_glue.study_report import all_seconds
from kedit_glue.study_shared import PER_FACT


@dataclass(frozen=True)
class Measured:
    """A run: how it edited, how much, and what that took."""

    method: str
    facts: int
    seconds: float
    """Of every stage, those taken from other runs included."""
    batches: int
    size: int
    """Bytes of its folder."""
    of_batches: int
    """Those of them in its batches' folders; the last model, for one, is as large however many there were."""
    shared: Mapping[str, float]
    """Seconds of what cells have in common, by kind (``study_shared``)."""


@dataclass(frozen=True)
class Expected:
    """What a run will take, by the runs that are most like it: time in proportion to facts, disk to batches."""

    seconds: float
    size: int


def measured(document: Mapping[str, Any], use: DiskUse, shared: Mapping[str, float]) -> Measured:
    """Of ``scores.json``, what its folder takes on the disk, and what its shared work took."""
    of_batches = sum(part.own for name, part in use.parts.items() if name.startswith("batch_"))
    return Measured(
        document.get("method") or "",
        len(document["facts"]),
        all_seconds(document),
        max(len(document["batches"]), 1),
        use.own,
        of_batches,
        shared,
    )


def expected(
    method: str, facts: int | None, batch_size: int, done: Iterable[Measured], made: Collection[str] = ()
) -> Expected | None:
    """Of a run by this method over so many facts, as the runs with the nearest number of facts, their mean.

    ``made``: kinds of shared work that another cell does. None: nothing to go by.
    """
    alike = [one for one in done if one.method == method]
    if not alike or facts is None:
        return None
    least = min(abs(one.facts - facts) for one in alike)
    batches = ceil(facts / batch_size)
    found = [in_proportion(one, facts, batches, made) for one in alike if abs(one.facts - facts) == least]
    return Expected(fmean(one.seconds for one in found), int(fmean(one.size for one in found)))


def in_proportion(one: Measured, facts: int, batches: int, made: Collection[str]) -> Expected:
    share = facts / max(one.facts, 1)
    seconds = max(one.seconds - sum(one.shared.values()), 0.0) * share
    seconds += sum(s * (share if kind in PER_FACT else 1) for kind, s in one.shared.items() if kind not in made)
    return Expected(seconds, one.size - one.of_batches + int(one.of_batches * batches / one.batches))


def added(every: Iterable[Expected]) -> Expected:
    known = list(every)
    return Expected(sum(one.seconds for one in known), sum(one.size for one in known))
