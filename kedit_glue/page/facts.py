"""Rows of the browser of facts: each with its scores and, where they were kept, the models' real answers.

A run's stages keep answers in ``base/answers.json`` and ``batch_*/answers.json`` (in several of these where batches are
edited alone), a scoring of two models in ``base/score.json`` and ``edited/score.json``; ``facts.json`` has what was
asked. A ``scores.json`` alone has a few.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kedit_glue import independent, metrics, questions, results, scores
from kedit_glue.batch_files import batch_name
from kedit_glue.generated import contains, exact_match, normalized
from kedit_glue.metrics import METRICS
from kedit_glue.problems import CannotStart
from kedit_glue.questions import Question

MOST = 5000
"""Facts that a page holds: those that failed before the others."""
MOST_VALUES = 200_000
"""Facts times cells of a study's page."""
EXACT = "edit_success.generated.exact_match"
SHOWN = (metrics.SUCCESS, metrics.GENERALIZATION, metrics.PORTABILITY, metrics.LOCALITY)
Row = dict[str, Any]
"""``id``, ``batch``, ``prompt``, ``wanted``, ``scores`` (in the order of SHOWN, 0 to 1 or None), ``before``, ``after``
(generated answers or None), ``failed``, ``probes`` ({aspect, prompt, wanted, before, after, right}); where a merge was
searched also ``chose`` (whether candidates were judged on it)."""


def rows(document: Mapping[str, Any], probes: Mapping[str, Sequence[Row]] | None = None) -> list[Row]:
    """At most MOST, those that failed first, of these the worst first; ``probes``: by fact, as of ``answered``."""
    told = {answer["id"]: answer for answer in document["answers"]}
    made = [row(fact, told.get(fact["id"]), (probes or {}).get(fact["id"], ())) for fact in document["facts"]]
    if search := document.get("search"):
        seen = set(search["facts"])
        made = [{**one, "chose": one["id"] in seen} for one in made]
    return sorted(made, key=lambda one: (not one["failed"], one["scores"][0] if one["failed"] else 0.0))[:MOST]


def row(fact: Mapping[str, Any], answer: Mapping[str, Any] | None, asked: Sequence[Row]) -> Row:
    own = own_answer(asked)
    source = own or answer
    values = [scores.one_number(fact["after"].get(metric)) for metric in SHOWN]
    return {
        "id": fact["id"],
        "batch": fact.get("batch"),
        "prompt": fact["prompt"],
        "wanted": fact["target_new"],
        "scores": [None if value is None else round(value, 4) for value in values],
        "before": source["before"] if source else None,
        "after": source["after"] if source else None,
        "failed": failed(fact),
        "probes": [probe for probe in asked if probe is not own],
    }


def own_answer(asked: Sequence[Row]) -> Row | None:
    """Of a fact's probes the edit's own prompt."""
    return next((probe for probe in asked if probe["aspect"] == "edit_success"), None)


def failed(fact: Mapping[str, Any]) -> bool:
    """Whether the edit's own prompt is not answered wholly: some token is wrong, or the generated answer is."""
    after = fact["after"]
    return any(value is not None and value < 1 for value in (after.get(metrics.SUCCESS), after.get(EXACT)))


