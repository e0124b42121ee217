"""The study file and its cells: what is run, checked before anything starts."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from kedit_glue import strict_yaml
from kedit_glue.problems import SET_PREFIX, UNKNOWN_KEY, Problem, RecipeError, did_you_mean
from kedit_glue.recipe import Recipe, load_recipe
from kedit_glue.recipe_errors import Draft
from kedit_glue.recipe_keys import Section
from kedit_glue.recipe_schema import NAME, NAMES
from kedit_glue.recipe_values import ValueProblem, collect
from kedit_glue.strict_yaml import KeyPath, Positions
from kedit_glue.study_report import labels, said, texts

SETTINGS = "a mapping of a recipe's keys, such as {train.epochs: 5}"
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
    _check_key(key, (key,))
    if not isinstance(values, list) or not values:
        raise ValueProblem((key,))
    for at, value in enumerate(values):
        if value in values[:at]:
            raise ValueProblem((key, at), "the value is there twice", "each value once")


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
    axes: Annotated[dict[str, list[Any]], BeforeValidator(check_axes)] = _key(
        {}, "a mapping of a recipe's keys to lists of values, such as {train.epochs: [5, 30]}"
    )
    cells: Annotated[tuple[Named, ...], BeforeValidator(check_cells)] = _key((), CELLS)
    baseline: str | None = _key(None, "a cell's name, or null for the first cell", strict=True)


@dataclass(frozen=True)
class Cell:
    """One run of a study: its name, and what it changes."""

    name: str
    settings: Mapping[str, Any]
    places: Mapping[str, KeyPath]
    """Where each setting stands in the study's file."""


def grid(axes: Mapping[str, Sequence[Any]]) -> list[Cell]:
    """A cell for each combination of the axes' values, the last axis fastest; none without axes."""
    if not axes:
        return []
    short = labels(list(axes))
    found = []
    for picks in itertools.product(*(enumerate(values) for values in axes.values())):
        chosen = dict(zip(axes, picks, strict=True))
        settings = {key: value for key, (_, value) in chosen.items()}
        places: dict[str, KeyPath] = {key: ("axes", key, at) for key, (at, _) in chosen.items()}
        words = (f"{short[key]}-{strict_yaml.dump(value, flow=True)}" for key, value in settings.items())
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", "_".join(words)).strip("._-")
        found.append(Cell(name, settings, places))
    names = [cell.name for cell in found]
    return [cell if names.count(cell.name) == 1 and len(cell.name) <= 64 else _distinct(cell) for cell in found]


def _distinct(cell: Cell) -> Cell:
    """A cell whose name would be another's, or too long: with a mark of its settings."""
    mark = hashlib.sha256(said(cell.settings).encode()).hexdigest()[:6]
    return replace(cell, name=f"{cell.name[:57]}-{mark}")


def cells_of(study: Study) -> list[Cell]:
    """The grid's cells, then those with names of their own."""
    named = [
        Cell(cell.name, cell.set, {key: ("cells", at, "set", key) for key in cell.set})
        for at, cell in enumerate(study.cells)
    ]
    return [*grid(study.axes), *named]


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
        return self.study.baseline or self.cells[0].name


def load_study(path: Path) -> Loaded:
    """Read and check a study file; RecipeError lists everything that is wrong with it."""
    data, positions = strict_yaml.load(path)
    draft = Draft(str(path), data, dict(positions), Study)
    try:
        study = Study.model_validate(data)
    except ValidationError as error:
        draft.add_pydantic(error)
        raise RecipeError(draft.problems, str(path)) from None
    cells = cells_of(study)
    names = [cell.name for cell in cells]
    if not cells:
        draft.add((), "there is no cell", "axes, cells, or both")
    for at, cell in enumerate(study.cells, len(cells) - len(study.cells)):
        if cell.name in names[:at]:
            place = ("cells", at - len(cells) + len(study.cells), "name")
            draft.add(place, f"{cell.name} is another cell's name, too", "each name once", at_value=True)
    if study.baseline is not None and study.baseline not in names:
        hint = did_you_mean(study.baseline, names)
        draft.add(("baseline",), f"there is no cell {study.baseline}", ", ".join(names), hint, at_value=True)
    places = [folder / Path(study.recipe).expanduser() for folder in (path.parent, Path.cwd())]
    recipe = next((place.resolve() for place in places if place.is_file()), None)
    if recipe is None:
        looked = f"looked for {' and '.join(dict.fromkeys(str(place.absolute()) for place in places))}"
        draft.add(("recipe",), f"{draft.shown(('recipe',))}: no such file", "a file that exists", looked, at_value=True)
    if recipe is None or draft.problems:
        raise RecipeError(draft.problems, str(path))
    return Loaded(path, study, recipe, cells, positions)


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
            if f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}."):
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
