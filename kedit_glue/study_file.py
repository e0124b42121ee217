"""The study file and its cells: what is run, checked before anything starts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from kedit_glue import metrics, strict_yaml
from kedit_glue.atomic import PARTIAL
from kedit_glue.problems import SET_PREFIX, UNKNOWN_KEY, Problem, RecipeError, did_you_mean
from kedit_glue.recipe import Recipe, load_recipe
from kedit_glue.recipe_errors import Draft
from kedit_glue.recipe_keys import Section
from kedit_glue.recipe_schema import NAME, NAMES
from kedit_glue.recipe_values import ValueProblem, collect
from kedit_glue.strict_yaml import KeyPath, Positions
from kedit_glue.study_grid import Axis, Cell, alternatives, grid, keys_of, points, texts, with_seeds

SETTINGS = "a mapping of a recipe's keys, such as {train.epochs: 5}"
AXES = (
    "a mapping of a recipe's keys to lists of values, such as {train.epochs: [5, 30]}, or of names to settings with "
    "names, such as {data: {mine: {edits.source: my.csv}}}"
)
WITHOUT = "a list of combinations that are left out, such as {train.epochs: [30, 60], seed: 1}"
SEEDS = "a list of whole numbers, each once"
COLLECT = "a list of metrics' names (docs/scores.md), such as paraphrase.likelihood.score"
OWN_FILES = ("log.txt", "report.html", "study.json", "study.md", "study.svg")
"""In the study's folder, beside the cells' folders."""
CELLS = "a list of cells, such as {name: short, set: {train.epochs: 5}}"


# -- the study file -----------------------------------------------------------------------------


def _check_key(key: str, at: KeyPath, owned: Sequence[str] = ("name", "output")) -> None:
    if key in owned:
        raise ValueProblem(at, "the study sets this key itself")


def _check_mapping(value: Any) -> None:
    if not isinstance(value, dict):
        raise ValueProblem()


def check_set(value: Any) -> Any:
    collect(_check_mapping, [(value,)])
    collect(_check_key, ((key, (key,), ("name",)) for key in value))
    return value


def check_axes(value: Any) -> Any:
    collect(_check_mapping, [(value,)])
    collect(_check_axis, value.items())
    return value


def _check_axis(key: str, values: Any) -> None:
    for one in keys_of(key):
        _check_key(one, (key,))
    if not isinstance(values, list | dict) or not values:
        raise ValueProblem((key,))
    if isinstance(values, dict):
        collect(_check_point, ((key, name, settings) for name, settings in values.items()))
        return
    for at, value in enumerate(values):
        if value in values[:at]:
            raise ValueProblem((key, at), "the value is there twice", "each value once")


def _check_point(key: str, name: Any, settings: Any) -> None:
    """A named value of an axis."""
    if not re.fullmatch(NAME, str(name)):
        raise ValueProblem((key, name), allowed=NAMES)
    if not isinstance(settings, dict):
        raise ValueProblem((key, name), allowed=SETTINGS)
    for one in settings:
        _check_key(one, (key, name, one))


def check_without(value: Any) -> Any:
    if isinstance(value, list):
        collect(_check_entry, enumerate(value))
    return value


def _check_entry(at: int, entry: Any) -> None:
    if not isinstance(entry, dict) or not entry:
        raise ValueProblem((at,))


def check_seeds(value: Any) -> Any:
    if isinstance(value, list):
        collect(_check_seed, ((at, value) for at in range(len(value))))
    return value


def _check_seed(at: int, seeds: Sequence[Any]) -> None:
    if isinstance(seeds[at], bool) or not isinstance(seeds[at], int):
        raise ValueProblem((at,))
    if seeds[at] in seeds[:at]:
        raise ValueProblem((at,), "the seed is there twice", "each seed once")


def check_collect(value: Any) -> Any:
    if isinstance(value, list):
        collect(_check_metric, enumerate(value))
    return value


def _check_metric(at: int, name: Any) -> None:
    if name not in metrics.METRICS:
        hint = did_you_mean(str(name), metrics.METRICS)
        raise ValueProblem((at,), f"there is no metric {name}", "a name of docs/scores.md", hint)


def check_cells(value: Any) -> Any:
    if isinstance(value, list):
        collect(_check_cell, enumerate(value))
    return value


def _check_cell(at: int, cell: Any) -> None:
    keys = ("name", "set")
    if not isinstance(cell, dict):
        raise ValueProblem((at,))
    for key in cell:
        if key not in keys:
            raise ValueProblem((at, key), UNKNOWN_KEY, ", ".join(keys), did_you_mean(key, keys))
    if "name" not in cell:
        raise ValueProblem((at,), "name is missing")
    if not isinstance(cell["name"], str) or not re.fullmatch(NAME, cell["name"]):
        raise ValueProblem((at, "name"), allowed=NAMES)
    if not isinstance(cell.get("set", {}), dict):
        raise ValueProblem((at, "set"), allowed=SETTINGS)
    for key in cell.get("set", {}):
        _check_key(key, (at, "set", key))


def _key(default: Any, allowed: str, **rules: Any) -> Any:
    return Field(default, json_schema_extra={"allowed": allowed}, **rules)


class Named(Section):
    """A cell with a name of its own."""

    name: str
    set: dict[str, Any] = Field(default_factory=dict)


class Study(Section):
    """The keys of a study file; ``study.EXAMPLES`` shows them."""

    name: str = _key(..., NAMES, strict=True, pattern=f"^{NAME}$")
    recipe: str = _key(..., "a file that exists, relative to the study's folder or the current one", strict=True)
    set: Annotated[dict[str, Any], BeforeValidator(check_set)] = _key({}, SETTINGS)
    axes: Annotated[dict[str, Axis], BeforeValidator(check_axes)] = _key({}, AXES)
    without: Annotated[tuple[dict[str, Any], ...], BeforeValidator(check_without)] = _key((), WITHOUT)
    seeds: Annotated[tuple[int, ...], BeforeValidator(check_seeds)] = _key((), SEEDS)
    collect: Annotated[tuple[str, ...], BeforeValidator(check_collect)] = _key((), COLLECT)
    cells: Annotated[tuple[Named, ...], BeforeValidator(check_cells)] = _key((), CELLS)
    baseline: str | None = _key(None, "a cell's name, or null for the first cell", strict=True)


def cells_of(study: Study) -> list[Cell]:
    """The grid's cells, then those with names of their own; seeds are not in them yet."""
    named = [
        Cell(cell.name, cell.set, {key: ("cells", at, "set", key) for key in cell.set})
        for at, cell in enumerate(study.cells)
    ]
    return [*grid(study.axes, study.without), *named]


