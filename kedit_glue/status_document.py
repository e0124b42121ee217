"""A run's state as one document for programs (``status --json``) and for the tables; read, never changed.

``SCHEMA`` counts up when a key changes its meaning or goes. All times are seconds, all sizes bytes::

    schema, run, folder, model (as the recipe names it), model_folder, device
    complete    true: every stage is done and the report was written since
    to_do       true: it is not complete, or its recipe or facts were changed since
    process     number of the process that holds the folder right now, "?" where it does not say; null where none does
    now         what it does, null between stages: {stage, title, since, seconds, event, says}; stage is null while
                it looks at model and facts; event is the tool's last one, says the same in words, both null at first
    original    the original model's row, batches: a list with a row for each batch:
                {batch, batches, folder, facts, learned, done, seconds, bytes: {own, apparent}, stages}
                batch: number from 1, null for the original; batches: how many a row is of, this one the last (more
                than one where each batch is edited alone); learned: null until training is done
                own: on the disk, files that an earlier row holds as well left out; apparent: the files' lengths
    stages      {stage, kind, state, reason, edited, seconds, finished, log, last_lines} each
                kind: edit, independent, remember, train, search, merge, project, moments, editor, protect, score or
                general
                state: done; packed (done, only changed tensors kept); not kept (done, output deleted as keep: says);
                stale (done, and to be done again); failed (begun, and not ended); running; waiting
                reason: why it is not done, null where it is; edited: its files that were edited by hand
                seconds, finished: of the last time it ended, null where there was none; log: null where there is none
                last_lines: of the log of a stage that failed, at most 5
    edited      [{file, difference}]: files edited by hand, and how they differ from what was generated
    recipe      {file, set, changed, facts_changed, problem}: where the recipe came from; changed: {key: [then, now]}
                of what it says otherwise now; facts_changed: its file of facts holds others now; problem: why it cannot
                be compared, else null
    totals      {stages, stages_done, batches, batches_done, facts, facts_trained, facts_learned, seconds,
                seconds_left (null: unknown), bytes, bytes_shared_outside, bytes_free}
                bytes_shared_outside: part of bytes with a name outside the run's folder, too
    command     goes on, null where nothing is to do or the recipe is gone
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kedit_glue import environment, files, run_folder
from kedit_glue.disk_use import DiskUse, Use, disk_use
from kedit_glue.execute import PROVENANCE
from kedit_glue.ledger import NEW, Todo
from kedit_glue.origin import command, recipe_now
from kedit_glue.plan import Plan, Stage
from kedit_glue.progress import sentence
from kedit_glue.run_folder import OpenRun
from kedit_glue.runner import last_lines
from kedit_glue.standing import Estimate

SCHEMA = 1
DONE, PACKED, NOT_KEPT = "done", "packed", "not kept"
STALE, FAILED, RUNNING, WAITING = "stale", "failed", "running", "waiting"
STANDS = (DONE, PACKED, NOT_KEPT)
LAST_LINES = 5
TAIL = 65536
"""Bytes of an events file's end that are looked at."""


@dataclass(frozen=True)
class Now:
    """The job that a process works on."""

    stage: str | None
    title: str
    since: float
    """Seconds since the epoch."""
    event: Mapping[str, Any] | None


def status(folder: Path) -> dict[str, Any]:
    """The document of a run's folder; raises CannotStart where it holds none."""
    for _ in range(3):
        with contextlib.suppress(FileNotFoundError):  # a run that is at work took a file away while it was looked at
            return document(run_folder.open_run(folder))
    return document(run_folder.open_run(folder))


