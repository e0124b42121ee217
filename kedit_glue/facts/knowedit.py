"""KnowEdit's six tasks: wiki_recent, wiki_counterfact, ZsRE and WikiBio; ConvSent and Sanitation by their modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kedit_glue.facts import convsent, records, sanitation
from kedit_glue.facts.edit import Edit
from kedit_glue.facts.fields import Parsed, Record, bad_probes, by_kind, optional, own_id, required


def to_edit(raw: Record, position: str) -> Parsed:
    if "prompt" not in raw:
        if "text" in raw or "labels" in raw:
            return from_wikibio(raw, position)
        if "ent" in raw:
            return convsent.to_edit(raw, position)
        if "question" in raw:
            return sanitation.to_edit(raw, position)
    return records.to_edit(raw, position)


def from_wikibio(raw: Record, position: str) -> Parsed:
    """WikiBio: the passage so far under ``text``, its continuation under ``labels``."""
    locality = by_kind(raw, "locality")
    edit = Edit(
        id=own_id(raw),
        prompt=required(raw, "text"),
        target_new=required(raw, "labels"),
        subject=optional(raw, "concept"),
        locality=locality.kinds,
        portability={},
        position=position,
    )
    return edit, bad_probes(position, locality.dropped)


def finished(edits: Sequence[Edit], source: str) -> list[Edit]:
    """What only the whole file tells: the other topics of ConvSent; and that wiki_recent, known by its file's name,
    is insertion."""
    if all(edit.aim == "sentiment" for edit in edits):
        return convsent.with_other_topics(edits)
    if "recent" in source.lower():
        return [replace(edit, aim="insertion") for edit in edits]
    return list(edits)
