"""The same search as mergekit-evolve would be told of it: its configuration file. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kedit_glue.search.genome import KNOWN, Genome


def configuration(genome: Genome, tasks: Sequence[str], limit: int | None) -> dict[str, Any] | None:
    """``genome`` and ``tasks`` as ``mergekit-evolve`` reads them; None where its genome cannot say this search.

    It puts other tasks in the place of our fitness: lm-eval's, by name.
    """
    name = genome.method.name
    if KNOWN.get(name) != genome.names or (name == "slerp" and (genome.filters or len(genome.tuned) != 1)):
        return None
    inputs = name in ("linear", "slerp")  # there the original is an input like any other
    low = genome.genes()[0].low
    said: dict[str, Any] = {
        "models": [*([genome.original] if inputs else []), *genome.tuned],
        "merge_method": name,
        "layer_granularity": genome.granularity,
        "normalize": bool(genome.settings.get("normalize", False)),
        "allow_negative_weights": low < 0,
    }
    if genome.filters:
        said["filters"] = list(genome.filters)
    if not inputs:
        said["base_model"] = genome.original
    if name == "slerp":
        del said["normalize"]
    return {"genome": said, "tasks": [{"name": task, "weight": 1.0} for task in tasks], "limit": limit}
