"""The files of one edit batch: LLaMA-Factory's data and YAML, R-SFT's settings, mergekit's YAML. Pure functions.

``number`` is the batch's, from 1; None: the file is every batch's, each edited from the original (``folder_of``).
"""

from __future__ import annotations

import random
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kedit_glue import learned, methods, modules
from kedit_glue.merging import Tuned, check_paths, fill_in, merge_formats, merge_inputs
from kedit_glue.recipe_schema import Recipe
from kedit_glue.stages import Fact, Place, Rendered

DATASET_INFO = {"edits": {"file_name": "edits.json", "columns": {"prompt": "instruction", "response": "output"}}}
"""LLaMA-Factory's description of ``edits.json``."""
INDEPENDENT = "independent"
"""Folder of the files that independent batches share."""
TEMPLATES: Mapping[str, str | None] = {"bare": "empty", "chat": None}
"""``train.template`` -> LLaMA-Factory's: None makes it read the model's own (0.9.5, data/template.py:631)."""


def samples(batch: Sequence[Fact], again: Sequence[Fact] = (), tokens: str = "all") -> list[dict[str, Any]]:
    """``edits.json``: each fact's prompt, then what else is trained on for it; then the same of earlier facts.

    A text stands there once (a rephrasing may be another fact's prompt): R-SFT tells samples apart by it. The batch's
    own goes before earlier facts', a later fact's before an earlier one's. What is taught is nobody's neighbour.
    ``tokens``: of ``train``; where it is ``subject``, each stands there with its fact's.
    """
    own = [
        {
            "id": fact["id"],
            "prompt": sample["prompt"],
            "target_new": fact["target_new"],
            "instruction": sample["prompt"],
            "output": sample["response"],
            **({"subject": fact.get("subject")} if tokens == "subject" else {}),
            **({"neighbours": sample["neighbours"]} if "neighbours" in sample else {}),
        }
        for fact in batch
        for sample in (fact, *fact.get("also_trained", ()))
    ]
    there = {sample["instruction"] for sample in own}
    earlier: dict[str, dict[str, Any]] = {}
    for sample in samples(again, tokens=tokens) if again else []:
        earlier.pop(sample["instruction"], None)  # the later fact's, and in its place
        earlier[sample["instruction"]] = {**sample, "rehearsed": True}
    shown = own + [sample for text, sample in earlier.items() if text not in there]
    taught = there | earlier.keys()
    return [
        {**s, "neighbours": [n for n in s["neighbours"] if n not in taught]} if "neighbours" in s else s for s in shown
    ]


