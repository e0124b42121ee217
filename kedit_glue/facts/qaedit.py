"""QAEdit: real questions with their true answers, and unrelated questions beside them."""

from __future__ import annotations

from kedit_glue.facts.edit import Edit
from kedit_glue.facts.fields import (
    Parsed,
    Record,
    bad_probes,
    listed,
    optional,
    own_id,
    rephrases,
    required,
)

KIND = "Unrelated"


def to_edit(raw: Record, position: str) -> Parsed:
    others, bad_rephrases = rephrases(raw, ["rephrase"])
    locality = listed(raw.get("locality"), "locality", KIND, ("loc", "loc_ans"))
    edit = Edit(
        id=own_id(raw),
        prompt=required(raw, "prompt"),
        target_new=required(raw, "target"),
        subject=optional(raw, "subject"),
        rephrase_prompts=others,
        portability={},
        locality=locality.kinds,
        position=position,
    )
    return edit, bad_probes(position, bad_rephrases + locality.dropped)
