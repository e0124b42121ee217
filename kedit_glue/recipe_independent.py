"""What does not go together with ``edits.mode: independent``: keys that mean a batch before, or a model that stays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from kedit_glue.methods import REMEMBERED, TRAINED
from kedit_glue.recipe_errors import Draft
from kedit_glue.strict_yaml import KeyPath

if TYPE_CHECKING:
    from kedit_glue.recipe import Recipe


class Rule(NamedTuple):
    """A value that cannot stand."""

    path: KeyPath
    found: Any
    why: str
    allowed: str


def check_independent(recipe: Recipe, draft: Draft) -> None:
    """Every key whose value has no meaning where each batch is edited alone."""
    if recipe.edits.mode != "independent" or not draft.sound(("edits", "mode"), ("method",)):
        return
    for path, found, why, allowed in rules(recipe):
        if draft.sound(path):
            draft.add(path, f"{found}, while edits.mode is independent: {why}", allowed)


def rules(recipe: Recipe) -> Iterator[Rule]:
    """What of a recipe stands against it, in the order of the schema."""
    train, merge, edits, general = recipe.train, recipe.merge, recipe.score.edits, recipe.score.general
    original, whole = "each batch begins with the original", "in memory the trained matrices alone are merged"
    if recipe.method in REMEMBERED:
        nothing = "the method leaves the weights alone, and there is nothing to restore"
        yield Rule(("method",), recipe.method, nothing, "a method that changes weights, or edits.mode: sequential")
    if recipe.method in TRAINED:
        if train.from_ == "base":
            yield Rule(("train", "from"), "base", f"{original} anyway", "previous")
        if train.rehearse:
            yield Rule(("train", "rehearse"), train.rehearse, f"{original}, which no earlier batch was taught", "0")
        if train.lora.rank:
            yield Rule(("train", "lora", "rank"), train.lora.rank, whole, "0")
        if train.report_to:
            together = "a tracker's curve is of batches that follow each other"
            yield Rule(("train", "report_to"), ", ".join(train.report_to), together, "[]")
        for name in ("processes", "nodes"):
            if (count := getattr(recipe.launch, name)) > 1:
                yield Rule(("launch", name), count, "one process keeps the model and edits it again and again", "1")
    if recipe.method == "rsft_merge":
        if merge.onto == "previous":
            yield Rule(("merge", "onto"), "previous", original, "base")
        if merge.when == "end":
            yield Rule(("merge", "when"), "end", "each batch is merged and scored at once", "each")
        own = {"fp32": "float32", "bf16": "bfloat16"}[train.precision]
        if merge.dtype not in (None, own):
            restored = "the model is asked in the number format of training"
            yield Rule(("merge", "dtype"), merge.dtype, restored, f"null, or {own}")
        if merge.protect.on:
            yield Rule(("merge", "protect"), "set", "the merged model is not written", "train.protect instead")
        if merge.regmean.on:
            yield Rule(("merge", "regmean"), "set", "the merged model is not written", "merge.regmean.tokens: 0")
    if edits.when == "end":
        yield Rule(("score", "edits", "when"), "end", "each batch is scored at once", "each")
    if edits.old_facts is not None:
        earlier = "no model holds the facts of earlier batches"
        yield Rule(("score", "edits", "old_facts"), edits.old_facts, earlier, "null")
    if edits.judge.model and edits.judge.endpoint is None:
        again = "a judge on this machine would be loaded for each batch"
        yield Rule(("score", "edits", "judge", "model"), edits.judge.model, again, "null, or one at an endpoint")
    for path, checkout in (
        (("score", "edits", "easyedit"), edits.easyedit),
        (("methods", "easyedit"), own_code(recipe)),
    ):
        if checkout and recipe.method not in TRAINED:
            one = "one process edits and scores, with one version of EasyEdit: the package's"
            yield Rule(path, "a checkout", one, "null")
    if general.tasks and general.when != "never":
        said = ", ".join(general.tasks)
        yield Rule(("score", "general", "tasks"), said, "no model holds the edits", "[], or when: never")
    if recipe.keep != "deltas":
        yield Rule(("keep",), recipe.keep, "no batch's model is kept", "deltas, which then keeps nothing")


def own_code(recipe: Recipe) -> str | None:
    """The checkout of EasyEdit that the chosen method would edit with."""
    return recipe.methods.easyedit if recipe.method in ("ft_m", "emmet") else None
