"""What a model is asked about a fact. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Fact = Mapping[str, Any]
"""An entry of ``facts.json``."""

ASPECTS = ("edit_success", "generalization", "portability", "locality")
BY_KIND = ("portability", "locality")
HELD_OUT = "Held_Out"
"""The kind of portability probe that asks what an erasure withholds, in words that the edit did not hold."""
NEIGHBORS = "Neighborhood"
"""The kind of locality probe that CounterFact's neighborhood score is about: the true answer is the edited fact's."""


@dataclass(frozen=True)
class Question:
    """One prompt that a fact is asked with, and what answers it: the preferred answer first, then its aliases."""

    fact: str
    aspect: str
    prompt: str
    answers: tuple[str, ...]
    kind: str = ""
    """Of a portability or locality probe."""
    also: tuple[tuple[str, ...], ...] = ()
    """What a full answer names besides, each with its aliases."""
    test: str = ""
    """Probes of a kind with the same name here are one test."""
    conditions: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Prompts, and what answers them, that the original model must answer rightly for this one to count."""


def about(fact: Fact, aspects: Iterable[str]) -> list[Question]:
    """Every prompt one fact is asked with, as EasyEdit's record would hold them."""
    wanted, new = set(aspects), (fact["target_new"],)
    asked = []
    if "edit_success" in wanted:
        asked.append(Question(fact["id"], "edit_success", fact["prompt"], new))
    if "generalization" in wanted:
        asked += [Question(fact["id"], "generalization", prompt, new) for prompt in fact["rephrase_prompts"]]
    for aspect in BY_KIND:
        if aspect in wanted:
            asked += [_probe(fact["id"], aspect, kind, p) for kind, probes in fact[aspect].items() for p in probes]
    return asked


def _probe(fact: str, aspect: str, kind: str, probe: Mapping[str, Any]) -> Question:
    also = tuple(tuple(names) for names in probe.get("also", ()))
    conditions = tuple((c["prompt"], tuple(c["answers"])) for c in probe.get("conditions", ()))
    return Question(
        fact, aspect, probe["prompt"], tuple(probe["answers"]), kind, also, probe.get("test", ""), conditions
    )


def rivals(fact: Fact) -> list[tuple[Question, str, str]]:
    """What CounterFact's scores compare: a prompt, its new answer and its true one; none where the truth is not known.

    Neighbours are locality probes of the kind ``Neighborhood``, whose answer is the edited fact's own true one;
    WikiBigEdit has probes of that kind with another.
    """
    new, true = fact["target_new"], fact.get("ground_truth")
    if not true:
        return []
    asked = [*about(fact, ["edit_success", "generalization"])]
    asked += [q for q in about(fact, ["locality"]) if q.kind == NEIGHBORS and true in q.answers]
    return [(question, new, true) for question in asked]


def placed(questions: Sequence[Question], values: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Values by fact: ``{fact: {aspect: value}}``, a list for ``generalization``, ``{kind: list}`` for probes."""
    found: dict[str, dict[str, Any]] = {}
    for question, value in zip(questions, values, strict=True):
        record = found.setdefault(question.fact, {})
        if question.aspect in BY_KIND:
            record.setdefault(question.aspect, {}).setdefault(question.kind, []).append(value)
        elif question.aspect == "generalization":
            record.setdefault(question.aspect, []).append(value)
        else:
            record[question.aspect] = value
    return found


def in_order(questions: Sequence[Question], values: Mapping[str, Any]) -> list[Any]:
    """The values of one fact's questions, out of what ``placed`` made of them."""
    left = {aspect: _flat(aspect, value) for aspect, value in values.items()}
    return [left[question.aspect].pop(0) for question in questions]


def _flat(aspect: str, value: Any) -> list[Any]:
    if aspect in BY_KIND:
        return [one for probes in value.values() for one in probes]
    return list(value) if aspect == "generalization" else [value]


def chosen(facts: Sequence[Any], job: Mapping[str, Any]) -> list[Any]:
    """The facts from number ``new`` to before ``upto``, behind ``old`` of those before (all where it is None).

    The sample is drawn anew for each batch, by the job's ``seed``, and stands in the facts' order.
    """
    new, old = job["new"], job["old"]
    if old is None or old >= new:
        return list(facts[: job["upto"]])
    drawn = random.Random(f"{job['seed']} {new}").sample(range(new), old)
    return [facts[i] for i in sorted(drawn)] + list(facts[new : job["upto"]])
