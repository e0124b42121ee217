"""What a study's figures say of cells that lack something, and of what they took."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kedit_glue.page import of_cost, of_grid, of_run
from kedit_glue.page.figure import Missing, Point
from kedit_glue.page.interactive import spec
from kedit_glue.study_report import About, Result

Scored = Callable[..., dict[str, Any]]
ABOUT = About("grid", "r.yaml", "a")


def drawn(*documents: dict[str, Any]) -> dict[str, Any]:
    results = [Result(name, {}, document) for name, document in zip("abcdef", documents, strict=False)]
    return {one.id: one for one in of_grid.figures(ABOUT, results)}


def without_general(document: dict[str, Any], **more: Any) -> dict[str, Any]:
    document["after"] |= {"general": None, "general_change": {}}
    return document | more


def test_a_study_of_edits_each_alone_says_that_there_is_no_general_ability(scored: Scored) -> None:
    asked = drawn(without_general(scored()), without_general(scored()))
    assert asked["general"].why == asked["success_general"].why == of_run.NO_GENERAL
    alone = drawn(*(without_general(scored(), mode="independent") for _ in "ab"))
    assert alone["general"].why == alone["success_general"].why == of_run.NO_GENERAL_ALONE
    assert isinstance(alone["worth"], Missing) and of_run.NO_GENERAL_ALONE in alone["worth"].why
    assert of_run.NO_GENERAL_ALONE not in asked["worth"].why


def took(document: dict[str, Any], a_fact: float, once: float | None) -> dict[str, Any]:
    return document | {"cost": {**document["cost"], "seconds_a_fact": a_fact, "seconds_once": once}}


def test_what_is_prepared_once_counts_with_a_facts_time(scored: Scored) -> None:
    """An editor that was trained for 324 seconds is not the fastest at 0.003 seconds a fact; each run has four."""
    made = drawn(took(scored(), 0.003, 324.0), took(scored(), 3.0, 0.0), took(scored(), 2.0, None))
    cost = made["cost"]
    assert {s.name: [(p.x, p.y, p.count) for p in s.points] for s in cost.series} == {
        "each fact": [("c", 2.0, None), ("b", 3.0, None), ("a", 0.003, None)],
        "once, shared by all facts": [("a", 81.0, 4)],
    }  # fmt: skip
    assert cost.says == "From 2.00 seconds a fact (c) to 81.00 (a)."
    assert "Once before the first edit: a 5 min 24 s for 4 facts." in cost.note
    assert cost.note.endswith(" Not known of c.")
    bars = spec(cost)
    assert bars["layout"]["barmode"] == "stack"
    assert [trace["text"] for trace in bars["data"]] == [["2 s", "3 s", ""], ["81 s"]], "a total for each cell"
    worth = made["worth"]
    assert [(p.label, p.x) for p in worth.series[0].points] == [("a", 81.003), ("b", 3.0), ("c", 2.0)]
    assert worth.note.endswith(f"{of_cost.SHARED} Of 1 of 3 cells it is not known.")


def test_results_that_do_not_say_what_was_prepared_once_stay_as_they_are(scored: Scored) -> None:
    cost = drawn(took(scored(), 2.0, None), took(scored(), 3.0, None))["cost"]
    assert [s.name for s in cost.series] == ["each fact"] and cost.note.endswith(f"{of_cost.UNKNOWN_ONCE}.")
    nothing = drawn(took(scored(), 2.0, 0.0), took(scored(), 3.0, 0.0))["cost"]
    assert nothing.note.endswith("Nothing was prepared before the first edit.")
    assert [type(p) for p in nothing.series[0].points] == [Point, Point]
