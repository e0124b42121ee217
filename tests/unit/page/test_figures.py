"""Figures before they are drawn: numbers, sentences, what is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from kedit_glue.metrics import (
    COUNTERFACT_S,
    EFFICACY_MAGNITUDE,
    EFFICACY_SCORE,
    LEAKED,
    LOCALITY,
    NEIGHBORHOOD_SCORE,
    SUCCESS,
)
from kedit_glue.page import along, grid_page, of_batches, of_grid, of_run
from kedit_glue.page.figure import Axis, Figure, Missing, Point, Series, front
from kedit_glue.spreadsheet import safe
from kedit_glue.study_report import About, Result

Scored = Callable[..., dict[str, Any]]


def by_id(found: list[Any]) -> dict[str, Any]:
    return {one.id: one for one in found}


# -- a figure -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "written"),
    [("=1+1", "'=1+1"), ("+x", "'+x"), ("-x", "'-x"), ("@x", "'@x"), ("\tx", "'\tx"), ("a=b", "a=b"), (-1.5, -1.5),
     (None, "")],
)  # fmt: skip
def test_no_text_of_a_csv_is_a_formula(cell: Any, written: Any) -> None:
    assert safe(cell) == written


def test_the_csv_holds_what_is_drawn_and_no_empty_column() -> None:
    points = [Point("a, b", 50.0, 40.0, 60.0), Point("=c", None)]
    made = Figure("f", "F", "says", "dots", Axis("@cell"), Axis("=score", "%"), [Series("-s", points)])
    assert made.csv() == "series,'@cell,'=score (%),low 95 %,high 95 %\n'-s,\"a, b\",50.0,40.0,60.0\n'-s,'=c,,,\n"


@pytest.mark.parametrize(
    ("points", "best"),
    [
        ([(1, 1)], [0]),
        ([(1, 3), (2, 2), (3, 1), (1, 1), (2, 1)], [0, 1, 2]),
        ([(1, 2), (1, 3), (0, 3)], [1]),
        ([(2, 2), (2, 2), (1, 1)], [0, 1]),
    ],
)
def test_the_front_holds_what_none_beats(points: list[tuple[float, float]], best: list[int]) -> None:
    assert front(points) == best


# -- of a run -----------------------------------------------------------------------------------


def test_a_runs_figures_hold_its_numbers(scored: Scored) -> None:
    found = by_id(of_run.figures(scored()))
    radar = found["radar_teacher_forced"]
    assert [row[:3] for row in radar.table()[1][:2]] == [
        ["base", "edit success", 25.0],
        ["base", "generalization", 25.0],
    ]
    assert [[p.x, p.y] for p in radar.series[1].points] == [
        ["edit success", 87.5], ["generalization", 43.75], ["locality", 75.0], ["choices, kept", 98.0],
    ]  # fmt: skip
    assert radar.series[1].name == "merged" and "not scored before its merge" in radar.note
    heat = found["retention"]
    assert [s.name for s in heat.series] == ["after batch 1", "after batch 2"]
    assert [[p.y for p in s.points] for s in heat.series] == [[100.0, None], [90.0, 100.0]]
    curve = found["retention_curve"].series[0].points
    assert [(p.x, p.y, p.low, p.high, p.count) for p in curve] == [(0, 100.0, 95.0, 100.0, 4), (1, 90.0, 85.0, 95.0, 4)]
    assert found["stages"].table()[1] == [["seconds", "train", 21.0], ["seconds", "merge", 2.0]]
    [change] = found["general"].series[0].points
    assert (change.x, round(change.y, 6), change.count) == ("choices (points)", -1.0, 100)
    local = found["success_locality"]
    assert {s.name: [(p.label, p.x, p.y) for p in s.points] for s in local.series} == {
        "Pareto front": [("after batch 1", 75.0, 87.5), ("after batch 2", 75.0, 87.5)],
        "original": [("original", 100.0, 25.0)],
    }
    assert [(p.label, p.x) for s in found["success_general"].series for p in s.points] == [
        ("after batch 2", pytest.approx(98.0)), ("original", 100.0),
    ]  # fmt: skip


def test_what_general_ability_was_after_each_batch_is_drawn(scored: Scored) -> None:
    document = scored()
    document["batches"][0]["general"] = {"choices": {"metrics": {"acc": 0.4}, "items": 100}}
    points = [p for s in by_id(of_run.figures(document))["success_general"].series for p in s.points]
    assert [(p.label, round(float(p.x), 6)) for p in points] == [
        ("after batch 2", 98.0), ("after batch 1", 80.0), ("original", 100.0),
    ]  # fmt: skip


LONG = ["mmlu_pro_high_school_computer_science_easy", "mmlu_pro_high_school_computer_science_hard"]


def test_tasks_keep_their_whole_names(scored: Scored) -> None:
    """Two that begin alike are two."""
    document = scored()
    change = document["after"]["general_change"].pop("choices")
    document["after"]["general_change"] = {LONG[0]: change, LONG[1]: change | {"change": -0.02, "after": 0.4}}
    found = by_id(of_run.figures(document))
    assert found["radar_teacher_forced"].categories()[-2:] == [f"{task}, kept" for task in LONG]
    assert found["general"].categories() == [f"{task} (points)" for task in LONG]
    results = [Result("a", {}, document), Result("b", {}, document)]
    study = by_id(of_grid.figures(About("grid", "r.yaml", "a"), results))
    assert study["radar"].categories()[-2:] == [f"{task}, kept" for task in LONG]
    assert [series.name for series in study["general"].series] == LONG


def test_what_is_missing_is_said(scored: Scored) -> None:
    document = scored(success=[1.0, 1.0])
    document["after"]["general_change"] = {}
    document["retention"], document["seconds"] = None, {}
    missing = {one.id: one.why for one in of_run.figures(document) if isinstance(one, Missing)}
    assert missing.keys() == {
        "general", "success_general", "batches", "retention", "retention_curve", "stages", "batch_times", "curves",
    }  # fmt: skip
    assert missing["general"] == missing["success_general"] == of_run.NO_GENERAL
    assert missing["retention"] == of_batches.ONE_BATCH


def test_a_pair_and_a_result_without_scores_have_a_page_of_sentences(scored: Scored) -> None:
    document = scored() | {"kind": "pair", "batches": [], "retention": None, "seconds": {}, "facts": []}
    document["after"] = {"edits": {}, "general": None, "general_change": {}}
    document["before"] = {"edits": {}, "general": None}
    assert all(isinstance(one, Missing) for one in of_run.figures(document))


def test_a_long_runs_heat_map_is_thinned(scored: Scored) -> None:
    document = scored(success=[1.0] * 200)
    made = by_id(of_run.figures(document))["retention"]
    assert len(made.series) == len(made.series[0].points) == of_batches.MOST_ROWS
    assert (made.series[0].name, made.series[-1].name) == ("after batch 1", "after batch 100")
    assert made.note == "60 of 100 batches are shown."


# -- of a grid ----------------------------------------------------------------------------------


def cells(scored: Scored, settings: list[dict[str, Any]]) -> list[Result]:
    return [
        Result(f"c{n}", one, scored(f"c{n}", success=[1.0, 1.0, 1.0, 1.0 - n / 10], loss=0.01 * n))
        for n, one in enumerate(settings)
    ]


def on_grid(results: list[Result], axes: list[str]) -> list[Result]:
    """Each at its place on the axes."""
    return [replace(one, at={key: one.settings[key] for key in axes}) for one in results]


def figures(scored: Scored, axes: list[str], settings: list[dict[str, Any]]) -> dict[str, Any]:
    return by_id(of_grid.figures(About("grid", "r.yaml", "c0", {}, axes), on_grid(cells(scored, settings), axes)))


def test_a_curve_of_several_seeds_is_their_mean(scored: Scored) -> None:
    at = [{"train.epochs": epochs, "seed": seed} for epochs in (5, 30) for seed in (0, 1)]
    results = [replace(one, group=f"e{one.settings['train.epochs']}") for one in cells(scored, at)]
    results = on_grid(results, ["train.epochs"])
    made = by_id(of_grid.figures(About("grid", "r.yaml", "e5", {}, ["train.epochs"]), results))
    (success,) = (s for s in made["curve_train_epochs"].series if s.name == "edit success")
    # means over the four facts: 1, 0.975 at 5 epochs, 0.95, 0.925 at 30; t(0.975, 1) = 12.706
    assert [(p.x, p.y) for p in success.points] == [(5.0, pytest.approx(98.75)), (30.0, pytest.approx(93.75))]
    assert success.points[0].low == pytest.approx(98.75 - 12.706 * 1.25, rel=1e-4)
    assert success.points[0].high == 100.0, "of a share"
    assert [p.x for p in made["less_edit_success"].series[0].points] == ["e30"]


def test_a_named_cell_stands_on_no_curve(scored: Scored) -> None:
    """It sets what an axis sets, and more: its scores are no seed's of the grid's."""
    results = cells(scored, [{"train.epochs": epochs} for epochs in (5, 30)])
    results = [*on_grid(results, ["train.epochs"]), replace(results[1], cell="named", settings={"train.epochs": 5})]
    made = by_id(of_grid.figures(About("grid", "r.yaml", "c0", {}, ["train.epochs"]), results))["curve_train_epochs"]
    assert [(p.x, p.y, p.label) for p in made.series[0].points] == [(5.0, 100.0, "c0"), (30.0, 97.5, "c1")]
    alone = on_grid(results[:2], [])
    found = by_id(of_grid.figures(About("grid", "r.yaml", "c0", {}, ["train.epochs"]), alone))
    assert isinstance(found["curves"], Missing)


def test_settings_that_are_the_same_number_stand_apart(scored: Scored) -> None:
    made = figures(scored, ["train.layers"], [{"train.layers": 4}, {"train.layers": [4]}])["curve_train_layers"]
    assert [(p.x, p.label) for p in made.series[0].points] == [("4", "c0"), ("[4]", "c1")]


def test_along_a_single_axis_all_measures_are_in_one_figure(scored: Scored) -> None:
    layers = [{"train.layers": [8]}, {"train.layers": [2]}, {"train.layers": [4]}]
    made = figures(scored, ["train.layers"], layers)["curve_train_layers"]
    assert [s.name for s in made.series] == [
        "edit success", "generalization", "locality", "general ability kept", "harmonic mean H",
    ]  # fmt: skip
    assert [(p.x, p.y, p.label) for p in made.series[0].points] == [
        (2.0, 97.5, "c1"), (4.0, 95.0, "c2"), (8.0, 100.0, "c0"),
    ]  # fmt: skip
    assert made.choice == {"axis": "layers", "measure": "all"}


def test_with_more_axes_each_measure_has_a_line_for_each_combination(scored: Scored) -> None:
    settings = [{"edits.batch_size": size, "merge.method": m} for size in (1, 100) for m in ("ties", "linear")]
    found = figures(scored, ["edits.batch_size", "merge.method"], settings)
    made = found["curve_edits_batch_size_locality"]
    assert [(s.name, [p.x for p in s.points]) for s in made.series] == [
        ("method ties", [1.0, 100.0]), ("method linear", [1.0, 100.0]),
    ]  # fmt: skip
    assert made.x.log, "a hundredfold range"
    names = found["curve_merge_method_locality"].series[0].points
    assert [p.x for p in names] == ["ties", "linear"]
    assert {one.choice["axis"] for one in found.values() if one.place == "curves"} == {"batch_size", "method"}


def test_axes_whose_names_have_no_letters_of_ascii_keep_their_curves_apart(scored: Scored) -> None:
    axes = ["数据", "模型"]
    results = [
        replace(one, at={"数据": f"d{n // 2}", "模型": f"m{n % 2}"}) for n, one in enumerate(cells(scored, [{}] * 4))
    ]
    curves = [o for o in of_grid.figures(About("grid", "r.yaml", "c0", {}, axes), results) if o.place == "curves"]
    assert len({one.id for one in curves}) == len(curves) == 2 * 5, "axes times measures"
    local = by_id(curves)["curve_value_2_locality"]
    assert local.x.title == "模型" and [s.name for s in local.series] == ["数据 d0", "数据 d1"]


def test_a_grid_of_named_cells_says_why_it_has_no_curves(scored: Scored) -> None:
    found = figures(scored, [], [{"train.epochs": 1}, {"train.epochs": 2}])
    assert found["curves"] == Missing("curves", along.ALONG, along.NO_AXIS)


def test_cells_are_ranked_and_compared_with_the_baseline(scored: Scored) -> None:
    found = figures(scored, [], [{"train.epochs": n} for n in range(3)])
    assert next(one.id for one in found.values() if one.place == "cells") == "cells_harmonic_mean_h"
    assert [p.x for p in found["cells_edit_success"].series[0].points] == ["c0", "c1", "c2"]
    differences = found["less_edit_success"].series[0].points
    assert [(p.x, p.y) for p in differences] == [("c1", -2.5), ("c2", -5.0)]
    assert found["success_locality"].series[0].points[0].label == "c0"
    assert [p.y for p in found["general"].series[0].points] == pytest.approx([100.0, 99.0, 98.0])
    assert found["cost"].series[0].points[0].y == 6.25


COLLECTED = [EFFICACY_SCORE, NEIGHBORHOOD_SCORE, EFFICACY_MAGNITUDE, LEAKED, COUNTERFACT_S]


def collected(scored: Scored, layers: list[int]) -> list[Result]:
    """A layer sweep in CounterFact's scores, without general ability: the later the layer, the better."""
    results = on_grid(cells(scored, [{"train.layers": [n]} for n in layers]), ["train.layers"])
    for n, one in enumerate(results):
        document: Any = one.document
        document["after"]["general_change"] = {}
        document["after"]["edits"][COUNTERFACT_S] = {"mean": 0.5 + n / 10, "half_width_95": None, "facts": 4}
        for fact in document["facts"]:
            fact["after"] |= {
                EFFICACY_SCORE: n / 4, NEIGHBORHOOD_SCORE: 1 - n / 4, EFFICACY_MAGNITUDE: 0.1, LEAKED: n / 2,
            }  # fmt: skip
    return results


