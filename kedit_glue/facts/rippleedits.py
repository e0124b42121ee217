"""RippleEdits (``recent.json``, ``random.json``, ``popular.json``): an edit, and six groups of tests around it.

The edit is one sentence, ``The name of the mother of X is Y.``, whose subject and target are named by Wikidata ids
only; both are told from the sentence and from the queries. A test has queries and conditions: what the model must
answer rightly before the edit for the test to count. A query's answers must all be named, each by any of its aliases.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile

from kedit_glue.facts.edit import Aim, Edit, Probe, Unusable
from kedit_glue.facts.errors import BadRecord, shown
from kedit_glue.facts.fields import (
    BAD_RECORD,
    EMPTY,
    Found,
    Parsed,
    Record,
    answers,
    bad_probes,
    clean,
    described,
    joined,
    own_id,
    required,
)

PORTABILITY = ("Logical_Generalization", "Subject_Aliasing", "Compositionality_I", "Compositionality_II")
LOCALITY = ("Relation_Specificity", "Forgetfulness")
SPELT = {"Relation_Specificity": "Relation_Specifity"}
"""As the project's own description spells it."""
VERB = re.compile(r"\b(?:is|are|follows|by) ")
"""What a relation's phrase ends with."""
BEFORE_SUBJECT = re.compile(r"\b(?:of|in) ")


def to_edit(raw: Record, position: str) -> Parsed:
    change = raw.get("edit")
    if not isinstance(change, Mapping):
        raise BadRecord(BAD_RECORD, f"edit is {described(change)}, not an object with prompt")
    original = change.get("original_fact")
    before = original.get("prompt") if isinstance(original, Mapping) else None
    queries = list(all_queries(raw))
    prompt, target = divided(
        required(change, "prompt"), before if isinstance(before, str) else None, label(change.get("target_id"), queries)
    )
    subject = subject_of(prompt, change, queries)
    portability = joined(tests(raw, kind, position) for kind in PORTABILITY)
    locality = joined(tests(raw, kind, position) for kind in LOCALITY)
    aim: Aim = "insertion" if str(raw.get("example_type")).startswith("recent") else "modification"
    edit = Edit(
        id=own_id(raw),
        prompt=prompt,
        target_new=target,
        subject=subject,
        ground_truth=truth(before, prompt),
        portability=portability.kinds,
        locality=locality.kinds,
        position=position,
        aim=aim,
    )
    left_out = bad_probes(position, portability.dropped + locality.dropped)
    if subject is None:
        message = "which part of the prompt is the subject cannot be told from the queries; used without a subject"
        left_out.append(Unusable(position, "bad subject", message, whole_record=False))
    return edit, left_out


def all_queries(raw: Record) -> Iterator[Record]:
    """Every query of every test, those of its conditions too."""
    for kind in (*PORTABILITY, *LOCALITY):
        found = group(raw, kind)
        for test in found if isinstance(found, list) else []:
            for key in ("test_queries", "condition_queries"):
                queries = test.get(key) if isinstance(test, Mapping) else None
                yield from (q for q in (queries if isinstance(queries, list) else []) if isinstance(q, Mapping))


def group(raw: Record, kind: str) -> object:
    return raw.get(kind, raw.get(SPELT.get(kind, kind)))


def label(entity: object, queries: Sequence[Record]) -> str | None:
    """The name of an entity: the value of a query that asks for it alone."""
    for query in queries:
        found = query.get("answers")
        if query.get("query_type") == "regular" and query.get("target_ids") == [entity] and isinstance(found, list):
            value = found[0].get("value") if found and isinstance(found[0], Mapping) else None
            if isinstance(value, str) and value.strip():
                return value.strip()
    return None


def divided(sentence: str, before: str | None, target: str | None) -> tuple[str, str]:
    """The prompt and the target of a sentence; ``before`` is the one that was true.

    By the target's name where it is known, else behind the last verb of what the two sentences share, or of the one.
    """
    text = sentence.removesuffix(".")
    if target and text.endswith(f" {target}"):
        return text.removesuffix(target).rstrip(), target
    pairs = zip(text, text if before is None else before, strict=False)
    shared = "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    ends = [verb.end() for verb in VERB.finditer(shared)]
    if not ends or not text[ends[-1] :].strip():
        raise BadRecord(BAD_RECORD, f"where the target begins in {shown(sentence)} cannot be told")
    return text[: ends[-1]].rstrip(), text[ends[-1] :].strip()


