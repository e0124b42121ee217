"""How facts are asked about: which of them, in which template, with what besides. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from kedit_glue.recipe import Recipe
from kedit_glue.recipe_schema import BARE
from kedit_glue.stages import Fact


def spread(ids: Sequence[str], count: int) -> list[str]:
    """``count`` ids spread evenly over the whole list, in order."""
    count = min(count, len(ids))
    return [ids[(2 * i + 1) * len(ids) // (2 * count)] for i in range(count)]


def asked_in(recipe: Recipe) -> str:
    """The template that answers are generated in: ``bare``, or ``chat`` for the model's own."""
    wanted = recipe.score.edits.generated.template
    if wanted != "as_trained":
        return wanted
    return "bare" if recipe.train.template in BARE else "chat"


def marks(facts: Sequence[Fact]) -> list[str]:
    """For each number n, 0 included, a hash of the first n facts: what a score of them depends on."""
    running = hashlib.sha256()
    found = [running.hexdigest()[:16]]
    for fact in facts:
        asked = {key: value for key, value in fact.items() if key not in ("response", "also_trained", "neighbours")}
        running.update(json.dumps(asked, sort_keys=True, ensure_ascii=False).encode())
        found.append(running.hexdigest()[:16])
    return found


def asked(recipe: Recipe, ids: Sequence[str], last: bool) -> dict[str, Any]:
    """How facts are asked about; ``last``: with all that a final model is asked besides, of some of ``ids``."""
    edits = recipe.score.edits
    return {
        "metrics": list(edits.metrics),
        "protocols": [name for name in edits.protocols if last or name != "generated"],
        "generate": {
            "template": asked_in(recipe),
            "most_tokens": edits.generated.most_tokens,
            "ids": spread(ids, edits.generated.facts) if last else [],
        },
        "judge": edits.judge.model_dump() if edits.judge.model and last else None,
        "scorer": edits.scorer,
        "easyedit": edits.easyedit,
        "fluency_ids": spread(ids, edits.fluency_facts) if last else [],
        "example_ids": spread(ids, recipe.score.examples) if last else [],
        "seed": recipe.seed,
    }
