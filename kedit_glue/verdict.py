"""Whether an edited model may ship, and why: a result's numbers against thresholds (``recipe_verdict.py``). Pure.

A value on the wrong side of its threshold by less than its 95 % interval is neither met nor missed; of general ability
a change whose interval holds 0 is no loss, however wide the interval: ask more items to see a small one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kedit_glue import metrics
from kedit_glue.metrics import METRICS
from kedit_glue.recipe_verdict import Verdict
from kedit_glue.tables import percent, short

SHIP, DO_NOT, UNKNOWN = "ship", "do not ship", "cannot tell"
DEFAULTS: Mapping[str, float | None] = Verdict().model_dump()
LEAST = {
    "least_edit_success": metrics.SUCCESS,
    "least_generalization": metrics.GENERALIZATION,
    "least_portability": metrics.PORTABILITY,
    "least_locality": metrics.LOCALITY,
    "least_exact_answers": "edit_success.generated.exact_match",
    "least_withheld": metrics.WITHHELD,
}
WHERE_MEASURED = (metrics.WITHHELD,)
"""Which say nothing of most facts: a result without them lacks nothing."""
GENERAL = "most_general_loss"
Reason = dict[str, Any]
"""``met``: true, false, or None where it cannot be told; ``says``: in words."""


def judged(document: Mapping[str, Any], wanted: Mapping[str, float | None] = DEFAULTS) -> dict[str, Any]:
    """``verdict`` of a result (``result_fields.Verdict``): the answer, its reasons, the thresholds."""
    edits = document["after"]["edits"]
    reasons = [
        at_least(metric, edits.get(metric), least)
        for key, metric in LEAST.items()
        if (least := wanted.get(key)) is not None and (metric in edits or metric not in WHERE_MEASURED)
    ]
    if (most := wanted[GENERAL]) is not None:
        changes = document["after"]["general_change"]
        reasons += [at_most(task, change, most) for task, change in changes.items()]
        if not changes:
            why = "no model holds all edits" if document.get("mode") == "independent" else "score.general.tasks"
            reasons.append(reason(None, f"general ability was not measured ({why})"))
    return {"answer": answer(reasons), "reasons": reasons, "thresholds": dict(wanted)}


def answer(reasons: list[Reason]) -> str:
    """One missed threshold forbids, one that cannot be told leaves it open; where nothing is asked, nothing is said."""
    met = [one["met"] for one in reasons]
    return DO_NOT if False in met else UNKNOWN if None in met or not met else SHIP


def reason(met: bool | None, says: str) -> Reason:
    return {"met": met, "says": says}


def at_least(metric: str, entry: Mapping[str, Any] | None, least: float) -> Reason:
    title = METRICS[metric].title
    if entry is None or entry["mean"] is None:
        why = "no fact has a question for it, or score.edits.metrics leaves it out"
        return reason(None, f"{title} was not measured ({why}); wanted: at least {percent(least)}")
    mean, half = entry["mean"], entry.get("half_width_95") or 0.0
    said = f"{title} {percent(mean)}{f' ± {100 * half:.1f}' if half else ''}"
    if mean >= least:
        return reason(True, f"{said} is at least {percent(least)}")
    if mean + half >= least:
        return reason(None, f"{said} is under {percent(least)}, by less than the noise")
    return reason(False, f"{said} is under {percent(least)}")


def at_most(task: str, change: Mapping[str, Any], most: float) -> Reason:
    """Of a task of lm-eval; ``most``: the relative loss that is tolerated."""
    if change.get("before") is not None and change.get("after", 0.0) is None:
        return reason(False, f"{task}: the edited model's {change['metric']} is no finite number")
    if change.get("before") == 0 and change["better"] == "higher":
        return reason(True, f"{task}: the original scores 0, of which nothing can be lost")
    found = relative_loss(change)
    if found is None:
        return reason(None, f"{task} has no change to compare")
    loss, low, high = found
    said = f"{task}: {loss_or_gain(loss, low, high)}"
    if change.get("noise"):
        return reason(True, f"{said}, no change beyond the noise")
    if loss <= most:
        return reason(True, f"{said}, up to {percent(most)} of loss is tolerated")
    if low <= most:
        return reason(None, f"{said}, over the {percent(most)} that is tolerated, by less than the noise")
    return reason(False, f"{said}, where {percent(most)} is tolerated")


def loss_or_gain(loss: float, low: float, high: float) -> str:
    name, value, ends = ("gain", -loss, (-high, -low)) if loss < 0 else ("loss", abs(loss), (low, high))
    return "{} {} [{}, {}]".format(name, percent(value), *(short(100 * end, sign="+") for end in ends))


def relative_loss(change: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """Loss of a task relative to the original's value, low and high end of its 95 % interval; below 0: a gain."""
    before = change.get("before")
    if change.get("change") is None or change.get("change_95") is None or not before:
        return None
    unit = 1.0 if change.get("change_is") else abs(before)
    ends = [value / unit for value in (change["change"], *change["change_95"])]
    loss, one, other = ends if change["better"] == "lower" else [-value for value in ends]
    return loss, min(one, other), max(one, other)


def unasked(document: Mapping[str, Any], wanted: Mapping[str, float | None]) -> list[str]:
    """What was measured and has no threshold, in words: a verdict says nothing of it."""
    edits = document["after"]["edits"]
    found = [
        f"{METRICS[metric].title} {percent(edits[metric]['mean'])}"
        for key, metric in LEAST.items()
        if wanted.get(key) is None and metric in edits and edits[metric]["mean"] is not None
    ]
    if metrics.LEAKED in edits and edits[metrics.LEAKED]["mean"] is not None:
        found.append(f"{METRICS[metrics.LEAKED].title} {percent(edits[metrics.LEAKED]['mean'])}")
    return [
        *found,
        *(["general ability"] if wanted.get(GENERAL) is None and document["after"]["general_change"] else []),
    ]


def lines(document: Mapping[str, Any]) -> list[str]:
    """A result's verdict in one line, with what decided it; none where the result does not say."""
    if not (found := document.get("verdict")):
        return []
    decisive = {SHIP: True, DO_NOT: False, UNKNOWN: None}[found["answer"]]
    why = "; ".join(one["says"] for one in found["reasons"] if one["met"] is decisive)
    return [f"Verdict: {found['answer']}{f': {why}' if why else ' (no threshold is set)'}"]
