"""Does a plan's stages one after another, keeps the ledger, tells the display."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import shlex
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kedit_glue import environment
from kedit_glue.after_merge import shares_left
from kedit_glue.atomic import link_or_copy, new_folder
from kedit_glue.keeping import Keeper
from kedit_glue.ledger import NEW, Ledger, Todo
from kedit_glue.methods import MEMORY
from kedit_glue.packed import ChangedError, files_of
from kedit_glue.plan import Plan, Stage
from kedit_glue.problems import listed
from kedit_glue.progress import Display
from kedit_glue.runner import Job, Runner, StageFailed
from kedit_glue.standing import Estimate, Standing, duration

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
FULL = 10**6
"""With fewer bytes free, a stage that failed is taken to have failed of that: its log could not say so any more."""
PROVENANCE = "provenance"
SPARE = 20 * 10**6
"""Bytes that logs and records may take while a stage runs."""


def execute(
    plan: Plan, ledger: Ledger, runner: Runner, display: Display, keeper: Keeper, again: Mapping[str, str]
) -> int:
    """Run what has to be run and was not done in a run beside it; returns how many stages ran.

    ``again``: stages to run in any case, and why. Raises StageFailed or NoRoom at the first failure.
    """
    ran: list[str] = []
    told: set[tuple[str, str | None]] = set()
    """Said of which stage why it runs, or (None) that it stands: not said again after a stage was done anew."""
    while True:
        forced = {name: why for name, why in again.items() if name not in ran}
        todo = ledger.todo(plan.stages, forced, plan.final_model)
        pending = [t.stage for t in todo if t.reason is not None]
        announce([t for t in todo if (t.stage.name, t.reason) not in told], display)
        told |= {(t.stage.name, reason) for t in todo for reason in {None, t.reason}}
        keeper.begin({s.name for s in pending})
        restore_needed(pending, plan, ledger, display, keeper.original)
        done, whole = _run(plan, todo, forced, ledger, runner, display, keeper)
        ran += done
        if whole:
            return len(ran)


def _run(
    plan: Plan, todo: Sequence[Todo], forced: Collection[str], ledger: Ledger, runner: Runner, display: Display,
    keeper: Keeper,
) -> tuple[list[str], bool]:  # fmt: skip
    """Run the stages that have a reason; False: look again, for a stage was done anew that others stand on.

    ``forced``: stages that are done here whatever lies beside.
    """
    pending = {t.stage.name for t in todo if t.reason is not None}
    stands_on = {name for t in todo if t.reason is None for name in t.stage.after} & pending
    estimate, learned = Estimate(), 0
    counts = any(t.stage.job.function == "train" for t in todo)
    for item in todo:
        if item.reason is not None:
            estimate.expect(item.stage.pace, item.stage.size)
        else:
            estimate.done(item.stage.pace, item.stage.size, item.seconds)
            learned += item.learned
    ran: list[str] = []
    facts = sum(map(len, plan.batches))
    for number, (stage, reason) in enumerate(((t.stage, t.reason) for t in todo), 1):
        if reason is None:
            continue
        with disk_full(stage, stage.room + SPARE):
            if taken := None if stage.name in forced else ledger.adopt(stage):
                display.say(f"{stage.job.title}: taken from {taken}")
                display.tell("stage_adopted", stage=stage.name, taken_from=taken)
            else:
                free = environment.disk_free(stage.output.parent)
                known = learned if counts else None
                standing = Standing(
                    stage.name, number, len(todo), stage.batch, len(plan.batches), known, facts, estimate.left(), free
                )
                run_shown(stage, ledger, runner, display, standing)
                ran.append(stage.name)
            if stage.name in stands_on:
                return ran, False  # before anything is let go of: what stands may have to follow
            record = ledger.record(stage)
            assert record is not None, f"{stage.name} was just recorded"
            estimate.done(stage.pace, stage.size, record["seconds"], expected=True)
            learned += record["result"].get("learned") or 0
            keeper.done(stage)
    return ran, True


def announce(todo: Sequence[Todo], display: Display) -> None:
    """Say what will run and why, and what stands."""
    kept = [t for t in todo if t.reason is None]
    again = [t for t in todo if t.reason not in (None, NEW)]
    if kept:
        display.say(f"{len(kept)} of {len(todo)} stages are done and stand{named(kept) if again else ''}")
    for item in again[:8]:
        display.say(f"again: {item.stage.name}: {item.reason}")
    if len(again) > 8:
        display.say(f"again: {len(again) - 8} more stages{named(again[8:])}")
    if new := [t for t in todo if t.reason == NEW]:
        display.say(f"{len(new)} of {len(todo)} stages are still to be done{named(new) if kept else ''}")


def named(items: Sequence[Todo], most: int = 6) -> str:
    names = [t.stage.name for t in items]
    return f" ({', '.join(names[:most])}{' …' if len(names) > most else ''})"


def restore_needed(pending: Sequence[Stage], plan: Plan, ledger: Ledger, display: Display, original: Path) -> None:
    """Bring back whole the models that stages to come read and of which only the changes were kept."""
    names = {s.name for s in pending}
    wanted = {name for s in pending for name in s.after} - names
    looked_at = {name for s in pending for name in s.looks_at} - names - wanted
    for stage in plan.stages:
        final = stage.output == plan.final_model and stage.name not in names
        if final or stage.name in wanted or stage.name in looked_at:
            try:
                restore(stage, ledger, display, original)
            except ChangedError as error:
                if stage.name not in looked_at:
                    raise
                display.say(f"{stage.name} cannot be brought back, later batches are not compared with it: {error}")


def restore(stage: Stage, ledger: Ledger, display: Display, original: Path) -> None:
    record = ledger.record(stage)
    if record is None or not record.get("packed"):
        return
    needed = sum(size for size, _, _ in record["output"].values())
    if environment.disk_free(stage.output.parent) < needed:
        raise NoRoom(f"{stage.name} cannot be brought back whole\n  {room(stage, needed)}")
    with disk_full(stage, needed):
        ledger.restore(stage, original)
    display.say(f"brought back {stage.name} from its changed tensors")


def run_shown(stage: Stage, ledger: Ledger, runner: Runner, display: Display, standing: Standing) -> None:
    """``run_stage`` with its beginning, its progress and its end on the screen."""
    display.begin(stage.job.title, standing.left, standing)
    try:
        result, seconds = run_stage(stage, ledger, runner, display)
    except BaseException:
        display.end()
        raise
    display.end(f"done in {duration(seconds)}{outcome(stage, result)}")
    display.tell("stage_finished", stage=stage.name, seconds=round(seconds, 3), result=result)


def run_stage(stage: Stage, ledger: Ledger, runner: Runner, display: Display) -> tuple[dict[str, object], float]:
    """One stage: clear, run, check the output, rename, record. Returns its result and its seconds."""
    started = time.monotonic()
    if kept := ledger.begin(stage):
        display.say(f"{stage.output} was edited by hand and is made anew; yours is kept in {kept.name}")
    stage.output.parent.mkdir(parents=True, exist_ok=True)
    check_room(stage)
    try:
        result = runner.run(stage.job, display.event)
    except StageFailed as error:
        display.tell("stage_failed", stage=stage.name, error=str(error))
        if error.disk_full or environment.disk_free(stage.output.parent) < FULL:
            raise NoRoom(f"{error}\n  {room(stage, stage.room + SPARE)}") from error
        raise
    if not has_content(stage.working):
        raise output_missing(stage.job, f"nothing to {stage.working}")
    if missing := [path for path in stage.beside if not path.is_file()]:
        raise output_missing(stage.job, f"no {missing[0]}")
    ledger.finish(stage, result, time.monotonic() - started)
    return result, time.monotonic() - started


class OutputMissing(RuntimeError):
    """A tool said it was done and its output is not there."""


class NoRoom(RuntimeError):
    """The disk is full, or would be: the message says of which stage, what is needed and what is free."""


def check_room(stage: Stage) -> None:
    """Raises NoRoom before a stage begins that has no room for what it is going to write."""
    if environment.disk_free(stage.output.parent) < stage.room:
        needed = room(stage, stage.room + SPARE)
        raise NoRoom(f"{stage.job.title}: not begun, there is no space for it on the disk\n  {needed}")


@contextlib.contextmanager
def disk_full(stage: Stage, needed: int) -> Iterator[None]:
    """Raises NoRoom where our own writing of what belongs to a stage finds no space: records, changed tensors."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        where = f" ({error.filename})" if error.filename else ""
        raise NoRoom(f"{stage.job.title}: no space left on the disk{where}\n  {room(stage, needed)}") from error


