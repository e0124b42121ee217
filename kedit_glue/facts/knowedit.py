"""KnowEdit's wiki_recent, wiki_counterfact, ZsRE and WikiBio."""

from __future__ import annotations

from kedit_glue.facts import records
from kedit_glue.facts.edit import Edit
from kedit_glue.facts.fields import Parsed, Record, bad_probes, by_kind, optional, own_id, required


def to_edit(raw: Record, position: str) -> Parsed:
    if "prompt" not in raw and ("text" in raw or "labels" in raw):
        return from_wikibio(raw, position)
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
