"""``scores.json`` to something a person reads: a scorecard in the terminal, ``report.md``. No models."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from kedit_glue import metrics, report_search
from kedit_glue import verdict as verdicts
from kedit_glue.general_ability import in_unit, is_share, unit
from kedit_glue.metrics import METRICS, Metric
from kedit_glue.problems import listed, printable
from kedit_glue.progress import duration
from kedit_glue.report_notes import mode_note, notes
from kedit_glue.result_fields import EDITING
from kedit_glue.tables import markdown_table, percent, short, table

PROTOCOLS = {
    "teacher_forced": "teacher-forced",
    "generated": "generated",
    "likelihood": "likelihood",
    "sampled": "sampled",
}
"""Protocols as a person reads them, in the order of tables."""


def counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _value(metric: str, summary: Mapping[str, Any]) -> str:
    entry = summary.get(metric)
    if entry is None or entry["mean"] is None:
        return "-"
    return percent(entry["mean"]) if METRICS[metric].percent else f"{entry['mean']:.2f}"


AGREE_WITH_THEMSELVES = (metrics.LOCALITY, metrics.AGREEMENT)
"""The original model agrees with itself: a number there would look like a measurement."""


def edit_rows(document: Mapping[str, Any]) -> list[list[str]]:
    """Metric, protocol, before, after with half its interval, facts, what it is: one row a metric that was measured."""
    before, after = document["before"]["edits"], document["after"]["edits"]
    ordered = [m for protocol in PROTOCOLS for m in METRICS.values() if m.protocol == protocol and m.name in after]
    return [
        [
            m.title,
            PROTOCOLS[m.protocol],
            "by definition" if m.name in AGREE_WITH_THEMSELVES else _value(m.name, before),
            _value(m.name, after) + _half(m, after[m.name]),
            str(after[m.name]["facts"]),
            m.what,
        ]
        for m in ordered
    ]


def _half(metric: Metric, entry: Mapping[str, Any]) -> str:
    half = entry.get("half_width_95")
    if not half or entry["facts"] < 2:  # all facts alike: a normal interval of no width would say too much
        return ""
    return f" ± {100 * half:.1f}" if metric.percent else f" ± {half:.2f}"


def general_rows(document: Mapping[str, Any]) -> list[list[str]]:
    """Task and metric, before, after, change with interval, items, verdict."""
    rows = []
    for task, c in document["after"]["general_change"].items():
        share = is_share(c["metric"], c["before"], c["after"])
        form = percent if share else (lambda v: "-" if v is None else short(v, 2))
        change = "-"
        if "change" in c:
            value, low, high = (in_unit(c, v) for v in (c["change"], *c["change_95"]))
            change = "{} [{}, {}]".format(*(short(v, sign="+") for v in (value, low, high))) + unit(c)
        rows.append(
            [
                task,
                f"{c['metric']} ({c['better']} is better)",
                form(c["before"]),
                form(c["after"]),
                change,
                str(c["items"]),
                verdict(c),
            ]
        )
    return rows


def verdict(change: Mapping[str, Any]) -> str:
    """What the two intervals say, in words; for generated answers also how many could not be found in the text."""
    said = _interval_says(change)
    if shares := change.get("not_extracted"):
        said += f"; no answer found in {percent(shares[0])} before, {percent(shares[1])} after"
    return said


def _interval_says(change: Mapping[str, Any]) -> str:
    if change.get("noise") is None:
        if change["before"] is not None and change["after"] is None:
            return "the edited model's value is no finite number"
        return "not compared item by item" if change["items"] else "no items to compare"
    turned = ""
    if change.get("p") is not None:
        turned = f" ({change['items_better']} better, {change['items_worse']} worse, p = {change['p']:.2g})"
    if change["noise"]:
        return f"no change beyond noise{turned}"
    better = (change["change"] > 0) == (change["better"] == "higher")
    direction = "better" if better else "worse"
    inside = "inside" if change["inside_base_interval"] else "outside"
    return f"{direction} on the same items{turned}, {inside} the original's own 95 % interval"


def batch_rows(document: Mapping[str, Any]) -> list[list[str]]:
    """Batch, facts, learned, steps, edit success of the batch and of all so far, locality so far, seconds.

    None of batches that were edited alone, which are many and small: each fact has its own line in ``scores.json``.
    """
    rows: list[list[str]] = []
    if mode_note(document):
        return []
    for b in document["batches"]:
        training = b.get("training", {})
        so_far = b.get("all_so_far", {})
        rows.append(
            [
                str(b["batch"]),
                str(b["facts"]),
                str(training["learned"]) if training.get("learned") is not None else "-",
                f"{training.get('optimizer_steps', '-')}",
                _value(metrics.SUCCESS, b.get("edited", {})),
                _value(metrics.SUCCESS, so_far),
                _value(metrics.GENERALIZATION, so_far),
                _value(metrics.LOCALITY, so_far),
                f"{sum(b.get(kind, {}).get('seconds', 0) for kind in EDITING):.1f} s",
            ]
        )
    return rows


def merge_rows(document: Mapping[str, Any]) -> list[list[str]]:
    """Batch, norm of training's change, of what the merge left of it, density, agreement with the batch before.

    None of batches that were edited alone.
    """
    rows: list[list[str]] = []
    if mode_note(document):
        return []
    for b in document["batches"]:
        merge = b.get("merge", {})
        if all(merge.get(key) is not None for key in ("task_vector_norm_tuned", "task_vector_norm_merged", "density")):
            agreement = merge.get("sign_agreement")
            rows.append(
                [
                    str(b["batch"]),
                    f"{merge['task_vector_norm_tuned']:.3f}",
                    f"{merge['task_vector_norm_merged']:.3f}",
                    percent(merge["density"]),
                    percent(agreement),
                    merge.get("way") or "-",
                ]
            )
    return rows


EDIT_HEAD = ["", "protocol", "before", "after ± 95 %", "facts", "what it is"]
GENERAL_HEAD = ["task", "metric", "before", "after", "change [95 %]", "items", "verdict"]
BATCH_HEAD = ["batch", "facts", "learned", "steps", "success", "so far", "rephrased", "locality", "time"]


def batch_note(document: Mapping[str, Any]) -> str:
    """What the columns of ``BATCH_HEAD`` are of."""
    seen = report_search.chose(document)
    of_batch = Counter(fact["batch"] for fact in document["facts"] if fact["id"] in seen) if seen else Counter()
    edited, sampled = 0, False
    for b in document["batches"]:
        edited += b["facts"] - of_batch[b.get("batch")]
        sampled |= b.get("asked_so_far", edited) < edited
    of = "this batch and a sample of the facts before it" if sampled else "all facts until then"
    return f"success: of the batch just edited; so far, rephrased, locality: of {of}; time: of the edit"


MERGE_HEAD = ["batch", "change by training", "left by the merge", "density", "same signs", "merged"]
MERGE_NOTE = (
    "change: Euclidean norm of the difference to the model that was merged with, over all trained parameters; density: "
    "share of them that differ after the merge; same signs: share of entries whose change has the sign of the batch "
    "before's, among those that both changed; per layer and module: merge_stats.json"
)


EXACT = "edit_success.generated.exact_match"


def headline(document: Mapping[str, Any]) -> str:
    """One sentence: what was learned and what it cost."""
    after = document["after"]["edits"]
    facts = len(document["facts"])
    batches = len(document["batches"])
    parts = [counted(facts, "fact", "facts") + (f" in {counted(batches, 'batch', 'batches')}" if batches else "")]
    if mode_note(document):
        parts[0] += ", each alone"
    if metrics.SUCCESS in after:
        parts.append(f"edit success {_value(metrics.SUCCESS, after)}")
    if metrics.GENERALIZATION in after:
        parts.append(f"rephrased {_value(metrics.GENERALIZATION, after)}")
    if EXACT in after:
        parts.append(f"generated exactly {_value(EXACT, after)}")
    if metrics.LOCALITY in after:
        parts.append(f"unrelated answers kept {_value(metrics.LOCALITY, after)}")
    for task, c in document["after"]["general_change"].items():
        if "noise" in c and not c["noise"]:
            parts.append(f"{task} {short(in_unit(c, c['change']), sign='+')}{unit(c)}")
    return "; ".join(parts)


def not_learned(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Facts whose loss stayed at or over the threshold when their batch's training ended."""
    return [f for f in document["facts"] if f.get("learned") is False]


