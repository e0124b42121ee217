"""Which cells of a study its page calls the best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from kedit_glue.page import grid_page, of_grid, ranking
from kedit_glue.page.content import figure_of
from kedit_glue.page.figure import Figure, Point
from kedit_glue.study_report import About, Result

Scored = Callable[..., dict[str, Any]]
ABOUT = About("grid", "r.yaml", "low_sft")


@pytest.fixture
def study(scored: Scored) -> Callable[..., list[Result]]:
    """``study(a=1.0, b=0.5)``: cells by their edit success, each without loss of general ability."""

    def make(**success: float) -> list[Result]:
        return [Result(name, {}, scored(name, [value] * 4, loss=0.0)) for name, value in success.items()]

    return make


def asked_about(results: Sequence[Result], *names: str) -> None:
    """Makes each cell's facts those of the file of that name."""
    for one, name in zip(results, names, strict=True):
        document: Any = one.document
        document["facts_source"] = {"name": name, "facts": 4, "hash": f"of {name}"}


def test_equal_cells_are_the_best_together(study: Callable[..., list[Result]]) -> None:
    results = study(low_sft=0.5, b_sft=1.0, c_sft=1.0, d_sft=1.0)
    made = grid_page.page(ABOUT, results)
    assert made.headline.startswith("Best by H, the harmonic mean: b_sft and 2 more, ")
    assert {tile["title"]: tile["before"] for tile in made.tiles} == {
        "harmonic mean H": "b_sft and 2 more", "most edit success": "b_sft and 2 more",
        "most generalization": "b_sft and 2 more", "most locality": "low_sft and 3 more",
        "most general ability kept": "low_sft and 3 more",
    }  # fmt: skip
    says = {one.id: one.says for one in made.figures if isinstance(one, Figure)}
    assert says["cells_edit_success"] == (
        "edit success: b_sft and 2 more are highest with 100.0 %, low_sft lowest with 50.0 %."
    )
    assert says["cells_locality"] == "locality: all 4 cells have 75.0 %."
    assert says["worth"].startswith("Highest harmonic mean H: b_sft and 2 more, ")
    assert "at 6.25 seconds a fact or more" in says["worth"]


def test_what_is_written_alike_is_equal() -> None:
    points = [Point("a", 85.74), Point("b", 85.65), Point("c", 85.76), Point("d", None)]
    assert [p.x for p in ranking.extreme(points)] == ["c"]
    assert [p.x for p in ranking.extreme(points[:2])] == ["a", "b"]
    assert [p.x for p in ranking.extreme(points, lowest=True)] == ["a", "b"]


def test_cells_that_were_asked_about_different_facts_are_not_ranked(study: Callable[..., list[Result]]) -> None:
    results = study(low_sft=0.5, b_sft=1.0, c_sft=0.75, d_sft=0.75)
    asked_about(results, "zsre.json", "zsre.json", "erase.json", "erase.json")
    made = grid_page.page(ABOUT, results)
    assert made.headline.startswith("Asked about different facts. Best by H, the harmonic mean, of each facts' cells: ")
    assert "zsre.json: b_sft, " in made.headline and "erase.json: c_sft and 1 more, " in made.headline
    assert made.tiles[0] == {
        "title": "edit success", "after": "50.0 to 100.0 %", "before": "lowest and highest of 4 cells",
    }  # fmt: skip
    noted = {one.id for one in made.figures if isinstance(one, Figure) and ranking.DIFFERENT in one.note}
    assert {"cells_edit_success", "success_locality", "success_general", "worth"} <= noted
    assert "b_sft" not in next(one.says for one in made.figures if isinstance(one, Figure) and one.id == "worth")
    asked_about(results, "a", "b", "c", "d")
    headline = grid_page.page(ABOUT, results).headline
    assert headline == "4 cells have a result, asked about different facts: none is called the best."
    results[3].document["facts_source"] = results[2].document["facts_source"] = None  # type: ignore[index]
    asked_about(results[:2], "a", "a")
    assert not ranking.different(ranking_cells(results)), "as far as the results say"


def ranking_cells(results: Sequence[Result]) -> list[Any]:
    return of_grid.cells_of(results)


def test_a_merge_that_was_searched_is_scored_on_fewer_facts(study: Callable[..., list[Result]]) -> None:
    results = study(low_sft=0.5, b_sft=1.0)
    document: Any = results[0].document
    document["search"] = {"facts": ["f0"], "merges": []}
    assert ranking.headline(ranking_cells(results)).endswith(" Not all are scored on the same facts.")


def test_no_caption_changes_a_cells_name(study: Callable[..., list[Result]]) -> None:
    results = study(low_sft=0.5, b_sft=1.0)
    made = [figure_of(one)["says"] for one in of_grid.figures(ABOUT, results) if isinstance(one, Figure)]
    assert len(made) > 10 and not [says for says in made if "Low_sft" in says or "B_sft" in says]
    assert all(says[0].isupper() for says in made)