def test_shares_that_a_study_collects_are_in_its_figures(scored: Scored) -> None:
    results = collected(scored, [2, 4])
    drawn = of_grid.figures(About("grid", "r.yaml", "c0", {}, ["train.layers"], COLLECTED), results)
    found = by_id(drawn)
    curve = found["curve_train_layers_likelihood"]
    assert {s.name: [(p.x, p.y) for p in s.points] for s in curve.series} == {
        "score S": [(2.0, 50.0), (4.0, 60.0)],
        "efficacy score": [(2.0, 0.0), (4.0, 25.0)],
        "neighborhood score": [(2.0, 100.0), (4.0, 75.0)],
    }
    assert [s.name for s in found["curve_train_layers_teacher_forced"].series] == [
        "edit success", "generalization", "locality",
    ]  # fmt: skip
    assert [one.id for one in drawn if one.place == "cells"] == [
        "cells_score_s", "cells_edit_success", "cells_generalization", "cells_locality", "cells_efficacy_score",
        "cells_neighborhood_score", "cells_erasure_leaked",
    ]  # fmt: skip
    assert [p.x for p in found["cells_erasure_leaked"].series[0].points] == ["c0", "c1"], "the best on top"
    assert {(p.label, p.x, p.y) for s in found["efficacy_neighborhood"].series for p in s.points} == {
        ("c0", 100.0, 0.0), ("c1", 75.0, 25.0),
    }  # fmt: skip
    assert [(p.x, p.y) for p in found["less_efficacy_score"].series[0].points] == [("c1", 25.0)]
    assert [(p.label, p.y) for p in found["worth"].series[0].points] == [("c0", 50.0), ("c1", 60.0)]


