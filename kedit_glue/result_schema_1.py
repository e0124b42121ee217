"""A ``scores.json`` of schema 1 brought to schema 2: names moved, and null for what it does not say. Pure.

Schema 1 was ``{schema, run, model, edited_model, metrics: name -> {definition, range, better}, before, batches, after,
facts, answers, seconds}``, asked by EasyEdit's functions and sampled for fluency only; its first files numbered batches
from 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kedit_glue import metrics

NOT_SAID = "not said (schema 1)"


def upgraded(document: Mapping[str, Any]) -> dict[str, Any]:
    """``document`` as schema 2. Raises KeyError, TypeError or AttributeError where it lacks what schema 1 has."""
    first = min((batch["batch"] for batch in document["batches"]), default=1)
    numbered_from_0 = 1 if first == 0 else 0
    return {
        "schema": 2,
        "kind": "run",
        "name": document["run"],
        "base": {"model": document["model"], "weights": None},
        "edited": {"model": document["edited_model"], "weights": None},
        "facts_source": None,
        "protocol": _protocol(document["after"]["edits"]),
        "metrics": {name: _metric(name, said) for name, said in document["metrics"].items()},
        "before": document["before"],
        "after": document["after"],
        "batches": [_renumbered(batch, numbered_from_0) for batch in document["batches"]],
        "retention": None,
        "facts": [_renumbered(fact, numbered_from_0) for fact in document["facts"]],
        "answers": document["answers"],
        "generations": None,
        "seconds": document["seconds"],
        "made": None,
    }


def _protocol(edits: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if any(name.split(".")[1] == "teacher_forced" for name in edits):
        found["teacher_forced"] = {"scorer": "easyedit"}
    if fluency := edits.get(metrics.FLUENCY):
        found["sampled"] = {"facts": fluency["facts"], "seed": None}
    return found


def _metric(name: str, said: Mapping[str, str]) -> dict[str, str]:
    """What the file says, and for the metrics that are still the same, what it does not."""
    known = metrics.described([name]).get(name, {"title": name, "denominator": NOT_SAID, "source": NOT_SAID})
    better = "as before" if said["better"].startswith("as before") else said["better"]
    return {**known, **said, "better": better}


def _renumbered(entry: Mapping[str, Any], by: int) -> dict[str, Any]:
    return {**entry, "batch": entry["batch"] + by}
