"""``scores.json`` to something a person reads: a scorecard in the terminal, ``report.md``. No models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from kedit_glue import scores
from kedit_glue.progress import duration

TITLES = {
    scores.SUCCESS: "edit success",
    scores.GENERALIZATION: "generalization",
    scores.PORTABILITY: "portability",
    scores.LOCALITY: "locality",
    scores.FLUENCY: "fluency",
}
PROTOCOLS = {
    scores.SUCCESS: "new answer behind the prompt, teacher-forced token accuracy",
    scores.GENERALIZATION: "the same behind rephrasings",
    scores.PORTABILITY: "the same for what follows from the fact",
    scores.LOCALITY: "tokens that stay the original's on unrelated prompts",
    scores.FLUENCY: "n-gram entropy of sampled text, bits",
}


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _value(metric: str, summary: Mapping[str, Any]) -> str:
    entry = summary.get(metric)
    if entry is None or entry["mean"] is None:
        return "-"
    return f"{entry['mean']:.2f}" if metric == scores.FLUENCY else percent(entry["mean"])


def edit_rows(document: Mapping[str, Any]) -> list[list[str]]:
    """Metric, before, after, facts, what it is: one row a metric that was measured."""
    before, after = document["before"]["edits"], document["after"]["edits"]
    return [
        [
            TITLES[m],
            # the original model agrees with itself: a number there would look like a measurement
            "100 % (by definition)" if m == scores.LOCALITY else _value(m, before),
            _value(m, after),
            str(after[m]["facts"]),
            PROTOCOLS[m],
        ]
        for m in TITLES
        if m in after
    ]


def general_rows(document: Mapping[str, Any]) -> list[list[str]]:
    """Task and metric, before, after, change with interval, items, verdict."""
    rows = []
    for task, c in document["after"]["general_change"].items():
        ratio = c.get("change_is") is not None
        form = (lambda v: f"{v:.2f}") if ratio else percent
        if "change" in c:
            low, high = c["change_95"]
            change = f"{100 * c['change']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]{' %' if ratio else ' points'}"
        else:
            change = "-"
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
    """What the two intervals say, in words."""
    if "noise" not in change:
        return "no items to compare"
    if change["noise"]:
        return "no change beyond noise"
    better = (change["change"] > 0) == (change["better"] == "higher")
    direction = "better" if better else "worse"
    inside = "inside" if change["inside_base_interval"] else "outside"
    return f"{direction} on the same items, {inside} the original's own 95 % interval"


def batch_rows(document: Mapping[str, Any]) -> list[list[str]]:
    """Batch, facts, learned, steps, edit success of the batch and of all so far, locality so far, seconds."""
    rows = []
    for b in document["batches"]:
        training = b.get("training", {})
        so_far = b.get("all_so_far", {})
        rows.append(
            [
                str(b["batch"]),
                str(b["facts"]),
                f"{training.get('learned', '-')}",
                f"{training.get('optimizer_steps', '-')}",
                _value(scores.SUCCESS, b.get("edited", {})),
                _value(scores.SUCCESS, so_far),
                _value(scores.GENERALIZATION, so_far),
                _value(scores.LOCALITY, so_far),
                f"{training.get('seconds', 0) + b.get('merge', {}).get('seconds', 0):.1f} s",
            ]
        )
    return rows


def merge_rows(document: Mapping[str, Any]) -> list[list[str]]:
    """Batch, norm of training's change, of what the merge left of it, density, agreement with the batch before."""
    rows = []
    for b in document["batches"]:
        merge = b.get("merge", {})
        if "task_vector_norm_merged" in merge:
            agreement = merge.get("sign_agreement")
            rows.append(
                [
                    str(b["batch"]),
                    f"{merge['task_vector_norm_tuned']:.3f}",
                    f"{merge['task_vector_norm_merged']:.3f}",
                    percent(merge["density"]),
                    percent(agreement),
                    merge.get("way", "-"),
                ]
            )
    return rows


SHORT = 9  # columns of such cells stay on one line on a narrow terminal
EDIT_HEAD = ["", "before", "after", "facts", "what it is"]
GENERAL_HEAD = ["task", "metric", "before", "after", "change [95 %]", "items", "verdict"]
BATCH_HEAD = ["batch", "facts", "learned", "steps", "success", "so far", "rephrased", "locality", "time"]


def batch_note(document: Mapping[str, Any]) -> str:
    """What the columns of ``BATCH_HEAD`` are of."""
    edited, sampled = 0, False
    for b in document["batches"]:
        edited += b["facts"]
        sampled |= b.get("asked_so_far", edited) < edited
    of = "this batch and a sample of the facts before it" if sampled else "all facts until then"
    return f"success: of the batch just edited; so far, rephrased, locality: of {of}; time: train and merge"


MERGE_HEAD = ["batch", "change by training", "left by the merge", "density", "same signs", "merged"]
MERGE_NOTE = (
    "change: Euclidean norm of the difference to the model that was merged with, over all trained parameters; density: "
    "share of them that differ after the merge; same signs: share of entries whose change has the sign of the batch "
    "before's, among those that both changed; per layer and module: merge_stats.json"
)


