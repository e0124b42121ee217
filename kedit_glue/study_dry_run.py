"""A study's cells as ``--dry-run`` lists them: settings, folders, and what those that are done say of the others."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from kedit_glue import facts, records
from kedit_glue.disk_use import disk_use
from kedit_glue.progress import Display, duration
from kedit_glue.recipe_schema import Edits
from kedit_glue.study_before import Documents
from kedit_glue.study_estimate import Expected, Measured, added, expected, measured
from kedit_glue.study_file import Loaded, Planned
from kedit_glue.study_grid import said
from kedit_glue.study_shared import RECORDS, kind_of, shared


def show_cells(
    loaded: Loaded, planned: Sequence[Planned], chosen: Sequence[Planned], done: Documents, display: Display
) -> None:
    """Each chosen cell, what it changes, its folder, and how long it will take."""
    finished = [each for each in planned if each.cell.name in done]
    left = [each for each in chosen if each.cell.name not in done]
    known = [of_folder(each, done) for each in finished]
    guesses = expected_of(left, known, {key for each in finished for key in shared(each.recipe).items()})
    count = f"{len(planned)} cells" if len(chosen) == len(planned) else f"{len(chosen)} of {len(planned)} cells"
    display.say(f"{loaded.study.name}: {count} of {loaded.recipe}, their recipes checked, nothing started")
    display.say(f"in every cell: {said(loaded.study.set)}")
    for number, each in enumerate(chosen, 1):
        marks = "  (baseline)" * (each.cell.group == loaded.baseline) + "  (done)" * (each.cell.name in done)
        display.say(f"{number:3}. {each.cell.name}{marks}")
        display.say(f"       sets:   {said(each.cell.settings)}")
        display.say(f"       writes: {each.folder}")
        if guess := guesses.get(each.cell.name):
            display.say(f"       takes:  about {duration(guess.seconds)}, {guess.size / 1e9:.1f} GB")
    if left:
        display.say(f"still to do: {said_of(left, guesses, len(known))}")


def said_of(left: Sequence[Planned], guesses: Mapping[str, Expected], known: int) -> str:
    """The cells that are left, and what those of them that can be told will take."""
    unknown = [each for each in left if each.cell.name not in guesses]
    if not guesses:
        return f"{len(left)} cells; run one (--only {unknown[0].cell.name}) to see what they take"
    total = added(guesses.values())
    free = shutil.disk_usage(existing(left[0].folder)).free
    which = f"{len(guesses)} of {len(left)} cells" if unknown else f"{len(left)} cells"
    text = (
        f"{which}: about {duration(total.seconds)} one after another and {total.size / 1e9:.1f} GB, by the {known} "
        f"that are done (time in proportion to their facts, disk to their batches); {free / 1e9:.0f} GB are free"
    )
    if unknown:
        text += (
            f"\n  nothing measured for the other {len(unknown)} (none like them is done, or their facts cannot be "
            f"read): run one (--only {unknown[0].cell.name})"
        )
    return text


def expected_of(left: Sequence[Planned], known: Sequence[Measured], made: set[tuple[str, str]]) -> dict[str, Expected]:
    """Each cell that can be told, run in this order; ``made``: shared work that is done."""
    found = {}
    for each in left:
        work = set(shared(each.recipe).items())
        count = fact_count(each.recipe.edits) if any(one.method == each.recipe.method for one in known) else None
        guess = expected(
            each.recipe.method, count, each.recipe.edits.batch_size, known, {kind for kind, _ in work & made}
        )
        made = made | work
        if guess is not None:
            found[each.cell.name] = guess
    return found


def of_folder(planned: Planned, done: Documents) -> Measured:
    """Of a cell that is done."""
    kinds = shared(planned.recipe)
    seconds: dict[str, float] = {}
    for file in (path for pattern in RECORDS for path in planned.folder.glob(pattern)):
        try:
            record = records.read_record(file)
        except ValueError:  # damaged
            continue
        if record is not None and (kind := kind_of(record["stage"])) in kinds:
            seconds[kind] = seconds.get(kind, 0.0) + record["seconds"]
    return measured(done[planned.cell.name], disk_use(planned.folder), seconds)


@cache
def fact_count(edits: Edits) -> int | None:
    """How many facts a run edits; None where they cannot be read."""
    try:
        found = facts.load(Path(edits.source), edits.format, edits.limit, edits.skip, edits.with_subject)
    except (facts.FactsError, OSError):
        return None
    return len(found.edits)


def existing(folder: Path) -> Path:
    """The nearest folder above that is there."""
    return next(one for one in (folder, *folder.parents) if one.is_dir())