def seeded(results: list[Result], seeds: int) -> list[Result]:
    """The results of cells, each run with so many seeds."""
    return [replace(r, group=f"g{n // seeds}", settings={"seed": n % seeds}) for n, r in enumerate(results)]


def test_a_studys_page_tells_means_over_seeds(scored: Scored) -> None:
    results = seeded(collected(scored, list(range(6))), 3)
    results[5] = replace(results[5], document=None, cause="killed")
    for one in results[:5]:
        one.document["verdict"] = {"answer": "ship" if one.cell != "c1" else "do not ship"}  # type: ignore[index]
    made = grid_page.page(About("grid", "r.yaml", "g0", {}, (), [COUNTERFACT_S]), results)
    assert made.about == "2 cells of r.yaml · 6 runs, one for each seed"
    assert made.headline == ("Best by S, the harmonic mean of CounterFact's scores: g1, 85.0 %, mean over 2 seeds.")
    assert {(tile["title"], tile["before"], tile["after"]) for tile in made.tiles} == {
        ("score S", "g1", "85.0 %"), ("most edit success", "g0", "97.5 %"), ("most generalization", "g0", "48.8 %"),
        ("most locality", "g0 and 1 more", "75.0 %"),
    }  # fmt: skip
    assert made.verdict["answer"] == "4 of 6 runs may ship"
    assert [reason["says"] for reason in made.verdict["reasons"]] == [
        "ship: g0 (2 of 3), g1 (2 of 3)", "do not ship: g0 (1 of 3)", "without a result: c5",
    ]  # fmt: skip
    means, each, *_ = next(section.tables for section in made.sections if section.id == "cells")
    success, verdict = means.head.index("edit success"), means.head.index("verdict")
    assert [row[0] for row in means.rows] == ["g0", "g1"] and "over seeds" in means.note
    assert [row[verdict] for row in means.rows] == ["2 of 3 ship", "2 of 3 ship"]
    # over four facts 100, 97.5, 95 for the three seeds; t(0.975, 2) = 4.303
    assert means.rows[0][success] == f"97.5±{4.303 * 2.5 / 3**0.5:.1f}"
    assert (each.title, [row[0] for row in each.rows]) == ("Every seed", ["c0", "c1", "c2", "c3", "c4"])
    assert [row[verdict] for row in each.rows][:2] == ["ship", "do not ship"] and "over facts" in each.note


