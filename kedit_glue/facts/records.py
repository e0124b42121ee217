"""Our own records, as JSON or JSONL; KnowEdit's wiki_recent, wiki_counterfact and ZsRE have the same keys."""

from __future__ import annotations

import re

from kedit_glue.facts.edit import Edit
from kedit_glue.facts.errors import nearest, shown
from kedit_glue.facts.fields import (
    Parsed,
    Record,
    bad_probes,
    by_kind,
    first_answer,
    joined,
    optional,
    own_id,
    rephrases,
    required,
    single,
)

KEYS = (
    "id", "case_id", "prompt", "target_new", "subject", "ground_truth",
    "rephrase_prompt", "rephrase_prompts", "portability", "locality",
    "portability_prompt", "portability_ground_truth", "locality_prompt", "locality_ground_truth",
)  # fmt: skip
REPHRASE = re.compile(r"rephrase_prompt(s|_\d+)?|rephrase")

UNNAMED = "Other"
"""The kind of a probe whose file does not tell its kind."""


def to_edit(raw: Record, position: str) -> Parsed:
    prompt, target = required(raw, "prompt"), required(raw, "target_new")
    others, bad_rephrases = rephrases(raw, (key for key in raw if REPHRASE.fullmatch(key)))
    portability = joined(
        [
            by_kind(raw, "portability"),
            single(raw, UNNAMED, "portability_prompt", "portability_ground_truth"),
        ]
    )
    locality = joined([by_kind(raw, "locality"), single(raw, UNNAMED, "locality_prompt", "locality_ground_truth")])
    edit = Edit(
        id=own_id(raw),
        prompt=prompt,
        target_new=target,
        subject=optional(raw, "subject"),
        ground_truth=first_answer(raw, "ground_truth"),
        rephrase_prompts=others,
        portability=portability.kinds,
        locality=locality.kinds,
        position=position,
    )
    dropped = bad_rephrases + portability.dropped + locality.dropped + misspelt(raw)
    return edit, bad_probes(position, dropped)


def misspelt(raw: Record) -> list[str]:
    """Keys that were not read but are nearly one that would have been."""
    missing = [key for key in KEYS if key not in raw]
    unknown = [key for key in raw if key not in KEYS and not REPHRASE.fullmatch(key)]
    likely = ((key, nearest(key, missing, 0.8)) for key in unknown)
    return [f"{shown(key)} was not read; did you mean {meant!r}?" for key, meant in likely if meant]
