"""``python -m kedit_glue.restore RUN --batch N --to DIR``: the model that a batch left: an undo for edits."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kedit_glue import changed, environment, packed, records
from kedit_glue.atomic import PARTIAL
from kedit_glue.keeping import MODELS
from kedit_glue.ledger import made_otherwise
from kedit_glue.plan import Stage
from kedit_glue.problems import CannotStart
from kedit_glue.progress import Display, duration
from kedit_glue.run import command
from kedit_glue.run_folder import OpenRun, open_run

EXAMPLES = """examples:
  python -m kedit_glue.restore runs/x --batch 3 --to DIR       the model as it was after batch 3
  python -m kedit_glue.restore runs/x --batch last --to DIR    after the last batch that is done
  python -m kedit_glue.restore runs/x --batch 0 --to DIR       the original, without any edit

DIR becomes a model folder of its own with the bytes that the run made, each file checked by its hash; the run stays as
it is. To undo the edits of batch 4 and after it, restore batch 3 and go on from there (model: DIR in a recipe). The
models of all batches are there with keep: deltas (the default) and keep: all, with keep: last only the last one.

exit codes: 0 done, 1 the disk is full, 2 no such run or batch, or what was kept of it is damaged, 130 interrupted
"""
MADE_ANEW = "run the recipe again with --from and the batch's number: it makes the model anew"
BATCH = re.compile(r"(?:batch_)?(\d{1,9})")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m kedit_glue.restore",
        description="Bring back the model that a batch of a run left, bit for bit.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("run", type=Path, help="the run's folder, as in runs/x")
    made.add_argument(
        "--batch",
        type=batch,
        required=True,
        metavar="N",
        help="1, 2, … (or batch_001, …); last: the last one that is done; 0 (or original): the model before any edit",
    )
    made.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to write; must not exist")
    return made


def batch(text: str) -> int | None:
    """The number that ``--batch`` asks for: 0 for the original, None for the last."""
    if text in ("last", "original"):
        return None if text == "last" else 0
    if found := BATCH.fullmatch(text):
        return int(found[1])
    raise argparse.ArgumentTypeError(f"{text!r} is no batch: give a number, batch_001, last or original")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""

    def work(options: argparse.Namespace, display: Display) -> None:
        restore(options.run, options.batch, options.to, display)

    return command("restore", parser().parse_args, work, arguments)


# -- where a model is to be had -----------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """What a run kept of one batch's model."""

    folder: Path | None
    """The model, or what is packed of it; None: nothing was kept."""
    is_packed: bool = False
    output: records.Prints | None = None
    """What the run recorded of the model's files, the original's excepted."""
    lack: str = ""
    """In a few words why nothing is there."""


def find(stage: Stage, run: OpenRun) -> Source:
    """What is there of the model that a stage made."""
    record_file = run.ledger.record_file(stage)
    try:
        record = records.read_record(record_file)
    except ValueError:
        return Source(None, lack=f"its record {record_file.name} is damaged")
    if record is None:
        return Source(None, lack="not done yet")
    if record.get("packed"):
        folder = stage.output.with_name(record["packed"])
        return Source(folder, is_packed=True, output=record["output"])
    if record.get("released"):
        return Source(None, lack="not kept")
    if not stage.output.is_dir():
        return Source(None, lack=f"its folder {stage.output.name} is gone")
    return Source(stage.output, output=record["output"])


def sources(run: OpenRun) -> list[Source]:
    """By batch, the original first: each batch's last stage that makes a model."""
    last = {stage.batch: stage for stage in run.plan.stages if stage.job.function in MODELS}
    found = [find(last[number], run) for number in range(1, len(run.plan.batches) + 1)]
    return [Source(Path(run.model)), *found]


def overview(found: Sequence[Source]) -> str:
    """Which batches' models are there, and why the others are not."""
    by_lack: dict[str, list[int]] = {}
    for number, source in enumerate(found):
        by_lack.setdefault(source.lack, []).append(number)
    there = ranges(by_lack.pop("")[1:])
    said = [f"the models of {there} and 0 (the original) are there" if there else "only 0 (the original) is there"]
    return "; ".join([*said, *(f"{lack}: {ranges(numbers)}" for lack, numbers in by_lack.items())])


