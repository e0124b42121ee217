"""From a run's files to ``scores.json``: reads raw answers, traces and records; computes through ``scores``."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from kedit_glue import environment, metrics, once, records, scores, training_trace, verdict
from kedit_glue.batch_files import INDEPENDENT
from kedit_glue.independent import together
from kedit_glue.ledger import Ledger
from kedit_glue.models import NUMBER_BYTES
from kedit_glue.plan import Plan, Stage, batch_name
from kedit_glue.plan_scores import asked_in
from kedit_glue.questions import Fact
from kedit_glue.recipe import Recipe
from kedit_glue.result_fields import EDITING, SCHEMA
from kedit_glue.retention import retention
from kedit_glue.search import trace


def collect(recipe: Recipe, plan: Plan, ledger: Ledger, model: Path) -> dict[str, Any]:
    """The document that ``kedit_glue.result`` describes, of a run whose stages are done; ``model``: the original."""
    stages = {s.name: s for s in plan.stages}
    facts = [fact for batch in plan.batches for fact in batch]
    base, base_general = _json(stages["base/edits"].output), _optional(stages, "base/general")
    last, alone = batch_name(len(plan.batches)), recipe.edits.mode == "independent"
    after = _alone(plan) if alone else _json(stages[f"{last}/edits"].output)
    after_general = _optional(stages, f"{last}/general")
    traces = _traces(plan)
    searches = _searches(plan, ledger)
    seen = frozenset(i for search in searches for i in search["facts"])
    taught = [(number, fact) for number, batch in enumerate(plan.batches, 1) for fact in batch]
    compared = compare(facts, base, after, seen)
    batches = (
        _batches_alone(plan, ledger, base, after)
        if alone
        else [_batch(plan, number, stages, ledger, base, seen) for number in range(1, len(plan.batches) + 1)]
    )
    reported_texts(searches, [base_general, after_general])
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": "run",
        "name": recipe.name,
        "method": recipe.method,
        "mode": recipe.edits.mode,
        "base": {"model": recipe.model, "weights": weights_hash(model)},
        "edited": _edited(plan),
        "facts_source": source(Path(recipe.edits.source).name, facts),
        "protocol": protocol(recipe, len(facts) - len(seen)),
        "before": {"edits": compared["before"], "general": scores.brief_general(base_general)},
        "batches": batches,
        "retention": None if alone else _retention(plan, stages, base, seen),
        "after": {
            "edits": compared["after"],
            "general": scores.brief_general(after_general),
            "general_change": scores.general_change(base_general or {}, after_general or {}),
        },
        **_tuned(facts, base, base_general, stages, last, seen),
        **({"search": {"merges": searches, **_on_seen(facts, base, after, seen)}} if searches else {}),
        "facts": [
            {
                **entry,
                "batch": number,
                **{
                    key: traces.get(fact["id"], {}).get(key)
                    for key in ("steps", "loss_before", "loss_after", "learned")
                },
            }
            for (number, fact), entry in zip(taught, compared["facts"], strict=True)
        ],
        "answers": compared["answers"],
        "metrics": compared["metrics"],
        "cost": cost(
            batches, searches, _prepared(plan, ledger), plan.trained.count, NUMBER_BYTES[recipe.train.precision]
        ),
        "seconds": _seconds(plan, ledger),
        "made": made(),
    }
    return {**document, "verdict": verdict.judged(document, recipe.verdict.model_dump())}


def _tuned(
    facts: Sequence[Fact],
    base: Any,
    base_general: Any,
    stages: Mapping[str, Stage],
    last: str,
    seen: Collection[str],
) -> dict[str, Any]:
    """``tuned``: the model before its last merge; nothing where it was not asked."""
    if f"{last}/edits_tuned" not in stages:
        return {}
    general = _optional(stages, f"{last}/general_tuned")
    return {
        "tuned": {
            "edits": compare(facts, base, _json(stages[f"{last}/edits_tuned"].output), seen)["after"],
            "general": scores.brief_general(general),
            "general_change": scores.general_change(base_general or {}, general or {}),
        }
    }


def _searches(plan: Plan, ledger: Ledger) -> list[dict[str, Any]]:
    """What each search of a merge recorded, with its candidates."""
    found = []
    for stage in plan.stages:
        if stage.job.function == "search" and (record := ledger.record(stage)) is not None:
            _, candidates = trace.read(next(path for path in stage.beside if path.name.endswith(".trace.jsonl")))
            brief = [{key: one[key] for key in ("fitness", "parts", "cause") if key in one} for one in candidates]
            said = {**record["result"], "seconds": record["seconds"]}
            found.append({"batch": stage.batch, **said, "candidates": brief})
    return found


def reported_texts(searches: Sequence[Mapping[str, Any]], general: Sequence[Any]) -> None:
    """Raises SearchedOn where general ability was measured on a text that a search's candidates were judged on."""
    texts = {text for search in searches for text in search["texts"]}
    for tasks in general:
        for name, task in (tasks or {}).items():
            if texts & {item["text"] for item in task["items"] if "text" in item}:
                raise SearchedOn(
                    f"score.general's task {name} holds a text that merge.search was judged on: what was searched on "
                    "measures nothing; set merge.search.fitness.corpus to other texts"
                )