def test_a_study_has_the_heat_map_of_each_cell_to_choose_from(scored: Scored) -> None:
    once = scored()
    once["retention"] = None  # scored at the end only
    results = [Result(name, {}, document) for name, document in (("a b", scored()), ("once", once), ("c", scored()))]
    made = grid_page.page(About("grid", "r.yaml", "once"), results)
    found = [figure for figure in made.figures if isinstance(figure, Figure) and figure.group == "retention"]
    assert [(figure.id, dict(figure.choice)) for figure in found] == [
        ("retention_a_b", {"cell": "a b"}), ("retention_c", {"cell": "c"}),
    ]  # fmt: skip
    assert [[p.y for p in s.points] for s in found[0].series] == [[100.0, None], [90.0, 100.0]]
    many = [Result(f"c{n}", {}, scored()) for n in range(10)]
    drawn = [figure for figure in of_grid.figures(About("grid", "r.yaml", "c0"), many) if figure.place == "retention"]
    assert len(drawn) == of_grid.MOST_CELLS and "8 best of 10 cells" in drawn[0].note  # type: ignore[union-attr]
    assert not of_grid.heat_maps([])


def test_of_what_a_study_collects_the_best_are_named(scored: Scored) -> None:
    results = collected(scored, [2, 4])
    made = grid_page.page(About("grid", "r.yaml", "c0", {}, ["train.layers"], COLLECTED), results)
    assert made.headline == "Best by S, the harmonic mean of CounterFact's scores: c1, 60.0 %."
    named = [(tile["title"], tile["before"]) for tile in made.tiles]
    assert named[0] == ("score S", "c1") and named[-1] == ("least erasure, leaked", "c0")
    assert "efficacy_neighborhood" in {place for section in made.sections for place in section.places}


