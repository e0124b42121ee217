"""Whether a model may ship, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kedit_glue import metrics, report, result, verdict
from kedit_glue.metrics import LOCALITY, SUCCESS
from kedit_glue.recipe import Recipe

NOTHING = dict.fromkeys(verdict.DEFAULTS)
SAME = {"met": True, "says": "choices: loss 2.0 % [+1.2, +2.8], up to 5.0 % of loss is tolerated"}


@pytest.mark.parametrize("after", [0.0, 0.3])
def test_of_nothing_nothing_can_be_lost(after: float) -> None:
    change = {"better": "higher", "before": 0.0, "after": after, "change": after, "change_95": [after, after],
              "noise": not after}  # fmt: skip
    says = "gsm8k: the original scores 0, of which nothing can be lost"
    assert verdict.at_most("gsm8k", change, 0.05) == {"met": True, "says": says}


@pytest.mark.parametrize(
    ("mean", "half", "met", "says"),
    [
        (0.97, 0.01, True, "edit success 97.0 % ± 1.0 is at least 95.0 %"),
        (0.95, 0.0, True, "edit success 95.0 % is at least 95.0 %"),
        (0.94, 0.02, None, "edit success 94.0 % ± 2.0 is under 95.0 %, by less than the noise"),
        (0.80, 0.02, False, "edit success 80.0 % ± 2.0 is under 95.0 %"),
    ],
)
def test_a_threshold_is_reached_missed_or_neither(mean: float, half: float, met: bool | None, says: str) -> None:
    entry = {"mean": mean, "half_width_95": half, "facts": 9}
    assert verdict.at_least(SUCCESS, entry, 0.95) == {"met": met, "says": says}


@pytest.mark.parametrize(
    ("change", "met", "says"),
    [
        # 0.5 to 0.45: a tenth of it
        ({"change": -0.05, "change_95": [-0.06, -0.04]}, False,
         "t: loss 10.0 % [+8.0, +12.0], where 5.0 % is tolerated"),
        ({"change": -0.03, "change_95": [-0.05, -0.01]}, None,
         "t: loss 6.0 % [+2.0, +10.0], over the 5.0 % that is tolerated, by less than the noise"),
        ({"change": -0.04, "change_95": [-0.09, 0.01], "noise": True}, True,
         "t: loss 8.0 % [-2.0, +18.0], no change beyond the noise"),
        ({"change": 0.05, "change_95": [0.04, 0.06]}, True,
         "t: gain 10.0 % [+8.0, +12.0], up to 5.0 % of loss is tolerated"),
        # a perplexity: its change is a ratio, and higher is a loss
        ({"change": 0.08, "change_95": [0.07, 0.09], "better": "lower", "change_is": "ratio minus 1"}, False,
         "t: loss 8.0 % [+7.0, +9.0], where 5.0 % is tolerated"),
        ({"change": None}, None, "t has no change to compare"),
    ],
)  # fmt: skip
def test_a_tasks_loss_is_relative_to_the_original(change: dict[str, Any], met: bool | None, says: str) -> None:
    whole = {"before": 0.5, "better": "higher", "noise": False, **change}
    assert verdict.at_most("t", whole, 0.05) == {"met": met, "says": says}


def test_one_miss_forbids_and_one_doubt_leaves_it_open(scored: Callable[..., dict[str, Any]]) -> None:
    good = verdict.judged(scored(success=[1.0, 1.0]))
    assert good["answer"] == "ship" and good["reasons"][-1] == SAME
    assert verdict.judged(scored(success=[0.5, 0.5]))["answer"] == "do not ship"
    assert verdict.judged(scored(success=[1.0, 1.0], loss=0.2))["answer"] == "do not ship"
    open_one = verdict.judged(scored(success=[1.0, 1.0]), {**verdict.DEFAULTS, "least_portability": 0.5})
    assert open_one["answer"] == "cannot tell"
    says = (
        "portability was not measured (no fact has a question for it, or score.edits.metrics leaves it out); "
        "wanted: at least 50.0 %"
    )
    assert open_one["reasons"][1] == {"met": None, "says": says}


def test_a_model_that_answers_everything_alike_does_not_ship(scored: Callable[..., dict[str, Any]]) -> None:
    document = scored(success=[1.0, 1.0])
    document["after"]["edits"][LOCALITY]["mean"] = 0.0
    found = verdict.judged(document)
    assert found["answer"] == "do not ship"
    assert {"met": False, "says": "locality 0.0 % is under 50.0 %"} in found["reasons"]
    del document["after"]["edits"][LOCALITY]
    assert verdict.judged(document)["answer"] == "cannot tell"


def test_what_is_to_be_withheld_has_to_be_withheld(scored: Callable[..., dict[str, Any]]) -> None:
    document = scored(success=[1.0, 1.0])
    assert verdict.judged(document)["answer"] == "ship", "of facts that are to be told nothing is asked"
    document["after"]["edits"] |= {
        metrics.WITHHELD: {"mean": 0.375, "half_width_95": 0.14, "facts": 20},
        metrics.LEAKED: {"mean": 0.15, "half_width_95": 0.1, "facts": 20},
    }
    found = verdict.judged(document)
    assert found["answer"] == "do not ship"
    assert {"met": False, "says": "erasure, withheld 37.5 % ± 14.0 is under 95.0 %"} in found["reasons"]
    assert "erasure, leaked 15.0 %" in verdict.unasked(document, verdict.DEFAULTS)


def test_a_broken_models_loss_stays_readable() -> None:
    change = {"better": "lower", "before": 77.0, "change": 4.8e17, "change_95": [5.1e16, 4.5e18], "noise": False,
              "change_is": "ratio minus 1"}  # fmt: skip
    says = "texts: loss 4.8e+19 % [+5.1e+18, +4.5e+20], where 5.0 % is tolerated"
    assert verdict.at_most("texts", change, 0.05) == {"met": False, "says": says}


def test_general_ability_that_was_not_measured_leaves_it_open(scored: Callable[..., dict[str, Any]]) -> None:
    document = scored(success=[1.0, 1.0])
    document["after"]["general_change"] = {}
    assert verdict.judged(document)["answer"] == "cannot tell"
    assert verdict.judged(document, {**verdict.DEFAULTS, "most_general_loss": None})["answer"] == "ship"


def test_batches_that_were_edited_alone_have_none_to_measure(scored: Callable[..., dict[str, Any]]) -> None:
    document = scored() | {"mode": "independent"}
    document["after"]["general_change"] = {}
    says = verdict.judged(document)["reasons"][-1]["says"]
    assert says == "general ability was not measured (no model holds all edits)"


def test_where_nothing_is_asked_nothing_is_said(scored: Callable[..., dict[str, Any]]) -> None:
    document = scored()
    found = verdict.judged(document, NOTHING)
    assert (found["answer"], found["reasons"]) == ("cannot tell", [])
    assert verdict.lines({"verdict": found}) == ["Verdict: cannot tell (no threshold is set)"]
    assert verdict.unasked(document, NOTHING) == [
        "edit success 87.5 %", "generalization 43.8 %", "locality 75.0 %", "general ability",
    ]  # fmt: skip


def test_one_line_names_what_decided() -> None:
    reasons = [{"met": True, "says": "a"}, {"met": False, "says": "b"}, {"met": None, "says": "c"}]
    document = {"verdict": {"answer": verdict.answer(reasons), "reasons": reasons}}
    assert verdict.lines(document) == ["Verdict: do not ship: b"]
    assert verdict.lines({}) == []


def test_a_result_carries_it_and_the_report_says_it(scored: Callable[..., dict[str, Any]]) -> None:
    document = scored(success=[0.5, 0.5])
    document["verdict"] = verdict.judged(document)
    result.check(document)
    assert "**Verdict: do not ship: edit success 50.0 % is under 95.0 %.**" in report.markdown(document)
    assert str(report.terminal(document)[-1]) == "Verdict: do not ship: edit success 50.0 % is under 95.0 %"
    del document["verdict"]
    result.check(document)
    assert "Verdict" not in report.markdown(document)


HEAD = "name: try\nmodel: smollm2-135m\nedits:\n  source: facts.json\n"


def test_a_recipe_sets_the_thresholds(load: Callable[..., Recipe], problems: Callable[..., list[str]]) -> None:
    assert load(HEAD).verdict.model_dump() == dict(verdict.DEFAULTS)
    wanted = load(f"{HEAD}verdict:\n  least_locality: 0.8\n  most_general_loss: null\n").verdict
    assert (wanted.least_locality, wanted.most_general_loss, wanted.least_edit_success) == (0.8, None, 0.95)
    assert problems(f"{HEAD}verdict:\n  least_locality: 80\n") == [
        ":6:19  verdict.least_locality: 80 (whole number); allowed: a number from 0 to 1, or null to ask for nothing"
    ]


def test_by_how_much_a_value_is_under_its_threshold_counts(scored: Callable[..., dict[str, Any]]) -> None:
    document = scored(success=[1.0, 1.0])
    assert document["after"]["edits"][LOCALITY]["mean"] == 0.75
    asked = {**NOTHING, "least_locality": 0.75}
    assert verdict.judged(document, asked)["answer"] == "ship"
    assert verdict.judged(document, {**NOTHING, "least_locality": 0.76})["answer"] == "do not ship"
