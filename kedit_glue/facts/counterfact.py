"""CounterFact: EasyEdit's flat form, and ROME's original one."""

from __future__ import annotations

from collections.abc import Mapping

from kedit_glue.facts.edit import Edit
from kedit_glue.facts.errors import BadRecord, shown
from kedit_glue.facts.fields import (
    BAD_RECORD,
    MISSING,
    Found,
    Parsed,
    Record,
    bad_probes,
    clean,
    described,
    first_answer,
    joined,
    optional,
    own_id,
    rephrases,
    required,
    single,
)

KIND = "Neighborhood"
"""The neighbour prompts ask the same relation of another subject with the same true object."""


def to_edit(raw: Record, position: str) -> Parsed:
    return from_rome(raw, position) if "requested_rewrite" in raw else from_flat(raw, position)


def from_flat(raw: Record, position: str) -> Parsed:
    others, bad_rephrases = rephrases(raw, ["rephrase_prompt"])
    locality = single(raw, KIND, "locality_prompt", "locality_ground_truth")
    edit = Edit(
        id=own_id(raw),
        prompt=required(raw, "prompt"),
        target_new=required(raw, "target_new"),
        subject=optional(raw, "subject"),
        ground_truth=first_answer(raw, "ground_truth"),
        rephrase_prompts=others,
        portability={},
        locality=locality.kinds,
        position=position,
    )
    return edit, bad_probes(position, bad_rephrases + locality.dropped)


def from_rome(raw: Record, position: str) -> Parsed:
    rewrite = raw["requested_rewrite"]
    if not isinstance(rewrite, Mapping):
        raise BadRecord(BAD_RECORD, f"requested_rewrite is {described(rewrite)}, not an object")
    subject = required(rewrite, "subject")
    template = required(rewrite, "prompt")
    if template.count("{}") != 1:
        raise BadRecord(
            BAD_RECORD,
            f"the prompt {shown(template)} has {template.count('{}')} places {{}} for the subject, not one",
        )
    target = inner_text(rewrite, "target_new")
    if target is None:
        raise BadRecord(MISSING, "requested_rewrite has no target_new")
    truth = inner_text(rewrite, "target_true")
    others, bad_rephrases = rephrases(raw, ["paraphrase_prompts"])
    locality = neighbours(raw.get("neighborhood_prompts"), truth)
    edit = Edit(
        id=own_id(raw),
        prompt=template.replace("{}", subject),
        target_new=target,
        subject=subject,
        ground_truth=truth,
        rephrase_prompts=others,
        portability={},
        locality=locality.kinds,
        position=position,
    )
    return edit, bad_probes(position, bad_rephrases + locality.dropped)


def inner_text(rewrite: Record, key: str) -> str | None:
    """``{"str": text, "id": …}`` under ``key``; a plain string will do; None where the key is absent."""
    value = rewrite.get(key)
    if value is None:
        return None
    return clean(value.get("str"), f"{key}.str") if isinstance(value, Mapping) else clean(value, key)


def neighbours(value: object, truth: str | None) -> Found:
    """The neighbours' answer is the edited fact's own true object."""
    prompts = value if isinstance(value, list) else [] if value is None else [value]
    return joined(
        single({f"neighborhood_prompts {n}": prompt, "target_true": truth},
               KIND, f"neighborhood_prompts {n}", "target_true")
        for n, prompt in enumerate(prompts, 1)
    )  # fmt: skip
