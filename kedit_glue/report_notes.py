"""What a reader must know of how scores came about, a sentence each."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from kedit_glue import methods
from kedit_glue.after_merge import shares_left


def notes(document: Mapping[str, Any]) -> list[str]:
    """What is to be said below the scores of the edits, a sentence each."""
    found = (
        mode_note(document),
        method_note(document),
        rehearsal_note(document),
        neighbours_note(document),
        subject_note(document),
        reshaping_note(document),
        search_note(document),
        protocol_note(document),
    )
    return [note for note in found if note]


def rehearsal_note(document: Mapping[str, Any]) -> str:
    """How often training showed earlier facts again; empty where it never did."""
    shown, taught = (in_training(document, "rehearsed", key) for key in ("shown", "taught"))
    if not shown:
        return ""
    return (
        f"facts of earlier batches were shown to training again (train.rehearse) {shown} times; {taught} times one was "
        "forgotten, and taught again"
    )


def neighbours_note(document: Mapping[str, Any]) -> str:
    """How many prompts about other subjects training protected; empty where there were none."""
    if not (prompts := in_training(document, "neighbours", "prompts")):
        return ""
    return (
        "training kept what the facts' prompts feed in when they are about other subjects (train.protect.neighbours), "
        f"{prompts} prompts in all"
    )


def subject_note(document: Mapping[str, Any]) -> str:
    """That training learned at the subject's tokens alone, and in how many texts; empty where it did not."""
    texts, named = (in_training(document, "at_subject", key) for key in ("texts", "named"))
    if not texts:
        return ""
    others = f"; {texts - named} of {texts} texts do not name it, and were learned at all" if named < texts else ""
    return f"training learned at the tokens that name a fact's subject alone (train.tokens: subject){others}"


def reshaping_note(document: Mapping[str, Any]) -> str:
    """What ``merge.regmean`` left of the merges' change, a mean over the batches; empty where nothing was regressed."""
    said = [found for batch in document["batches"] if "facts_meet_after" in (found := batch.get("reshaping") or {})]
    if not said:
        return ""
    facts, text = map(fmean, zip(*map(shares_left, said), strict=True))
    return (
        f"each merge became a regression mean (merge.regmean): of its change the taught facts meet "
        f"{100 * facts:.0f} %, general text {100 * text:.0f} %"
    )


def in_training(document: Mapping[str, Any], part: str, key: str) -> int:
    """Sum over the batches of a count that training reported; 0 where it did not."""
    reported = (batch.get("training") or {} for batch in document["batches"])
    return int(sum((training.get(part) or {}).get(key, 0) for training in reported))  # a result that is read has floats


def search_note(document: Mapping[str, Any]) -> str:
    """Which facts chose the merge, and are not scored here; empty where no merge was searched."""
    if not (search := document.get("search")):
        return ""
    seen, all_of = len(search["facts"]), len(document["facts"])
    return f"scores are of {all_of - seen} facts; the other {seen} chose the merge (merge.search) and are left out"


def protocol_note(document: Mapping[str, Any]) -> str:
    """How answers were generated; empty where none were."""
    how = document.get("protocol", {}).get("generated")
    if not how:
        return ""
    put = "as bare prompts" if how["template"] == "bare" else f"in the template {how['template']!r}"
    judge = f", judged by {how['judge']}" if how.get("judge") else ""
    limit = f"at most {how['most_tokens']} tokens, nothing cut at the answer's length"
    return f"generated: asked {put}, greedy, {limit}{judge}"


def method_note(document: Mapping[str, Any]) -> str:
    """What a reader must know of a method that remembers facts beside the model; empty for others."""
    if document.get("method") not in methods.REMEMBERED:
        return ""
    title = methods.METHODS[document["method"]].title
    return (
        f"{title} leaves the weights as they are: edits were scored through its memory, general ability is the "
        "original's, and other tools see the original"
    )


NO_MODEL = "no edited model: each batch was edited alone and the original restored (edits.mode: independent)"


def mode_note(document: Mapping[str, Any]) -> str:
    """What a reader must know of batches that were edited alone; empty for others."""
    if document.get("mode") != "independent":
        return ""
    return (
        "Each batch was edited into the original alone and asked about its own facts, then the original was restored: "
        "a score is the mean over the facts of all batches, and no model holds all edits, so there is no retention, no "
        "general ability after the edits and no edited model"
    )