def test_a_grid_without_a_result_says_so() -> None:
    found = of_grid.figures(About("grid", "r.yaml", "a"), [Result("a", {}, None, "killed")])
    assert found == [Missing("cells", "Cells side by side", of_grid.NO_CELL)]


def test_a_cell_that_lacks_what_others_have_is_left_out_there(scored: Scored) -> None:
    results = cells(scored, [{}, {}])
    document: Any = results[1].document
    document["after"]["general_change"] = {}
    for fact in document["facts"]:
        del fact["after"][LOCALITY]
    found = by_id(of_grid.figures(About("grid", "r.yaml", "c0"), results))
    assert [p.label for s in found["success_locality"].series for p in s.points] == ["c0"]
    assert [p.label for p in found["worth"].series[0].points] == ["c0"]
    assert isinstance(found["radar"], Missing)
    assert SUCCESS in document["facts"][0]["after"]


def other_model(document: dict[str, Any]) -> None:
    document["base"] = {**document["base"], "weights": "of another"}


def other_facts(document: dict[str, Any]) -> None:
    document["facts_source"] = {**document["facts_source"], "hash": "of others"}


def unknown_facts(document: dict[str, Any]) -> None:
    document["facts_source"] = None


def searched_facts(document: dict[str, Any]) -> None:
    document["search"] = {"facts": ["f0"], "merges": []}


