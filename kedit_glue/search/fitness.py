"""What candidates are worth: one number, or several objectives with a Pareto front. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

PARTS = ("paraphrases", "locality", "perplexity", "general")
"""Each from 0 to 1, higher is better."""


def fitness(parts: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Weighted harmonic mean, sum(w) / sum(w / v), 0 to 1, of the parts whose weight is above 0; 0 where one is 0."""
    used = {name: weight for name, weight in weights.items() if weight > 0}
    if any(parts[name] <= 0 for name in used):
        return 0.0
    return sum(used.values()) / sum(weight / parts[name] for name, weight in used.items())


def wrong(parts: Mapping[str, float]) -> str | None:
    """Why these parts are no measurement."""
    odd = [name for name, value in parts.items() if not math.isfinite(value)]
    return f"{', '.join(odd)} is not a finite number" if odd else None


def front(points: Sequence[Sequence[float]]) -> list[int]:
    """Which points no other dominates: none is as good in all objectives (higher is better) and better in one.

    Of equal points the first is taken.
    """
    return [
        at
        for at, point in enumerate(points)
        if not any(
            all(b >= a for a, b in zip(point, other, strict=True))
            and (any(b > a for a, b in zip(point, other, strict=True)) or index < at)
            for index, other in enumerate(points)
            if index != at
        )
    ]


def knee(points: Sequence[Sequence[float]]) -> int:
    """The point of a front that is nearest to the best of each objective, each scaled to 0 to 1 over the front."""
    low = [min(values) for values in zip(*points, strict=True)]
    high = [max(values) for values in zip(*points, strict=True)]

    def distance(point: Sequence[float]) -> float:
        return math.hypot(*((h - v) / (h - lo) if h > lo else 0.0 for v, lo, h in zip(point, low, high, strict=True)))

    return min(range(len(points)), key=lambda at: (distance(points[at]), at))
