"""From the values of one raw record to clean text and probes: what every format shares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kedit_glue.facts.edit import Edit, Probe, Unusable
from kedit_glue.facts.errors import BadRecord, names, nearest, plain, shown

Record = Mapping[str, object]
Parsed = tuple[Edit, list[Unusable]]

EMPTY = "empty field"
MISSING = "missing field"
BAD_RECORD = "bad record"
BAD_PROBE = "bad probe"
TRIMMED = "trimmed text"


@dataclass
class Found:
    """The probes of one aspect by kind, and why others were dropped."""

    kinds: dict[str, tuple[Probe, ...]] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)


def described(value: object) -> str:
    """A JSON value's type, as a person would name it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"a boolean ({str(value).lower()})"
    if isinstance(value, int | float):
        return f"a number ({shown(str(value), 20)[1:-1]})"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "an object"


def clean(value: object, name: str) -> str:
    """The text without the white space around it; raises BadRecord where there is none."""
    if value is None:
        raise BadRecord(EMPTY, f"{name} is null")
    if not isinstance(value, str):
        hint = ": put it in quotes" if isinstance(value, int | float) else ""
        raise BadRecord(BAD_RECORD, f"{name} is {described(value)}, not a string{hint}")
    if not value:
        raise BadRecord(EMPTY, f"{name} is empty")
    if not value.strip():
        raise BadRecord(EMPTY, f"{name} holds only white space")
    return value.strip()


def present(raw: Record, *keys: str) -> str:
    """The first of ``keys`` that the record has, else the first: one field under several names."""
    return next((key for key in keys if key in raw), keys[0])


def required(raw: Record, *keys: str) -> str:
    key = present(raw, *keys)
    if key not in raw:
        like = nearest(key, raw, 0.8)
        hint = f"; did you mean {key!r} where it says {shown(like)}?" if like else ""
        raise BadRecord(MISSING, f"no {key} (found: {names(raw)}{hint})")
    value = raw[key]
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return clean(value, key)


def optional(raw: Record, key: str) -> str | None:
    value = raw.get(key)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return clean(value, key)


def own_id(raw: Record) -> str:
    """The record's own ``id`` or ``case_id``; empty where it has none."""
    value = raw.get(present(raw, "id", "case_id"))
    return str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""


def answers(value: object, name: str) -> tuple[str, ...]:
    """Every acceptable answer in order, each once: from a string, a list, or a list of alias lists."""
    found: dict[str, None] = {}
    for item in value if isinstance(value, list) else [value]:
        for alias in item if isinstance(item, list) else [item]:
            if alias is not None and not isinstance(alias, str):
                raise BadRecord(BAD_RECORD, f"{name} holds {described(alias)}, not a string")
            if alias and alias.strip():
                found[alias.strip()] = None
    return tuple(found)


def first_answer(raw: Record, key: str) -> str | None:
    return next(iter(answers(raw.get(key), key)), None)


def rephrases(raw: Record, keys: Iterable[str]) -> tuple[tuple[str, ...], list[str]]:
    """The prompts under ``keys`` (each a string or a list), each once; and why others were dropped."""
    found: dict[str, None] = {}
    dropped = []
    for key in keys:
        value = raw.get(key)
        items = value if isinstance(value, list) else [] if value is None else [value]
        for number, item in enumerate(items, 1):
            try:
                found[clean(item, f"{key} {number}" if len(items) > 1 else key)] = None
            except BadRecord as bad:
                dropped.append(bad.message)
    return tuple(found), dropped


def probe(prompt: object, answer: object, names: tuple[str, str], where: str = "") -> Probe:
    """One probe; ``names`` are its two keys, for the message, and ``where`` stands before them."""
    text = clean(prompt, where + names[0])
    accepted = answers(answer, where + names[1])
    if not accepted:
        raise BadRecord(EMPTY, f"{where}{names[1]} holds no answer")
    return Probe(text, accepted)


