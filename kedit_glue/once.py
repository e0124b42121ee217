"""What is done once on the original model, before the first batch: directions to protect, second moments, an editor
that is trained. Pure.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kedit_glue import batch_files, methods
from kedit_glue.corpus import shipped
from kedit_glue.recipe_schema import Protect, Recipe
from kedit_glue.runner import Job
from kedit_glue.stages import Place, Prepared, partial

FUNCTIONS = ("protect", "moments", "editor")
"""The jobs of these stages (``runner.Job.function``)."""


def directions(place: Place, recipe: Recipe, protect: Protect, trained: str, name: str) -> Prepared:
    """The input directions that a change of the matrices ``trained`` finds is kept out of."""
    settings = {
        "directions": protect.directions or None,
        "energy": protect.energy or None,
        "strength": protect.strength,
        "texts": protect.texts,
        "corpus": protect.corpus,
        "trainable": trained,
    }
    advice = "lower the protect section's directions, or give it a larger corpus"
    output = place.folder / "base" / f"{name}.safetensors"
    job = ("original model: directions of general text", "protect", name, advice)
    return _once(place, recipe, protect.corpus, output, settings, job)


def second_moments(place: Place, recipe: Recipe, changed: str) -> Prepared:
    """How much general text uses each input direction of the matrices that ``changed`` finds."""
    if recipe.method in methods.TRAINED:
        corpus, texts, ridge, key = recipe.merge.regmean.corpus, recipe.merge.regmean.texts, None, "merge.regmean"
    else:
        own, key = methods.settings(recipe), f"methods.{recipe.method}.moments"
        corpus, texts, ridge = own["moments"], own["moments_texts"], own["moments_ridge"]
    settings = {"corpus": corpus, "texts": texts, "ridge": ridge, "trainable": changed}
    advice = f"read the log; correct {key} in the recipe and run the same command again"
    output = place.folder / "base" / "moments.json"
    job = ("original model: second moments of general text", "moments", "moments", advice)
    return _once(place, recipe, corpus, output, settings, job)


def editor(place: Place, recipe: Recipe) -> Prepared:
    """A learned editor (MEND's networks, SERAC's models), trained on facts that are not edited."""
    own, title = methods.settings(recipe), methods.METHODS[recipe.method].title
    file = batch_files.editor_yaml(recipe, place)
    output = place.folder / "base" / "editor.json"
    settings = {"method": recipe.method} | {name: own[f"train_{name}"] for name in ("skip", "limit", "rephrased")}
    arguments = {
        "editor_yaml": str(file.path),
        "model": place.model,
        "train_facts": own["train_facts"],
        "output": str(partial(output)),
        "cache": str(place.cache),
        **settings,
        "left_out": place.left_out,
        "seed": recipe.seed,
        "device": place.device,
        "trust_remote_code": recipe.trust_remote_code,
    }
    advice = (
        f"read the log and {file.path}; correct methods.{recipe.method} in the recipe (or that file) and run the same "
        "command again"
    )
    job = Job(f"original model: train {title}'s editor", "editor", arguments, output.parent, "editor", advice)
    depends = {**settings, **({"left_out": place.left_out} if place.left_out else {}), **place.holding("methods")}
    return Prepared(job, output, depends, (file.path, Path(own["train_facts"])), file)


def _once(
    place: Place, recipe: Recipe, corpus: str | None, output: Path, settings: dict[str, Any], job: tuple[str, ...]
) -> Prepared:
    title, function, name, advice = job
    arguments = {
        "model": place.model,
        "output": str(partial(output)),
        "cache": str(place.cache),
        **settings,
        "device": place.device,
        "trust_remote_code": recipe.trust_remote_code,
    }
    source = Path(corpus) if corpus else shipped()
    reads = (source,) if source.is_absolute() else ()
    return Prepared(Job(title, function, arguments, output.parent, name, advice), output, settings, reads)
