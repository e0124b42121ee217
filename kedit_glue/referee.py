"""Our teacher-forced numbers beside EasyEdit's own, item by item. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kedit_glue import questions, scores
from kedit_glue.questions import Fact

SHOWN = 5


@dataclass(frozen=True)
class Item:
    """One prompt that both scorers asked one model."""

    model: str
    fact: str
    aspect: str
    prompt: str
    ours: Any
    """Accuracy, or for locality the most likely tokens."""
    theirs: Any

    @property
    def same(self) -> bool:
        if isinstance(self.ours, list):
            return bool(self.ours == self.theirs)
        return bool(abs(self.ours - self.theirs) < 1e-9)


def differences(facts: Sequence[Fact], ours: Sequence[Any], theirs: Sequence[Any]) -> list[Item]:
    """Every item of the base and the edited model; ``ours`` and ``theirs``: raw answers of both."""
    found = []
    for name, own, other in zip(("base", "edited"), map(scores.by_id, ours), map(scores.by_id, theirs), strict=True):
        for fact in facts:
            mine: Mapping[str, Any] = own[fact["id"]].get("teacher_forced", {})
            asked = questions.about(fact, mine)
            both = zip(
                asked,
                questions.in_order(asked, mine),
                questions.in_order(asked, other[fact["id"]]["teacher_forced"]),
                strict=True,
            )
            found += [Item(name, q.fact, q.aspect, q.prompt, a, b) for q, a, b in both]
    return found


def said(items: Sequence[Item]) -> list[str]:
    """For a person: how many agree, and the first that do not."""
    other = [item for item in items if not item.same]
    lines = [f"referee: EasyEdit's own code gives the same for {len(items) - len(other)} of {len(items)} prompts"]
    lines += [
        f"  {item.model}, {item.fact}, {item.aspect}, {item.prompt!r}: ours {item.ours}, EasyEdit's {item.theirs}"
        for item in other[:SHOWN]
    ]
    return lines + ([f"  and {len(other) - SHOWN} more"] if len(other) > SHOWN else [])
