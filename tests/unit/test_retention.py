"""What is left of earlier batches, against a matrix and a curve worked out by hand."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from kedit_glue import metrics, report, retention
from kedit_glue.result_fields import Retention

BATCHES = [["a", "b"], ["c", "d"], ["e"]]
ASKED = {
    1: {"a": 1.0, "b": 0.5},
    2: {"a": 0.5, "b": 0.5, "c": 1.0, "d": 0.0},
    3: {"a": 0.0, "b": 0.5, "c": 1.0, "d": 0.0, "e": 1.0},
}


def found(asked: Any, batches: Any = BATCHES, **more: Any) -> dict[str, Any]:
    made = retention.retention(batches, asked, **more)
    assert made is not None
    Retention.model_validate(made)  # as scores.json holds it
    return made


def test_a_row_for_each_batch_that_was_asked_after() -> None:
    made = found(ASKED)
    assert made["metric"] == metrics.SUCCESS
    assert made["after"] == [1, 2, 3]
    assert made["matrix"] == [
        [0.75, None, None],
        [0.5, 0.5, None],
        [0.25, 0.5, 1.0],
    ]
    assert made["sampled"] is False


def test_the_curve_is_over_all_answers_of_an_age() -> None:
    now, one, two = found(ASKED)["curve"]
    # age 0: 1, 0.5 / 1, 0 / 1: mean 3.5/5, squared deviations 0.09, 0.04, 0.09, 0.49, 0.09 = 0.8, over 4
    assert now == {"age": 0, "mean": pytest.approx(0.7), "half_width_95": pytest.approx(1.96 * math.sqrt(0.2 / 5)),
                   "answers": 5}  # fmt: skip
    # age 1: a, b after batch 2; c, d after batch 3: 0.5, 0.5, 1, 0: variance 0.5 / 3
    assert one == {"age": 1, "mean": 0.5, "half_width_95": pytest.approx(1.96 * math.sqrt(0.5 / 3 / 4)), "answers": 4}
    # age 2: 0, 0.5: variance 0.125
    assert two == {"age": 2, "mean": 0.25, "half_width_95": pytest.approx(1.96 * math.sqrt(0.125 / 2)), "answers": 2}


def test_another_metric_is_named() -> None:
    assert found(ASKED, metric=metrics.GENERALIZATION)["metric"] == metrics.GENERALIZATION


def test_a_sample_of_the_earlier_facts_is_said() -> None:
    made = found({1: ASKED[1], 2: {"b": 0.5, "c": 1.0, "d": 0.0}})
    assert made["sampled"] is True
    assert made["matrix"] == [[0.75, None, None], [0.5, 0.5, None]]
    assert [p["answers"] for p in made["curve"]] == [4, 1]


def test_no_fact_of_a_batch_was_drawn() -> None:
    made = found({3: {"c": 0.5, "e": 1.0}})
    assert (made["after"], made["matrix"]) == ([3], [[None, 0.5, 1.0]])
    assert made["curve"] == [
        {"age": 0, "mean": 1.0, "half_width_95": 0.0, "answers": 1},
        {"age": 1, "mean": 0.5, "half_width_95": 0.0, "answers": 1},
    ]


def test_facts_without_a_score_and_facts_of_later_batches_count_nowhere() -> None:
    made = found({1: {"a": None, "b": 0.5, "c": 0.9}})
    assert made["matrix"] == [[0.5, None, None]]
    assert [p["answers"] for p in made["curve"]] == [1]


def test_batches_are_in_order_however_they_come() -> None:
    assert found({3: ASKED[3], 1: ASKED[1], 2: ASKED[2]}) == found(ASKED)


@pytest.mark.parametrize("asked", [{}, {1: {}}, {1: {"a": None}}])
def test_where_nothing_was_asked_there_is_nothing(asked: Any) -> None:
    assert retention.retention(BATCHES, asked) is None


def test_a_matrix_that_is_too_large_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MOST_CELLS", 9)
    assert found(ASKED)["matrix"] is not None
    monkeypatch.setattr(retention, "MOST_CELLS", 8)
    made = found(ASKED)
    assert made["matrix"] is None
    assert [p["answers"] for p in made["curve"]] == [5, 4, 2], "the curve is over all of it"


def test_thousands_of_batches_stay_small() -> None:
    batches = [[f"f{n}"] for n in range(2000)]
    made = found({n: {f"f{n - 1}": 1.0, "f0": 0.5} for n in range(1, 2001)}, batches)
    assert made["matrix"] is None and made["sampled"] is True
    assert len(made["curve"]) == 2000


# -- report.md ----------------------------------------------------------------------------------


def lines(asked: Any, batches: Any = BATCHES) -> list[str]:
    return report.retention_lines(found(asked, batches))


def test_a_report_shows_curve_and_matrix() -> None:
    said = lines(ASKED)
    assert said[:3] == ["## Retention", "", "Edit success by age: how many batches ago a fact was taught."]
    assert said[4:9] == [
        "| batches ago | edit success ± 95 % | answers |",
        "| --- | --- | --- |",
        "| 0 | 70.0 % ± 39.2 | 5 |",
        "| 1 | 50.0 % ± 40.0 | 4 |",
        "| 2 | 25.0 % ± 49.0 | 2 |",
    ]
    assert said[10:15] == [
        "| after batch | facts of 1 | facts of 2 | facts of 3 |",
        "| --- | --- | --- | --- |",
        "| 1 | 75.0 % |  |  |",
        "| 2 | 50.0 % | 50.0 % |  |",
        "| 3 | 25.0 % | 50.0 % | 100.0 % |",
    ]


def test_a_report_says_that_earlier_facts_were_sampled() -> None:
    note = "Earlier facts were sampled: ± is the error of that, too."
    assert note in lines({1: ASKED[1], 2: {"b": 0.5, "c": 1.0}})
    assert note not in lines(ASKED)


@pytest.mark.parametrize("asked", [{1: ASKED[1]}, {3: ASKED[3]}])
def test_facts_that_were_asked_once_have_no_retention(asked: Any) -> None:
    assert lines(asked) == []
    assert report.retention_lines(None) == []


@pytest.mark.parametrize(("count", "matrix"), [(12, True), (13, False)])
def test_a_wide_matrix_is_not_shown(count: int, matrix: bool) -> None:
    batches = [[f"f{n}"] for n in range(count)]
    said = lines({n: {f"f{m}": 1.0 for m in range(n)} for n in range(1, count + 1)}, batches)
    assert any(line.startswith("| after batch") for line in said) is matrix
    assert f"| {count - 1} | 100.0 % | 1 |" in said, "the curve is"


def test_a_matrix_that_was_left_out_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MOST_CELLS", 8)
    assert not any("after batch" in line for line in lines(ASKED))


@pytest.mark.parametrize(("count", "shown"), [(1, 1), (21, 21), (22, 12), (1000, 21)])
def test_a_long_curve_is_thinned_evenly_to_its_ends(count: int, shown: int) -> None:
    rows = [[str(n)] for n in range(count)]
    kept = [int(row[0]) for row in report.thinned(rows)]
    assert len(kept) == shown and (kept[0], kept[-1]) == (0, count - 1)
    assert len({b - a for a, b in itertools.pairwise(kept[:-1])}) <= 1