def rehearsed(batches: Sequence[Sequence[Fact]], number: int, count: int, seed: int) -> list[Fact]:
    """``count`` facts of the batches before ``number`` (all where they are fewer), by the seed, in their order."""
    size = len(batches[0])  # of each but the last
    earlier = range((number - 1) * size)
    drawn = random.Random(f"{seed} {number}").sample(earlier, min(count, len(earlier)))
    return [batches[position // size][position % size] for position in sorted(drawn)]


def train_yaml(
    recipe: Recipe, place: Place, number: int | None, facts: int, model: str, what: modules.Trained
) -> Rendered:
    """LLaMA-Factory's YAML for a batch of ``facts`` facts, trained from ``model``."""
    train = recipe.train
    folder = folder_of(place, number)
    path = folder / "train.yaml"
    each = train.mini_batch // recipe.launch.everyone
    must_say = {
        "model_name_or_path": model,
        "learning_rate": train.learning_rate,
        "num_train_epochs": train.epochs,
        "per_device_train_batch_size": each,
        "output_dir": str(folder / "tuned"),
        "seed": recipe.seed,
        "finetuning_type": "lora" if train.lora.rank else "freeze",
    }
    if recipe.launch.deepspeed:
        must_say["deepspeed"] = recipe.launch.deepspeed
    if train.report_to:
        must_say["report_to"] = list(train.report_to)
    lora_alpha = train.lora.alpha or 2 * train.lora.rank
    if train.lora.rank:
        must_say |= {"lora_rank": train.lora.rank, "lora_alpha": lora_alpha}
    return Rendered(
        path,
        "train.yaml",
        {
            "batch": number,
            "train": train,
            "facts": facts,
            "here": shlex.quote(str(path)),
            "model": model,
            "trust_remote_code": recipe.trust_remote_code,
            "freeze_modules": what.freeze_modules,
            "freeze_layers": what.freeze_layers,
            "freeze_extra_modules": what.freeze_extra_modules,
            "lora_target": what.lora_target,
            "lora_alpha": lora_alpha,
            "template": TEMPLATES.get(train.template, train.template),
            "per_device": each,
            "processes": recipe.launch.everyone,
            "deepspeed": recipe.launch.deepspeed,
            "dataset_dir": str(folder),
            "output_dir": str(folder / "tuned"),
            "cpu": place.device == "cpu",
            "seed": recipe.seed,
        },
        must_say,
    )


def requests(batch: Sequence[Fact]) -> list[dict[str, Any]]:
    """``edits.json`` for an editor: EasyEdit's requests."""
    keys = ("id", "prompt", "target_new", "subject", "ground_truth")
    return [{key: fact.get(key) for key in keys} for fact in batch]


def edit_yaml(recipe: Recipe, place: Place, number: int | None, facts: int, model: str) -> Rendered:
    """EasyEdit's hparams for a batch of ``facts`` facts, edited into ``model``."""
    if recipe.method in methods.LEARNED:
        content = learned.editing_hparams(recipe, model, place.n_layers, place.tensors)
    else:
        content = methods.hparams(recipe, model, place.n_layers, place.tensors, str(place.cache))
    title = methods.METHODS[recipe.method].title
    values = {"batch": number, "facts": facts, "title": title, "hparams": content}
    return Rendered(folder_of(place, number) / "edit.yaml", "edit.yaml", values, content)


def editor_yaml(recipe: Recipe, place: Place) -> Rendered:
    """EasyEdit's hparams to train a method's editor on the original model."""
    content = learned.training_hparams(recipe, place.model, place.n_layers, place.tensors)
    title, own = methods.METHODS[recipe.method].title, methods.settings(recipe)
    values = {"title": title, "source": own["train_facts"], "hparams": content}
    return Rendered(place.folder / "base" / "editor.yaml", "editor.yaml", values, content)


def rsft_yaml(
    recipe: Recipe, place: Place, number: int | None, what: modules.Trained, protect: Path | None
) -> Rendered:
    """R-SFT's settings for a batch; ``protect`` is the file of directions."""
    settings: dict[str, Any] = {
        "inner_steps": recipe.train.steps_in_a_row,
        "loss_threshold": recipe.train.loss_threshold,
        "trainable": what.pattern,
    }
    kept: dict[str, Any] = {"protect": str(protect)} if protect else {}
    if neighbours := recipe.train.protect.neighbours:
        kept["neighbours"] = neighbours
    if recipe.train.tokens != "all":
        kept["tokens"] = recipe.train.tokens
    absent = {"protect": None, "neighbours": 0, "tokens": "all"}
    return Rendered(
        folder_of(place, number) / "rsft.yaml",
        "rsft.yaml",
        {"batch": number, "order": recipe.train.order, **absent, **settings, **kept},
        {**settings, **kept},  # a template of the user's must not drop one in silence
    )


def merge_yaml(
    recipe: Recipe, place: Place, number: int | None, onto: str, before: str, tuned: Sequence[Tuned]
) -> Rendered:
    """mergekit's YAML: ``tuned`` with ``onto``; ``before`` is the model that batch ``number`` was trained from."""
    check_paths([onto, before, *(path for model in tuned for path in (model.model, model.adapter))])
    merge = recipe.merge
    path = folder_of(place, number) / "merge.yaml"
    common = {"batch": number, "here": shlex.quote(str(path))}
    if place.merge_file is not None:
        content = fill_in(place.merge_file, {"original": place.model, "previous": before}, tuned)
        return Rendered(path, "merge_file.yaml", {**common, "source": merge.file, "content": content}, content)
    roles = merge_inputs(place.method, merge.parameters, onto, tuned)
    return Rendered(
        path,
        "merge.yaml",
        {
            **common,
            "method": merge.method,
            "onto": "the model before this batch" if merge.onto == "previous" else "the original",
            "base_model": roles.base_model,
            "models": roles.models,
            "parameters": roles.parameters,
            **merge_formats(merge.dtype, recipe.train.precision, merge.extra),
            "extra": merge.extra,
        },
        {"merge_method": merge.method} | ({"base_model": roles.base_model} if roles.base_model else {}),
    )


def folder_of(place: Place, number: int | None) -> Path:
    """Where a batch's files lie; ``number`` None: those that all batches share (``edits.mode: independent``)."""
    return place.folder / (INDEPENDENT if number is None else batch_name(number))


def batch_name(number: int) -> str:
    """Folder of a batch; the first is number 1, as in every message and report."""
    return f"batch_{number:03d}"
