"""A run's own folder: nothing that the run reads lies in it, and nothing that is not the run's is deleted."""

from __future__ import annotations

from pathlib import Path

from kedit_glue.ledger import remove
from kedit_glue.locks import LOCK, STAGE_LOCK
from kedit_glue.problems import CannotStart, listed
from kedit_glue.recipe import Recipe

DOOMED = ".deleted"


def reads_from_outside(recipe: Recipe, folder: Path) -> None:
    """Raises CannotStart where the recipe reads what lies in its own run's folder, which the run writes and deletes."""
    general, train = recipe.score.general, recipe.train
    reads = {
        "model": recipe.model,
        "edits.source": recipe.edits.source,
        "templates": recipe.templates,
        "merge.file": recipe.merge.file,
        "score.general.include_path": general.include_path,
        "train.protect.corpus": train.protect.corpus,
    }
    for key, written in reads.items():
        if written and Path(written).is_absolute() and Path(written).resolve().is_relative_to(folder):
            raise CannotStart(
                f"{key} is {written}, in this run's own folder, which the run writes anew: give the run another name "
                "(name:), or copy that elsewhere first; nothing was started"
            )


def clear(folder: Path) -> None:
    """``--fresh``: forget the run, but not the lock that holds it. Raises CannotStart for what is no run's folder."""
    there = {entry.name for entry in folder.iterdir()}
    begun = "resolved.yaml" in there or any(name.endswith(DOOMED) for name in there)
    if not begun and (foreign := sorted(there - {LOCK, STAGE_LOCK, "log.txt", "events.jsonl", "setup"})):
        raise CannotStart(
            f"--fresh would delete what is in {folder}, and that is no run's folder ({listed(foreign, 5)}): set "
            "output: or name: to another; nothing was deleted"
        )
    for entry in folder.iterdir():
        if entry.name in (LOCK, STAGE_LOCK):
            continue
        # a kill in between must not leave a generated file whose last rendering is gone, as if edited by hand
        doomed = entry if entry.name.endswith(DOOMED) else entry.rename(entry.with_name(entry.name + DOOMED))
        remove(doomed)
