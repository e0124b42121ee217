"""Searches of a merge on the page: figures, table, marks of facts; nothing of it where no merge was searched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import page
from kedit_glue.page import facts, of_run, of_search, paper
from kedit_glue.page.figure import Axis, Figure, Point, Series
from kedit_glue.page.html import html
from kedit_glue.page.interactive import spec
from kedit_glue.page.run_page import Beside
from kedit_glue.page.run_page import page as page_of
from kedit_glue.result import load

Scored = Callable[..., dict[str, Any]]


def search(judged: list[Any], **more: Any) -> dict[str, Any]:
    return {"judged": judged, **more}


def two(paraphrases: float, locality: float, **more: float) -> dict[str, float]:
    return {"paraphrases": paraphrases, "locality": locality, **more}


FLOW = [two(0.5, 0.5), "it says nothing", two(0.4, 0.8), two(0.9, 0.4), two(0.8, 0.6), two(0.3, 0.3)]
"""Fitness 50, none, 53.3, 55.4, 68.6 and 30 %; the third, fourth and fifth are on the front."""


def drawn(document: dict[str, Any]) -> dict[str, Figure]:
    return {one.id: one for one in of_search.figures(document)}


def series(figure: Figure) -> dict[str, list[tuple[Any, Any]]]:
    return {s.name: [(p.x, None if p.y is None else round(p.y, 1)) for p in s.points] for s in figure.series}


# -- candidates in order ------------------------------------------------------------------------


def test_each_candidate_the_best_so_far_and_the_firsts_level(searched: Scored) -> None:
    made = drawn(searched([search(FLOW)]))["search_fitness_1"]
    assert series(made) == {
        "candidates": [(1, 50.0), (3, 53.3), (4, 55.4), (5, 68.6), (6, 30.0)],
        "best so far": [(1, 50.0), (3, 53.3), (4, 55.4), (5, 68.6), (6, 68.6)],
        "first candidate's level": [(1, 50.0), (6, 50.0)],
        "chosen": [(5, 68.6)],
    }
    assert made.says == (
        "Batch 1, search of the merge's numbers: the first of 6 candidates has a fitness of 50.0 %, the chosen one, "
        "number 5, 68.6 %. 1 could not be judged and is not drawn."
    )
    assert made.note == "Fitness: weighted harmonic mean of paraphrases and locality, on 2 facts that no score is of."


@pytest.mark.parametrize(
    ("judged", "more", "says"),
    [
        ([two(0.8, 0.8), two(0.5, 0.5)], {}, "the first of 2 candidates has a fitness of 80.0 % and is the chosen "
         "one."),
        (["no path", "no path", two(0.5, 0.5)], {"space": "dfs"}, "the first of 3 candidates could not be judged, the "
         "chosen one, number 3, 50.0 %. 2 could not be judged and are not drawn."),
        ([two(0.5, 0.5), two(0.4, 0.9), two(0.6, 0.6)], {"best": 2}, "the first of 3 candidates has a fitness of "
         "50.0 %, the chosen one, number 2, 55.4 %; the highest, number 3, 60.0 %."),
    ],
)  # fmt: skip
def test_what_became_of_the_first_is_said(searched: Scored, judged: list[Any], more: dict[str, Any], says: str) -> None:
    made = drawn(searched([search(judged, **more)]))["search_fitness_1"]
    assert made.says.split(": ", 1)[1] == says
    assert ("layers" in made.says) == ("space" in more)
    assert ("first candidate's level" in series(made)) == (judged[0] != "no path")


def test_a_part_that_is_nothing_is_a_fitness_of_nothing(searched: Scored) -> None:
    made = drawn(searched([search([two(0.0, 1.0), two(0.5, 0.5)])]))["search_fitness_1"]
    assert series(made)["candidates"] == [(1, 0.0), (2, 50.0)]


def test_of_a_long_search_no_rise_is_lost(searched: Scored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_search, "MOST_POINTS", 20)
    judged = [two(0.5, 0.2 + (0.4 if at == 57 else 0.0)) for at in range(101)]
    found = drawn(searched([search(judged), search(judged)]))
    made = found["search_fitness_2"]
    points = series(made)
    assert len(points["candidates"]) == 10 and points["candidates"][1] == (12, 28.6)
    assert points["best so far"] == [(1, 28.6), (58, 54.5), (101, 54.5)] and points["chosen"] == [(58, 54.5)]
    assert made.note.endswith("10 of 101 candidates are drawn.")


# -- the front ----------------------------------------------------------------------------------


def test_the_front_of_two_parts_is_joined(searched: Scored) -> None:
    made = drawn(searched([search(FLOW)]))["search_front_1"]
    assert (made.x.head, made.y.head) == ("paraphrases (%)", "locality (%)")
    assert series(made) == {
        "other candidates": [(50.0, 50.0), (30.0, 30.0)],
        "Pareto front": [(40.0, 80.0), (80.0, 60.0), (90.0, 40.0)],
        "first": [(50.0, 50.0)],
        "chosen": [(80.0, 60.0)],
    }
    assert [(s.name, s.line) for s in made.series if s.line] == [("Pareto front", True)]
    assert made.says == (
        "Batch 1, search of the merge's numbers: 3 of 5 candidates are on the Pareto front: no other beats one of "
        "these in one part without losing in another. Chosen: candidate 5, paraphrases 80.0 %, locality 60.0 %; first: "
        "candidate 1, paraphrases 50.0 %, locality 50.0 %."
    )
    assert made.note == "Up and to the right is better."


def test_of_three_parts_the_two_that_differ_most_are_shown_and_not_joined(searched: Scored) -> None:
    judged = [two(0.5, 0.90, perplexity=0.9), two(0.7, 0.91, perplexity=0.5), two(0.6, 0.92, perplexity=0.4)]
    made = drawn(searched([search(judged)]))["search_front_1"]
    assert (made.x.title, made.y.title) == ("paraphrases", "perplexity")
    assert series(made)["Pareto front"] == [(50.0, 90.0), (60.0, 40.0), (70.0, 50.0)]
    assert not any(s.line for s in made.series), "a line through points of a front of three parts would zigzag"
    assert "The front is of paraphrases, locality and perplexity; shown are the two that differ most" in made.note
    assert series(made)["first and chosen"] == [(50.0, 90.0)] and "chosen" not in series(made)


@pytest.mark.parametrize(
    "judged",
    [
        [two(0.5, 0.5), two(0.6, 0.6), two(0.4, 0.4)],  # one beats all
        [{"locality": 0.5}, {"locality": 0.6}],  # a single part
    ],
)
def test_where_nothing_is_traded_there_is_no_front(searched: Scored, judged: list[Any]) -> None:
    assert list(drawn(searched([search(judged)]))) == ["search_fitness_1"]


def test_a_single_candidate_is_no_figure(searched: Scored) -> None:
    assert drawn(searched([search([two(0.5, 0.5)])])) == {}


# -- drawn --------------------------------------------------------------------------------------


def test_several_searches_stand_in_one_place_each(searched: Scored) -> None:
    merges = [search(FLOW), search(FLOW, space="dfs"), search(FLOW, batch=2)]
    found = drawn(searched(merges))
    assert [one.place for one in found.values()] == ["search_fitness"] * 3 + ["search_front"] * 3
    assert [one.choice["search"] for one in found.values()][:3] == [
        "batch 1, numbers", "batch 1, layers", "batch 2, numbers",
    ]  # fmt: skip


def test_steps_stay_until_the_next_value_on_the_page_and_on_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes
    from plotly.graph_objects import Figure as Plotly

    points = [Point(1, 10.0), Point(4, 20.0)]
    both = [Series("stairs", points, steps=True), Series("top", points[1:], line=False, large=True)]
    for kind, size in (("lines", 14), ("points", 17)):
        made = Figure("f", "F", "s", kind, Axis("x"), Axis("y"), both)  # type: ignore[arg-type]
        stairs, top = spec(made)["data"]
        assert top["marker"]["size"] == size and top["mode"] == "markers"
        Plotly(spec(made))
        if kind == "lines":
            assert stairs["mode"] == "lines" and stairs["line"]["shape"] == "hv"
    styles: list[Any] = []
    real = Axes.errorbar
    monkeypatch.setattr(
        Axes, "errorbar", lambda *a, **k: (styles.append((k["drawstyle"], k["marker"])), real(*a, **k))[1]
    )
    paper.drawn(Figure("f", "F", "s", "lines", Axis("x"), Axis("y"), both))
    assert styles == [("steps-post", ""), ("default", "s")]


def test_both_figures_are_plotlys_own_and_drawn_for_papers(searched: Scored) -> None:
    from plotly.graph_objects import Figure as Plotly

    for made in drawn(searched([search(FLOW)])).values():
        Plotly(spec(made))
        assert paper.drawn(made)["pdf"][:5] == b"%PDF-"
        assert len(made.csv().splitlines()) == 1 + sum(len(s.points) for s in made.series)


# -- the page -----------------------------------------------------------------------------------


def test_the_page_says_which_facts_chose_the_merge(searched: Scored, tmp_path: Path) -> None:
    document = searched([search(FLOW)])
    (tmp_path / "scores.json").write_text(json.dumps(document), encoding="utf-8")
    load(tmp_path)  # the made-up document is one
    text = page.write_run(tmp_path).read_text(encoding="utf-8")
    assert text.count("Scores are of 2 facts; the other 2 chose the merge (merge.search) and are left out.") == 1
    assert "are in no score above: merge.search was judged on them." in text
    assert 'data-figure="search_fitness_1"' in text and 'data-figure="search_front_1"' in text
    assert '<section id="merge-search"' in text and "50.0 % to 68.6 %" in text
    marks = {row["id"]: row["chose"] for row in facts.rows(document)}
    assert marks == {"f0": False, "f1": True, "f2": False, "f3": True}


def test_no_section_has_the_name_of_what_the_script_asks_for(searched: Scored) -> None:
    made = page_of(searched([search(FLOW)]), Beside())
    script = (Path(__file__).parents[3] / "templates" / "report.js").read_text(encoding="utf-8")
    assert not [one.id for one in made.sections if f'getElementById("{one.id}")' in script]


def test_without_a_search_nothing_of_it_is_on_the_page(scored: Scored) -> None:
    made = page_of(scored(), Beside())
    assert of_search.figures(scored()) == [] and not [f for f in of_run.figures(scored()) if "search" in f.id]
    assert [section.id for section in made.sections if "search" in section.id] == []
    assert made.sections[0].intro == "" and all("chose" not in row for row in made.facts)
    text = html(made)
    before_scripts = text[: text.index('<script type="application/json"')]
    assert "merge.search" not in before_scripts and "chose the merge" not in before_scripts
