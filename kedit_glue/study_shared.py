"""Work that several cells of a study would do alike, and that is done once (``Ledger.adopt``): which it is. Pure."""

from __future__ import annotations

from typing import Any

from kedit_glue import methods
from kedit_glue.batch_files import batch_name
from kedit_glue.recipe import Recipe
from kedit_glue.records import hashed

ASKED, GENERAL, ONCE, FIRST = "asked", "general", "once", "first"
"""The original's answers about the facts, its general ability, what methods prepare; the first batch's training."""
PER_FACT = (ASKED, FIRST)
RECORDS = ("base/*.record.json", f"{batch_name(1)}/*.record.json")
"""Where in a run's folder the records of such stages lie."""


def kind_of(stage: str) -> str | None:
    """Of a stage's name, None for one that each cell does itself."""
    where, _, what = stage.partition("/")
    if where == "base":
        return {"edits": ASKED, "general": GENERAL}.get(what, ONCE)
    return FIRST if where == batch_name(1) and what in ("train", "edit") else None


def shared(recipe: Recipe) -> dict[str, str]:
    """Kind -> hash of the settings that it depends on: cells with the same hash share it."""
    plain: dict[str, Any] = recipe.model_dump(mode="json", by_alias=True)
    train, score, edits = plain["train"], plain["score"], plain["edits"]
    facts = {key: edits[key] for key in ("source", "format", "skip", "limit", "with_subject")}
    original = [recipe.model, train["precision"], recipe.seed]
    method = [recipe.method, methods.settings(recipe)]
    asked = [
        train["template"],
        train["cutoff_len"],
        train["rephrasings"],
        score["examples"],
        {**score["edits"], "when": ""},
    ]
    found = {ASKED: hashed([*original, facts, asked])}
    if recipe.score.general.tasks and recipe.score.general.when != "never":
        found[GENERAL] = hashed([*original, {**score["general"], "when": ""}])
    protects = recipe.method in methods.TRAINED and (recipe.train.protect.of_text.on or recipe.merge.protect.on)
    merge = plain["merge"]
    if protects or methods.wants_moments(recipe) or recipe.method in methods.LEARNED:
        where = [train[key] for key in ("modules", "layers", "parameters", "protect")]
        found[ONCE] = hashed([*original, method, where, merge["protect"], merge["regmean"]])
    if recipe.keep == "all" and recipe.edits.mode == "sequential":
        found[FIRST] = hashed([*original, edits, method, train])
    return found