class SearchedOn(ValueError):
    """A score would be reported on data that chose the merge."""


def _on_seen(facts: Sequence[Fact], base: Any, after: Any, seen: Collection[str]) -> dict[str, Any]:
    """``before`` and ``after`` on the facts that searches were judged on."""
    compared = compare([fact for fact in facts if fact["id"] in seen], base, after)
    return {"facts": sorted(seen), "before": compared["before"], "after": compared["after"]}


def compare(facts: Sequence[Fact], base: Any, after: Any, seen: Collection[str] = ()) -> dict[str, Any]:
    """What two models' raw answers say: ``before``, ``after``, ``facts``, ``answers``, ``metrics`` of a result.

    ``seen``: ids of facts that chose the merge; ``before`` and ``after`` are of the others.
    """
    first, second = scores.by_id(base), scores.by_id(after)
    entries = [
        {
            "id": fact["id"],
            "batch": None,
            "prompt": fact["prompt"],
            "target_new": fact["target_new"],
            "before": scores.fact_scores(first[fact["id"]], first[fact["id"]], fact),
            "after": scores.fact_scores(second[fact["id"]], first[fact["id"]], fact),
        }
        for fact in facts
    ]
    reported = [entry for entry in entries if entry["id"] not in seen]
    found = {
        "before": scores.summary([entry["before"] for entry in reported]) | scores.fluency(base),
        "after": scores.summary([entry["after"] for entry in reported]) | scores.fluency(after),
    }
    answers = [
        {
            **{key: fact[key] for key in ("id", "prompt", "target_new")},
            "before": base["answers"][fact["id"]],
            "after": after["answers"][fact["id"]],
        }
        for fact in facts
        if fact["id"] in after["answers"]
    ]
    named = {name for summary in found.values() for name in summary}
    named.update(name for entry in entries for when in ("before", "after") for name in entry[when])
    return {**found, "facts": entries, "answers": answers, "metrics": metrics.described(named)}


def source(name: str, facts: Sequence[Fact]) -> dict[str, Any]:
    """Which facts were asked about: two results can be compared where the hash is the same."""
    asked = [{k: v for k, v in fact.items() if k not in ("response", "also_trained", "position")} for fact in facts]
    text = json.dumps(asked, sort_keys=True, ensure_ascii=False)
    return {"name": name, "facts": len(facts), "hash": hashlib.sha256(text.encode()).hexdigest()[:16]}


def protocol(recipe: Recipe, facts: int) -> dict[str, Any]:
    """How things were asked; ``facts``: how many there are."""
    edits = recipe.score.edits
    found: dict[str, Any] = {name: {} for name in edits.protocols}
    if "teacher_forced" in found:
        found["teacher_forced"] = {"scorer": edits.scorer}
    if "generated" in found:
        how = edits.generated
        count = min(how.facts, facts)
        found["generated"] = {"template": asked_in(recipe), "most_tokens": how.most_tokens, "facts": count}
        if edits.judge.model:
            found["generated"]["judge"] = edits.judge.model
    if "fluency" in edits.metrics and edits.fluency_facts:
        found["sampled"] = {"facts": min(edits.fluency_facts, facts), "seed": recipe.seed}
    return found


def weights_hash(model: Path) -> str | None:
    """Hash of a model folder's weights and configuration; None for what is no folder here."""
    return records.content(records.prints(model)) if model.is_dir() else None


def made() -> dict[str, Any]:
    """Who made a result, and when."""
    own = importlib.metadata.version("kedit_glue")
    return {"kedit_glue": own, "tools": environment.versions(), "at": time.strftime("%Y-%m-%dT%H:%M:%S%z")}


def _edited(plan: Plan) -> dict[str, Any] | None:
    """None where each batch was edited alone: there is no model to name."""
    model = plan.final_model
    return None if model is None else {"model": str(model), "weights": weights_hash(model)}


def _alone(plan: Plan) -> dict[str, Any]:
    """The answers of all batches that were edited alone, as of one model."""
    return together([_json(stage.output) for stage in plan.stages if stage.job.function == INDEPENDENT])


