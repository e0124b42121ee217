"""What a search's job asks for, as what is searched. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kedit_glue.merging import MergeMethod
from kedit_glue.search.genome import Genome
from kedit_glue.search.paths import Layout


def task_of(job: Mapping[str, Any]) -> Genome | Layout:
    """The parameter space or the data flow that ``job`` (see ``tools/search.search``) names.

    Raises MergeRefused where there is nothing to search.
    """
    asked = job["search"]
    ranges = {name: tuple(ends) for name, ends in asked["ranges"].items()}
    if job["space"] == "dfs":
        scales = {"scales": ranges["scale"]} if "scale" in ranges else {}
        return Layout(
            tuple(job["models"]), job["layers"], asked["repetitions"], asked["scaling"] and bool(job["writers"]),
            tuple(job["writers"]), job["most_layers"], job["start"], **scales,
        )  # fmt: skip
    tuned = tuple(one["model"] for one in job["tuned"])
    return Genome(
        MergeMethod(**job["method"]), job["before"], tuned, job["layers"], asked["layer_granularity"],
        tuple(asked["filters"]), {name: ends for name, ends in ranges.items() if name != "scale"}, job["settings"],
    )  # fmt: skip
