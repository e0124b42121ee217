"""Does a plan's stages one after another, keeps the ledger, tells the display."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from kedit_glue.atomic import link_or_copy, new_folder
from kedit_glue.ledger import Ledger, Todo
from kedit_glue.plan import Plan, Stage
from kedit_glue.progress import Display, Estimate, duration
from kedit_glue.runner import Job, Runner


def execute(plan: Plan, ledger: Ledger, runner: Runner, display: Display, keep: str) -> int:
    """Run what has to be run and was not done in a run beside it; returns how many stages ran.

    Raises StageFailed at the first failure.
    """
    todo = ledger.todo(plan.stages)
    announce(todo, display)
    estimate = Estimate()
    for item in todo:
        if item.reason is None and (record := ledger.record(item.stage)):
            estimate.done(item.stage.job.function, item.stage.size, record["seconds"])
    pending = [t.stage for t in todo if t.reason is not None]
    ran = 0
    for position, stage in enumerate(pending):
        if taken := ledger.adopt(stage):
            display.say(f"{stage.job.title}: taken from {taken}")
        else:
            left = estimate.left([(s.job.function, s.size) for s in pending[position:]])
            run_shown(stage, ledger, runner, display, left)
            ran += 1
        if record := ledger.record(stage):
            estimate.done(stage.job.function, stage.size, record["seconds"])
        if keep == "last":
            release_unread(stage, plan, ledger)
    return ran


def announce(todo: Sequence[Todo], display: Display) -> None:
    """Say what will run and why, and what stands."""
    kept = [t for t in todo if t.reason is None]
    again = [t for t in todo if t.reason not in (None, "not done yet")]
    if kept:
        display.say(f"{len(kept)} of {len(todo)} stages are done and stand")
    for item in again[:8]:
        display.say(f"again: {item.stage.name}: {item.reason}")
    if len(again) > 8:
        display.say(f"again: {len(again) - 8} more stages")


def run_shown(stage: Stage, ledger: Ledger, runner: Runner, display: Display, left: float | None) -> None:
    """``run_stage`` with its beginning, its progress and its end on the screen."""
    display.begin(stage.job.title, left)
    try:
        result, seconds = run_stage(stage, ledger, runner, display)
    except BaseException:
        display.end()
        raise
    display.end(f"done in {duration(seconds)}{outcome(stage, result)}")


def run_stage(stage: Stage, ledger: Ledger, runner: Runner, display: Display) -> tuple[dict[str, object], float]:
    """One stage: clear, run, check the output, rename, record. Returns its result and its seconds."""
    started = time.monotonic()
    ledger.begin(stage)
    stage.output.parent.mkdir(parents=True, exist_ok=True)
    result = runner.run(stage.job, display.event)
    if not has_content(stage.working):
        raise output_missing(stage.job, f"nothing to {stage.working}")
    if missing := [path for path in stage.beside if not path.is_file()]:
        raise output_missing(stage.job, f"no {missing[0]}")
    ledger.finish(stage, result, time.monotonic() - started)
    return result, time.monotonic() - started


class OutputMissing(RuntimeError):
    """A tool said it was done and its output is not there."""


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


def outcome(stage: Stage, result: dict[str, object]) -> str:
    """What a stage's result says in a few words."""
    if stage.job.function == "train":
        text = f", {result['learned']} of {result['facts']} facts learned in {result['optimizer_steps']} steps"
        not_learned = result.get("not_learned")
        if isinstance(not_learned, list) and not_learned:
            text += f"; not learned: {', '.join(map(str, not_learned[:5]))}"
            text += f" and {len(not_learned) - 5} more" if len(not_learned) > 5 else ""
        return text
    if stage.job.function == "merge":
        tuned, merged = result["task_vector_norm_tuned"], result["task_vector_norm_merged"]
        return f", change's norm {tuned:.2f} -> {merged:.2f}, {result['density']:.0%} of the numbers differ"
    return ""


MODELS = ("train", "merge", "project")
"""Functions whose output is a model."""


def release_unread(done: Stage, plan: Plan, ledger: Ledger) -> None:
    """``keep: last``: delete models that no stage still to come reads."""
    position = [s.name for s in plan.stages].index(done.name)
    to_come = {name for s in plan.stages[position + 1 :] for name in s.after}
    for stage in plan.stages[: position + 1]:
        if stage.job.function in MODELS and stage.name not in to_come and stage.output != plan.final_model:
            ledger.release(stage)


def export(model: Path, target: Path, card: str, extras: Sequence[Path]) -> None:
    """The edited model as a folder of its own with its card and provenance; weights are hard links where possible."""
    with new_folder(target) as aside:
        for file in model.iterdir():
            if file.is_file():
                link_or_copy(file, aside / file.name)
        (aside / "README.md").write_text(card, encoding="utf-8")
        provenance = aside / "provenance"
        provenance.mkdir()
        for extra in extras:
            shutil.copy(extra, provenance / extra.name)
