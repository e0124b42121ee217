"""``verdict:``, what an edited model has to reach before the report says that it may ship."""

from __future__ import annotations

from typing import Any

from kedit_glue.recipe_keys import Section, number

ALLOWED = "a number from 0 to 1, or null to ask for nothing"


def share(default: float | None, about: str) -> Any:
    return number(default, about, ALLOWED, ge=0, le=1)


class Verdict(Section):
    """Teacher-forced, of the edited model over all facts, unless a key says otherwise."""

    least_edit_success: float | None = share(0.95, "The edit success that is wanted at least")
    least_generalization: float | None = share(None, "The generalization that is wanted at least")
    least_portability: float | None = share(None, "The portability that is wanted at least")
    least_locality: float | None = share(
        0.5,
        "The locality that is wanted at least: a model that gives one answer to everything has edit success 1, and "
        "general tasks need not show it",
    )
    least_exact_answers: float | None = share(
        None, "The share of facts whose generated answer has to be exactly the new one"
    )
    least_withheld: float | None = share(
        0.95,
        "Of facts that are to be withheld: the share of other questions about them whose generated answer has to be "
        "the new one; nothing where no fact is",
    )
    most_general_loss: float | None = number(
        0.05,
        "How much of a general task's value may be lost, relative to the original's; a change inside the noise is no "
        "loss",
        "a number, 0 or more, or null to ask for nothing",
        ge=0,
    )
