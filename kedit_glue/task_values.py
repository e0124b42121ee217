"""Values of one record of a data set: texts, whole numbers, labels. Each raises BadRecord with what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kedit_glue.facts.errors import BadRecord, names, shown
from kedit_glue.facts.fields import BAD_RECORD, MISSING, clean, described, present, required

Record = Mapping[str, Any]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
HIDDEN = "hidden label"
BAD_LABEL = "bad label"
YES_NO = {"no": 0, "yes": 1}


def value_of(record: Record, *keys: str) -> tuple[str, Any]:
    """The first of ``keys`` that is there, and its value."""
    key = present(record, *keys)
    if key not in record:
        raise BadRecord(MISSING, f"no {key} (found: {names(record)})")
    return key, record[key]


def whole(record: Record, name: str) -> int:
    _, value = value_of(record, name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRecord(BAD_RECORD, f"{name} is {described(value)}, not a whole number")
    return value


def verbatim(record: Record, *keys: str) -> str:
    """A text that is not empty, with the white space around it: a prompt is to be the data set's own."""
    checked = required(record, *keys)
    value = record[present(record, *keys)]
    return value if isinstance(value, str) else checked


def texts(record: Record, *keys: str) -> list[str]:
    """At least two texts, verbatim."""
    key, value = value_of(record, *keys)
    if not isinstance(value, list):
        raise BadRecord(BAD_RECORD, f"{key} is {described(value)}, not a list of texts")
    for number, text in enumerate(value, 1):
        clean(text, f"{key} {number}")
    if len(value) < 2:
        raise BadRecord(BAD_RECORD, f"{key} has {len(value)} text{'' if len(value) == 1 else 's'}: nothing to choose")
    return list(value)


def label_of(record: Record, words: Mapping[str, int], *keys: str) -> int:
    """A label as a number: given so, or as one of ``words``, which have the numbers from 0."""
    key, value = value_of(record, *keys)
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    if isinstance(value, int) and not isinstance(value, bool) and value in words.values():
        return value
    hidden_label(key, value)
    raise BadRecord(
        BAD_LABEL, f"{key} is {shown(str(value))}, not one of {', '.join(words)} or 0 to {max(words.values())}"
    )


def yes_or_no(record: Record, *keys: str) -> int:
    """1 for yes, true and 1; 0 for no, false and 0."""
    key, value = value_of(record, *keys)
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return int(value.strip().lower() == "true")
    return label_of(record, YES_NO, key)


def chosen(record: Record, options: Sequence[str], *keys: str) -> int:
    """Which option is right: a number from 0, a letter, or the option's own text, where these agree."""
    key, value = value_of(record, *keys)
    readings: set[int] = set()
    if isinstance(value, str):
        text = value.strip()
        readings = {number for number, option in enumerate(options) if option.strip() == text}
        if len(text) == 1 and text in LETTERS[: len(options)]:
            readings.add(LETTERS.index(text))
        if text.isdecimal() and int(text) < len(options):
            readings.add(int(text))
    elif isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(options):
        readings = {value}
    if len(readings) == 1:
        return readings.pop()
    hidden_label(key, value)
    if readings:
        places = " or ".join(str(reading + 1) for reading in sorted(readings))
        raise BadRecord(BAD_LABEL, f"{key} {shown(str(value))} may mean option {places}: give its number, from 0")
    raise BadRecord(
        BAD_LABEL,
        f"{key} is {shown(str(value))}, not a number from 0 to {len(options) - 1}, a letter from A to "
        f"{LETTERS[min(len(options), len(LETTERS)) - 1]} or one of the {len(options)} texts",
    )


def hidden_label(key: str, value: object) -> None:
    """Raises BadRecord for the label of a test set that keeps its answers."""
    if value in (-1, "-1"):
        raise BadRecord(HIDDEN, f"{key} is -1: a test set whose answers are not published")
