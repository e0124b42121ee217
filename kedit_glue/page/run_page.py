"""The page of one result. Pure: a document and what its folder says besides in, a ``Page`` out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kedit_glue import metrics, report, report_notes, report_search, verdict
from kedit_glue.methods import METHODS
from kedit_glue.metrics import METRICS
from kedit_glue.page import facts, of_run, of_search
from kedit_glue.page.content import Page, Section, Table, banner
from kedit_glue.page.figure import short
from kedit_glue.page.values import FORCED, KEPT, kept, kept_of
from kedit_glue.tables import percent

MOST_BATCHES = 100
"""Rows of a table of batches, about; of a longer run they are taken evenly."""
TILES = (metrics.WITHHELD, metrics.LEAKED, *FORCED, facts.EXACT)


@dataclass(frozen=True)
class Beside:
    """What a result's folder says besides ``scores.json``; what it lacks is empty."""

    recipe: str = ""
    """The recipe's text."""
    command: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    probes: Mapping[str, Sequence[facts.Row]] = field(default_factory=dict)
    """``facts.answered``."""


def page(document: Mapping[str, Any], beside: Beside) -> Page:
    found = document.get("verdict") or verdict.judged(document)
    rows = facts.rows(document, beside.probes)
    order = {fact["id"]: at for at, fact in enumerate(document["facts"])}
    return Page(
        "Two models compared" if document["kind"] == "pair" else "Run",
        document["name"],
        about(document),
        sentence(report.headline(document)),
        banner(found, verdict.unasked(document, found["thresholds"])),
        tiles(document),
        sections(document, beside),
        of_run.figures(document),
        [{**row, "at": order[row["id"]]} for row in rows],
        {"heads": facts.heads(), "all": len(document["facts"])},
        footer(document),
    )


def sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def about(document: Mapping[str, Any]) -> str:
    parts = [f"{document['base']['model']} edited"]
    if document.get("method"):
        parts[0] += f" with {METHODS[document['method']].title}"
    elif document["kind"] == "pair":
        parts = [f"{document['base']['model']} and {document['edited']['model']}"]
    if source := document.get("facts_source"):
        parts.append(f"{report.counted(source['facts'], 'fact', 'facts')} of {source['name']}")
    if made := document.get("made"):
        parts.append(made["at"][:10])
    return " · ".join(parts)


def tiles(document: Mapping[str, Any]) -> list[dict[str, str]]:
    """Key numbers: after, large; before."""
    before, after = document["before"]["edits"], document["after"]["edits"]
    found = []
    for metric in TILES:
        entry = after.get(metric)
        if entry is None or entry["mean"] is None:
            continue
        half = entry.get("half_width_95")
        sure = [f"± {100 * half:.1f}"] if half and entry["facts"] > 1 else []
        was = (
            "stays the original's"
            if metric == metrics.LOCALITY
            else f"before {percent(before.get(metric, {}).get('mean'))}"
        )
        found.append(
            {"title": METRICS[metric].title, "after": percent(entry["mean"]), "before": " · ".join([*sure, was])}
        )
    if ability := kept(document["after"]["general_change"]):
        measured = [change for change in document["after"]["general_change"].values() if kept_of(change)]
        tasks = report.counted(len(measured), "task", "tasks")
        of = "the original's" if report_notes.method_note(document) else f"mean of {tasks}"
        found.append({"title": KEPT, "after": f"{ability[0]:.1f} %", "before": of})
    return found


def sections(document: Mapping[str, Any], beside: Beside) -> list[Section]:
    orders = [("failed", "failures first"), ("edits", "order of the edits")]
    orders += [(head, f"lowest {head} first") for head in facts.heads()]
    heads = ["", "prompt", "new answer", "before", "after", *facts.heads()]
    return [
        Section("overview", "Overview", overview_intro(document), places=("radar", "edits")),
        Section(
            "trade-offs", "What it cost elsewhere", places=("success_locality", "success_general", "general", "curves")
        ),
        Section(
            "batches",
            "Batch after batch",
            places=("retention", "retention_curve", "batches"),
            tables=[
                Table(
                    "Batches",
                    report.BATCH_HEAD,
                    report.thinned(report.batch_rows(document), MOST_BATCHES),
                    f"{report.batch_note(document)}.",
                ),
                Table(
                    "What each merge did",
                    report.MERGE_HEAD,
                    report.thinned(report.merge_rows(document), MOST_BATCHES),
                    f"{report.MERGE_NOTE}.",
                ),
            ],
        ),
        *search_section(document),
        Section("facts", "Facts", facts_intro(document), facts={"heads": heads, "orders": orders}),
        Section("cost", "Cost", places=("stages", "batch_times")),
        Section("numbers", "All numbers", tables=tables(document)),
        reproduce(document, beside),
        Section("meaning", "What the numbers mean", lists=[("Metrics", meanings(document))]),
    ]


