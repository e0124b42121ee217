"""The document of ``status_document`` as tables and lines for a person. Nothing is read here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from rich.table import Table
from rich.text import Text

from kedit_glue.environment import size
from kedit_glue.report import counted
from kedit_glue.standing import duration, roughly
from kedit_glue.status_document import FAILED, RUNNING, STANDS, WAITING
from kedit_glue.tables import table

KINDS = {
    "edit": "edit",
    "train": "train",
    "search": "search",
    "merge": "merge",
    "project": "protect",
    "regmean": "regmean",
    "protect": "protect",
    "score": "score",
}
KINDS |= {"general": "general", "independent": "edit", "remember": "edit", "moments": "moments", "editor": "editor"}
"""Kind of stage -> its column."""
LAST = 12
"""Batches that are done, and that are not, of which a long run shows so many."""
LISTED = 12
"""Stages that are not done, of which so many are named."""
LINES = 20
"""Lines of a difference that are shown."""
NOTE = (
    "size: on the disk, without what an earlier line holds as well; of: as if nothing was shared; packed: only changed "
    "tensors were kept; not kept: deleted, as keep: says"
)


def terminal(document: Mapping[str, Any], everything: bool = False) -> list[Table | Text]:
    """Renderables in order; ``everything``: every batch and stage of a long run."""
    rows = [document["original"], *chosen(document["batches"], everything)]
    shown = sum(entry["batches"] for entry in rows)
    found: list[Table | Text] = [Text(line) for line in head(document)]
    found += [Text(), table("batch by batch", *batch_table(rows)), Text(NOTE)]
    of = sum(entry["batches"] for entry in document["batches"])
    if left_out := of - shown:
        found.append(Text(f"{left_out} of {counted(of, 'batch', 'batches')} left out: --all"))
    found += [Text(line) for line in ["", *totals(document)]]
    sections = [to_be_done(document, everything), edited(document, everything), changed(document), foot(document)]
    for section in sections:
        found += [Text(line) for line in section]
    return found


def head(document: Mapping[str, Any]) -> list[str]:
    """The run, and what works on it."""
    found = [f"{document['run']}: {document['model']} on {document['device']}, in {document['folder']}"]
    if document["process"] is None:
        return [*found, "no process works on it"]
    now = document["now"]
    at_it = f"process {document['process']} works on it"
    if now is None:
        return [*found, f"{at_it}, between two stages"]
    says = f": {now['says']}" if now["says"] else ""
    return [*found, f"{at_it}, since {duration(now['seconds'])} at {now['title']}{says}"]


def chosen(batches: Sequence[Mapping[str, Any]], everything: bool) -> list[Mapping[str, Any]]:
    """All of a short run; of a long one the last that are done, and the first that are not."""
    if everything or len(batches) <= 2 * LAST:
        return list(batches)
    done = [entry for entry in batches if entry["done"]][-LAST:]
    to_do = [entry for entry in batches if not entry["done"]][:LAST]
    return sorted([*done, *to_do], key=lambda entry: entry["batch"])


def batch_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and cells: batch, facts, learned, a column for each kind of stage, time, sizes."""
    there = {KINDS[stage["kind"]] for entry in rows for stage in entry["stages"]}
    kinds = [kind for kind in dict.fromkeys(KINDS.values()) if kind in there]
    cells = [
        [
            label(entry),
            "-" if entry["batch"] is None else str(entry["facts"]),
            "-" if entry["learned"] is None else str(entry["learned"]),
            *(_cell([s for s in entry["stages"] if KINDS[s["kind"]] == kind]) for kind in kinds),
            duration(entry["seconds"]) if entry["seconds"] else "-",
            size(entry["bytes"]["own"]),
            size(entry["bytes"]["apparent"]),
        ]
        for entry in rows
    ]
    gaps = [at for at, (before, after) in enumerate(pairwise(rows), 1) if (before["batch"] or 0) + 1 != first(after)]
    for at in reversed(gaps):
        cells.insert(at, ["…"] + [""] * (len(cells[0]) - 1))
    return ["batch", "facts", "learned", *kinds, "time", "size", "of"], cells


def first(entry: Mapping[str, Any]) -> int:
    """The first batch that a row is of."""
    return int(entry["batch"] - entry["batches"] + 1)


def label(entry: Mapping[str, Any]) -> str:
    """``original``, ``3``, or ``1-20`` of batches that one stage edits alone."""
    if entry["batch"] is None:
        return "original"
    return str(entry["batch"]) if entry["batches"] == 1 else f"{first(entry)}-{entry['batch']}"