def room(stage: Stage, needed: int) -> str:
    """``needed``: bytes."""
    free = environment.disk_free(stage.output.parent)
    return (
        f"it writes about {environment.size(needed)} to {stage.output.parent}, "
        f"and {environment.size(free)} are free: make room"
    )


def output_missing(job: Job, wrote: str) -> OutputMissing:
    """``wrote`` says what the tool did instead: ``nothing to …``, ``no …``."""
    return OutputMissing(
        f"{job.title}: the tool ended without an error but wrote {wrote}\n"
        f"  log: {job.file('log')}\n  what to do: {job.advice}"
    )


def has_content(path: Path) -> bool:
    """A file with bytes in it, or a folder of a model or an adapter with weights and configuration."""
    if path.is_file():
        return path.stat().st_size > 0
    configured = any((path / name).is_file() for name in ("config.json", "adapter_config.json"))
    return configured and any(f.stat().st_size for f in path.glob("*.safetensors"))


def show_plan(plan: Plan, runner: Runner, display: Display) -> None:
    """``--dry-run``: each stage, its command, its files."""
    display.say(f"{len(plan.stages)} stages, nothing started; every YAML is written and yours to read or edit.")
    display.say("A run first unpacks or downloads the model where it has to, and asks its tokenizer about the facts:")
    display.say("only then do the targets in edits.json end with the model's end-of-sequence text.")
    for number, stage in enumerate(plan.stages, 1):
        runner.write_job(stage.job)
        display.say(f"{number:3}. {stage.job.title}")
        display.say(f"       command: {shlex.join(runner.command(stage.job))}")
        if stage.stock_command:
            display.say(f"       by hand: {stage.stock_command}")
        for path in stage.reads:
            display.say(f"       reads:   {path}")
        display.say(f"       writes:  {stage.output}")


