"""General ability before and after, item by item, against cases that were worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from kedit_glue import scores, verdict


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["acc_norm", "acc", "acc_stderr"], "acc"),
        (["acc_stderr", "acc_norm"], "acc_norm"),
        (["bits_per_byte", "byte_perplexity", "word_perplexity"], "word_perplexity"),
        (["exact_match_stderr,strict", "exact_match,strict", "exact_match,flexible"], "exact_match,strict"),
        (["f1", "bleu"], "f1"),
        (["bleu"], "bleu"),
        (["acc_stderr"], None),
        ([], None),
    ],
)
def test_the_metric_a_task_is_read_by(names: list[str], expected: str | None) -> None:
    assert scores.main_metric({"metrics": dict.fromkeys(names, 0.5)}) == expected


def task(values: list[Any], metric: str = "acc", higher: bool = True, **more: Any) -> dict[str, Any]:
    items = [{"doc_id": n, metric: v} for n, v in enumerate(values)]
    mean = sum(values) / len(values) if values and not isinstance(values[0], list) else 20.0
    return {"metrics": {metric: mean}, "higher_is_better": {metric: higher}, "items": items, **more}


def change(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return scores.general_change({"t": before}, {"t": after})["t"]


def test_a_change_of_accuracy_within_noise() -> None:
    # one of four became worse; with half an item more in each cell 0.5 better, 1.5 worse of 6: mean -1/6
    half = 1.96 * math.sqrt((2 - 1 / 6) / 36)
    found = change(task([1, 1, 0, 1]), task([1, 0, 0, 1]))
    assert found == {
        "metric": "acc",
        "better": "higher",
        "before": 0.75,
        "after": 0.5,
        "items": 4,
        "change": -0.25,
        "change_95": pytest.approx([-1 / 6 - half, -1 / 6 + half], rel=1e-4),
        "items_better": 0,
        "items_worse": 1,
        "p": 1.0,
        "noise": True,
        "base_95": [pytest.approx(0.26), pytest.approx(1.24)],
        "inside_base_interval": True,
    }


def test_a_change_of_accuracy_beyond_noise() -> None:
    # six of eight became worse: 0.5 better, 6.5 worse of 10, mean -0.6; base: seven 1, one 0; variance 1/8
    found = change(task([1, 1, 1, 1, 1, 1, 1, 0]), task([0, 0, 0, 0, 0, 0, 1, 0]))
    half = 1.96 * math.sqrt((7 - 3.6) / 100)
    assert found["change"] == -0.75
    assert found["change_95"] == pytest.approx([-0.6 - half, -0.6 + half], rel=1e-4)
    assert (found["items_better"], found["items_worse"], found["p"]) == (0, 6, pytest.approx(2 / 64))
    assert (found["noise"], found["inside_base_interval"]) == (False, False)
    assert found["base_95"] == [pytest.approx(0.63), pytest.approx(1.12)]


def test_a_change_of_a_share_that_is_neither_right_nor_wrong() -> None:
    # differences 0.5, 0, 0.25, 0.25: mean 0.25, variance 1/24
    found = change(task([0.25, 0.5, 0.5, 0.0], "f1"), task([0.75, 0.5, 0.75, 0.25], "f1"))
    half = 1.96 * math.sqrt(1 / 24 / 4)
    assert (found["change"], found["noise"]) == (0.25, False)
    assert found["change_95"] == pytest.approx([0.25 - half, 0.25 + half])


def test_noise_is_noise_in_both_directions() -> None:
    low, high = [1, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 0]
    for before, after, noise in ((low, high, False), (high, low, False), ([1, 0, 0, 1], [1, 1, 0, 1], True)):
        assert change(task(before), task(after))["noise"] is noise
    for nats, noise in (([2.0, 1.0], False), ([2.0, -1.0], True), ([-2.0, -1.0], False), ([-2.0, 1.0], True)):
        found = change(
            task([[-10.0, 5], [-20.0, 5]], "word_perplexity"),
            task([[-10.0 - nats[0], 5], [-20.0 - nats[1], 5]], "word_perplexity"),
        )
        assert found["noise"] is noise, nats


def test_items_that_change_both_ways_cancel_out() -> None:
    found = change(task([1, 0, 1, 0]), task([0, 1, 1, 0]))
    assert (found["change"], found["noise"]) == (0.0, True)


def test_a_change_of_perplexity_is_a_ratio() -> None:
    # nats lost: 2 + 1 over 10 words; residuals of the two items +-0.1 around 0.3 nats a word
    before = task([[-10.0, 5], [-20.0, 5]], "word_perplexity", higher=False)
    after = task([[-12.0, 5], [-21.0, 5]], "word_perplexity", higher=False)
    found = change(before, after)
    half = 1.96 * math.sqrt(0.02 / 2)
    assert found["change"] == pytest.approx(math.exp(0.3) - 1)
    assert found["change_95"] == [
        pytest.approx(math.exp(0.3 - half) - 1),
        pytest.approx(math.exp(0.3 + half) - 1),
    ]
    assert found["base_95"] == [pytest.approx(math.exp(3 - 1.96)), pytest.approx(math.exp(3 + 1.96))]
    assert (found["better"], found["noise"], found["inside_base_interval"]) == ("lower", False, True)
    assert found["change_is"] == "ratio minus 1"


def test_perplexity_weighs_items_by_their_words() -> None:
    before = task([[-10.0, 2], [-20.0, 8]], "word_perplexity")
    after = task([[-11.0, 2], [-20.0, 8]], "word_perplexity")
    assert change(before, after)["change"] == pytest.approx(math.exp(1 / 10) - 1)


def test_items_are_paired_by_their_number_not_their_place() -> None:
    before, after = task([1, 0, 1]), task([1, 0, 1])
    after["items"].reverse()
    assert [change(before, after)[key] for key in ("change", "items_better", "items_worse")] == [0.0, 0, 0]
    del after["items"][0]
    assert change(before, after)["items"] == 2


def test_items_are_paired_within_one_of_lm_evals_filters() -> None:
    def two_filters(strict: list[int], flexible: list[int]) -> dict[str, Any]:
        values = [("strict", strict), ("flexible", flexible)]
        return {
            "metrics": {f"exact_match,{name}": sum(v) / len(v) for name, v in values},
            "items": [
                {"doc_id": n, "filter": name, "exact_match": x} for name, each in values for n, x in enumerate(each)
            ],
        }

    found = change(two_filters([1, 0, 0], [1, 1, 1]), two_filters([1, 1, 0], [0, 0, 0]))
    assert (found["metric"], found["items"]) == ("exact_match,strict", 3)
    assert found["change"] == pytest.approx(1 / 3)


def test_tasks_without_items_show_their_values_alone() -> None:
    found = change(task([], items=[]), task([], items=[]))
    assert found["items"] == 0
    assert "change" not in found


def test_tasks_that_only_one_side_has_are_left_out() -> None:
    assert scores.general_change({"t": task([1])}, {}) == {}
    assert scores.general_change({}, {"t": task([1])}) == {}
    assert scores.general_change({"t": task([1])}, {"t": task([1], "f1")}) == {}
    assert scores.general_change({"t": {"metrics": {}, "items": []}}, {"t": task([1])}) == {}


def test_brief_general_counts_the_items() -> None:
    assert scores.brief_general({"t": task([1, 0])}) == {"t": {"metrics": {"acc": 0.5}, "items": 2}}
    assert scores.brief_general(None) is None


WHOLE = [(1, 0), (0, 1), (1, 0)]


@pytest.mark.parametrize("metric", ["mcc", "f1", "bleu"])
def test_metrics_of_all_items_together_have_no_change_item_by_item(metric: str) -> None:
    """lm-eval logs [right answer, prediction] for these (lm-eval 0.4.13, api/task.py:1557)."""

    def side(value: float, items: list[Any]) -> dict[str, Any]:
        rows = [{"doc_id": n, metric: item} for n, item in enumerate(items)]
        return {"t": {"metrics": {f"{metric},none": value}, "higher_is_better": {metric: True}, "items": rows}}

    before, after = side(1.0, [[a, a] for a, _ in WHOLE]), side(-1.0, [list(item) for item in WHOLE])
    found = scores.general_change(before, after)["t"]
    assert (found["before"], found["after"], found["items"]) == (1.0, -1.0, 3) and "change" not in found


@pytest.mark.parametrize("nats", [-8000.0, -math.inf, math.nan])
def test_a_perplexity_that_is_no_number_has_no_change(nats: float) -> None:
    def side(value: float, each: float) -> dict[str, Any]:
        rows = [{"doc_id": n, "word_perplexity": [each - n, 10]} for n in range(3)]
        return {"t": {"metrics": {"word_perplexity,none": value}, "higher_is_better": {}, "items": rows}}

    found = scores.general_change(side(20.0, -30.0), side(math.inf, nats))["t"]
    assert found["after"] is None and "change" not in found and "noise" not in found
    found = {**found, "better": "lower"}
    assert verdict.at_most("t", found, 0.05)["met"] is False
