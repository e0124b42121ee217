"""The stage in which a rival edits a batch: EasyEdit's hparams and a job, or facts that are remembered. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedit_glue import batch_files, learned, methods
from kedit_glue.recipe_schema import Recipe
from kedit_glue.runner import Job
from kedit_glue.stages import Place, Prepared, partial


def edited(
    recipe: Recipe, place: Place, number: int, title: str, facts: int, model: str, what: str,
    once_made: Mapping[str, Path | None],
) -> Prepared:  # fmt: skip
    """Batch ``number`` in ``model``; ``facts``: how many its ``edits.json`` holds; ``what``: the tensors that may
    change; ``once_made``: the files that say where second ``moments`` are, and the trained ``editor``, or None.
    """
    folder = place.folder / batch_files.batch_name(number)
    requests, output = folder / "edits.json", folder / "edited"
    title = f"{title}: {methods.METHODS[recipe.method].title}"
    arguments: dict[str, Any] = {"facts": str(requests), "model": model, "output": str(partial(output))}
    arguments |= {name: str(file) if file else None for name, file in once_made.items()}
    settings: dict[str, Any] = {"method": recipe.method}
    if recipe.method in methods.REMEMBERED:
        settings["settings"] = {k: v for k, v in methods.settings(recipe).items() if k not in learned.TRAINING}
        job = Job(title, "remember", {**arguments, **settings}, folder, "edit", "read the log")
        return Prepared(job, output, {**settings, **place.holding("methods")}, (requests,))
    file = batch_files.edit_yaml(recipe, place, number, facts, model)
    settings |= {"trainable": what, "checkout": recipe.methods.easyedit}
    arguments |= {
        "edit_yaml": str(file.path),
        "cache": str(place.cache),
        "seed": recipe.seed,
        "device": place.device,
        "trust_remote_code": recipe.trust_remote_code,
    }
    advice = (
        f"read the log and {file.path}; correct methods.{recipe.method} in the recipe (or that file) and run the same "
        "command again: finished batches are kept"
    )
    job = Job(title, "edit", {**arguments, **settings}, folder, "edit", advice)
    return Prepared(job, output, {**settings, **place.holding("methods")}, (requests, file.path), file)
