"""What a task's value before and after editing says: the share that is left, and in which unit it is shown. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PERPLEXITIES = ("word_perplexity", "byte_perplexity", "bits_per_byte")
"""lm-eval's names of metrics whose change is a ratio."""


def share_left(before: float | None, after: float | None, better: str) -> float | None:
    """Of a task's value after / before (before / after where ``better`` is ``lower``), 0 to 1: a gain counts as 1.

    0 where the edited model's value is no number; None where the original has nothing to lose.
    """
    if before is None or before <= 0:
        return None
    if after is None:
        return 0.0
    kept, of = (after, before) if better == "higher" else (before, after)
    return max(0.0, min(1.0, kept / of)) if of else 1.0


def is_share(metric: str, *values: float | None) -> bool:
    """Whether a task's values are shares, shown in per cent; others (perplexities, BLEU of 0 to 100) are not."""
    return metric.partition(",")[0] not in PERPLEXITIES and all(v is None or -1.0 <= v <= 1.0 for v in values)


def unit(change: Mapping[str, Any]) -> str:
    """What a task's change is in: per cent of a perplexity, points of a share, else the metric's own."""
    if change.get("change_is") is not None:
        return " %"
    return " points" if is_share(change["metric"], change["before"], change["after"]) else ""


def in_unit(change: Mapping[str, Any], value: float) -> float:
    return 100 * value if unit(change) else value
