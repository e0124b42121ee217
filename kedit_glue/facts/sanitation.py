"""KnowEdit's Sanitation (``trivia_qa_*.json``): questions whose answers are to be withheld.

Unlike all other tasks a file is one object: ``{K_F, K_R}`` for training (what to forget, what to keep), ``{success,
locality}`` for testing; each holds a list of ``{question, target_new, ground_truth, subject}``. EasyEdit's
``run_trivia_llama2.py`` (later ``run_santinization_llama2.py``) edits K_F and asks other questions with the same
answers, those under ``success``. So the test file beside a training file is read as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeGuard

from kedit_glue.facts.edit import Edit, Probe, Unusable
from kedit_glue.facts.errors import BadRecord, shown
from kedit_glue.facts.fields import (
    BAD_PROBE,
    Parsed,
    Record,
    clean,
    described,
    first_answer,
    optional,
    own_id,
    probe,
    required,
    unwritable,
)
from kedit_glue.facts.reading import Raw, json_value, text_of

FORGET, KEEP = "K_F", "K_R"
HELD_OUT, UNTOUCHED = "success", "locality"
HELD_OUT_KIND, KEPT_KIND = "Held_Out", "Retained"


@dataclass(frozen=True)
class Sanitation:
    """What the file, or the two files, hold: the records to edit and what is asked besides."""

    raws: list[Raw]
    held_out: list[Raw]
    kept: list[Raw]
    source: str

    def hang(self, edits: Sequence[Edit]) -> tuple[list[Edit], list[Unusable]]:
        """The edits with each question asked once, and the questions that were left out.

        A held-out question goes to an edit with the same answer, of several to each in turn; one about what is to be
        kept goes to each edit in turn.
        """
        held_out, bad = probes(self.held_out, "target_new")
        kept, also_bad = probes(self.kept, "ground_truth")
        portability: defaultdict[int, list[Probe]] = defaultdict(list)
        by_answer: defaultdict[str, list[int]] = defaultdict(list)
        for place, edit in enumerate(edits):
            by_answer[(edit.ground_truth or "").lower()].append(place)
        turns: defaultdict[str, int] = defaultdict(int)
        for raw, question, item in held_out:
            answer = str(item.get("ground_truth")).strip().lower()
            places = by_answer.get(answer)
            if not places:
                message = f"no answer to withhold is {shown(answer)}"
                bad.append(Unusable(raw.position, BAD_PROBE, message, whole_record=False))
                continue
            portability[places[turns[answer] % len(places)]].append(question)
            turns[answer] += 1
        locality: defaultdict[int, list[Probe]] = defaultdict(list)
        for turn, (_, question, _) in enumerate(kept):
            locality[turn % len(edits)].append(question)
        return [
            replace(
                edit,
                portability={HELD_OUT_KIND: tuple(portability[place])} if place in portability else {},
                locality={KEPT_KIND: tuple(locality[place])} if place in locality else {},
            )
            for place, edit in enumerate(edits)
        ], bad + also_bad


def is_sanitation(value: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(value, Mapping) and any(isinstance(value.get(key), list) for key in (FORGET, HELD_OUT))


def sanitation(path: Path, value: Mapping[str, object]) -> Sanitation:
    """From the file's object; ``trivia_qa_test.json`` beside ``trivia_qa_train.json`` is read where it is there."""
    source = path.name
    beside = path.with_name(path.name.replace("train", "test"))
    if FORGET in value and HELD_OUT not in value and beside != path and beside.is_file():
        other = json_value(beside, text_of(beside))
        if is_sanitation(other):
            value = {**value, HELD_OUT: other.get(HELD_OUT), UNTOUCHED: other.get(UNTOUCHED)}
            source = f"{path.name} and {beside.name}"
    if FORGET not in value:
        return Sanitation(items(value, HELD_OUT), [], items(value, UNTOUCHED), source)
    kept = UNTOUCHED if value.get(UNTOUCHED) else KEEP
    return Sanitation(items(value, FORGET), items(value, HELD_OUT), items(value, kept), source)


def items(value: Mapping[str, object], key: str) -> list[Raw]:
    found = value.get(key)
    return [Raw(f"{key} {n}", item) for n, item in enumerate(found if isinstance(found, list) else [], 1)]


def asked(question: str) -> str:
    """The question as EasyEdit trains and asks it."""
    return f"Question:{question}\nAnswer:"


def to_edit(raw: Record, position: str) -> Parsed:
    edit = Edit(
        id=own_id(raw),
        prompt=asked(required(raw, "question")),
        target_new=required(raw, "target_new"),
        subject=optional(raw, "subject"),
        ground_truth=first_answer(raw, "ground_truth"),
        position=position,
        aim="erasure",
    )
    return edit, []


def probes(raws: Sequence[Raw], answer: str) -> tuple[list[tuple[Raw, Probe, Record]], list[Unusable]]:
    """The sound questions with their records, and the others; ``answer`` is the key of what is expected."""
    sound, bad = [], []
    for raw in raws:
        try:
            item = raw.value
            if not isinstance(item, Mapping):
                raise BadRecord(BAD_PROBE, f"{described(item)}, not an object with question and {answer}")
            if flaw := unwritable(item):
                raise BadRecord(BAD_PROBE, flaw)
            question = asked(clean(item.get("question"), "question"))
            sound.append((raw, probe(question, item.get(answer), ("question", answer)), item))
        except BadRecord as found:
            bad.append(Unusable(raw.position, BAD_PROBE, found.message, whole_record=False))
    return sound, bad