def lost(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Facts that the edited model does not answer wholly, worst first."""
    seen = report_search.chose(document)
    scored = [f for f in document["facts"] if f["id"] not in seen]
    asked = [f for f in scored if f["after"].get(metrics.SUCCESS) is not None]
    return sorted((f for f in asked if f["after"][metrics.SUCCESS] < 1.0), key=lambda f: f["after"][metrics.SUCCESS])


def terminal(document: Mapping[str, Any]) -> list[Table | Text]:
    """The scorecard as rich renderables and lines, in order."""
    shown = [row[:-1] for row in edit_rows(document)]  # what each is stands in report.md: a terminal is narrow
    found: list[Table | Text] = [table(f"{document['name']}: edits", EDIT_HEAD[:-1], shown)]
    found += [Text(note) for note in notes(document)]
    if rows := general_rows(document):
        found.append(table("general ability (lm-eval)", GENERAL_HEAD, rows))
    if rows := batch_rows(document):
        found.append(table(f"batch by batch ({batch_note(document)})", BATCH_HEAD, rows))
    if document["answers"]:
        found.append(
            table(
                "what the model really says (greedy, at most 24 tokens)",
                ["prompt", "new answer", "before", "after"],
                [
                    [a["prompt"], a["target_new"], one_line(a["before"]), one_line(a["after"])]
                    for a in document["answers"]
                ],
            )
        )
    if missed := lost(document):
        found.append(Text(f"not wholly answered: {_names(missed, 10)}"))
    return [*found, *map(Text, verdicts.lines(document))]


def one_line(text: str, most: int = 80) -> str:
    """Generated text on one line, cut with an ellipsis; empty text said so."""
    flat = " ".join(text.split()) or "(nothing)"
    return flat if len(flat) <= most else flat[: most - 1] + "…"


def markdown(document: Mapping[str, Any]) -> str:
    """``report.md``."""
    seconds = document["seconds"]
    lines = [
        f"# {document['name']}: {document['base']['model']} edited",
        "",
        f"{headline(document)}.",
        "",
        *(part for line in verdicts.lines(document) for part in (f"**{line}.**", "")),
        "## Edits",
        "",
        *markdown_table(EDIT_HEAD, edit_rows(document)),
        "",
        *(line for note in notes(document) for line in (f"{note}.", "")),
    ]
    for metric in (metrics.PORTABILITY, metrics.LOCALITY):
        kinds = document["after"]["edits"].get(metric, {}).get("by_kind", {})
        if kinds:
            named = ", ".join(f"{kind} {percent(value)}" for kind, value in kinds.items())
            lines += [f"{METRICS[metric].title.capitalize()} by kind, after: {named}.", ""]
    if rows := general_rows(document):
        lines += ["## General ability (lm-eval)", "", *markdown_table(GENERAL_HEAD, rows), ""]
    if rows := batch_rows(document):
        lines += ["## Batch by batch", "", *markdown_table(BATCH_HEAD, rows), "", f"{batch_note(document)}.", ""]
    lines += retention_lines(document.get("retention"))
    if rows := merge_rows(document):
        lines += ["## What each merge did", "", *markdown_table(MERGE_HEAD, rows), "", f"{MERGE_NOTE}.", ""]
    lines += report_search.lines(document)
    if document["answers"]:
        lines += ["## What the model really says", "", "Greedy generation, at most 24 tokens.", ""]
        lines += markdown_table(
            ["prompt", "new answer", "before", "after"],
            [
                [a["prompt"], a["target_new"], one_line(a["before"], 160), one_line(a["after"], 160)]
                for a in document["answers"]
            ],
        )
        lines += [""]
    lines += ["## Facts that need a look", ""]
    left = not_learned(document)
    missed = lost(document)
    if any("training" in b for b in document["batches"]):
        lines += [f"Not under the loss threshold when their batch's training ended: {_names(left)}.", ""]
    if metrics.SUCCESS in document["after"]["edits"]:
        lines += [f"Not wholly answered by the edited model: {_names(missed)}.", ""]
    if missed:
        lines += markdown_table(
            ["fact", "prompt", "new answer", "edit success", "loss when trained"],
            [
                [
                    f["id"],
                    f["prompt"],
                    f["target_new"],
                    percent(f["after"][metrics.SUCCESS]),
                    f"{f['loss_after']:.3f}" if f.get("loss_after") is not None else "-",
                ]
                for f in missed[:20]
            ],
        )
        lines += [""]
    if seconds:
        spent = ", ".join(f"{kind} {duration(value)}" for kind, value in seconds.items() if kind != "all")
        whole = f"{duration(seconds['all'])} in tools: " if "all" in seconds else ""
        lines += ["## Time", "", f"{whole}{spent}.", ""]
    if cost := document.get("cost"):
        lines += ["## Cost", "", *(f"- {line}" for line in cost_lines(cost)), ""]
    lines += [
        "## What the numbers mean",
        "",
        *(
            f"- `{name}`: {m['definition']}. Mean over {m['denominator']}. Range {m['range']}; better: {m['better']}. "
            f"Source: {m['source']}."
            for name, m in document["metrics"].items()
        ),
        "",
        "Losses are mean negative log-likelihoods per target token in nats, the end-of-sequence token included.",
        "",
    ]
    return "\n".join(lines)


def retention_lines(found: Mapping[str, Any] | None) -> list[str]:
    """Markdown: what became of earlier batches' facts, by age and, where it is not too wide, batch by batch."""
    if found is None or len(found["after"]) < 2:
        return []
    title = METRICS[found["metric"]].title
    half = {p["age"]: _half(METRICS[found["metric"]], {**p, "facts": p["answers"]}) for p in found["curve"]}
    curve = [[str(p["age"]), percent(p["mean"]) + half[p["age"]], str(p["answers"])] for p in found["curve"]]
    lines = ["## Retention", "", f"{title.capitalize()} by age: how many batches ago a fact was taught."]
    lines += ["Earlier facts were sampled: ± is the error of that, too."] if found["sampled"] else []
    lines += ["", *markdown_table(["batches ago", f"{title} ± 95 %", "answers"], thinned(curve)), ""]
    if found["matrix"] and len(found["matrix"][0]) <= WIDE:
        head = ["after batch", *(f"facts of {n}" for n in range(1, len(found["matrix"][0]) + 1))]
        rows = zip(found["after"], found["matrix"], strict=True)
        body = [[str(after), *("" if cell is None else percent(cell) for cell in cells)] for after, cells in rows]
        lines += [*markdown_table(head, body), ""]
    return lines


WIDE = 12
"""So many batches a matrix in a report has at most; ``scores.json`` has the whole."""


def thinned(rows: Sequence[Sequence[str]], most: int = 20) -> list[Sequence[str]]:
    """At most about ``most`` rows, evenly, the first and the last among them."""
    step = max(1, math.ceil((len(rows) - 1) / most))
    return [row for at, row in enumerate(rows) if at % step == 0 or at == len(rows) - 1]


def cost_lines(cost: Mapping[str, Any]) -> list[str]:
    """What editing took, one figure a line; without those that nobody knows."""
    said = {
        "peak_memory_bytes": "{:.1f} GB of memory at most while editing",
        "bytes_changed": "{:.1f} MB of weights that a batch may change",
        "bytes_at_inference": "{:.1f} MB kept beside the original's weights for asking",
    }
    units = {"peak_memory_bytes": 1e9}
    known = [line.format(cost[key] / units.get(key, 1e6)) for key, line in said.items() if cost[key] is not None]
    once = [f"{duration(cost['seconds_once'])} once before the first edit"] if cost.get("seconds_once") else []
    return [f"{cost['seconds_a_fact']:.2f} s of editing for each fact", *once, *known]


def _names(facts: Sequence[Mapping[str, Any]], most: int = 20) -> str:
    return listed([printable(fact["id"]) for fact in facts], most) if facts else "none"
