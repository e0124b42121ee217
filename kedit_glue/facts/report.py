"""What was loaded and what was left out, in lines for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kedit_glue.facts.edit import Edit, FactSet, Probe, Unusable
from kedit_glue.facts.errors import plain


@dataclass(frozen=True)
class Counts:
    """How many of each a file of facts holds; kinds in the order they come up."""

    facts: int
    aims: Mapping[str, int]
    rephrasings: int
    portability: Mapping[str, int]
    locality: Mapping[str, int]
    responses: Mapping[str, int]
    """Of ConvSent: responses of the wanted and of the opposite sentiment."""
    unusable: Mapping[str, int]
    """Whole records by what is wrong with them."""
    unusable_parts: Mapping[str, int]
    """Parts of records that are used: probes, subjects, white space."""


def counts(facts: FactSet) -> Counts:
    """Of the edits that are used (the first ``limit``), and of all that is unusable in the file."""
    edits = facts.edits
    return Counts(
        facts=len(edits),
        aims=Counter(edit.aim for edit in edits),
        rephrasings=sum(len(edit.rephrase_prompts) for edit in edits),
        portability=by_kind(edit.portability for edit in edits),
        locality=by_kind(edit.locality for edit in edits),
        responses=by_kind(edit.responses for edit in edits),
        unusable=Counter(item.kind for item in facts.unusable if item.whole_record),
        unusable_parts=Counter(item.kind for item in facts.unusable if not item.whole_record),
    )


def by_kind(aspects: Iterable[Mapping[str, Sequence[Probe]]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for aspect in aspects:
        found.update({kind: len(probes) for kind, probes in aspect.items()})
    return found


def summary(facts: FactSet, most: int = 10) -> list[str]:
    """A line for what is used, one for its probes if any, one for each kind of thing left out, ``most`` named."""
    source = f" from {facts.source}" if facts.source else ""
    first = f"{counted(len(facts.edits), 'fact')}{source} ({facts.format}{aims(facts.edits)})"
    if facts.records_read != len(facts.edits):
        first += f", {counted(facts.records_read, 'record')} read"
    whole = [item for item in facts.unusable if item.whole_record]
    parts = [item for item in facts.unusable if not item.whole_record]
    passed = f"passed over: {counted(facts.without_subject, 'fact')} with no subject in the prompt (edits.with_subject)"
    return [
        first,
        *([passed] if facts.without_subject else []),
        *probes(counts(facts)),
        *(f"left out: {line}" for line in reasons(whole, most)),
        *(f"left out of records that are used: {line}" for line in reasons(parts, most)),
    ]


def aims(edits: Sequence[Edit]) -> str:
    """What the edits are for, where not all are modification."""
    found = Counter(edit.aim for edit in edits)
    return "" if set(found) <= {"modification"} else f": {', '.join(f'{n} {aim}' for aim, n in found.items())}"


def probes(found: Counts) -> list[str]:
    """``asked besides: 40 rephrasings; locality 40 Neighborhood``, or nothing."""
    parts = [counted(found.rephrasings, "rephrasing")] if found.rephrasings else []
    aspects = {"portability": found.portability, "locality": found.locality, "responses": found.responses}
    for aspect, kinds in aspects.items():
        if kinds:
            parts.append(f"{aspect} {', '.join(f'{number} {plain(kind)}' for kind, number in kinds.items())}")
    return [f"asked besides: {'; '.join(parts)}"] if parts else []


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
