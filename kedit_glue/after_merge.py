"""The stage that gives a merge's change another shape: out of general text's directions, or a regression mean. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kedit_glue.batch_files import batch_name
from kedit_glue.recipe_schema import Recipe
from kedit_glue.runner import Job
from kedit_glue.stages import Place, Prepared, partial


def projected(place: Place, number: int, title: str, change: Mapping[str, str], directions: Path) -> Prepared:
    """``merge.protect`` of batch ``number``; ``change``: the ``model`` that the merge left, the one ``before`` it, and
    the ``trainable`` matrices."""
    folder = place.folder / batch_name(number)
    output = folder / "projected"
    arguments = {**change, "directions": str(directions), "output": str(partial(output))}
    advice = "read the log; correct merge.protect in the recipe and run the same command again"
    return Prepared(Job(f"{title}: protect", "project", arguments, folder, "project", advice), output, {}, ())


def regressed(
    recipe: Recipe, place: Place, batches: Sequence[int], title: str, change: Mapping[str, str], statistics: Path
) -> Prepared:
    """``merge.regmean``, after the last of the ``batches`` that were merged; ``change`` as for ``projected``."""
    folder = place.folder / batch_name(batches[-1])
    traces = [place.folder / batch_name(batch) / "trace.jsonl" for batch in batches]
    output = folder / "regmean"
    settings: dict[str, Any] = {"tokens": recipe.merge.regmean.tokens}
    arguments = {
        **change,
        **settings,
        "traces": list(map(str, traces)),
        "moments": str(statistics),
        "output": str(partial(output)),
        "device": place.device,
        "trust_remote_code": recipe.trust_remote_code,
    }
    advice = (
        "read the log; correct merge.regmean in the recipe and run the same command again: training and merging are "
        "not repeated"
    )
    job = Job(f"{title}: regression mean", "regmean", arguments, folder, "regmean", advice)
    return Prepared(job, output, settings, tuple(traces))


def shares_left(result: Mapping[str, Any]) -> tuple[float, float]:
    """Of the merge's change, the shares (0 to 1) that the taught facts and general text still meet after a ``regmean``
    stage, whose ``result`` this is."""
    facts, text = (result[f"{who}_after"] / max(result[f"{who}_before"], 1e-12) for who in ("facts_meet", "text_meets"))
    return facts, text
