"""Numbers of a result as figures want them: percentages with the ends of their intervals. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from kedit_glue import metrics
from kedit_glue.general_ability import share_left
from kedit_glue.metrics import METRICS
from kedit_glue.page.figure import Point, percent
from kedit_glue.verdict import relative_loss

FORCED = (metrics.SUCCESS, metrics.GENERALIZATION, metrics.PORTABILITY, metrics.LOCALITY)
GENERATED = (
    "edit_success.generated.exact_match",
    "generalization.generated.exact_match",
    "portability.generated.exact_match",
    metrics.AGREEMENT,
)
"""The same four where the model speaks for itself."""
KEPT = "general ability kept"
AGREE_WITH_THEMSELVES = (metrics.LOCALITY, metrics.AGREEMENT)


def point(x: str | float, entry: Mapping[str, Any] | None, label: str = "") -> Point:
    """A Summary of a metric that is a share, at ``x``, in per cent."""
    if entry is None or entry.get("mean") is None:
        return Point(x, None, label=label)
    value, half = entry["mean"], entry.get("half_width_95", entry.get("half_95"))
    if half is None or entry["facts"] < 2:
        return Point(x, percent(value), label=label, count=entry.get("facts"))
    ends = percent(max(0.0, value - half)), percent(min(1.0, value + half))
    return Point(x, percent(value), *ends, label=label, count=entry["facts"])


def kept(changes: Mapping[str, Mapping[str, Any]]) -> tuple[float, float, float] | None:
    """Mean over lm-eval's tasks of the share of the original's value that is left, at most 1 each, in per cent, with
    an interval whose ends are the means of the tasks' own ends (without one: the value). None where nothing was
    measured."""
    each = [found for change in changes.values() if (found := kept_of(change))]
    if not each:
        return None
    value, low, high = (100 * mean(found[end] for found in each) for end in range(3))
    return value, low, high


def kept_of(change: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """Of one task the share that is left with its interval, 0 to 1; None where the original has nothing to lose."""
    if loss := relative_loss(change):
        value, high, low = (retained(end, change) for end in loss)
        return value, low, high
    left = share_left(change.get("before"), change.get("after"), change.get("better", "higher"))
    return None if left is None else (left, left, left)


def retained(loss: float, change: Mapping[str, Any]) -> float:
    """What is left, 0 to 1: of a value that is better when higher 1 less the loss, of others before / after."""
    left = 1 - loss if change["better"] == "higher" else 1 / (1 + loss) if loss > -1 else 1.0
    return min(1.0, max(0.0, left))


def task_kept(change: Mapping[str, Any]) -> float | None:
    """Of one task, in per cent."""
    found = kept_of(change)
    return None if found is None else percent(found[0])


def title(metric: str) -> str:
    return METRICS[metric].title


def names(points: Sequence[Point]) -> str:
    """The first by name, and how many more there are."""
    first = points[0].label or points[0].x
    return f"{first} and {len(points) - 1} more" if len(points) > 1 else str(first)


def said(value: float | None) -> str:
    """A percentage in words."""
    return "not measured" if value is None else f"{value:.1f} %"
