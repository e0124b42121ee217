"""What a run's figures say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kedit_glue.page import of_run
from kedit_glue.page.figure import Axis, Figure, Point

Scored = Callable[..., dict[str, Any]]


def test_a_rise_of_what_is_better_when_lower_is_told_with_its_sign_turned(scored: Scored) -> None:
    document = scored()
    made = of_run.general(document)
    assert isinstance(made, Figure) and of_run.TURNED not in made.csv() + made.note
    rise = {"better": "lower", "metric": "word_perplexity", "change": 0.008, "change_95": [0.004, 0.012]}
    change = document["after"]["general_change"]
    change["texts"] = {**change["choices"], **rise, "change_is": "relative"}
    made = of_run.general(document)
    assert isinstance(made, Figure)
    names = [str(p.x) for p in made.series[0].points]
    assert names == ["choices (points)", "texts (%, sign turned)"] and made.series[0].points[1].y == -0.8
    assert names[1] in made.says and names[1] in made.csv() and of_run.TURNED_NOTE in made.note
    change["texts"] |= {"change": 0.0, "change_95": [0.0, 0.0]}
    made = of_run.general(document)
    assert isinstance(made, Figure) and "texts (%, sign turned) +0.0" in made.says and "-0.0" not in made.csv()


def test_trade_offs_that_are_written_alike_are_told_once_and_none_is_left_out_in_silence() -> None:
    points = [Point(90.0, 10.0, label="a"), Point(90.0, 10.0, label="b"), Point(95.0, 5.0, label="c")]
    axes = Axis("locality", "%"), Axis("edit success", "%")
    made = of_run.trade_off("t", "T", *axes, points, "none")
    assert isinstance(made, Figure)
    assert made.says.endswith(
        "in both: a and 1 more: locality 90.0 %, edit success 10.0 %; c: locality 95.0 %, edit success 5.0 %."
    )
    many = [Point(float(at), 50.0 - at, label=f"cell-{at}") for at in range(9)]
    made = of_run.trade_off("t", "T", *axes, many, "none")
    assert (
        isinstance(made, Figure) and made.says.count("locality") == of_run.MOST and made.says.endswith("; and 3 more.")
    )
