"""Two models, the same questions: what an edit did, whoever made it. Answers are kept by the weights' hash."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kedit_glue import environment, facts, models, records, referee, results, scores
from kedit_glue.execute import output_missing
from kedit_glue.ledger import digest
from kedit_glue.located import locate, run_job
from kedit_glue.plan_scores import spread
from kedit_glue.progress import Display
from kedit_glue.questions import Fact
from kedit_glue.result_fields import SCHEMA
from kedit_glue.runner import Job, Runner

MOST_TOKENS = 4096
"""Of a prompt with its answer, which scoring reads."""


@dataclass(frozen=True)
class Asked:
    """What two models are asked, and how."""

    base: str
    edited: str
    facts: Path
    format: str = "auto"
    limit: int | None = None
    skip: int = 0
    aspects: tuple[str, ...] = ("edit_success", "generalization", "portability", "locality")
    protocols: tuple[str, ...] = ("teacher_forced", "likelihood", "generated")
    template: str | None = None
    """``bare`` or ``chat``; None: the base model's chat template where it has one."""
    most_tokens: int = 64
    generated_facts: int | None = None
    """How many facts, spread over all, answers are generated for; None: all."""
    fluency_facts: int = 0
    perplexity: bool = False
    tasks: tuple[str, ...] = ()
    include_path: str | None = None
    task_limit: int | None = None
    judge: Mapping[str, Any] | None = None
    """``model``, ``endpoint``, ``key_variable``, ``at_once`` (``tools/judge.py``)."""
    referee: bool = False
    """Also count by EasyEdit's own code, and compare item by item."""
    easyedit: str | None = None
    """A git checkout of EasyEdit."""
    seed: int = 0
    examples: int = 5
    trust_remote_code: bool = False


def score_pair(asked: Asked, folder: Path, runner: Runner, device: str, display: Display) -> dict[str, Any]:
    """The result (``kedit_glue.result``) of a pair; ``folder`` holds what came by the way."""
    setup = folder / "setup"
    base = _folder(locate(asked.base, setup, runner, display))
    edited = _folder(locate(asked.edited, setup, runner, display))
    usable = _facts(asked, base, setup, runner, display)
    template = asked.template or ("chat" if has_chat_template(base) else "bare")
    job = question_job(asked, usable, template, setup / "facts.json", device)
    raw = [
        answers(model, "score", job, usable, folder / name, runner, display, title)
        for name, model, title in (("base", base, "base: edits"), ("edited", edited, "edited model: edits"))
    ]
    found = results.compare(usable, *raw)
    general: list[Any] = [None, None]
    if asked.tasks:
        task_job = general_job(asked, device)
        general = [
            answers(model, "general", task_job, (), folder / name, runner, display, f"{title}: general ability")
            for name, model, title in (("base", base, "base"), ("edited", edited, "edited model"))
        ]
    if asked.referee:
        theirs = [
            answers(model, "score", {**job, **REFEREED}, usable, folder / f"{name}_referee", runner, display, title)
            for name, model, title in (("base", base, "base: EasyEdit"), ("edited", edited, "edited model: EasyEdit"))
        ]
        for line in referee.said(referee.differences(usable, raw, theirs)):
            display.say(line)
    before, after = general
    return {
        "schema": SCHEMA,
        "kind": "pair",
        "name": folder.name,
        "base": {"model": asked.base, "weights": results.weights_hash(base)},
        "edited": {"model": asked.edited, "weights": results.weights_hash(edited)},
        "facts_source": results.source(asked.facts.name, usable),
        "protocol": protocol(asked, template, len(job["generate"]["ids"]), len(usable)),
        "before": {"edits": found.pop("before"), "general": scores.brief_general(before)},
        "after": {
            "edits": found.pop("after"),
            "general": scores.brief_general(after),
            "general_change": scores.general_change(before or {}, after or {}),
        },
        "batches": [],
        "retention": None,
        **found,
        "seconds": {},
        "made": results.made(),
    }


REFEREED = {"protocols": ["teacher_forced"], "scorer": "easyedit", "fluency_ids": [], "example_ids": []}
"""Of a job, what EasyEdit's own code is asked."""


def _folder(found: Path | None) -> Path:
    assert found is not None, "only a dry look leaves a hub's model where it is"
    return found


def has_chat_template(model: Path) -> bool:
    """Whether a model folder's tokenizer brings a chat template."""
    if (model / "chat_template.jinja").is_file() or (model / "chat_template.json").is_file():
        return True
    config = model / "tokenizer_config.json"
    return config.is_file() and bool(json.loads(config.read_text(encoding="utf-8")).get("chat_template"))