def _cell(stages: Sequence[Mapping[str, Any]]) -> str:
    states = list(dict.fromkeys(stage["state"] for stage in stages))
    by_hand = any(stage["edited"] for stage in stages)
    return ", ".join(states) + (", edited" if by_hand else "") if stages else "-"


def totals(document: Mapping[str, Any]) -> list[str]:
    total = document["totals"]
    left = "" if document["complete"] else ", time left unknown"
    if total["seconds_left"]:
        left = f", about {roughly(total['seconds_left'])} left"
    outside = total["bytes_shared_outside"]
    shared = f" ({size(outside)} of it shared with files outside)" if outside else ""
    trained = total["facts_trained"]
    return [
        f"{total['batches_done']} of {counted(total['batches'], 'batch', 'batches')} done, "
        f"{total['stages_done']} of {counted(total['stages'], 'stage', 'stages')}; "
        f"{total['facts_learned']} of {counted(trained, 'trained fact', 'trained facts')} learned, "
        f"{total['facts']} in all",
        f"{duration(total['seconds'])} spent in stages{left}; "
        f"{size(total['bytes'])} on the disk{shared}, {size(total['bytes_free'])} free",
    ]


def to_be_done(document: Mapping[str, Any], everything: bool) -> list[str]:
    """Every stage that does not stand, and why; of those that wait for nothing but their turn only the first."""
    stages = [stage for entry in (document["original"], *document["batches"]) for stage in entry["stages"]]
    left = [stage for stage in stages if stage["state"] not in STANDS]
    if not left:
        return [] if document["complete"] else ["", "every stage is done; the report is still to be written"]
    telling = [s for s in left if s["state"] != WAITING]
    names = {s["stage"] for s in ([*telling, *(s for s in left if s["state"] == WAITING)][:LISTED])}
    shown = left if everything else [s for s in left if s["stage"] in names]
    width = max(len(stage["stage"]) for stage in shown)
    lines = ["", f"to be done: {counted(len(left), 'stage', 'stages')}"]
    for stage in shown:
        why = "" if stage["state"] in (RUNNING, WAITING) and stage["reason"] == "not done yet" else stage["reason"]
        lines.append(f"  {stage['stage']:<{width}}  {stage['state']:<7}  {why}".rstrip())
        if stage["state"] == FAILED and stage["log"]:
            lines += [f"      {line}" for line in stage["last_lines"]]
            lines.append(f"      log: {stage['log']}")
    if more := len(left) - len(shown):
        lines.append(f"  and {more} more: --all")
    return lines


def edited(document: Mapping[str, Any], everything: bool) -> list[str]:
    """Files edited by hand, and how."""
    if not document["edited"]:
        return []
    lines = ["", f"edited by hand: {counted(len(document['edited']), 'file', 'files')}"]
    shown = document["edited"] if everything else document["edited"][:LISTED]
    for entry in shown:
        difference = entry["difference"].splitlines()
        cut = difference if everything else difference[:LINES]
        lines += [f"  {entry['file']}", *(f"  {line}" for line in cut)]
        lines += [f"      and {len(difference) - len(cut)} more lines"] if len(cut) < len(difference) else []
    if more := len(document["edited"]) - len(shown):
        lines.append(f"  and {more} more: --all")
    return lines


def changed(document: Mapping[str, Any]) -> list[str]:
    """What the recipe says otherwise by now."""
    recipe = document["recipe"]
    lines = []
    if recipe["problem"]:
        first, *more = recipe["problem"].splitlines()
        lines += ["", f"the recipe, as it is now, cannot be used: {first}", *(f"  {line}" for line in more)]
    if recipe["changed"]:
        lines += ["", f"{recipe['file']} was changed since; the next run goes by it (--check says what it does again):"]
        lines += [f"  {key}: {then!r} -> {now!r}" for key, (then, now) in recipe["changed"].items()]
    if recipe["facts_changed"]:
        lines += ["", "the file of facts was changed since; the next run goes by it"]
    return lines


def foot(document: Mapping[str, Any]) -> list[str]:
    """How it goes on."""
    if not document["to_do"]:
        return ["", f"everything is done; report: {document['folder']}/report.md"]
    if document["process"] is not None:
        return ["", f"if it stops, this goes on: {document['command']}"] if document["command"] else []
    if document["command"] is None:
        return ["", "to go on, run its recipe again"]
    return ["", f"to go on: {document['command']}"]
