"""Whether a finished run's numbers are those that a recipe would give now: not every key is part of a number, and
where a file lies is part of none. In doubt they are not: the run then looks itself, and skips what stands."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kedit_glue import facts, job, methods, records, results, strict_yaml
from kedit_glue.ledger import digest
from kedit_glue.recipe import Recipe, normalized
from kedit_glue.recipe_paths import CORPORA, PATHS
from kedit_glue.recipe_schema import Edits
from kedit_glue.strict_yaml import KeyPath
from kedit_glue.tools.lm_eval import local_tasks

SOURCE = ("edits", "source")
FILES: tuple[KeyPath, ...] = tuple(path for path, _ in PATHS) + CORPORA
"""Keys that say where something lies."""
Content = Callable[[KeyPath, str, str], bool]
"""Whether a key's file now (the second path) holds what its file (the first) held for the run."""


def same_numbers(before: Mapping[str, Any], now: Recipe, same_content: Content) -> bool:
    """``before`` is the recipe that was run (``resolved.yaml``).

    A key that it lacks is one that did not exist then: it counts as its default. One that does not exist now, or whose
    default is another now, differs.
    """
    try:
        then = Recipe.model_validate({**before, "verdict": {}})
    except ValidationError:
        return False
    then = then.model_copy(update={"train": methods.training(then)})
    old, new = counted(then), counted(now)
    for path in FILES:
        one, other = at(old, path), at(new, path)
        if isinstance(one, str) and isinstance(other, str) and one != other and same_content(path, one, other):
            at(old, path[:-1])[path[-1]] = other
    return strict_yaml.dump(old) == strict_yaml.dump(new)


def counted(recipe: Recipe) -> dict[str, Any]:
    """Of the recipe what a number can depend on."""
    plain = normalized(recipe)
    for key in ("name", "output", "verdict"):
        del plain[key]
    plain["launch"].pop("ray")
    plain["methods"] = {key: plain["methods"][key] for key in (recipe.method, "easyedit") if key in plain["methods"]}
    if recipe.score.general.when == "never":
        plain["score"]["general"] = {"when": "never"}
    return plain


def at(plain: Mapping[str, Any], path: KeyPath) -> Any:
    """The value at a key, None where there is none."""
    found: Any = plain
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


# -- files that lie elsewhere -------------------------------------------------------------------


def content_of(folder: Path, scores: Path, now: Recipe) -> Content:
    """By the hashes that the run in ``folder``, with its ``scores.json``, recorded."""

    def same(path: KeyPath, one: str, other: str) -> bool:
        try:
            if path == SOURCE:
                hash_then: str = json.loads(scores.read_bytes())["facts_source"]["hash"]
                return hash_then == facts_hash(now.edits, now.train.rephrasings)
            found = digest(Path(other))
            return set(recorded(folder, Path(one).name)) == {found} and same_data(Path(one), Path(other))
        except (OSError, ValueError, LookupError, TypeError):
            return False

    return same


@cache
def facts_hash(edits: Edits, rephrasings: int) -> str:
    """As ``facts_source`` has it, of facts that the tokenizer changes nothing of. Raises FactsError."""
    loaded = facts.load(Path(edits.source), edits.format, edits.limit, edits.skip, edits.with_subject)
    found: str = results.source("", [job.dry_fact(asdict(edit), rephrasings) for edit in loaded.edits])["hash"]
    return found


def recorded(folder: Path, name: str) -> Iterator[str]:
    """Hashes of the file or folder of this name, in the records of the run's stages.

    Raises ValueError where one was made anew since the run ended: its hash says nothing of the run's numbers.
    """
    files = [file for file in folder.glob("*/*.record.json") if file.parent.name != "setup"]  # those are no stages'
    every = {each["stage"]: each for file in files if (each := records.read_record(file))}
    for record in every.values():
        for part, mark in record["parts"].items():
            before = every.get(part.removeprefix("stage "))
            if part.startswith("stage ") and before is not None and before["key"] != mark:
                raise ValueError(f"{part} was done again")
            if part == name:
                yield mark


def same_data(one: Path, other: Path) -> bool:
    """Whether the data outside of two folders of tasks, which their hashes leave out, are the same, as far as they are
    still there."""
    if not (one.is_dir() and other.is_dir()):
        return True
    return digest(one) == digest(other) and data_of(one) == data_of(other)


def data_of(folder: Path) -> dict[str, list[str]]:
    """Task -> hashes of its data files."""
    found = {}
    for name, task in local_tasks(str(folder)).items():
        files = (task.get("dataset_kwargs") or {}).get("data_files") or []
        found[name] = [digest(Path(file)) for file in texts(files) if Path(file).is_file()]
    return found


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from texts(inner)