@pytest.mark.parametrize("change", [other_model, other_facts, unknown_facts, searched_facts])
def test_different_originals_are_no_line_of_a_studys_radar(
    scored: Scored, change: Callable[[dict[str, Any]], None]
) -> None:
    results = cells(scored, [{}, {}])
    about = About("grid", "r.yaml", "c0")
    radar = by_id(of_grid.figures(about, results))["radar"]
    assert [s.name for s in radar.series] == ["original", "c0", "c1"] and radar.note == ""
    change(results[1].document)  # type: ignore[arg-type]
    radar = by_id(of_grid.figures(about, results))["radar"]
    assert [s.name for s in radar.series] == ["c0", "c1"] and radar.note == of_grid.NO_ORIGINAL
    assert radar.title == "The baseline and the best cells"
    change(results[0].document)  # type: ignore[arg-type]
    radar = by_id(of_grid.figures(about, results))["radar"]
    assert [s.name for s in radar.series] == ["original", "c0", "c1"], "what is alike, or lacking, everywhere"


def test_a_baseline_whose_first_seed_failed_is_its_next(scored: Scored) -> None:
    seeds = [{"seed": n} for n in range(3)]
    results = [replace(one, group="base" if n < 2 else "other") for n, one in enumerate(cells(scored, seeds))]
    results[0] = replace(results[0], document=None, cause="killed")
    about = About("grid", "r.yaml", "base")
    assert of_grid.each_seed(about, results)[0].baseline == "c1"
    lacking = [replace(one, document=None) for one in results]
    assert of_grid.each_seed(about, lacking)[0].baseline == "c0"


def test_the_radar_shows_the_tuned_model_where_it_was_scored(scored: Scored) -> None:
    document = scored()
    document["tuned"] = {
        "edits": {**document["after"]["edits"], SUCCESS: {"mean": 1.0, "facts": 4, "half_width_95": 0.0}},
        "general": None,
        "general_change": {},
    }
    radar = by_id(of_run.figures(document))["radar_teacher_forced"]
    assert [series.name for series in radar.series] == ["base", "tuned", "merged"]
    assert radar.series[1].points[0].y == 100.0 and radar.series[2].points[0].y == 87.5
    assert len(radar.series[1].points) == len(radar.series[2].points) - 1, "general ability was not asked of it"
    assert radar.title == "Base, tuned and merged model" and "not scored" not in radar.note