@dataclass(frozen=True)
class Loaded:
    """A study file that can be used."""

    file: Path
    study: Study
    recipe: Path
    cells: Sequence[Cell]
    positions: Positions

    @property
    def baseline(self) -> str:
        """Name of the cell, without its seed, that the others are compared with."""
        return self.study.baseline or self.cells[0].group


CHOICES = ("set", "axes", "without", "seeds", "cells")
"""Keys that say what the cells are."""


def load_study(path: Path) -> Loaded:
    """Read and check a study file; RecipeError lists everything that is wrong with it."""
    loaded, problems = _read(path)
    if loaded is None or problems:
        raise RecipeError(problems, str(path))
    return loaded


def load_cells(path: Path, values: Sequence[str], known: Mapping[str, frozenset[str]]) -> tuple[Loaded, list[Planned]]:
    """``load_study`` and ``plan_cells``; RecipeError lists what is wrong with either.

    What ``values`` change is then among what the study sets, but for where it writes.
    """
    loaded, problems = _read(path)
    try:
        planned = plan_cells(loaded, values, known) if loaded else []
    except RecipeError as error:
        if not problems:
            raise
        problems = [*problems, *error.problems]
    if loaded is None or problems:
        raise RecipeError(problems, str(path))
    given = {_key_of(value): strict_yaml.parse_value(value.partition("=")[2], SET_PREFIX) for value in values}
    given.pop("output", None)
    study = loaded.study.model_copy(update={"set": {**loaded.study.set, **given}})
    return replace(loaded, study=study), planned


