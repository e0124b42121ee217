"""zsRE in the MEND form: ``src`` is to be answered with ``alt``."""

from __future__ import annotations

from kedit_glue.facts.edit import Edit
from kedit_glue.facts.fields import (
    Parsed,
    Record,
    bad_probes,
    first_answer,
    optional,
    own_id,
    rephrases,
    required,
    single,
)

KIND = "Unrelated"
LOCALITY_MARK = "nq question: "
"""What stands before every locality question, and is no part of it."""


def to_edit(raw: Record, position: str) -> Parsed:
    others, bad_rephrases = rephrases(raw, ["rephrase"])
    locality = single({**raw, "loc": without_mark(raw.get("loc"))}, KIND, "loc", "loc_ans")
    edit = Edit(
        id=own_id(raw),
        prompt=required(raw, "src"),
        target_new=required(raw, "alt"),
        subject=optional(raw, "subject"),
        ground_truth=first_answer(raw, "answers"),
        rephrase_prompts=others,
        portability={},
        locality=locality.kinds,
        position=position,
    )
    return edit, bad_probes(position, bad_rephrases + locality.dropped)


def without_mark(question: object) -> object:
    return question.removeprefix(LOCALITY_MARK) if isinstance(question, str) else question
