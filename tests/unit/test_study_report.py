"""A study's tables, from scores made by hand and intervals computed by hand."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kedit_glue.metrics import GENERALIZATION, LOCALITY, PORTABILITY, SUCCESS
from kedit_glue.study_grid import labels, said
from kedit_glue.study_report import About, Result, differences, draw, fact_values, harmonic, rows, table
from kedit_glue.study_text import axis_columns, markdown, terminal, without_result

ABOUT = About("try", "../recipe.yaml", "a", {"edits.limit": 3}, ["train.epochs"])
CHOICES = {"metric": "acc", "change": -0.025, "change_95": [-0.068, 0.018], "noise": True}
TEXT = {"metric": "word_perplexity", "change": 0.008, "change_95": [0.006, 0.01], "noise": False, "change_is": "ratio"}


def scores_of(success: list[float], locality: list[dict[str, float | None]], steps: int = 5) -> dict[str, Any]:
    """A run over facts f0, f1 … in two batches."""
    facts = [
        {
            "id": f"f{n}", "prompt": f"p{n}", "target_new": "t",
            "after": {SUCCESS: s, GENERALIZATION: None if n == 2 else s / 2, LOCALITY: kinds},
        }
        for n, (s, kinds) in enumerate(zip(success, locality, strict=True))
    ]  # fmt: skip
    return {
        "facts": facts,
        "batches": [
            {"training": {"optimizer_steps": steps, "seconds": 10.5}, "merge": {"seconds": 2.25}},
            {"training": {"optimizer_steps": 2, "seconds": 1.0}},
        ],
        "after": {"general_change": {"choices": CHOICES, "text": TEXT}},
        "seconds": {"train": 11.5, "all": 90.0},
    }


A = scores_of([0.5, 1.0, 0.0], [{"near": 1.0, "far": 0.5}, {"near": 0.5, "far": None}, {"near": 1.0}])
B = scores_of([1.0, 1.0, 0.75], [{"near": 0.5, "far": 0.0}, {"near": 0.0, "far": None}, {"near": 0.5}], steps=9)
RESULTS = [
    Result("a", {"train.epochs": 1}, A, at={"train.epochs": 1}),
    Result("b", {"train.epochs": 3}, B, at={"train.epochs": 3}),
    Result("c", {"merge.method": "ties"}, None, "batch 1 of 1: merge: exit code 3"),
]


def test_a_row_holds_means_intervals_and_cost() -> None:
    first, _, last = rows(RESULTS)
    # 0.5, 1, 0: mean 0.5, variance 0.25
    assert first["metrics"][SUCCESS] == {"mean": 0.5, "half_95": pytest.approx(1.96 * 0.5 / math.sqrt(3)), "facts": 3}
    # 0.25 and 0.5: mean 0.375, variance 0.03125; the third fact has no rephrasing
    assert first["metrics"][GENERALIZATION] == {
        "mean": 0.375, "half_95": pytest.approx(1.96 * math.sqrt(0.03125 / 2)), "facts": 2,
    }  # fmt: skip
    # each fact the mean over its kinds: 0.75, 0.5, 1
    assert first["metrics"][LOCALITY]["mean"] == 0.75
    assert PORTABILITY not in first["metrics"]
    assert (first["optimizer_steps"], first["train_seconds"], first["merge_seconds"]) == (7, 11.5, 2.25)
    assert first["all_seconds"] == 90.0 and first["general"]["text"] is TEXT
    assert last == {
        "cell": "c",
        "settings": {"merge.method": "ties"},
        "at": {},
        "cause": "batch 1 of 1: merge: exit code 3",
    }


def test_the_harmonic_mean_has_retained_ability_in_it() -> None:
    known = scores_of([0.5, 1.0], [{"near": 1.0}, {"near": 0.5}])
    known["after"]["general_change"] = {
        "choices": {**CHOICES, "before": 0.5, "after": 0.6, "better": "higher"},  # better than before: kept, no more
        "text": {**TEXT, "before": 20.0, "after": 40.0, "better": "lower"},  # half
    }
    [found] = rows([Result("a", {}, known)])
    # edit success 0.75, generalization 0.375, locality 0.75, retained (1 + 0.5) / 2 = 0.75
    assert found["harmonic"] == pytest.approx(4 / (3 / 0.75 + 1 / 0.375))
    del known["after"]["general_change"]["choices"], known["after"]["general_change"]["text"]
    assert rows([Result("a", {}, known)])[0]["harmonic"] is None


def test_differences_pair_the_same_facts() -> None:
    [found] = table(ABOUT, RESULTS)["differences"]
    assert found["cell"] == "b"
    # 0.5, 0, 0.75: mean 5/12, variance 0.4375/3 … by hand: ((1/12)² + (5/12)² + (4/12)²) / 2 = 42/288
    half = 1.96 * math.sqrt(42 / 288 / 3)
    assert found["metrics"][SUCCESS] == {
        "difference": pytest.approx(5 / 12),
        "difference_95": pytest.approx([5 / 12 - half, 5 / 12 + half]),
        "facts": 3,
        "excludes_zero": False,
    }
    # every fact loses a half: no spread at all
    assert found["metrics"][LOCALITY] == {
        "difference": -0.5, "difference_95": [-0.5, -0.5], "facts": 3, "excludes_zero": True,
    }  # fmt: skip


def test_only_facts_that_both_cells_have_are_compared() -> None:
    fewer = scores_of([1.0, 0.5], [{"near": 1.0}, {"near": 1.0}])
    fewer["facts"][1]["target_new"] = "another"
    [found] = table(ABOUT, [RESULTS[0], Result("d", {}, fewer)])["differences"]
    expected = {"difference": 0.5, "difference_95": None, "facts": 1, "excludes_zero": False}
    assert found["metrics"][SUCCESS] == expected
    other = scores_of([1.0], [{"near": 1.0}])
    other["facts"][0]["id"] = "g0"
    assert table(ABOUT, [RESULTS[0], Result("d", {}, other)])["differences"] == [{"cell": "d", "metrics": {}}]


def test_without_the_baseline_nothing_is_compared() -> None:
    document = table(ABOUT, [Result("a", {}, None, "not run yet"), RESULTS[1]])
    assert document["differences"] == []
    assert "Nothing to compare yet" in markdown(document)


def test_markdown() -> None:
    document = table(ABOUT, RESULTS)
    assert json.loads(json.dumps(document)) == document
    lines = markdown(document, "study.svg").splitlines()
    assert lines[:3] == ["# try: a study of ../recipe.yaml", "", "In every cell: edits.limit=3."]
    assert lines[4:9] == [
        "| cell | epochs | edit success | generalization | locality | choices (points) | text (%) | H | steps | "
        "s a fact | s once | peak GB | MB changed | MB beside | train | merge | all |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| a | 1 | 50.0±56.6 | 37.5±24.5 | 75.0±28.3 | -2.5 [-6.8, +1.8] | +0.8 [+0.6, +1.0] | - | 7 | - | - | - | - | "
        "- | 12 s | 2 s | 1 min 30 s |",
        "| b | 3 | 91.7±16.3 | 50.0±0.0 | 25.0±28.3 | -2.5 [-6.8, +1.8] | +0.8 [+0.6, +1.0] | - | 11 | - | - | - | - | "
        "- | 12 s | 2 s | 1 min 30 s |",
        "",
    ]
    assert "- c: batch 1 of 1: merge: exit code 3" in lines
    assert "![locality against generalization](study.svg)" in lines
    at = lines.index("## Less a")
    assert lines[at + 2 : at + 5] == [
        "| cell | edit success | generalization | locality | facts |",
        "| --- | --- | --- | --- | --- |",
        "| b | +41.7±43.2 | +12.5±24.5 | -50.0±0.0 * | 2-3 |",
    ]
    assert "- c: merge.method=ties" in lines


def test_the_terminal_shows_both_tables_and_what_is_missing() -> None:
    console = Console(file=io.StringIO(), width=200)
    for part in terminal(table(ABOUT, RESULTS)):
        console.print(part, markup=False)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for shown in ("91.7±16.3", "try: less a", "-50.0±0.0 *", "without a result:\n  c: batch 1 of 1"):
        assert shown in text


def test_before_any_result_it_is_said_that_there_is_none() -> None:
    document = table(ABOUT, [Result("a", {"train.epochs": 1}, None, "not run yet", {"train.epochs": 1})])
    assert "No cell has a result yet.\n\nWithout a result:\n\n- not run yet: a\n" in markdown(document)
    assert "- a: train.epochs=1" in markdown(document)
    assert [str(part) for part in terminal(document)] == ["\nwithout a result:\n  not run yet: a"]


def test_cells_that_did_not_begin_are_one_line() -> None:
    waiting = [Result(f"w{n}", {}, None, "not run yet") for n in range(3)]
    seeds = [Result(f"s_seed-{n}", {"seed": n}, None, "not run yet", group="s") for n in range(2)]
    begun = [
        Result("d_seed-0", {"seed": 0}, None, "exit code 3", group="d"),
        Result("d_seed-1", {"seed": 1}, None, "not run yet", group="d"),
    ]
    document = table(ABOUT, [*waiting, *seeds, *begun, *RESULTS])
    assert without_result(document) == [
        "d: 0 of 2 seeds; d_seed-0: exit code 3; d_seed-1: not run yet",
        "c: batch 1 of 1: merge: exit code 3",
        "not run yet: w0, w1, w2, s",
    ]
    assert not any(line.startswith(("| w", "| s |", "| d ", "| c ")) for line in markdown(document).splitlines())


def test_words() -> None:
    assert labels(["train.epochs", "merge.method", "x.method"]) == {
        "train.epochs": "epochs", "merge.method": "merge.method", "x.method": "x.method",
    }  # fmt: skip
    assert said({"merge.parameters": {"weight": 1.0}, "name": "5"}) == "merge.parameters={weight: 1.0}, name='5'"
    assert said({}) == "as it is"


def test_the_picture_has_a_labelled_point_for_each_cell_that_has_both(tmp_path: Path) -> None:
    path = tmp_path / "study.svg"
    cells = rows([RESULTS[0], Result("$b & <c>", {}, B), RESULTS[2]])
    assert draw(path, cells)
    text = path.read_text(encoding="utf-8")
    assert "$b &amp; &lt;c&gt;" in text and ">a<" in text and ">c<" not in text
    assert draw(tmp_path / "again.svg", cells)
    assert (tmp_path / "again.svg").read_text(encoding="utf-8") == text


def test_nothing_to_draw(tmp_path: Path) -> None:
    assert not draw(tmp_path / "study.svg", rows(RESULTS[2:]))
    assert not (tmp_path / "study.svg").exists()


def test_what_editing_cost_stands_beside_the_scores() -> None:
    known = scores_of([1.0], [{"near": 1.0}])
    known["cost"] = {
        "seconds_a_fact": 1.25, "peak_memory_bytes": None, "bytes_changed": 7_500_000, "bytes_at_inference": 0
    }  # fmt: skip
    shown = markdown(table(ABOUT, [Result("a", {}, known), Result("b", {}, A)]))
    heads, _, first, second = (line.split("|") for line in shown.splitlines()[4:8])
    columns = {head.strip(): number for number, head in enumerate(heads)}
    wanted = {"s a fact": "1.25", "peak GB": "-", "MB changed": "7.5", "MB beside": "0.0"}
    assert {head: first[columns[head]].strip() for head in wanted} == wanted
    assert {second[columns[head]].strip() for head in wanted} == {"-"}


def test_cells_that_differ_in_their_seed_are_one_row() -> None:
    one = scores_of([0.5, 1.0], [{"near": 1.0}, {"near": 1.0}], steps=5)
    two = scores_of([1.0, 1.0], [{"near": 0.5}, {"near": 1.0}], steps=9)
    for document, change in ((one, 0.01), (two, 0.03)):
        document["after"]["general_change"]["text"] = {**TEXT, "change": change}
    results = [
        Result("a_seed-0", {"x": 1, "seed": 0}, one, group="a"),
        Result("a_seed-1", {"x": 1, "seed": 1}, two, group="a"),
        Result("a_seed-2", {"x": 1, "seed": 2}, None, "no room", group="a"),
        Result("b_seed-0", {"x": 2, "seed": 0}, one, group="b"),
        Result("b_seed-1", {"x": 2, "seed": 1}, None, "no room", group="b"),
    ]
    document = table(About("try", "r.yaml", "b"), results)
    first, second = document["cells"]
    assert (first["cell"], first["settings"], first["cause"]) == ("a", {"x": 1}, "a_seed-2: no room")
    assert first["runs"] == {"a_seed-0": 0, "a_seed-1": 1} and second["runs"] == {"b_seed-0": 0}
    # the facts' means over both seeds: 0.75 and 1; the seeds' own means: 0.75 and 1, t(0.975, 1) = 12.706
    found = first["metrics"][SUCCESS]
    assert found["mean"] == 0.875 and found["half_95"] == pytest.approx(1.96 * 0.125)
    assert found["seeds_95"] == pytest.approx(12.706 * 0.125, rel=1e-4)
    assert first["general"]["text"]["change"] == pytest.approx(0.02)
    assert first["optimizer_steps"] == 9
    assert second["metrics"][SUCCESS]["mean"] == 0.75 and "seeds_95" not in second["metrics"][SUCCESS]
    # fact by fact, over seed 0, which both have
    assert document["differences"][0]["metrics"][SUCCESS]["difference"] == 0
    text = markdown(document)
    assert "mean over seeds" in text
    assert "- a: 2 of 3 seeds; a_seed-2: no room" in text and "- b: 1 of 2 seeds; b_seed-1: no room" in text
    cells = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert "| 75.0 |" in cells["b"], "an interval over facts does not stand among those over seeds"


def test_differences_are_over_the_seeds_that_both_have() -> None:
    low, high = (scores_of([value, value], [{"near": 1.0}] * 2) for value in (0.25, 1.0))
    results = [
        Result("a_seed-0", {"seed": 0}, low, group="a"),
        Result("a_seed-1", {"seed": 1}, high, group="a"),
        Result("b_seed-0", {"seed": 0}, None, "no room", group="b"),
        Result("b_seed-1", {"seed": 1}, high, group="b"),
        Result("c_seed-2", {"seed": 2}, high, group="c"),
        Result("d_seed-0", {"seed": 0}, high, group="d"),
        Result("d_seed-1", {"seed": 1}, high, group="d"),
    ]
    found = {one["cell"]: one["metrics"][SUCCESS]["difference"] for one in differences(results, "a")}
    # seed 1 against seed 1; 1 less the mean of 0.25 and 1
    assert found == {"b": 0, "d": pytest.approx(0.375)}


@pytest.mark.parametrize(
    ("better", "before", "after", "h"),
    [
        ("higher", 0.8, 0.8, 1.0),
        ("higher", 0.8, 0.4, 4 / (3 + 1 / 0.5)),
        ("higher", 0.8, 0.0, 0.0),
        ("lower", 20.0, 40.0, 4 / (3 + 1 / 0.5)),
        ("lower", 20.0, None, 0.0),
        ("lower", 0.5, 0.0, 1.0),
        ("higher", 0.0, 0.5, None),
    ],
)
def test_a_task_that_broke_down_keeps_nothing(better: str, before: float, after: float | None, h: float | None) -> None:
    document = {"after": {"general_change": {"task": {"better": better, "before": before, "after": after}}}}
    every = {metric: [1.0] for metric in (SUCCESS, GENERALIZATION, LOCALITY)}
    assert harmonic(document, every) == (None if h is None else pytest.approx(h))


def test_metrics_that_are_asked_for_stand_beside_the_usual_ones() -> None:
    asked = "edit_success.teacher_forced.perplexity"
    known = scores_of([1.0], [{"near": 1.0}])
    known["facts"][0]["after"][asked] = 4.25
    document = table(About("try", "r.yaml", "a", collect=[asked]), [Result("a", {}, known)])
    shown = markdown(document)
    assert f"| {asked} |" in shown and "| 4.250 |" in shown  # no share: not in per cent
    assert f"(`{asked}`)" in shown


def test_a_score_of_all_facts_together_stands_beside_those_of_each() -> None:
    asked = "counterfact.likelihood.harmonic_mean"
    documents = [scores_of([1.0], [{"near": 1.0}]) for _ in range(2)]
    for document, value in zip(documents, (0.5, 0.7), strict=True):
        document["after"]["edits"] = {asked: {"mean": value, "facts": 1}}
    about = About("try", "r.yaml", "a", collect=[asked])
    assert "| 50.0 |" in markdown(table(about, [Result("a", {}, documents[0])]))
    both = [Result(f"a_seed-{n}", {"seed": n}, document, group="a") for n, document in enumerate(documents)]
    [row] = table(about, both)["cells"]
    assert row["metrics"][asked]["mean"] == pytest.approx(0.6)
    assert row["metrics"][asked]["seeds_95"] == pytest.approx(12.706 * 0.1, rel=1e-4)
    documents[0]["after"]["edits"][asked]["mean"] = None
    assert asked not in table(about, both[:1])["cells"][0]["metrics"]


def test_facts_that_chose_the_merge_are_in_no_table() -> None:
    searched = {**A, "search": {"facts": ["f2"]}}
    assert fact_values(A, SUCCESS).keys() - fact_values(searched, SUCCESS).keys() == {("f2", "p2", "t")}
    (found,) = differences([Result("a", {}, A), Result("b", {}, searched)], "a", [SUCCESS])
    assert found["metrics"][SUCCESS]["facts"] == 2


def test_a_settings_text_stands_as_it_is_and_a_number_as_yaml() -> None:
    rows = [{"at": {"batch": "10", "train.layers": [2]}}, {"at": {"batch": "all at once", "train.layers": "all"}}]
    document = {"axes": ["batch", "train.layers"], "cells": [*rows, {"at": {}}]}
    assert axis_columns(document) == [
        ("batch", ["10", "all at once", "-"]),
        ("layers", ["[2]", "all", "-"]),
    ]


def test_seeds_whose_files_know_different_costs() -> None:
    """Files of earlier versions lack some."""
    every = [
        scores_of([1.0], [{"near": 1.0}]) | {"cost": cost} for cost in ({"a": 1.0, "b": 2.0}, {"a": 3.0, "c": 4.0})
    ]
    group = [Result(f"s_seed-{n}", {"seed": n}, one, group="s") for n, one in enumerate(every)]
    assert rows(group)[0]["cost"] == {"a": 2.0, "b": None, "c": None}