def _batches_alone(plan: Plan, ledger: Ledger, base: Any, after: Any) -> list[dict[str, Any]]:
    first, now = scores.by_id(base), scores.by_id(after)
    entries = []
    for stage in plan.stages:
        if stage.job.function != INDEPENDENT or (record := ledger.record(stage)) is None:
            continue
        for said in record["result"]["batches"]:
            facts = plan.batches[said["batch"] - 1]
            parts = {key: said[key] for key in EDITING if key in said}
            entry = {"batch": said["batch"], "facts": len(facts), **parts}
            entry["edited_before"] = scores.score(first, first, facts)
            entries.append({**entry, "edited": scores.score(now, first, facts)})
    return entries


def _retention(plan: Plan, stages: Mapping[str, Stage], base: Any, seen: Collection[str]) -> dict[str, Any] | None:
    first, by_id = scores.by_id(base), {fact["id"]: fact for batch in plan.batches for fact in batch}
    asked: dict[int, dict[str, float | None]] = {}
    for number in range(1, len(plan.batches) + 1):
        if (raw := _optional(stages, f"{batch_name(number)}/edits")) is not None:
            found = scores.by_id(raw)
            asked[number] = {
                i: scores.fact_scores(answers, first[i], by_id[i]).get(metrics.SUCCESS)
                for i, answers in found.items()
                if i not in seen
            }
    return retention([[fact["id"] for fact in batch if fact["id"] not in seen] for batch in plan.batches], asked)


STAGES = {"train": "training", "merge": "merge", "project": "reshaping", "regmean": "reshaping", "edit": "editing"}
"""A batch's stage -> where its record stands in ``scores.json``."""


def _batch(
    plan: Plan, number: int, stages: Mapping[str, Stage], ledger: Ledger, base: Any, seen: Collection[str]
) -> dict[str, Any]:
    name = batch_name(number)
    facts = [fact for fact in plan.batches[number - 1] if fact["id"] not in seen]
    entry: dict[str, Any] = {"batch": number, "facts": len(plan.batches[number - 1])}
    for kind, key in STAGES.items():
        if f"{name}/{kind}" in stages and (record := ledger.record(stages[f"{name}/{kind}"])):
            entry[key] = {**record["result"], "seconds": record["seconds"]}
    if (raw := _optional(stages, f"{name}/edits")) is not None:
        now, first = scores.by_id(raw), scores.by_id(base)
        so_far = [fact for batch in plan.batches for fact in batch if fact["id"] in now.keys() - set(seen)]
        entry["edited_before"] = scores.score(first, first, facts)
        entry["edited"] = scores.score(now, first, facts)
        entry["all_so_far_before"] = scores.score(first, first, so_far)
        entry["all_so_far"] = scores.score(now, first, so_far)
        entry["asked_so_far"] = len(now.keys() - set(seen))
    if (general := _optional(stages, f"{name}/general")) is not None:
        entry["general"] = scores.brief_general(general)
    return entry


def _prepared(plan: Plan, ledger: Ledger) -> list[dict[str, Any]]:
    """What the stages recorded that prepare all edits together (``once.py``)."""
    records = [ledger.record(stage) for stage in plan.stages if stage.job.function in once.FUNCTIONS]
    return [{**record["result"], "seconds": record["seconds"]} for record in records if record]


def cost(
    batches: Sequence[Mapping[str, Any]],
    searches: Sequence[Mapping[str, Any]],
    prepared: Sequence[Mapping[str, Any]],
    changed: int | None,
    number_bytes: int,
) -> dict[str, Any]:
    """What editing took, ``result_fields.Cost``; ``changed``: numbers in the weights that a batch may change.

    ``prepared`` that an earlier run left in the cache counts with what making it took then (``seconds_kept``).
    """
    stages = [batch[key] for batch in batches for key in EDITING if key in batch]
    stages += searches
    peaks = [stage["peak_memory_bytes"] for stage in stages if "peak_memory_bytes" in stage]
    facts = sum(batch["facts"] for batch in batches)
    return {
        "seconds_a_fact": round(sum(stage["seconds"] for stage in stages) / max(facts, 1), 3),
        "seconds_once": round(sum(one["seconds"] + one.get("seconds_kept", 0.0) for one in prepared), 3),
        "peak_memory_bytes": max(peaks, default=None),
        "bytes_changed": None if changed is None else changed * number_bytes,
        "bytes_at_inference": batches[-1].get("editing", {}).get("memory_bytes", 0),
    }


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


def _traces(plan: Plan) -> dict[str, dict[str, Any]]:
    """By fact: a fact's first sample is its own prompt."""
    found: dict[str, dict[str, Any]] = {}
    for stage in plan.stages:
        for file in stage.beside:
            if file.name == "trace.jsonl":
                for trace in training_trace.read(file):
                    found.setdefault(trace["id"], trace)
    return found
