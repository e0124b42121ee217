"""MQuAKE: cases of one or more rewrites, and multi-hop questions that hold once all of them are made.

Each rewrite becomes an edit (``record 3, rewrite 2``). Rewrites recur: those of MQuAKE-T's 1,825 cases are 96 different
ones. A rewrite that stands in the file already is left out as a duplicate, and the case's questions, asked once, hang
on whichever of its edits is made last; where one of its rewrites is contradicted, unusable or passed over they are left
out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kedit_glue.facts import counterfact
from kedit_glue.facts.cleaning import folded
from kedit_glue.facts.edit import Edit, Probe, Unusable
from kedit_glue.facts.errors import BadRecord
from kedit_glue.facts.fields import (
    BAD_PROBE,
    BAD_RECORD,
    Found,
    Parsed,
    Record,
    bad_probes,
    described,
    joined,
    own_id,
    probe,
    rephrases,
    unwritable,
)
from kedit_glue.facts.reading import Raw

MULTI_HOP = "Multi_Hop"
"""The case is solved where any of its questions is answered."""
SINGLE_HOP = "Single_Hop"
"""The facts of the chain after the edit, edited or not: the instance is recalled where all are answered."""


@dataclass(frozen=True)
class Case:
    position: str
    value: Record
    rewrites: list[Raw]


def cases(raws: Sequence[Raw]) -> tuple[list[Raw], list[Case]]:
    """The records that become edits, and the cases whose questions are hung on them afterwards."""
    expanded: list[Raw] = []
    found = []
    for raw in raws:
        value = raw.value
        rewrites = value.get("requested_rewrite") if isinstance(value, Mapping) else None
        if not isinstance(value, Mapping) or not isinstance(rewrites, list) or not rewrites or unwritable(value):
            expanded.append(raw)  # loading says what is wrong with it
            continue
        name = own_id(value)
        single = [
            Raw(
                f"{raw.position}, rewrite {n}",
                {"requested_rewrite": rewrite} | ({"id": f"{name}-{n}"} if name else {}),
            )
            for n, rewrite in enumerate(rewrites, 1)
        ]
        found.append(Case(raw.position, value, single))
        expanded += single
    return expanded, found


def to_edit(raw: Record, position: str) -> Parsed:
    """One rewrite; its own question is a rephrasing of its cloze prompt."""
    rewrite = raw.get("requested_rewrite")
    if not isinstance(rewrite, Mapping):
        raise BadRecord(BAD_RECORD, f"requested_rewrite is {described(rewrite)}, not a list of objects")
    edit, dropped = counterfact.from_rome(raw, position)
    others, bad = rephrases(rewrite, ["question"])
    return replace(edit, rephrase_prompts=others), [*dropped, *bad_probes(position, bad)]


def hang(found: Sequence[Case], edits: Sequence[Edit]) -> tuple[list[Edit], list[Unusable]]:
    """The edits that are made, with the cases' questions, and what was left out; of cases without an edit nothing."""
    made = {folded(edit.prompt): place for place, edit in enumerate(edits)}
    hung: dict[int, list[Found]] = {}
    unusable = []
    for case in found:
        if passed_over(case, made):
            continue
        try:
            last = max(place_of(rewrite, made, edits) for rewrite in case.rewrites)
        except BadRecord as bad:
            message = f"its questions are not asked: {bad.message}"
            unusable.append(Unusable(case.position, bad.kind, message, whole_record=False))
            continue
        asked = joined([multi_hop(case), single_hop(case)])
        unusable += bad_probes(case.position, asked.dropped)
        hung.setdefault(last, []).append(asked)
    return [
        replace(edit, portability=joined(hung[place]).kinds) if place in hung else edit
        for place, edit in enumerate(edits)
    ], unusable


def passed_over(case: Case, made: Mapping[str, int]) -> bool:
    """Whether its rewrites are sound and none of them is made."""
    try:
        edits = [to_edit(rewrite.value, "")[0] for rewrite in case.rewrites if isinstance(rewrite.value, Mapping)]
    except BadRecord:
        return False
    return len(edits) == len(case.rewrites) and not any(folded(edit.prompt) in made for edit in edits)


def place_of(rewrite: Raw, made: Mapping[str, int], edits: Sequence[Edit]) -> int:
    """Which edit makes this rewrite; raises BadRecord where none does."""
    name = rewrite.position.partition(", ")[2]
    if not isinstance(rewrite.value, Mapping):
        raise BadRecord(BAD_PROBE, f"{name} cannot be used")
    try:
        edit, _ = to_edit(rewrite.value, rewrite.position)
    except BadRecord:
        raise BadRecord(BAD_PROBE, f"{name} cannot be used") from None
    place = made.get(folded(edit.prompt))
    if place is None:
        raise BadRecord(BAD_PROBE, f"{name} is not among the edits")
    if folded(edits[place].target_new) != folded(edit.target_new):
        raise BadRecord(BAD_PROBE, f"{name} contradicts {edits[place].position}")
    return place


def multi_hop(case: Case) -> Found:
    questions = case.value.get("questions")
    answer = with_aliases(case.value, "new_answer")
    return one_test(
        MULTI_HOP,
        case,
        [
            (question, answer, ("question", "new_answer"), f"questions {n}: ")
            for n, question in enumerate(questions if isinstance(questions, list) else [], 1)
        ],
    )


def single_hop(case: Case) -> Found:
    hops = case.value.get("new_single_hops")
    whole = one_test(
        SINGLE_HOP,
        case,
        [
            (hop.get("question"), with_aliases(hop, "answer"), ("question", "answer"), f"new_single_hops {n}: ")
            if isinstance(hop, Mapping)
            else (hop, None, ("question", "answer"), f"new_single_hops {n}: ")
            for n, hop in enumerate(hops if isinstance(hops, list) else [], 1)
        ],
    )
    return Found(dropped=whole.dropped) if whole.dropped else whole  # without one hop the rest is no whole chain


def with_aliases(raw: Record, key: str) -> list[object]:
    aliases = raw.get(f"{key}_alias")
    return [raw.get(key), *(aliases if isinstance(aliases, list) else [aliases])]


def one_test(kind: str, case: Case, asked: Sequence[tuple[object, object, tuple[str, str], str]]) -> Found:
    """The sound probes, named as one test after their case."""
    sound: list[Probe] = []
    dropped = []
    for prompt, answer, names, where in asked:
        try:
            sound.append(replace(probe(prompt, answer, names, where), test=case.position))
        except BadRecord as bad:
            dropped.append(bad.message)
    return Found({kind: tuple(sound)} if sound else {}, dropped)
