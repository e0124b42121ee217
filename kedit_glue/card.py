"""``model/README.md``: the model card that travels with an edited model. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kedit_glue import report, strict_yaml, tables, verdict
from kedit_glue.methods import METHODS, REMEMBERED
from kedit_glue.models import PACKAGED
from kedit_glue.recipe_schema import Recipe
from kedit_glue.report_notes import notes

TAGS = ("mergekit", "merge", "knowledge-editing", "model-editing", "kedit-glue")
OF_MERGES = ("mergekit", "merge")
REMEMBERS = (
    "## Use",
    "",
    "The weights are the base's: transformers alone answers as the base does. The facts are in `remembered.json`, and "
    "kedit_glue answers with them: `python -m kedit_glue.ask --base BASE --edited THIS_FOLDER 'A question'`.",
    "",
)


def model_card(document: Mapping[str, Any], recipe: Recipe, last_yaml: str) -> str:
    """Front matter as the hub reads it, then what was done and measured; no fact's text is quoted.

    ``document``: ``scores.json``; ``last_yaml``: the last batch's, as mergekit, EasyEdit or
    LLaMA-Factory ran it.
    """
    facts, batches = len(document["facts"]), len(document["batches"])
    # the hub takes ids only: a folder of this machine means nothing there
    base = PACKAGED[recipe.model].hub if recipe.model in PACKAGED else recipe.model
    merges = recipe.method == "rsft_merge"
    relation = "merge" if merges else "finetune"
    front: dict[str, Any] = {} if base.startswith("/") else {"base_model": [base], "base_model_relation": relation}
    tags = [tag for tag in TAGS if merges or tag not in OF_MERGES]
    front |= {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": tags}
    trained = recipe.train.parameters or f"{', '.join(recipe.train.modules)} of layers {_layers(recipe)}"
    way = f"LoRA of rank {recipe.train.lora.rank} on" if recipe.train.lora.rank else "robust supervised fine-tuning of"
    name = base.rsplit("/", 1)[-1]
    how = f"with {METHODS[recipe.method].title}"
    if merges:
        how = f"{way} {trained}, then merging ('Model Merging for Knowledge Editing', arXiv 2506.12384)"
    merged = f"`{recipe.merge.file or recipe.merge.method}`, onto the {recipe.merge.onto} model, {recipe.merge.when}"
    return "\n".join(
        [
            "---",
            strict_yaml.dump(front).rstrip(),
            "---",
            "",
            f"# {document['name']}",
            "",
            f"{name} with {report.counted(facts, 'fact', 'facts')} edited in "
            f"{report.counted(batches, 'batch', 'batches')} by kedit_glue: {how}.",
            "",
            f"- Edits: {facts}, batches of {recipe.edits.batch_size}, seed {recipe.seed}",
            *([f"- Merge: {merged}"] if merges else []),
            "- Recipe, the last batch's YAML, scores and report: `provenance/`",
            "",
            "## Scores",
            "",
            *tables.markdown_table(report.EDIT_HEAD, report.edit_rows(document)),
            "",
            *(f"{note[:1].upper()}{note[1:]}.\n" for note in notes(document)),
            *_general(document),
            *(f"{line}.\n" for line in verdict.lines(document)),
            *(REMEMBERS if recipe.method in REMEMBERED else _last("merge" if merges else "batch", last_yaml)),
            "## Limits",
            "",
            "The scores are of the edited facts, of probes near them and of the tasks named above; what else changed "
            "is not known. Check what matters to you before use. The licence is the base model's.",
            "",
        ]
    )


def _last(what: str, text: str) -> list[str]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [f"## Last {what}", "", "```yaml", "\n".join(lines).strip(), "```", ""]


def _layers(recipe: Recipe) -> str:
    layers = recipe.train.layers
    return layers if isinstance(layers, str) else ", ".join(map(str, layers))


def _general(document: Mapping[str, Any]) -> list[str]:
    rows = report.general_rows(document)
    return [*tables.markdown_table(report.GENERAL_HEAD, rows), ""] if rows else []