def headline(document: Mapping[str, Any]) -> str:
    """One sentence: what was learned and what it cost."""
    after = document["after"]["edits"]
    facts = len(document["facts"])
    batches = len(document["batches"])
    parts = [f"{counted(facts, 'fact', 'facts')} in {counted(batches, 'batch', 'batches')}"]
    if scores.SUCCESS in after:
        parts.append(f"edit success {_value(scores.SUCCESS, after)}")
    if scores.GENERALIZATION in after:
        parts.append(f"rephrased {_value(scores.GENERALIZATION, after)}")
    if scores.LOCALITY in after:
        parts.append(f"unrelated answers kept {_value(scores.LOCALITY, after)}")
    for task, c in document["after"]["general_change"].items():
        if "noise" in c and not c["noise"]:
            parts.append(f"{task} {100 * c['change']:+.1f} {'%' if c.get('change_is') else 'points'}")
    return "; ".join(parts)


def not_learned(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Facts whose loss stayed at or over the threshold when their batch's training ended."""
    return [f for f in document["facts"] if not f["learned"]]


def lost(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Facts that the edited model does not answer wholly, worst first."""
    missed = [f for f in document["facts"] if f["after"].get(scores.SUCCESS, 1.0) < 1.0]
    return sorted(missed, key=lambda f: f["after"][scores.SUCCESS])


def terminal(document: Mapping[str, Any]) -> list[Table | Text]:
    """The scorecard as rich renderables and lines, in order."""
    found: list[Table | Text] = [table(f"{document['run']}: edits", EDIT_HEAD, edit_rows(document))]
    if rows := general_rows(document):
        found.append(table("general ability (lm-eval)", GENERAL_HEAD, rows))
    found.append(table(f"batch by batch ({batch_note(document)})", BATCH_HEAD, batch_rows(document)))
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
    return found


def one_line(text: str, most: int = 80) -> str:
    """Generated text on one line, cut with an ellipsis; empty text said so."""
    flat = " ".join(text.split()) or "(nothing)"
    return flat if len(flat) <= most else flat[: most - 1] + "…"


def _more(count: int, shown: int) -> str:
    return f" and {count - shown} more" if count > shown else ""


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for position, name in enumerate(head):
        short = all(len(cells[position]) <= SHORT for cells in [head, *rows])
        table.add_column(name, overflow="fold", no_wrap=short)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def markdown(document: Mapping[str, Any]) -> str:
    """``report.md``."""
    seconds = document["seconds"]
    lines = [
        f"# {document['run']}: {document['model']} edited",
        "",
        f"{headline(document)}.",
        "",
        "## Edits",
        "",
        *markdown_table(EDIT_HEAD, edit_rows(document)),
        "",
    ]
    for metric in (scores.PORTABILITY, scores.LOCALITY):
        kinds = document["after"]["edits"].get(metric, {}).get("by_kind", {})
        if kinds:
            named = ", ".join(f"{kind} {percent(value)}" for kind, value in kinds.items())
            lines += [f"{TITLES[metric].capitalize()} by kind, after: {named}.", ""]
    if rows := general_rows(document):
        lines += ["## General ability (lm-eval)", "", *markdown_table(GENERAL_HEAD, rows), ""]
    lines += ["## Batch by batch", "", *markdown_table(BATCH_HEAD, batch_rows(document)), ""]
    lines += [f"{batch_note(document)}.", ""]
    if rows := merge_rows(document):
        lines += ["## What each merge did", "", *markdown_table(MERGE_HEAD, rows), "", f"{MERGE_NOTE}.", ""]
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
    lines += [
        f"Not under the loss threshold when their batch's training ended: {_names(left)}.",
        "",
        f"Not wholly answered by the edited model: {_names(missed)}.",
        "",
    ]
    if missed:
        lines += markdown_table(
            ["fact", "prompt", "new answer", "edit success", "loss when trained"],
            [
                [
                    f["id"],
                    f["prompt"],
                    f["target_new"],
                    percent(f["after"][scores.SUCCESS]),
                    f"{f['loss_after']:.3f}",
                ]
                for f in missed[:20]
            ],
        )
        lines += [""]
    lines += ["## Time", ""]
    lines += [
        f"{duration(seconds['all'])} in tools: "
        + ", ".join(f"{kind} {duration(value)}" for kind, value in seconds.items() if kind != "all")
        + ".",
        "",
        "## What the numbers mean",
        "",
        *(
            f"- `{name}`: {m['definition']}. Range {m['range']}; better: {m['better']}."
            for name, m in document["metrics"].items()
        ),
        "",
        "Losses are mean negative log-likelihoods per target token in nats, the end-of-sequence token included.",
        "",
    ]
    return "\n".join(lines)


def _names(facts: Sequence[Mapping[str, Any]], most: int = 20) -> str:
    return ", ".join(f["id"] for f in facts[:most]) + _more(len(facts), most) if facts else "none"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def row(cells: Sequence[str]) -> str:
        flat = [" ".join(c.splitlines()) for c in cells]
        return "| " + " | ".join(c.replace("\\", "\\\\").replace("|", "\\|") for c in flat) + " |"

    return [row(head), row(["---"] * len(head)), *(row(r) for r in rows)]