def single(raw: Record, kind: str, prompt_key: str, answer_key: str) -> Found:
    """The probe of a flat record, under ``kind``; nothing where the record has neither key."""
    prompt, answer = raw.get(prompt_key), raw.get(answer_key)
    if prompt is None and answer is None:
        return Found()
    try:
        return Found({kind: (probe(prompt, answer, (prompt_key, answer_key)),)})
    except BadRecord as bad:
        return Found(dropped=[bad.message])


def listed(value: object, aspect: str, kind: str, keys: tuple[str, str]) -> Found:
    """The probes of one kind from a list of objects; ``keys`` name a probe's prompt and its answer."""
    where = aspect if kind == aspect else f"{aspect} {plain(kind)}"
    items = [] if value is None else [value] if isinstance(value, Mapping) else value
    if not isinstance(items, list):
        return Found(dropped=[f"{where} is {described(value)}, not a list of {{{keys[0]}, {keys[1]}}}"])
    sound: list[Probe] = []
    dropped = []
    for number, item in enumerate(items, 1):
        if not isinstance(item, Mapping):
            dropped.append(f"{where} {number} is {described(item)}, not an object with {keys[0]} and {keys[1]}")
            continue
        prompts = item.get(keys[0])
        for prompt in prompts if isinstance(prompts, list) and prompts else [prompts]:
            try:
                sound.append(probe(prompt, item.get(keys[1]), keys, f"{where} {number}: "))
            except BadRecord as bad:
                dropped.append(bad.message)
    return Found({kind: tuple(sound)} if sound else {}, dropped)


def by_kind(raw: Record, aspect: str) -> Found:
    """``{kind: [{prompt, ground_truth}]}`` under ``portability`` or ``locality``."""
    value = raw.get(aspect)
    if value is None or value == []:
        return Found()
    if not isinstance(value, Mapping):
        return Found(dropped=[f"{aspect} is {described(value)}, not an object {{kind: [probes]}}"])
    return joined(listed(items, aspect, str(kind), ("prompt", "ground_truth")) for kind, items in value.items())


def joined(parts: Iterable[Found]) -> Found:
    whole = Found()
    for part in parts:
        for kind, found in part.kinds.items():
            whole.kinds[kind] = (*whole.kinds.get(kind, ()), *found)
        whole.dropped += part.dropped
    return whole


def trimmed(raw: Record, edit: Edit) -> list[Unusable]:
    """Where the white space around a prompt or target was taken off: one space is put between the two."""
    inner = raw.get("requested_rewrite")
    values = [value for record in (raw, inner) if isinstance(record, Mapping) for value in record.values()]
    given = {value for value in values if isinstance(value, str) and value != value.strip()}
    found = [name for name in ("prompt", "target_new") if {getattr(edit, name)} & {value.strip() for value in given}]
    message = f"the white space around its {' and '.join(found)}, because one space joins prompt and target"
    return [Unusable(edit.position, TRIMMED, message, whole_record=False)] if found else []


def bad_probes(position: str, messages: Iterable[str]) -> list[Unusable]:
    return [Unusable(position, BAD_PROBE, message, whole_record=False) for message in messages]


def unwritable(value: object) -> str | None:
    """Why a parsed value cannot be written as text again (a NUL, half a surrogate pair), else None."""
    left: list[tuple[str, object]] = [("", value)]
    while left:
        name, item = left.pop()
        if isinstance(item, str):
            where = name or "the record"
            if "\0" in item:
                return f"{where} holds a NUL character"
            if any("\ud800" <= character <= "\udfff" for character in item):
                return f"{where} holds half a surrogate pair, which is no character"
        elif isinstance(item, Mapping):
            for key, inner in reversed(list(item.items())):
                left += [(name or plain(str(key)), inner), ("a key", key)]
        elif isinstance(item, list):
            left += [(name, inner) for inner in reversed(item)]
    return None
