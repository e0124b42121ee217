"""A run's folder opened to be read: its recipe, plan and ledger, without a lock, a tool or a change on disk."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from kedit_glue import environment, files, job, strict_yaml
from kedit_glue.ledger import Ledger, without_place
from kedit_glue.locks import LOCK
from kedit_glue.plan import Plan
from kedit_glue.problems import CannotStart, RecipeError, listed
from kedit_glue.recipe import Recipe

T = TypeVar("T")
AGAIN = "run its recipe again (--check is enough), which writes it anew"


@dataclass(frozen=True)
class OpenRun:
    """What a run folder holds, as a run that goes on there would see it."""

    recipe: Recipe
    plan: Plan
    ledger: Ledger
    folder: Path
    """Absolute; where the run is now."""
    model: str
    """Folder of the original model."""
    device: str
    """``cpu`` or ``cuda:0``."""
    origin: Mapping[str, Any]
    """``setup/place.json``: ``recipe`` (its file), ``set`` (values after ``--set``), ``cwd`` they were given in,
    ``folder`` that the files were last written for."""


class ReadLedger(Ledger):
    """A ledger that sees the files of a run as they will be when the next run has written what it writes first.

    Data files are what the plan says, whatever a dry run left there; a generated file that was deleted is as it was
    generated; and in a folder that was moved the files still name the one that the run was made in.
    """

    def __init__(self, folder: Path, made_in: Path, plan: Plan):
        super().__init__(environment.versions(), folder)
        self.places = sorted({f"{place}/" for place in (folder, made_in)}, key=len, reverse=True)
        self.data = plan.data

    def _digest(self, path: Path) -> str:
        kept = files.kept_file(path)
        if path in self.data:
            text = files.data_text(self.data[path]).encode()
        elif (found := path if path.exists() else kept if kept.exists() else None) is None:
            return "gone"
        elif self.folder is None or not path.is_relative_to(self.folder) or not found.is_file():
            return super()._digest(found)
        else:
            text = found.read_bytes()
        for place in self.places:
            text = without_place(text, place)
        return hashlib.sha256(text).hexdigest()[:16]


def open_run(folder: Path) -> OpenRun:
    """Read a run's folder, where it is now; raises CannotStart where it holds no run, or none that can be read."""
    folder = Path(os.path.abspath(folder))
    folder = folder.parent.resolve() / folder.name  # as job.run names it
    recipe = _recipe(folder)
    facts = _json(folder / "facts.json", list)
    if facts is None:
        raise CannotStart(_no_facts(folder, "only its recipe was checked"))
    origin = _json(folder / "setup" / "place.json", dict)
    if origin is None or not {"folder", "model", "device", "recipe", "set", "cwd"} <= origin.keys():
        raise CannotStart(f"{folder} does not say which model it began with (setup/place.json): {AGAIN}")
    model, device = str(origin["model"]), str(origin["device"])
    if not Path(model).is_dir():
        raise CannotStart(f"{folder} began with the model {model}, which is not there: put it back")
    known = job.merge_methods()
    if recipe.merge.method not in known:
        raise CannotStart(f"{folder}: the installed mergekit has no method {recipe.merge.method}: uv sync")
    try:
        where = job.place(recipe, folder, model, known[recipe.merge.method], device)
    except RecipeError as error:  # merge.file
        raise CannotStart(f"{folder} needs a file that cannot be used: {error.problems[0]}") from None
    plan = job.planned(recipe, facts, where)
    ledger = ReadLedger(folder, Path(origin["folder"]), plan)
    return OpenRun(recipe, plan, ledger, folder, model, device, origin)


def _recipe(folder: Path) -> Recipe:
    """``resolved.yaml``, whose paths are absolute. What they name may be gone by now: that is not looked at here."""
    file = folder / "resolved.yaml"
    if not folder.is_dir():
        raise CannotStart(f"{folder}: no such folder{_runs_in(folder.parent)}")
    if not file.is_file():
        if not (inside := _runs_in(folder)) and any((folder / name).exists() for name in (LOCK, "setup")):
            raise CannotStart(_no_facts(folder, "its recipe, facts or model could not be used"))
        raise CannotStart(f"{folder} is not a run's folder: it holds no resolved.yaml{inside}")
    try:
        return Recipe.model_validate(strict_yaml.load(file)[0])
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except RecipeError as error:
        what = str(error)
    raise CannotStart(f"{file} was written by another version of kedit_glue, or damaged ({what}): {AGAIN}")


def _no_facts(folder: Path, why: str) -> str:
    if process := holder(folder):
        return f"{folder} has not got to its facts yet: process {process} works on it; look again in a minute"
    return f"{folder} never got to its facts: {why}; run it first"


def _runs_in(folder: Path) -> str:
    """What to say of the runs that lie in a folder: the wrong one was given, or its name misspelt."""
    found = sorted(path.parent.name for path in folder.glob("*/resolved.yaml"))
    return f"; runs in {folder}: {listed(found, 8)}" if found else ""


def _json(file: Path, kind: type[T]) -> T | None:
    """None where the file is not there; raises CannotStart where it is no JSON of that kind."""
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_bytes())
    except ValueError as error:
        raise CannotStart(f"{file} is damaged ({error}): {AGAIN}") from None
    if not isinstance(found, kind):
        raise CannotStart(f"{file} is damaged (no {kind.__name__}): {AGAIN}")
    return found


def holder(folder: Path) -> str | None:
    """The number of the process that holds the folder right now, ``?`` where it does not say; None where none does.

    A shared lock is tried for an instant and given back: see ``locks.held``.
    """
    try:
        lock = (folder / LOCK).open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return lock.read().strip() or "?"
        fcntl.flock(lock, fcntl.LOCK_UN)
    return None
