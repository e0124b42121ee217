"""What becomes of earlier edits: facts of batch i asked again after batch j. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kedit_glue.metrics import SUCCESS
from kedit_glue.scores import interval

MOST_CELLS = 250_000
"""A larger matrix is left out of the result; the curve says it in short."""


def retention(
    batches: Sequence[Sequence[str]], asked: Mapping[int, Mapping[str, float | None]], metric: str = SUCCESS
) -> dict[str, Any] | None:
    """``batches``: ids of each batch's facts. ``asked``: batch (from 1) -> fact -> its score after that batch.

    Returns ``metric``; ``after``, the batches (numbers) after which facts were asked; ``matrix``, a row for each of
    those with the mean over the facts of batch 1, 2, … (None: none of them was asked), or None where it is too large;
    ``curve``, by age (how many batches ago a fact was taught) the mean over all such answers with half the width of its
    95 % interval; ``sampled``, whether some earlier facts were not asked. None where nothing was asked.
    """
    batch_of = {fact: number for number, ids in enumerate(batches, 1) for fact in ids}
    by_age: dict[int, list[float]] = {}
    rows: list[list[float | None]] = []
    sampled = False
    whole = len(asked) * len(batches) <= MOST_CELLS
    for after, found in sorted(asked.items()):
        cells: dict[int, list[float]] = {}
        for fact, score in found.items():
            if score is not None and batch_of[fact] <= after:
                cells.setdefault(batch_of[fact], []).append(score)
        for number, values in cells.items():
            by_age.setdefault(after - number, []).extend(values)
        sampled |= len(found) < sum(len(ids) for ids in batches[:after])
        if whole:
            rows.append([_mean(cells.get(number)) for number in range(1, len(batches) + 1)])
    if not by_age:
        return None
    return {
        "metric": metric,
        "after": sorted(asked),
        "matrix": rows if whole else None,
        "curve": [_point(age, values) for age, values in sorted(by_age.items())],
        "sampled": sampled,
    }


def _mean(values: Sequence[float] | None) -> float | None:
    return sum(values) / len(values) if values else None


def _point(age: int, values: Sequence[float]) -> dict[str, Any]:
    mean, half = interval(values)
    return {"age": age, "mean": mean, "half_width_95": half, "answers": len(values)}