def document(run: OpenRun) -> dict[str, Any]:
    plan, ledger = run.plan, run.ledger
    process = run_folder.holder(run.folder)
    use = disk_use(run.folder)
    edited = hand_edits(plan)
    now = at_work(run.folder, plan.stages) if process else None
    todo = ledger.todo(plan.stages, thorough=False)
    estimate = Estimate()
    stages: dict[str, dict[str, Any]] = {}
    learned: dict[int | None, int] = {}
    for item in todo:
        stage, record = item.stage, ledger.record(item.stage)
        seconds = record["seconds"] if record else None
        if item.reason is not None:
            estimate.expect(stage.pace, stage.size)
        if record is not None:  # one that is stale is still a measurement
            estimate.done(stage.pace, stage.size, record["seconds"])
        if record is not None and item.reason is None and "learned" in record["result"]:
            learned[stage.batch] = record["result"]["learned"] or 0
        state, reason = state_of(item, record, running=now is not None and now.stage == stage.name, held=bool(process))
        log = stage.job.file("log")
        stages[stage.name] = {
            "stage": stage.name,
            "kind": stage.job.function,
            "state": state,
            "reason": reason,
            "edited": [path.name for path in stage.reads if path in edited],
            "seconds": seconds,
            "finished": record["finished"] if record else None,
            "log": str(log) if log.is_file() else None,
            "last_lines": last_lines(log, LAST_LINES, cut=stage.job.processes > 1) if state == FAILED else [],
        }
    by_batch: dict[int | None, list[dict[str, Any]]] = {}
    for stage in plan.stages:
        by_batch.setdefault(stage.batch, []).append(stages[stage.name])
    rows = []
    before = 0
    for number in sorted(number for number in by_batch if number is not None):
        count = sum(len(facts) for facts in plan.batches[before:number])
        rows.append(row(number, number - before, count, learned.get(number), by_batch[number], use))
        before = number
    undone = [item for item in todo if item.reason is not None]
    complete = not undone and reported(
        run.folder, [entry["finished"] for entry in stages.values()], plan.final_model is not None
    )
    recipe = recipe_now(run)
    to_do = bool(not complete or recipe["changed"] or recipe["facts_changed"])
    return {
        "schema": SCHEMA,
        "run": run.recipe.name,
        "folder": str(run.folder),
        "model": run.recipe.model,
        "model_folder": run.model,
        "device": run.device,
        "complete": complete,
        "to_do": to_do,
        "process": int(process) if process and process.isdecimal() else process,
        "now": None if now is None else _now(now),
        "original": row(None, 0, 0, None, by_batch.get(None, []), use),
        "batches": rows,
        "edited": [{"file": str(path.relative_to(run.folder)), "difference": d} for path, d in edited.items()],
        "recipe": recipe,
        "totals": {
            "stages": len(todo),
            "stages_done": len(todo) - len(undone),
            "batches": len(plan.batches),
            "batches_done": sum(entry["batches"] for entry in rows if entry["done"]),
            "facts": sum(map(len, plan.batches)),
            "facts_trained": sum(entry["facts"] for entry in rows if entry["learned"] is not None),
            "facts_learned": sum(learned.values()),
            "seconds": round(sum(entry["seconds"] or 0.0 for entry in stages.values()), 3),
            "seconds_left": None if (left := estimate.left()) is None else round(left, 1),
            "bytes": use.own,
            "bytes_shared_outside": use.shared_outside,
            "bytes_free": environment.disk_free(run.folder),
        },
        "command": command(run) if to_do else None,
    }


# -- stages -------------------------------------------------------------------------------------


def state_of(item: Todo, record: Mapping[str, Any] | None, running: bool, held: bool) -> tuple[str, str | None]:
    """A stage's state, and why it is not done."""
    if item.reason is None:
        kept = record or {}
        return (PACKED if kept.get("packed") else NOT_KEPT if kept.get("released") else DONE), None
    if running:
        return RUNNING, item.reason
    if item.reason != NEW:
        return STALE, item.reason
    job, begun = item.stage.job, item.stage.job.file("log").is_file()
    if held or not begun:
        return WAITING, item.reason
    ended = job.file("result.json").is_file()
    if ended and item.stage.output.exists():
        return STALE, "its record is gone"
    at = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.file("log").stat().st_mtime))
    return FAILED, f"it left no {'output' if ended else 'result'}; last heard of at {at}"