def _facts(asked: Asked, base: Path, setup: Path, runner: Runner, display: Display) -> list[Fact]:
    """The facts that the base model's tokenizer can be asked about; what was left out is said."""
    loaded = facts.load(asked.facts, asked.format, asked.limit, asked.skip)
    for line in facts.summary(loaded):
        display.say(line)
    setup.mkdir(parents=True, exist_ok=True)
    (setup / "loaded.json").write_text(json.dumps([asdict(edit) for edit in loaded.edits]), encoding="utf-8")
    arguments = {
        "model": str(base),
        "facts": str(setup / "loaded.json"),
        "output": str(setup / "facts.json"),
        "template": "bare",
        "cutoff_len": MOST_TOKENS,
        "rephrasings": 0,
        "contexts": 0,
        "neighbours": False,
        "context_texts": None,
        "seed": asked.seed,
        "trust_remote_code": asked.trust_remote_code,
    }
    job = Job("facts: tokenizer", "prepare", arguments, setup, "prepare", "check the facts named above")
    found = run_job(job, runner, display, "loading the tools and the facts")
    if not (setup / "facts.json").is_file():
        raise output_missing(job, f"no {setup / 'facts.json'}")
    for item in found["left_out"]:
        display.say(f"left out: {item['position']} ({item['id']}): {item['message']}")
    usable: list[Fact] = json.loads((setup / "facts.json").read_text(encoding="utf-8"))
    return usable


# -- what is asked ------------------------------------------------------------------------------


def question_job(asked: Asked, usable: Sequence[Fact], template: str, file: Path, device: str) -> dict[str, Any]:
    """A scoring stage's arguments (``tools/scorer.py``) but for model and output."""
    ids = [fact["id"] for fact in usable]
    some = len(ids) if asked.generated_facts is None else asked.generated_facts
    extra = (["fluency"] if asked.fluency_facts else []) + (["perplexity"] if asked.perplexity else [])
    return {
        "facts": str(file),
        "new": 0,
        "upto": len(ids),
        "old": None,
        "metrics": [*asked.aspects, *extra],
        "protocols": list(asked.protocols),
        "generate": {
            "template": template,
            "most_tokens": asked.most_tokens,
            "ids": spread(ids, some) if "generated" in asked.protocols else [],
        },
        "judge": asked.judge,
        "scorer": "batched",
        "easyedit": asked.easyedit,
        "fluency_ids": spread(ids, asked.fluency_facts),
        "example_ids": spread(ids, asked.examples),
        "seed": asked.seed,
        "device": device,
        "trust_remote_code": asked.trust_remote_code,
    }


def general_job(asked: Asked, device: str) -> dict[str, Any]:
    return {
        "tasks": list(asked.tasks),
        "include_path": asked.include_path,
        "limit": asked.task_limit,
        "batch_size": 8,
        "seed": asked.seed,
        "device": device,
        "trust_remote_code": asked.trust_remote_code,
    }


def protocol(asked: Asked, template: str, generated: int, facts: int) -> dict[str, Any]:
    """How things were asked, as a result says it."""
    found: dict[str, Any] = {name: {} for name in asked.protocols}
    if "teacher_forced" in found:
        found["teacher_forced"] = {"scorer": "batched"}
    if "generated" in found:
        found["generated"] = {"template": template, "most_tokens": asked.most_tokens, "facts": generated}
        if asked.judge:
            found["generated"]["judge"] = asked.judge["model"]
    if asked.fluency_facts:
        found["sampled"] = {"facts": min(asked.fluency_facts, facts), "seed": asked.seed}
    return found


# -- answers, once for a model ------------------------------------------------------------------


def answers(
    model: Path,
    function: str,
    job: Mapping[str, Any],
    usable: Sequence[Fact],
    folder: Path,
    runner: Runner,
    display: Display,
    title: str,
) -> Any:
    """What a model answers; taken from the cache where the same weights were asked the same before."""
    key = answers_key(model, function, job, usable)
    kept = models.cache_dir() / "answers" / f"{key}.json"
    try:
        record = records.read_record(kept, {"answers"})
    except ValueError:  # damaged: it is asked again
        record = None
    if record is not None:
        display.say(f"{title}: known from before ({kept})")
        return record["answers"]
    output = folder / f"{function}.json"
    folder.mkdir(parents=True, exist_ok=True)
    output.unlink(missing_ok=True)
    arguments = {**job, "model": str(model), "output": str(output)}
    made = Job(title, function, arguments, folder, function, "read the log; then run the same command again")
    run_job(made, runner, display)
    if not output.is_file():
        raise output_missing(made, f"no {output}")
    found = json.loads(output.read_text(encoding="utf-8"))
    kept.parent.mkdir(parents=True, exist_ok=True)
    records.write_record(kept, {"answers": found})
    return found


def answers_key(model: Path, function: str, job: Mapping[str, Any], usable: Sequence[Fact]) -> str:
    """Hash of everything that answers depend on: weights, tokenizer, questions, how they are asked, versions."""
    asked = {name: value for name, value in job.items() if name != "facts"}
    texts = {name: mark for name, (_, _, mark) in records.prints(model).items() if not name.endswith(".md")}
    include = job.get("include_path")
    return records.hashed(
        {
            "model": texts,
            "function": function,
            "job": asked,
            "facts": [dict(fact) for fact in usable],
            "tasks": digest(Path(include)) if include else None,
            "versions": environment.versions(),
        }
    )
