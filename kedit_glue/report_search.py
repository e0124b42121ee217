"""What a report says of searches of a merge (``merge.search``). Pure: a document in, words out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kedit_glue import metrics
from kedit_glue.metrics import METRICS
from kedit_glue.search.fitness import PARTS
from kedit_glue.tables import markdown_table, percent

MEANING = {
    "paraphrases": "edit success on rephrasings",
    "locality": "what unrelated prompts keep of their most likely tokens",
    "perplexity": "the original's perplexity on general text divided by the candidate's, at most 1",
    "general": "share of lm-eval's scores that is kept",
}
"""Of a fitness's parts; higher is better in each."""
SHOWN = (metrics.SUCCESS, metrics.GENERALIZATION, metrics.LOCALITY)


def lines(document: Mapping[str, Any]) -> list[str]:
    """Markdown; nothing where no merge was searched."""
    if not (found := rows(document)):
        return []
    told = held_out(document)
    return [
        *("## Merge search", ""),
        *markdown_table(head(document), found),
        *("", f"{note(document)}.", ""),
        *([f"{told}.", ""] if told else []),
    ]


def searches(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list((document.get("search") or {}).get("merges", ()))


def chose(document: Mapping[str, Any]) -> frozenset[str]:
    """Ids of the facts that chose the merge: no score is of them."""
    return frozenset((document.get("search") or {}).get("facts", ()))


def head(document: Mapping[str, Any]) -> list[str]:
    """Of ``rows``."""
    fixed = ["batch", "space", "chosen by", "numbers", "candidates (failed)", "fitness, first to best"]
    return [*fixed, *parts(document), "seconds a candidate"]


def rows(document: Mapping[str, Any]) -> list[list[str]]:
    """One a search: where, how, how many candidates, its fitness and each part from the first to the best."""
    names = parts(document)
    return [
        [
            str(one["batch"]),
            one["space"],
            one["by"],
            str(one["numbers"]),
            f"{one['evaluations']} ({one['failed']})",
            risen(one["first"]["fitness"], one["best"]["fitness"]),
            *(risen(*((one[which]["parts"] or {}).get(name) for which in ("first", "best"))) for name in names),
            f"{one['seconds_a_candidate']:.2f}",
        ]
        for one in searches(document)
    ]


def risen(first: float | None, best: float | None) -> str:
    return "-" if first is None and best is None else f"{percent(first)} to {percent(best)}"


def parts(document: Mapping[str, Any]) -> list[str]:
    """What the candidates of any search were judged by."""
    there = {name for one in searches(document) for name in one["best"]["parts"] or {}}
    return [name for name in PARTS if name in there]


def note(document: Mapping[str, Any]) -> str:
    """What the columns of ``head`` mean."""
    words = [
        "space: ps, the merge's numbers, or dfs, which layer comes next",
        "first: where the search began; best: the one that was merged, unless a hand changed its YAML",
        "fitness: weighted harmonic mean of the parts",
    ]
    return "; ".join([*words, *(f"{name}: {MEANING[name]}" for name in parts(document))])


def held_out(document: Mapping[str, Any]) -> str:
    """The edited model on the facts that chose its merge and on the others, so that over-fitting is seen; empty where
    neither was asked."""
    search = document.get("search")
    if not search:
        return ""
    seen, others = search["after"], document["after"]["edits"]
    there = [name for name in SHOWN if measured(seen, name) and measured(others, name)]
    if not there:
        return ""
    told = "; ".join(f"{METRICS[name].title} {said(seen[name])} and {said(others[name])}" for name in there)
    number = len(search["facts"])
    return (
        f"After the edits, on the {number} facts that chose the merge and on the {len(document['facts']) - number} "
        f"held-out ones, which alone are scored: {told}"
    )


def measured(summaries: Mapping[str, Any], metric: str) -> bool:
    return summaries.get(metric, {}).get("mean") is not None


def said(summary: Mapping[str, Any]) -> str:
    half = summary.get("half_width_95")
    return percent(summary["mean"]) + (f" ± {100 * half:.1f}" if half and summary["facts"] > 1 else "")
