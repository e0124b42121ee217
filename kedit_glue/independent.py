"""Independent edits: each batch from the original model, scored at once, the original restored. Pure planning.

A stage keeps the model in memory and takes ``AT_ONCE`` batches, one after another: a run that is stopped loses no more.
All batches share one set of YAML files; facts come from the run's ``facts.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedit_glue import batch_files, methods
from kedit_glue.batch_files import INDEPENDENT, batch_name
from kedit_glue.merging import Tuned
from kedit_glue.modules import Trained
from kedit_glue.recipe_schema import Recipe
from kedit_glue.records import hashed
from kedit_glue.runner import Job
from kedit_glue.stages import Fact, Place, Prepared, Rendered, partial

AT_ONCE = 20
"""Batches of a stage. Each stage loads the model anew."""


@dataclass(frozen=True)
class Shared:
    """What all batches have in common."""

    files: tuple[Rendered, ...]
    """The YAML by which each batch is edited."""
    data: Mapping[Path, Any]
    """For the tools' own commands; a stage does not read it."""
    trainable: str
    """Regular expression: the tensors that an edit may change."""


def chunks(batches: int) -> list[range]:
    """The numbers of the batches, from 1, that each stage takes."""
    return [range(first, min(first + AT_ONCE, batches + 1)) for first in range(1, batches + 1, AT_ONCE)]


def shared(
    recipe: Recipe, place: Place, batches: Sequence[Sequence[Fact]], what: Trained, protect: Path | None
) -> Shared:
    """The files of all batches; ``protect``: the one that says which input directions are kept."""
    folder, size = place.folder / INDEPENDENT, recipe.edits.batch_size
    if recipe.method not in methods.TRAINED:
        return Shared((batch_files.edit_yaml(recipe, place, None, size, place.model),), {}, what.pattern)
    files = [
        batch_files.train_yaml(recipe, place, None, size, place.model, what),
        batch_files.rsft_yaml(recipe, place, None, what, protect),
    ]
    if recipe.method == "rsft_merge":
        tuned = [Tuned(str(tuned_folder(place)))]
        files.append(batch_files.merge_yaml(recipe, place, None, place.model, place.model, tuned))
    every = [sample for batch in batches for sample in batch_files.samples(batch, tokens=recipe.train.tokens)]
    data = {folder / "edits.json": every, folder / "dataset_info.json": batch_files.DATASET_INFO}
    return Shared(tuple(files), data, what.pattern)


def tuned_folder(place: Place) -> Path:
    """How the YAML names what training leaves; nothing is ever written there."""
    return place.folder / INDEPENDENT / "tuned"


def edited(
    recipe: Recipe,
    place: Place,
    batches: Sequence[Sequence[Fact]],
    numbers: range,
    common: Shared,
    once_made: Mapping[str, Path | None],
    asked: Mapping[str, Any],
) -> Prepared:
    """The batches ``numbers``, each alone.

    ``once_made``: the files that say where second ``moments`` are, the trained ``editor``, and what to ``protect``;
    ``asked``: how facts are asked about (as for ``tools/scorer.py``).
    """
    first, last = numbers[0], numbers[-1]
    folder = place.folder / folder_name(numbers)
    output = folder / "answers.json"
    before = sum(len(batch) for batch in batches[: first - 1])
    facts = [fact for number in numbers for fact in batches[number - 1]]
    trains = recipe.method in methods.TRAINED
    trace = folder / "trace.jsonl" if trains else None
    settings: dict[str, Any] = {
        "method": recipe.method,
        "batch_size": recipe.edits.batch_size,
        "trainable": common.trainable,
        "checkout": recipe.methods.easyedit,
        "asked": about(asked, facts),
    }
    arguments = {
        **settings,
        "model": place.model,
        "facts": str(place.folder / "facts.json"),
        "from": before,
        "upto": before + len(facts),
        "first_batch": first,
        "batches": len(batches),
        "tuned": str(tuned_folder(place)),
        **{f"{file.path.stem}_yaml": str(file.path) for file in common.files},
        **{name: str(file) if file and name != "protect" else None for name, file in once_made.items()},
        "trace": str(trace) if trace else None,
        "output": str(partial(output)),
        "cache": str(place.cache),
        "seed": recipe.seed,
        "device": place.device,
        "trust_remote_code": recipe.trust_remote_code,
    }
    of = f"batch {first}" if first == last else f"batches {first} to {last}"
    title = f"{of} of {len(batches)}, each alone: {methods.METHODS[recipe.method].title}"
    where = place.folder / INDEPENDENT
    advice = (
        f"read the log and the YAML in {where}; correct the recipe (or that YAML) and run the same command again: "
        "finished stages are kept"
    )
    job = Job(title, INDEPENDENT, arguments, folder, INDEPENDENT, advice)
    depends = {**settings, **place.holding("score"), "facts": hashed(facts), "first": before}
    reads = tuple(file.path for file in common.files)
    return Prepared(job, output, depends, reads, beside=(trace,) if trace else ())


def about(asked: Mapping[str, Any], facts: Sequence[Fact]) -> dict[str, Any]:
    """How these facts are asked about: of the ids in ``asked`` theirs alone."""
    own = {fact["id"] for fact in facts}

    def of(ids: Sequence[str]) -> list[str]:
        return [i for i in ids if i in own]

    said = {**asked["generate"], "ids": of(asked["generate"]["ids"])}
    return {**asked, "generate": said, **{key: of(asked[key]) for key in ("fluency_ids", "example_ids")}}


def folder_name(numbers: range) -> str:
    """``batch_001`` or ``batch_001-020``."""
    first, last = batch_name(numbers[0]), batch_name(numbers[-1])
    return first if first == last else f"{first}-{last.removeprefix('batch_')}"


def together(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several batches' answers as one file of ``tools/scorer.py``; fluency is the mean over all texts."""
    result: dict[str, Any] = {"facts": [fact for one in found for fact in one["facts"]]}
    if fluent := [one["fluency"] for one in found if "fluency" in one]:
        texts = sum(one["facts"] for one in fluent)
        mean = sum(one["n_gram_entropy"] * one["facts"] for one in fluent) / texts
        result["fluency"] = {"n_gram_entropy": mean, "facts": texts}
    result["answers"] = {i: text for one in found for i, text in one["answers"].items()}
    return result
