"""What report.md says of searches of a merge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kedit_glue import report, report_search
from kedit_glue.metrics import GENERALIZATION, LOCALITY, SUCCESS

Scored = Callable[..., dict[str, Any]]
NUMBERS = {
    "judged": [{"paraphrases": 0.5, "locality": 0.5}, "it says nothing", {"paraphrases": 0.8, "locality": 0.6}],
    "numbers": 3,
}
LAYERS = {
    "judged": ["no path", {"locality": 0.25, "general": 0.5}], "space": "dfs", "by": "nsga2", "batch": 2, "numbers": 42,
    "seconds_a_candidate": 12.0,
}  # fmt: skip


def test_a_row_for_each_search(searched: Scored) -> None:
    document = searched([NUMBERS, LAYERS])
    assert report_search.head(document) == [
        "batch", "space", "chosen by", "numbers", "candidates (failed)", "fitness, first to best", "paraphrases",
        "locality", "general", "seconds a candidate",
    ]  # fmt: skip
    assert report_search.rows(document) == [
        ["1", "ps", "cma_es", "3", "3 (1)", "50.0 % to 68.6 %", "50.0 % to 80.0 %", "50.0 % to 60.0 %", "-", "1.23"],
        ["2", "dfs", "nsga2", "42", "2 (1)", "- to 33.3 %", "-", "- to 25.0 %", "- to 50.0 %", "12.00"],
    ]


def test_the_note_explains_the_parts_that_are_shown(searched: Scored) -> None:
    note = report_search.note(searched([NUMBERS]))
    assert "; paraphrases: edit success on rephrasings; locality: what unrelated" in note
    assert "perplexity" not in note and "lm-eval" not in note
    assert report_search.MEANING.keys() == set(report_search.PARTS)


def test_facts_that_chose_the_merge_stand_beside_the_others(searched: Scored) -> None:
    document = searched([NUMBERS], success=[0.5, 1.0, 0.25, 1.0, 0.0])
    assert report_search.held_out(document) == (
        "After the edits, on the 2 facts that chose the merge and on the 3 held-out ones, which alone are scored: "
        "edit success 100.0 % and 25.0 % ± 28.3; generalization 50.0 % and 12.5 % ± 14.1; locality 75.0 % and 75.0 %"
    )


@pytest.mark.parametrize("side", ["seen", "others"])
def test_what_one_side_lacks_is_not_compared(searched: Scored, side: str) -> None:
    document = searched([NUMBERS])
    summaries = document["search"]["after"] if side == "seen" else document["after"]["edits"]
    summaries[LOCALITY] = {"mean": None, "facts": 0}
    del summaries[GENERALIZATION]
    told = report_search.held_out(document)
    assert "edit success" in told and "locality" not in told and "generalization" not in told
    del summaries[SUCCESS]
    assert report_search.held_out(document) == ""
    assert report_search.lines(document)[-1] == "" and report_search.lines(document)[-2].startswith("space: ")


def test_the_report_has_the_section_and_one_without_a_search_is_as_before(searched: Scored, scored: Scored) -> None:
    document = searched([NUMBERS], success=[1.0] * 4) | {"mode": "sequential"}
    for batch in document["batches"]:
        batch["asked_so_far"] = batch["batch"]  # one fact of each batch chose the merge
    assert "all facts until then" in report.batch_note(document)
    without = {key: value for key, value in document.items() if key != "search"}
    without["batches"] = [{k: v for k, v in batch.items() if k != "asked_so_far"} for batch in document["batches"]]
    with_search, plain = report.markdown(document).splitlines(), report.markdown(without).splitlines()
    new = [line for line in with_search if line not in plain]
    assert new[0].startswith("scores are of 2 facts; the other 2 chose the merge")
    assert new[1:4] == ["## Merge search", *report_search.lines(document)[2:3], *report_search.lines(document)[4:5]]
    assert new[4].startswith("space: ps") and new[5].startswith("After the edits, on the 2 facts") and len(new) == 6
    assert [line for line in plain if line not in with_search] == []
    assert report_search.lines(scored()) == [] and "search" not in report.markdown(scored())
