"""What is looked for across the records of a file: repeats, contradictions, subjects, ids."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from kedit_glue.facts.edit import Edit, Unusable
from kedit_glue.facts.errors import shown
from kedit_glue.facts.fields import Parsed


def folded(text: str) -> str:
    return " ".join(text.split())


def number_of(position: str) -> int:
    """12 for ``record 12`` and for ``record 12, rewrite 2``, 7 for ``line 7``."""
    return numbers_of(position)[0]


def numbers_of(position: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", position)]


def clean(parsed: Iterable[Parsed]) -> tuple[list[Edit], list[Unusable]]:
    """The sound edits with their ids, and what was left out, both in the file's order."""
    firsts: dict[str, Edit] = {}
    unusable = []
    for edit, dropped in parsed:
        prompt = folded(edit.prompt)
        if prompt in firsts:
            unusable.append(repeated(firsts[prompt], edit))
            continue
        firsts[prompt], flaw = with_sound_subject(edit)
        unusable += [*dropped, *flaw]
    return with_ids(list(firsts.values())), unusable


def repeated(first: Edit, later: Edit) -> Unusable:
    """Why ``later``, whose prompt stands in the file already, is left out: the first is kept."""
    if folded(first.target_new) == folded(later.target_new):
        return Unusable(later.position, "duplicate", f"{later.position} repeats {first.position}")
    return Unusable(
        later.position,
        "contradiction",
        f"{later.position} says {shown(later.target_new)} where {first.position} says "
        f"{shown(first.target_new)} for {shown(first.prompt)} (the first is kept)",
    )


def with_sound_subject(edit: Edit) -> tuple[Edit, list[Unusable]]:
    """The edit without a subject that does not stand in its prompt: no method could find it there."""
    if edit.subject is None or edit.subject in edit.prompt:
        return edit, []
    message = f"the subject {shown(edit.subject)} does not stand in the prompt; used without a subject"
    return replace(edit, subject=None), [Unusable(edit.position, "bad subject", message, whole_record=False)]


def with_ids(edits: Sequence[Edit]) -> list[Edit]:
    """The records' own ids where they are unique, else ``fact-0012`` or ``fact-0012-2`` by the position."""
    counts = Counter(edit.id for edit in edits)
    own = {edit.id for edit in edits if edit.id and counts[edit.id] == 1}
    named = []
    for edit in edits:
        if edit.id not in own:
            first, *inner = numbers_of(edit.position)
            name = "-".join([f"fact-{first:04d}", *map(str, inner)])
            while name in own:
                name += "x"
            edit = replace(edit, id=name)
        named.append(edit)
    return named
