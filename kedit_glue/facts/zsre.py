"""zsRE as MEND, ROME and EasyEdit have it: ``src`` is to be answered with ``alt``.

EasyEdit's ``zsre_mend_eval_portability_gpt4.json`` adds ``portability``: one question that takes another hop.
"""

from __future__ import annotations

from collections.abc import Mapping

from kedit_glue.facts.edit import Edit
from kedit_glue.facts.fields import (
    Found,
    Parsed,
    Record,
    bad_probes,
    described,
    first_answer,
    optional,
    own_id,
    rephrases,
    required,
    single,
)

KIND = "Unrelated"
ONE_HOP = "One_Hop"
QUESTION, ANSWER = "New Question", "New Answer"
LOCALITY_MARK = "nq question: "
"""What stands before every locality question, and is no part of it."""


def to_edit(raw: Record, position: str) -> Parsed:
    others, bad_rephrases = rephrases(raw, ["rephrase"])
    portability = one_hop(raw.get("portability"))
    locality = single({**raw, "loc": without_mark(raw.get("loc"))}, KIND, "loc", "loc_ans")
    edit = Edit(
        id=own_id(raw),
        prompt=required(raw, "src"),
        target_new=required(raw, "alt"),
        subject=optional(raw, "subject"),
        ground_truth=first_answer(raw, "answers"),
        rephrase_prompts=others,
        portability=portability.kinds,
        locality=locality.kinds,
        position=position,
    )
    return edit, bad_probes(position, bad_rephrases + portability.dropped + locality.dropped)


def without_mark(question: object) -> object:
    return question.removeprefix(LOCALITY_MARK) if isinstance(question, str) else question


def one_hop(value: object) -> Found:
    """``{Recalled Relation, New Question, New Answer}``; the first says which fact the question asks for."""
    if value is None or value == {}:
        return Found()
    if not isinstance(value, Mapping) or not {QUESTION, ANSWER} & value.keys():
        found = described(value)
        return Found(dropped=[f"portability is {found}, not an object with {QUESTION} and {ANSWER}"])
    return single(value, ONE_HOP, QUESTION, ANSWER)
