"""What does not go together with ``merge.search``."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from kedit_glue.problems import did_you_mean
from kedit_glue.recipe_errors import Draft
from kedit_glue.recipe_search import Fitness, Search
from kedit_glue.recipe_values import SWITCHES
from kedit_glue.search.fitness import PARTS
from kedit_glue.strict_yaml import KeyPath
from kedit_glue.tools.mergekit import common_benchmark

if TYPE_CHECKING:
    from kedit_glue.recipe import Recipe

AT: KeyPath = ("merge", "search")


class Rule(NamedTuple):
    """A value that cannot stand."""

    path: KeyPath
    found: Any
    allowed: str
    hint: str = ""


def check_search(recipe: Recipe, draft: Draft, merge_methods: Mapping[str, frozenset[str]] | None) -> None:
    """Every key whose value has no meaning where a merge is searched, or would make the search's result a lie."""
    search = recipe.merge.search
    if search.space is None or recipe.method != "rsft_merge" or not draft.sound((*AT, "space"), ("method",)):
        return
    known = (merge_methods or {}).get(recipe.merge.method)
    reported = recipe.score.general.tasks
    for rule in (*_beside(recipe), *_own(search, known), *_fitness(search.fitness, search.by, reported)):
        if draft.sound(rule.path):
            draft.add(rule.path, rule.found, rule.allowed, rule.hint)


def _beside(recipe: Recipe) -> Iterator[Rule]:
    """Keys of other sections."""
    merge, space = recipe.merge, (*AT, "space")
    if merge.file is not None:
        yield Rule(space, f"{merge.search.space}, while merge.file says the merge", "one of the two")
    if recipe.train.lora.rank:
        found = f"{merge.search.space}, while train.lora.rank is {recipe.train.lora.rank}"
        yield Rule(space, found, "null, or train.lora.rank: 0", "candidates are merged of models, not of adapters")
    if recipe.edits.mode == "independent":
        found = f"{merge.search.space}, while edits.mode is independent"
        yield Rule(
            space, found, "null, or edits.mode: sequential", "a search for each batch alone has no facts to spare"
        )
    if merge.regmean.on:
        found = f"{merge.search.space}, while merge.regmean is set"
        yield Rule(space, found, "null, or merge.regmean.tokens: 0", "candidates are judged as mergekit leaves them")
    if merge.search.space != "ps" and merge.protect.on:
        found = f"{merge.search.space}, while merge.protect is set"
        yield Rule(space, found, "ps, or train.protect instead", "of a layer that moved there is no change to protect")


def _own(search: Search, known: frozenset[str] | None) -> Iterator[Rule]:
    if search.by == "grid" and search.space != "ps":
        hint = "a data flow has a number for each layer, and one for each pair"
        yield Rule((*AT, "by"), f"grid, while space is {search.space}", "cma_es, nsga2, random", hint)
    for name, (low, high) in search.ranges.items():
        if name in SWITCHES:
            yield Rule((*AT, "ranges", name), f"{name} is true or false", "the ranges of numbers")
        if not (math.isfinite(low) and math.isfinite(high)):
            yield Rule((*AT, "ranges", name), f"[{low:g}, {high:g}]", "two finite numbers")
        elif low >= high:
            yield Rule((*AT, "ranges", name), f"[{low:g}, {high:g}]", "two numbers, the lower one first")
        if known is not None and name not in known and not (name == "scale" and search.space != "ps"):
            hint = did_you_mean(name, known) or ""
            yield Rule((*AT, "ranges", name), "the merge method has no such parameter", ", ".join(sorted(known)), hint)
    if search.workers > 1 and importlib.util.find_spec("ray") is None:
        yield Rule((*AT, "workers"), f"{search.workers}, and ray is not installed", "1", "uv sync --extra ray")


def _fitness(fitness: Fitness, by: str, reported: tuple[str, ...]) -> Iterator[Rule]:
    at = (*AT, "fitness")
    used = [part for part in PARTS if getattr(fitness, part) > 0]
    if not used:
        yield Rule(at, "every weight is 0", f"a weight above 0 for one of {', '.join(PARTS)}")
    if by == "nsga2" and len(used) == 1:
        hint = f"{used[0]} alone has a weight above 0: there is nothing to trade it for"
        yield Rule((*AT, "by"), "nsga2, while the fitness has one part", "cma_es, random, grid", hint)
    if bool(fitness.general) != bool(fitness.tasks):
        found = "no tasks, while fitness.general is above 0" if fitness.general else "tasks, while fitness.general is 0"
        yield Rule((*at, "tasks"), found, "both, or neither")
    for task in fitness.tasks:
        if task in reported:
            found, hint = (
                f"{task}, which score.general.tasks reports",
                "what was searched on measures nothing any more",
            )
            yield Rule((*at, "tasks"), found, "other tasks", hint)
        if common_benchmark(task) and not fitness.benchmarks_known:
            found = f"{task} is a common benchmark, by mergekit-evolve's own list"
            hint = "a model searched on it cannot be compared on it; benchmarks_known: true says that you know"
            yield Rule((*at, "tasks"), found, "other tasks, or benchmarks_known: true", hint)