def _read(path: Path) -> tuple[Loaded | None, list[Problem]]:
    """A study file's cells, where it is sound enough to tell them, and everything that is wrong with it."""
    data, positions = strict_yaml.load(path)
    draft = Draft(str(path), data, dict(positions), Study)
    try:
        study = Study.model_validate(data)
    except ValidationError as error:
        draft.add_pydantic(error)
        # what is sound is checked further, beside stand-ins for what is not
        sound = {key: value for key, value in data.items() if draft.sound((key,))}
        study = Study.model_validate({"name": "study", "recipe": "recipe", **sound})

    def told(*keys: str) -> bool:
        """Whether nothing is wrong with these keys, and no misspelt one may be one of them."""
        return data.keys() <= Study.model_fields.keys() and draft.sound(*((key,) for key in keys))

    for place, found, allowed, hint in _misses(study) if told("axes") else ():
        draft.add(place, found, allowed, hint, at_value=True)
    cells = cells_of(study if told("without") else study.model_copy(update={"without": ()}))
    if told("axes", "cells"):
        _check_names(study, cells, draft)
    if not cells and told("axes", "cells", "without"):
        if study.axes:
            draft.add(("without",), "it leaves out every combination of the axes", "combinations that leave some")
        else:
            draft.add((), "there is no cell", "axes, cells, or both")
    recipe = _recipe_file(path, study, draft) if draft.sound(("recipe",)) else None
    if recipe is None or not cells or not told(*CHOICES):
        return None, draft.problems
    return Loaded(path, study, recipe, with_seeds(cells, study.seeds), positions), draft.problems


def _check_names(study: Study, cells: Sequence[Cell], draft: Draft) -> None:
    names = [cell.name for cell in cells]
    for at, name in enumerate(names[len(names) - len(study.cells) :]):
        if name in names[: len(names) - len(study.cells) + at]:
            draft.add(("cells", at, "name"), f"{name} is another cell's name, too", "each name once", at_value=True)
    for at, cell in enumerate(cells if not study.seeds else ()):  # a seed ends the folder's name
        if cell.name.removesuffix(PARTIAL) in OWN_FILES:
            axis, named = next(iter(cell.at.items()), None), ("cells", at - len(cells) + len(study.cells), "name")
            taken = f"{cell.name} is a file that the study writes beside its cells' folders"
            draft.add(("axes", *axis) if axis else named, taken, "another name", at_value=True)
    if names and study.baseline is not None and study.baseline not in names:
        hint = did_you_mean(study.baseline, names)
        draft.add(("baseline",), f"there is no cell {study.baseline}", ", ".join(names), hint, at_value=True)


def _recipe_file(path: Path, study: Study, draft: Draft) -> Path | None:
    places = [folder / Path(study.recipe).expanduser() for folder in (path.parent, Path.cwd())]
    found = next((place.resolve() for place in places if place.is_file()), None)
    if found is None:
        looked = f"looked for {' and '.join(dict.fromkeys(str(place.absolute()) for place in places))}"
        draft.add(("recipe",), f"{draft.shown(('recipe',))}: no such file", "a file that exists", looked, at_value=True)
    return found


