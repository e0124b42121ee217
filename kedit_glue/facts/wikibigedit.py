"""WikiBigEdit: EasyEdit's flat form, and the names of the original release (update, ans, rephrase, loc …)."""

from __future__ import annotations

from kedit_glue.facts.edit import Edit
from kedit_glue.facts.fields import (
    Found,
    Parsed,
    Record,
    bad_probes,
    first_answer,
    joined,
    optional,
    own_id,
    present,
    rephrases,
    required,
    single,
)

KIND = "Neighborhood"
"""The locality prompts ask the same or a similar relation of another, often like-named subject."""


def to_edit(raw: Record, position: str) -> Parsed:
    target = required(raw, "target_new", "ans")
    others, bad_rephrases = rephrases(raw, [present(raw, "rephrase_prompt", "rephrase")])
    portability = joined([from_persona(raw, target), single(raw, "Reasoning", "mhop", "mhop_ans")])
    locality = single(
        raw,
        KIND,
        present(raw, "locality_prompt", "loc"),
        present(raw, "locality_ground_truth", "loc_ans"),
    )
    edit = Edit(
        id=own_id(raw),
        prompt=required(raw, "prompt", "update"),
        target_new=target,
        subject=optional(raw, "subject"),
        ground_truth=first_answer(raw, "ground_truth"),
        rephrase_prompts=others,
        portability=portability.kinds,
        locality=locality.kinds,
        position=position,
    )
    return edit, bad_probes(position, bad_rephrases + portability.dropped + locality.dropped)


def from_persona(raw: Record, target: str) -> Found:
    """The edit's own question in somebody's voice: its answer is the edit's."""
    if raw.get("personas") is None:
        return Found()
    return single({"personas": raw["personas"], "target": target}, "Personas", "personas", "target")