def outcome(stage: Stage, result: Mapping[str, Any]) -> str:
    """What a stage's result says in a few words."""
    if stage.job.function == "train":
        facts = f"{result['learned']} of {result['facts']} facts learned"
        if result["learned"] is None:
            facts = f"{result['facts']} facts trained"
        text = f", {facts} in {result['optimizer_steps']} steps"
        again = result.get("rehearsed")
        if again and again["shown"]:
            text += f", {again['taught']} of {again['shown']} earlier ones taught again"
        if result.get("not_learned"):
            text += f"; not learned: {listed(result['not_learned'], 5)}"
        return text
    if stage.job.function == "edit":
        took = result["seconds_editing"] / max(stage.size, 1)
        return f", change's norm {result['task_vector_norm']:.2f}, {took:.1f} s a fact without loading and saving"
    if stage.job.function == "search":
        best, first = result["best"], result["first"]
        began = f" (the first: {first['fitness']:.3f})" if first["fitness"] is not None else ""
        failed = f", {result['failed']} failed" if result["failed"] else ""
        return f", candidate {best['number']} of {result['evaluations']} is best: {best['fitness']:.3f}{began}{failed}"
    if stage.job.function == "independent":
        took = sum(one["seconds"] + one["seconds_scoring"] for one in result["batches"]) / max(stage.size, 1)
        learned = f", {result['learned']} of {result['facts']} facts learned" if "learned" in result else ""
        return f"{learned}, {took:.1f} s a fact with its scores"
    if stage.job.function == "merge":
        tuned, merged = result["task_vector_norm_tuned"], result["task_vector_norm_merged"]
        return f", change's norm {tuned:.2f} -> {merged:.2f}, {result['density']:.0%} of the numbers differ"
    if stage.job.function == "regmean":
        of_facts, of_text = shares_left(result)
        norm = f"change's norm {result['change_before']:.2f} -> {result['change_after']:.2f}"
        return f", {norm}; of the merge's change the facts meet {of_facts:.0%}, general text {of_text:.0%}"
    return ""


def again_from(plan: Plan, patterns: Sequence[str], batch: int | None) -> dict[str, str]:
    """Stages to run in any case, and why: those that ``--force`` or ``--from`` name, and all that follow from them.

    A pattern is a stage's name, or its kind (``merge``), or has wildcards (``batch_00*/train``). Raises ValueError
    for one that names no stage.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        matching = [s.name for s in plan.stages if fits(s.name, pattern)]
        if not matching:
            kinds = ", ".join(dict.fromkeys(s.name.rpartition("/")[2] for s in plan.stages))
            raise ValueError(
                f"--force {pattern}: no stage is called so; stages are {plan.stages[0].name}, …, "
                f"{plan.stages[-1].name}; a kind ({kinds}) names all of its stages"
            )
        found |= dict.fromkeys(matching, f"--force {pattern}")
    if batch is not None:
        if not 1 <= batch <= len(plan.batches):
            raise ValueError(f"--from {batch}: there are batches 1 to {len(plan.batches)}")
        found |= {s.name: f"--from {batch}" for s in plan.stages if s.batch is not None and s.batch >= batch}
    for stage in plan.stages:
        if stage.name not in found and (first := next((n for n in stage.after if n in found), None)):
            found[stage.name] = f"an earlier stage is done again ({first})"
    return found


def fits(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or name.rpartition("/")[2] == pattern


def export(model: Path | None, folder: Path, card: str, extras: Sequence[Path]) -> None:
    """``folder/model``, the edited model with its card and provenance; weights are hard links where possible.

    Where there is no model, ``folder/provenance``.
    """
    if model is None:
        keep_provenance(folder / PROVENANCE, extras)
        return
    with new_folder(folder / "model") as aside:
        for file in [*(f for f in model.iterdir() if f.is_file()), *files_of(model / MEMORY)]:
            to = aside / file.relative_to(model)
            to.parent.mkdir(exist_ok=True, parents=True)
            link_or_copy(file, to)
        (aside / "README.md").write_text(card, encoding="utf-8")
        keep_provenance(aside / PROVENANCE, extras)


def keep_provenance(target: Path, extras: Sequence[Path]) -> None:
    """Copies of the files that say how something was made; whole or not there."""
    with new_folder(target) as aside:
        for extra in extras:
            shutil.copy(extra, aside / extra.name)
