"""Where a run came from, what that says by now, and the command that goes on."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kedit_glue import facts, job
from kedit_glue.facts import FactsError
from kedit_glue.problems import RecipeError
from kedit_glue.recipe import load_recipe, normalized
from kedit_glue.run import again
from kedit_glue.run_folder import OpenRun
from kedit_glue.study_grid import texts


def recipe_now(run: OpenRun) -> dict[str, Any]:
    """The recipe's file, its values after ``--set``, and what file and facts say otherwise than when the run was made.

    ``changed``: key -> value then and now; ``problem``: why they cannot be compared, None where they can.
    """
    file, values = Path(run.origin["recipe"]), list(run.origin["set"])
    found: dict[str, Any] = {"file": str(file), "set": values, "changed": {}, "facts_changed": False, "problem": None}
    if not file.is_file():
        return {**found, "problem": f"{file} is gone"}
    known = {name: frozenset(method.parameters) for name, method in job.merge_methods().items()}
    try:
        with contextlib.chdir(run.origin["cwd"]):  # its paths, and those after --set, may be relative
            recipe = load_recipe(file, values, known)
        found["facts_changed"] = facts_changed(run)
    except (RecipeError, FactsError, OSError) as error:
        return {**found, "problem": str(error)}
    then, now = (dict(_by_key(normalized(each))) for each in (run.recipe, recipe))
    keys = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    return {**found, "changed": {key: [then.get(key), now.get(key)] for key in keys}}


def _by_key(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """``train.epochs`` and its value, and so on; an empty mapping is a value."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _by_key(value, f"{before}{key}.")
        else:
            yield before + key, value


def facts_changed(run: OpenRun) -> bool:
    """Whether the recipe's file of facts holds others than it did; not read where it is older than the run."""
    edits = run.recipe.edits
    source, loaded = Path(edits.source), run.folder / "setup" / "loaded.json"
    if not loaded.is_file() or source.stat().st_mtime <= loaded.stat().st_mtime:
        return False
    now = facts.load(source, edits.format, edits.limit, edits.skip, edits.with_subject).edits
    found: bool = json.loads(json.dumps([asdict(edit) for edit in now])) != json.loads(loaded.read_bytes())
    return found


def command(run: OpenRun) -> str | None:
    """What goes on where the run stopped, to be typed in the current folder; None where the recipe is gone."""
    file, cwd = Path(run.origin["recipe"]), Path(run.origin["cwd"])
    if not file.is_file() or not cwd.is_dir():
        return None
    values = list(run.origin["set"])
    if (cwd / run.recipe.output).resolve() / run.recipe.name != run.folder:  # it was moved
        values = [value for value in values if value.partition("=")[0] not in ("output", "name")]
        values += texts({"output": str(run.folder.parent), "name": run.folder.name})
    shown = file.relative_to(cwd) if file.is_relative_to(cwd) else file
    there = "" if Path.cwd() == cwd else f"cd {shlex.quote(str(cwd))} && "
    return there + again("kedit_glue.run", shown, values)