def ranges(numbers: Iterable[int]) -> str:
    """``1-3, 7`` for 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


# -- bringing it back ---------------------------------------------------------------------------


def restore(folder: Path, number: int | None, target: Path, display: Display) -> None:
    """Write the model after batch ``number`` (0: the original, None: the last that is done) to ``target``.

    Raises CannotStart where it is not to be had, or what was kept of it is not as it was written.
    """
    run = open_run(folder)
    if run.plan.final_model is None:
        raise CannotStart(
            f"{run.folder} edited each batch alone (edits.mode: independent): no batch's model was kept, and the "
            f"original is {run.model}; a batch as a recipe of its own (edits.mode: sequential) leaves its model"
        )
    target = target.expanduser().absolute()
    check_target(target, run)
    found = sources(run)
    if number is None:
        number = max((n for n, source in enumerate(found) if n and source.lack != "not done yet"), default=None)
    if number is None:
        raise CannotStart(f"no batch of {run.folder} is done yet: run the recipe (again) to go on")
    if number >= len(found):
        raise CannotStart(f"{run.folder} has no batch {number}, its last is {len(found) - 1}: {overview(found)}")
    title = f"batch {number} of {len(found) - 1}" if number else "the original model"
    source = found[number]
    if source.folder is None:
        raise CannotStart(f"{title}: {source.lack}\n  {overview(found)}{advice(source)}")
    started = time.monotonic()
    display.begin(f"{title}: restoring", None)
    try:
        count, size = write(source, run, target)
    except changed.ChangedError as error:
        raise CannotStart(f"{title}: {error}") from None
    except FileNotFoundError as error:
        raise CannotStart(
            f"{title}: {error.filename} went away while it was read; a run that goes on packs its models: start this "
            "command again"
        ) from None
    finally:
        display.end()
    took = duration(time.monotonic() - started)
    display.say(f"{target}\n{title}: {count} files, {environment.size(size)}, in {took}, from {told(source, run)}")
    if (target / "adapter_config.json").is_file():
        display.say(f"it is an adapter: load it on {run.model} with peft")
    else:
        display.say(f"to edit on from it: model: {target} in a recipe")
    if (back := max((n for n in range(number) if found[n].folder), default=None)) is not None:
        to = target.with_name(f"{run.folder.name}_batch_{back}")
        words = ["python", "-m", "kedit_glue.restore", str(run.folder), "--batch", str(back), "--to", str(to)]
        display.say(f"to undo {'this batch' if back == number - 1 else 'more'}, too: {shlex.join(words)}")


def check_target(target: Path, run: OpenRun) -> None:
    """Raises CannotStart for a folder that is there, or that lies where it would be taken for something else."""
    aside = target.with_name(target.name + PARTIAL)
    for path, what_to_do in ((target, ""), (aside, "delete it if a restore that was killed left it, or ")):
        if path.exists() or path.is_symlink():
            raise CannotStart(f"{path} is there already: {what_to_do}give --to a new folder")
    for owner in (run.folder, Path(run.model)):
        if target.resolve().is_relative_to(owner.resolve()):
            raise CannotStart(f"{target} lies in {owner}, which must stay as it is: give --to a folder elsewhere")


def advice(source: Source) -> str:
    if source.lack == "not done yet":
        return "\n  run the recipe (again) to go on"
    if source.lack == "not kept":
        return "\n  keep: deltas in the recipe keeps every batch's; --from N makes batch N and those after it again"
    return "\n  run the recipe again: it makes the model anew"


def told(source: Source, run: OpenRun) -> str:
    """Where the bytes came from, for the user."""
    if source.is_packed and source.folder:
        stored = environment.size(packed.bytes_of(source.folder))
        return f"{source.folder} ({stored}) and the original {run.model}"
    return f"{source.folder}"


def write(source: Source, run: OpenRun, target: Path) -> tuple[int, int]:
    """Returns how many files and bytes there are now in ``target``."""
    assert source.folder is not None, "looked at before"
    if source.is_packed:
        manifest = packed.read_manifest(source.folder)
        if wrong := made_otherwise(source.folder, source.output or {}):
            raise CannotStart(f"{source.folder}: {wrong}\n  {MADE_ANEW}")
        check_space(manifest.size, target)
        changed.rebuild(source.folder, Path(run.model), target)
        return len(manifest.files), manifest.size
    if source.output:
        names = {name: mark for name, (_, _, mark) in source.output.items()}
    else:
        names = {file.relative_to(source.folder).as_posix(): "" for file in packed.files_of(source.folder)}
    sizes = {name: (source.folder / name).stat().st_size for name in names}
    check_space(sum(sizes.values()), target)
    with changed.whole_folder(target) as aside:
        for name, mark in names.items():
            file = source.folder / name
            at = file.stat()
            found = changed.write_hashed(aside / name, changed.chunks_of(b"", [(file, 0, at.st_size)]))
            if mark and found != mark:
                raise CannotStart(f"{file} is not what the run made: changed from outside, or damaged\n  {MADE_ANEW}")
            os.utime(aside / name, ns=(at.st_mtime_ns, at.st_mtime_ns))
    return len(names), sum(sizes.values())


def check_space(size: int, target: Path) -> None:
    """Raises CannotStart where the disk has no room for so many bytes."""
    parent = next(folder for folder in target.parents if folder.is_dir())
    if (free := environment.disk_free(parent)) < size:
        raise CannotStart(
            f"{target} would take {environment.size(size)}, and {environment.size(free)} are free: make room, or give "
            "--to a folder on another disk"
        )


if __name__ == "__main__":
    sys.exit(main())