def _misses(study: Study) -> list[tuple[KeyPath, str, str, str]]:
    """What keys say of each other that cannot be: place, what was found, what is allowed, a hint."""
    found: list[tuple[KeyPath, str, str, str]] = []
    for at, entry in enumerate(study.without):
        for name, asked in entry.items():
            if name not in study.axes:
                hint = did_you_mean(name, study.axes)
                found.append((("without", at, name), f"there is no axis {name}", ", ".join(study.axes), hint))
                continue
            there = list(study.axes[name])
            for value in alternatives(there, asked):
                if value not in there:
                    words = ", ".join(map(str, there))
                    found.append((("without", at, name), f"the axis has no value {value}", words, ""))
    owners: dict[str, KeyPath] = {}
    for point in (point for name, axis in study.axes.items() for point in points(name, axis, "")):
        for key, place in point.places.items():
            other = next((o for o, at in owners.items() if at[:2] != place[:2] and overlap(key, o)), None)
            if other is not None:
                what = "this key" if other == key else other
                found.append((place, f"the axis {owners[other][1]} sets {what}, too", "each key in one axis", ""))
            owners.setdefault(key, place)
    if study.seeds:
        named = {key: ("cells", at, "set", key) for at, cell in enumerate(study.cells) for key in cell.set}
        places = {key: ("set", key) for key in study.set} | owners | named
        if "seed" in places:
            found.append((places["seed"], "seeds: sets this key", "one of them", ""))
    return found


# -- its cells' recipes -------------------------------------------------------------------------


@dataclass(frozen=True)
class Planned:
    """A cell whose recipe was checked."""

    cell: Cell
    overrides: tuple[str, ...]
    recipe: Recipe
    folder: Path


def plan_cells(loaded: Loaded, values: Sequence[str], known: Mapping[str, frozenset[str]]) -> list[Planned]:
    """Every cell's recipe, checked; RecipeError names what is wrong with any of them, where it was written.

    ``values`` are ``key=value``, as after ``--set``; ``known`` are merge methods with their parameters.
    """
    wrong: dict[Problem, list[str]] = {problem: [] for problem in _fixed(loaded, values)}
    given = {_key_of(value) for value in values}
    planned = []
    # what a cell made stays for those that come after, unless the recipe says otherwise
    keep = [] if "keep" in strict_yaml.load(loaded.recipe)[0] else ["keep=all"]
    for cell in loaded.cells:
        overrides = [*keep, *texts(loaded.study.set), *texts(cell.settings), *values, *texts({"name": cell.name})]
        try:
            recipe = load_recipe(loaded.recipe, overrides, known)
        except RecipeError as error:
            places = {key: ("set", key) for key in loaded.study.set if key not in given} | dict(cell.places)
            for problem in error.problems:
                wrong.setdefault(_located(problem, places, loaded.positions), []).append(cell.name)
            continue
        output = str(Path(recipe.output) / loaded.study.name)
        recipe = recipe.model_copy(update={"output": output})
        folder = Path(output).resolve() / cell.name
        planned.append(Planned(cell, (*overrides, *texts({"output": output})), recipe, folder))
    if wrong:
        raise RecipeError((_in_cells(p, names, len(loaded.cells)) for p, names in wrong.items()), str(loaded.file))
    return planned


def overlap(key: str, other: str) -> bool:
    """Whether one of two keys is the other, or a part of it."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def _key_of(value: str) -> str:
    return value.partition("=")[0].strip()


def _fixed(loaded: Loaded, values: Sequence[str]) -> list[Problem]:
    """Values of the command line that would undo what makes the cells differ."""
    settled = {"name": "each cell has a name of its own"}
    for cell in loaded.cells:
        settled |= dict.fromkeys(cell.settings, f"{loaded.file} says it for each cell")
    found = []
    for key in map(_key_of, values):
        for other, why in settled.items():
            if overlap(key, other):
                found.append(Problem(f"{SET_PREFIX}{key}", None, None, key, "this cannot be changed here", "", why))
                break
    return found


def _located(problem: Problem, places: Mapping[str, KeyPath], positions: Positions) -> Problem:
    """A problem of a value that the study's file gives, at its place there."""
    place = positions.get(places.get(problem.file.removeprefix(SET_PREFIX), ()))
    if place is None or not problem.file.startswith(SET_PREFIX):
        return problem
    return replace(problem, file=place.file, line=place.line, column=place.column)


def _in_cells(problem: Problem, names: Sequence[str], count: int) -> Problem:
    """A problem that only some cells have says which."""
    if len(names) in (0, count):
        return problem
    where = f"in cell{'s' * (len(names) > 1)} {', '.join(names)}"
    return replace(problem, hint=f"{problem.hint}; {where}" if problem.hint else where)