def overview_intro(document: Mapping[str, Any]) -> str:
    notes = [make(document) for make in (report_notes.mode_note, report_notes.method_note, report_notes.search_note)]
    return " ".join(sentence(note) for note in notes if note)


def search_section(document: Mapping[str, Any]) -> list[Section]:
    """Nothing where no merge was searched."""
    if not (rows := report_search.rows(document)):
        return []
    told = report_search.held_out(document)
    note = f"{report_search.note(document)}."
    return [
        Section(
            "merge-search",
            "Merge search",
            sentence(told) if told else "",
            of_search.PLACES,
            [Table("Searches", report_search.head(document), report.thinned(rows, MOST_BATCHES), note)],
        )
    ]


def facts_intro(document: Mapping[str, Any]) -> str:
    of = "the model that its batch was edited into" if report_notes.mode_note(document) else "the edited model"
    intro = (
        "Failed: an answer token behind the edit's own prompt is wrong, or the answer that the model generated is. "
        f"Before and after are the models' own words, where they were asked for; scores are of {of}, "
        "teacher-forced."
    )
    if document.get("search"):
        intro += " Those marked 'chose the merge' are in no score above: merge.search was judged on them."
    if len(document["facts"]) > facts.MOST:
        intro += f" The first {facts.MOST} of {len(document['facts'])} facts are here, failures before others."
    return intro


def tables(document: Mapping[str, Any]) -> list[Table]:
    note = ". ".join(report_notes.notes(document))
    kinds = [
        [METRICS[metric].title, kind, percent(value)]
        for metric in (metrics.PORTABILITY, metrics.LOCALITY)
        for kind, value in (document["after"]["edits"].get(metric, {}).get("by_kind") or {}).items()
    ]
    return [
        Table("Edits", report.EDIT_HEAD, report.edit_rows(document), f"{note}." if note else "", numbers=False),
        Table("By kind of probe, after", ["", "kind", "score"], kinds),
        Table("General ability (lm-eval)", report.GENERAL_HEAD, report.general_rows(document), numbers=False),
    ]


def meanings(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (
            m["title"],
            f"{m['definition']}. Mean over {m['denominator']}. Range {m['range']}; better: {m['better']}. "
            f"{m['source']}.",
        )
        for m in document["metrics"].values()
    ]


def reproduce(document: Mapping[str, Any], beside: Beside) -> Section:
    texts = [(title, text) for title, text in (("Command", beside.command), ("Recipe", beside.recipe)) if text]
    rows = [("original", of_model(document["base"]))]
    if document["edited"]:
        rows.append(("edited model", of_model(document["edited"])))
    if source := document.get("facts_source"):
        rows.append(("facts", f"{source['name']}, {source['facts']} facts, hash {source['hash']}"))
    lists = [("What was used", rows), ("Machine", machine(beside.environment))]
    if made := document.get("made"):
        versions = {"kedit_glue": made["kedit_glue"], **made["tools"]}
        lists.insert(1, ("Versions", list(versions.items())))
    return Section("reproduce", "How to reproduce", texts=texts, lists=lists)


def of_model(model: Mapping[str, Any]) -> str:
    weights = f", hash of its weights {model['weights']}" if model["weights"] else ""
    return f"{model['model']}{weights}"


def machine(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    named = {
        "device": "device",
        "processors": "processors",
        "system": "system",
        "python": "Python",
        "git": "kedit_glue's commit",
    }
    return [(words, short(str(found[key]), 80)) for key, words in named.items() if found.get(key) is not None]


def footer(document: Mapping[str, Any]) -> str:
    made = document.get("made")
    by = f" {made['kedit_glue']}" if made else ""
    return f"Made by kedit_glue{by} from scores.json and the run's records. This page asks no network."