def row(
    number: int | None,
    batches: int,
    facts: int,
    learned: int | None,
    stages: Sequence[Mapping[str, Any]],
    use: DiskUse,
) -> dict[str, Any]:
    """One line of the table: a batch, several that a stage edits alone, or what is done with the original model."""
    folder = stages[0]["stage"].partition("/")[0] if stages else "base"
    part = use.parts.get(folder, Use())
    return {
        "batch": number,
        "batches": batches,
        "folder": folder,
        "facts": facts,
        "learned": learned,
        "done": all(stage["state"] in STANDS for stage in stages),
        "seconds": round(sum(stage["seconds"] or 0.0 for stage in stages), 3),
        "bytes": {"own": part.own, "apparent": part.apparent},
        "stages": list(stages),
    }


def reported(folder: Path, finished: Sequence[str | None], model: bool = True) -> bool:
    """Whether report and edited model were written after the stage that ended last."""
    last = folder / "model" / "config.json" if model else folder / PROVENANCE / "scores.json"
    marks = [folder / "scores.json", folder / "report.md", last]
    if not all(mark.is_file() for mark in marks):
        return False
    ended = [datetime.strptime(text, "%Y-%m-%dT%H:%M:%S%z").timestamp() for text in finished if text]
    return marks[0].stat().st_mtime >= max(ended, default=0.0)


# -- what goes on right now ---------------------------------------------------------------------


def at_work(folder: Path, stages: Sequence[Stage]) -> Now | None:
    """The job whose log was written to last, None where it has ended."""
    logs = {stage.job.file("log"): stage for stage in stages}
    times = {}
    for log in [*logs, *(folder / "setup").glob("*.log")]:
        with contextlib.suppress(FileNotFoundError):
            times[log] = log.stat().st_mtime_ns
    if not times:
        return None
    log = max(times, key=lambda file: times[file])
    job, result, events = (log.with_suffix(suffix) for suffix in (".job.json", ".result.json", ".events.jsonl"))
    if result.is_file():
        return None
    stage = logs.get(log)
    with contextlib.suppress(FileNotFoundError, ValueError):
        title = stage.job.title if stage else str(json.loads(job.read_bytes())["title"])
        return Now(stage.name if stage else None, title, job.stat().st_mtime, last_event(events))
    return None


def last_event(file: Path) -> Mapping[str, Any] | None:
    """The last event in words that a tool wrote, None where there is none yet."""
    if not file.is_file():
        return None
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - TAIL))
        lines = opened.read().split(b"\n")
    for line in reversed(lines[:-1]):  # what follows the last newline is half a line
        with contextlib.suppress(ValueError, KeyError, TypeError):
            event = json.loads(line)
            if isinstance(event, dict) and sentence(event):
                return event
    return None


def _now(now: Now) -> dict[str, Any]:
    return {
        "stage": now.stage,
        "title": now.title,
        "since": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(now.since)),
        "seconds": round(max(time.time() - now.since, 0.0), 1),
        "event": now.event,
        "says": sentence(now.event) if now.event else None,
    }


# -- the user's hand ----------------------------------------------------------------------------


def hand_edits(plan: Plan) -> dict[Path, str]:
    """Generated file -> how it differs from what was last generated."""
    found = {}
    for file in plan.files:
        kept = files.kept_file(file.path)
        if not kept.is_file() or not file.path.is_file():
            continue
        before, now = kept.read_bytes(), file.path.read_bytes()
        pending = kept.with_name(kept.name + files.NEXT)  # a writing that was cut off, which the next run ends
        if before != now and not (pending.is_file() and pending.read_bytes() == now):
            old, new = (text.decode("utf-8", errors="replace") for text in (before, now))
            found[file.path] = files.difference(old, new, file.path.name)
    return found
