"""The recipe: one YAML file that says what a run edits, trains, merges and scores (keys: ``recipe_schema``)."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from kedit_glue import methods, recipe_checks, recipe_errors, recipe_paths, strict_yaml
from kedit_glue.problems import RecipeError
from kedit_glue.recipe_schema import INSTEAD, Recipe
from kedit_glue.recipe_values import resolve_layers

__all__ = ["Recipe", "describe", "load_recipe", "normalized", "resolve_layers"]


def load_recipe(
    path: Path, overrides: Sequence[str] = (), merge_methods: Mapping[str, frozenset[str]] | None = None
) -> Recipe:
    """Read and check a recipe; RecipeError lists everything that is wrong with it.

    ``overrides`` are ``train.epochs=3``, as after ``--set``. ``merge_methods`` holds each mergekit
    method with its parameters' names; without it methods and parameters are not checked by name.
    Paths of the recipe that must exist (and a model that is a folder) come back absolute, and
    ``train`` as the recipe's method has it.
    """
    path = Path(path)
    data, positions = strict_yaml.load(path)
    draft = recipe_errors.Draft(str(path), data, dict(positions), Recipe)
    for override in overrides:
        draft.override(override)
    draft.fill_empty_sections()
    recipe_paths.find_paths(draft, path.parent)
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(draft.data)
    except ValidationError as error:
        draft.add_pydantic(error)
        # what is sound is checked further, beside stand-ins for what is not
        try:
            recipe = Recipe.model_validate(draft.without_bad())
        except ValidationError as again:  # pragma: no cover - a stand-in that the schema refuses
            draft.add_pydantic(again)
    if recipe is not None:
        recipe_checks.cross_check(recipe, draft, merge_methods)
    if recipe is None or draft.problems:
        raise RecipeError(draft.problems, str(path))
    return recipe.model_copy(update={"train": methods.training(recipe)})


def normalized(recipe: Recipe) -> dict[str, Any]:
    """The recipe with every key spelled out, as plain data in the schema's order (``resolved.yaml``).

    Left out is what may not stand beside another key; it is a recipe, and the same one, again.
    """
    plain: dict[str, Any] = _plain(recipe.model_dump(mode="python", by_alias=True))
    for (section, key), replaced in INSTEAD.items():
        if plain[section][key] is not None:
            plain[section] = {k: v for k, v in plain[section].items() if k not in replaced}
    if recipe.train.from_ == "base" and recipe.score.edits.when == "each":
        del plain["score"]["edits"]["when"]
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def describe() -> str:
    """Every key as YAML, with its meaning, its range and its default; itself a recipe in form."""
    head = ["# A recipe of kedit_glue: every key with its default; the ones marked 'required' have none."]
    return "\n".join([*head, *_describe(Recipe, 0)]) + "\n"


def _describe(section: type[BaseModel], depth: int) -> list[str]:
    lines: list[str] = []
    indent = "  " * depth
    for name, field in recipe_errors.fields(section).items():
        about = field.description or ""
        lines += [""] if depth == 0 else []
        lines += textwrap.wrap(about, 100, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            lines += [f"{indent}{name}:", *_describe(field.annotation, depth + 1)]
            continue
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        value = extra.get("example") if field.is_required() else _plain(field.default)
        shown = strict_yaml.dump(value, flow=True)
        lines.append(f"{indent}{name}: {shown}{'  # required' if field.is_required() else ''}")
    return lines