def truth(before: object, prompt: str) -> str | None:
    if not isinstance(before, str) or not before.startswith(f"{prompt} "):
        return None
    return before.removeprefix(prompt).strip().removesuffix(".") or None


def subject_of(prompt: str, change: Record, queries: Sequence[Record]) -> str | None:
    """The subject's name: from a query that asks for it, else the end of the prompt that all its relations share."""
    own = change.get("subject_id")
    name = label(own, queries)
    if name and name in prompt:
        return name
    others = {
        str(query.get("relation")): str(query.get("prompt"))
        for query in queries
        if query.get("subject_id") == own
        and query.get("relation") != change.get("relation")
        and query.get("query_type") == "regular"
        and not query.get("phrase")
    }
    text = re.sub(r" (?:is|are)$", "", prompt)
    ends = (text[start.end() :] for start in BEFORE_SUBJECT.finditer(text))
    return next((end for end in ends if len(others) > 1 and all(end in other for other in others.values())), None)


def tests(raw: Record, kind: str, position: str) -> Found:
    """A test of several queries, of which any may be answered, is several probes that name the same test."""
    found = group(raw, kind)
    if found is None:
        return Found()
    if not isinstance(found, list):
        return Found(dropped=[f"{kind} is {described(found)}, not a list of tests"])
    sound: list[Probe] = []
    dropped = []
    for number, item in enumerate(found, 1):
        try:
            sound += test(item, f"{position}, {kind} {number}")
        except BadRecord as bad:
            dropped.append(f"{kind} {number}: {bad.message}")
    return Found({kind: tuple(sound)} if sound else {}, dropped)


def test(item: object, name: str) -> list[Probe]:
    if not isinstance(item, Mapping):
        raise BadRecord(BAD_RECORD, f"{described(item)}, not an object with test_queries")
    queries, conditions = item.get("test_queries"), item.get("condition_queries") or []
    if not isinstance(queries, list) or not queries:
        raise BadRecord(BAD_RECORD, f"test_queries is {described(queries)}, not a list of queries")
    if not isinstance(conditions, list):
        raise BadRecord(BAD_RECORD, f"condition_queries is {described(conditions)}, not a list of queries")
    if len(queries) > 1 and item.get("test_condition") == "AND":
        raise BadRecord(BAD_RECORD, f"all of {len(queries)} queries would have to be answered; only OR is known")
    known = tuple(query(condition) for condition in conditions)
    return [query(each, name if len(queries) > 1 else "", known) for each in queries]


def query(raw: object, name: str = "", conditions: tuple[Probe, ...] = ()) -> Probe:
    if not isinstance(raw, Mapping):
        raise BadRecord(BAD_RECORD, f"a query is {described(raw)}, not an object with prompt and answers")
    prompt, given = clean(raw.get("prompt"), "prompt"), raw.get("answers")
    if not isinstance(given, list) or not given:
        raise BadRecord(EMPTY, "answers holds no answer")
    named = [by_alias(answer, f"answers {number}") for number, answer in enumerate(given, 1)]
    return Probe(prompt, named[0], tuple(named[1:]), name, conditions)


def by_alias(answer: object, name: str) -> tuple[str, ...]:
    """An answer's names. One letter alone is none: it stands in nearly every text (so RippleEdits)."""
    if not isinstance(answer, Mapping):
        raise BadRecord(BAD_RECORD, f"{name} is {described(answer)}, not an object with value and aliases")
    aliases = answer.get("aliases")
    every = answers([answer.get("value"), *(aliases if isinstance(aliases, list) else [aliases])], name)
    usable = tuple(text for text in every if len(text) > 1 or text.isdigit())
    if not usable:
        raise BadRecord(EMPTY, f"{name} holds no answer")
    return usable
