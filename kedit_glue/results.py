"""From a run's files to ``scores.json``: reads raw answers, traces and records; computes through ``scores``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedit_glue import scores
from kedit_glue.ledger import Ledger
from kedit_glue.plan import Plan, Stage, batch_name
from kedit_glue.recipe import Recipe


def collect(recipe: Recipe, plan: Plan, ledger: Ledger, folder: Path) -> dict[str, Any]:
    """The document that ``scores`` describes, from a run whose stages are all done."""
    stages = {s.name: s for s in plan.stages}
    base = _json(stages["base/edits"].output)
    base_by_id = scores.by_id(base)
    base_general = _optional(stages, "base/general")
    last = batch_name(len(plan.batches))
    after = _json(stages[f"{last}/edits"].output)
    after_general = _optional(stages, f"{last}/general")
    after_by_id = scores.by_id(after)
    traces: dict[str, dict[str, Any]] = {}  # a fact's first sample is its own prompt
    for number in range(1, len(plan.batches) + 1):
        for trace in _trace(folder / batch_name(number) / "trace.jsonl"):
            traces.setdefault(trace["id"], trace)
    return {
        "schema": scores.SCHEMA,
        "run": recipe.name,
        "model": recipe.model,
        "edited_model": str(plan.final_model),
        "metrics": scores.METRICS,
        "before": {"edits": _all(base, base_by_id), "general": scores.brief_general(base_general)},
        "batches": [_batch(plan, number, stages, ledger, base_by_id) for number in range(1, len(plan.batches) + 1)],
        "after": {
            "edits": _all(after, base_by_id),
            "general": scores.brief_general(after_general),
            "general_change": scores.general_change(base_general or {}, after_general or {}),
        },
        "facts": [
            {
                "id": fact["id"],
                "batch": number,
                "prompt": fact["prompt"],
                "target_new": fact["target_new"],
                "before": scores.fact_scores(base_by_id[fact["id"]], base_by_id[fact["id"]]),
                "after": scores.fact_scores(after_by_id[fact["id"]], base_by_id[fact["id"]]),
                "steps": traces[fact["id"]]["steps"],
                "loss_before": traces[fact["id"]]["loss_before"],
                "loss_after": traces[fact["id"]]["loss_after"],
                "learned": traces[fact["id"]]["learned"],
            }
            for number, batch in enumerate(plan.batches, 1)
            for fact in batch
        ],
        "answers": [
            {
                "id": fact["id"],
                "prompt": fact["prompt"],
                "target_new": fact["target_new"],
                "before": base["answers"][fact["id"]],
                "after": after["answers"][fact["id"]],
            }
            for batch in plan.batches
            for fact in batch
            if fact["id"] in after["answers"]
        ],
        "seconds": _seconds(plan, ledger),
    }


def _all(raw: Any, base: Any) -> dict[str, Any]:
    """Summary over all facts that were asked about."""
    after = scores.by_id(raw)
    return scores.score(after, base, after) | scores.fluency(raw)


def _batch(plan: Plan, number: int, stages: Mapping[str, Stage], ledger: Ledger, base: Any) -> dict[str, Any]:
    """``base``: the original model's answers by id."""
    name = batch_name(number)
    ids = [f["id"] for f in plan.batches[number - 1]]
    entry: dict[str, Any] = {"batch": number, "facts": len(ids)}
    for kind in ("train", "merge"):
        if f"{name}/{kind}" in stages and (record := ledger.record(stages[f"{name}/{kind}"])):
            entry["training" if kind == "train" else "merge"] = {
                **record["result"],
                "seconds": record["seconds"],
            }
    if (raw := _optional(stages, f"{name}/edits")) is not None:
        now = scores.by_id(raw)
        entry["edited_before"] = scores.score(base, base, ids)
        entry["edited"] = scores.score(now, base, ids)
        entry["all_so_far_before"] = scores.score(base, base, now)
        entry["all_so_far"] = scores.score(now, base, now)
        entry["asked_so_far"] = len(now)
    if (general := _optional(stages, f"{name}/general")) is not None:
        entry["general"] = scores.brief_general(general)
    return entry


def _seconds(plan: Plan, ledger: Ledger) -> dict[str, float]:
    """Wall seconds of the recorded stages by kind, and their sum."""
    found: dict[str, float] = {}
    for stage in plan.stages:
        if record := ledger.record(stage):
            kind = stage.job.function
            found[kind] = round(found.get(kind, 0.0) + record["seconds"], 3)
    return {**found, "all": round(sum(found.values()), 3)}


def _optional(stages: Mapping[str, Stage], name: str) -> Any:
    return _json(stages[name].output) if name in stages else None


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _trace(path: Path) -> list[dict[str, Any]]:
    # not splitlines(): it also parts a fact's text where JSON does not
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
