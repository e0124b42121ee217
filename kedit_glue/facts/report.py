"""What was loaded and what was left out, in lines for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kedit_glue.facts.edit import FactSet, Unusable


def summary(facts: FactSet, most: int = 10) -> list[str]:
    """One line for what is used, then one for each kind of thing left out, ``most`` of them named."""
    source = f" from {facts.source}" if facts.source else ""
    first = f"{counted(len(facts.edits), 'fact')}{source} ({facts.format})"
    if facts.records_read != len(facts.edits):
        first += f", {counted(facts.records_read, 'record')} read"
    whole = [item for item in facts.unusable if item.whole_record]
    parts = [item for item in facts.unusable if not item.whole_record]
    return [
        first,
        *(f"left out: {line}" for line in reasons(whole, most)),
        *(f"left out of records that are used: {line}" for line in reasons(parts, most)),
    ]


def reasons(unusable: Iterable[Unusable], most: int) -> list[str]:
    """``2 duplicates (record 7 repeats record 3; …)`` for each kind, in the order they come up."""
    kinds: dict[str, list[Unusable]] = {}
    for item in unusable:
        kinds.setdefault(item.kind, []).append(item)
    return [f"{counted(len(items), kind)} ({named(items, most)})" for kind, items in kinds.items()]


def named(items: Sequence[Unusable], most: int) -> str:
    more = f"; and {len(items) - most} more" if len(items) > most else ""
    return "; ".join(sentence(item) for item in items[:most]) + more


def sentence(item: Unusable) -> str:
    """The message, behind its position where it does not begin with that itself."""
    begins = item.message.startswith(f"{item.position} ")
    return item.message if begins else f"{item.position}: {item.message}"


def counted(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number} {what}s"