def answered(folder: Path, document: Mapping[str, Any]) -> dict[str, list[Row]]:
    """By fact every generated answer of both models that ``folder`` still has; empty where it has none, or has those
    about other facts than the result's: a run may have begun anew there."""
    source, batches = document.get("facts_source"), len(document["batches"])
    alone = document.get("mode") == "independent"
    last = [independent.folder_name(each) for each in independent.chunks(batches)] if alone else [batch_name(batches)]
    sides = [
        (folder / "base" / "answers.json", [folder / name / "answers.json" for name in last]),
        (folder / "base" / "score.json", [folder / "edited" / "score.json"]),
    ]
    files = (folder / "facts.json", folder / "setup" / "facts.json")
    asked = next((file for file in files if file.is_file()), None)
    there = [(before, after) for before, after in sides if all(file.is_file() for file in (before, *after))]
    if asked is None or source is None or not there:
        return {}
    about = read_json(asked)
    if results.source(source["name"], about)["hash"] != source["hash"]:
        return {}
    before, after = there[0]
    first = scores.by_id(read_json(before))
    second = {key: fact for file in after for key, fact in scores.by_id(read_json(file)).items()}
    return {
        fact["id"]: list(probes_of(fact, first[fact["id"]], second[fact["id"]]))
        for fact in about
        if "generated" in first.get(fact["id"], {}) and "generated" in second.get(fact["id"], {})
    }


def read_json(file: Path) -> Any:
    """Raises CannotStart for a file that is damaged."""
    try:
        return json.loads(file.read_bytes())
    except ValueError as error:
        raise CannotStart(f"{file} is damaged, or no JSON ({error}): run it again, which writes it anew") from None


def probes_of(fact: questions.Fact, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Row]:
    """What one fact was asked, both answers, and whether the edited model's is right; of locality also where it is the
    original's."""
    aspects = [aspect for aspect in questions.ASPECTS if aspect in after["generated"]]
    asked = questions.about(fact, aspects)
    answers = (questions.in_order(asked, side["generated"]) for side in (before, after))
    for question, old, new in zip(asked, *answers, strict=True):
        yield {
            "aspect": question.aspect,
            "kind": question.kind.replace("_", " "),
            "prompt": question.prompt,
            "wanted": question.answers[0],
            "before": old["text"],
            "after": new["text"],
            "right": right(question, new["text"]) or kept_as_it_was(question, old["text"], new["text"]),
        }


def right(question: Question, text: str) -> bool:
    """Of an edit and its rephrasings exactly the answer, of others that it is held."""
    if question.aspect in ("edit_success", "generalization"):
        return exact_match(text, question.answers)
    return all(contains(text, one) for one in (question.answers, *question.also))


def kept_as_it_was(question: Question, before: str, after: str) -> bool:
    return question.aspect == "locality" and normalized(before) == normalized(after)


def across(
    cells: Sequence[tuple[str, Mapping[str, Any]]], probes: Mapping[str, Mapping[str, Sequence[Row]]] | None = None
) -> list[Row]:
    """Of a study: each fact with its edit success in every cell, those that most cells miss first; ``probes``: by
    cell and fact, as of ``answered``."""
    found: dict[tuple[str, str, str], Row] = {}
    for at, (name, document) in enumerate(cells):
        asked = (probes or {}).get(name, {})
        told = {answer["id"]: answer for answer in document["answers"]}
        for fact in document["facts"]:
            key = (fact["id"], fact["prompt"], fact["target_new"])
            entry = found.setdefault(key, empty(fact, len(cells)))
            value = fact["after"].get(metrics.SUCCESS)
            entry["cells"][at] = [None if value is None else round(value, 4), failed(fact)]
            entry["missed"] += failed(fact)
            if answer := own_answer(asked.get(fact["id"], ())) or told.get(fact["id"]):
                entry["before"] = answer["before"]
                entry["answers"].append([at, answer["after"]])
    ordered = sorted(found.values(), key=lambda one: -one["missed"])
    most = min(MOST, MOST_VALUES // max(len(cells), 1))
    return [{**one, "failed": one["missed"] > 0} for one in ordered[:most]]


def empty(fact: Mapping[str, Any], cells: int) -> Row:
    return {
        "id": fact["id"],
        "prompt": fact["prompt"],
        "wanted": fact["target_new"],
        "cells": [None] * cells,
        "missed": 0,
        "before": None,
        "answers": [],
    }


def heads() -> list[str]:
    """Titles of a row's scores."""
    return [METRICS[metric].title for metric in SHOWN]
