"""What a task's value before and after says, wherever it is shown: the report, the page, the comparison, the study."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kedit_glue import report, study_report
from kedit_glue.general_ability import is_share, share_left
from kedit_glue.page import of_batches, of_run
from kedit_glue.page.figure import Missing
from kedit_glue.page.run_page import tiles
from kedit_glue.page.values import KEPT, kept, task_kept

Scored = Callable[..., dict[str, Any]]
COLLAPSED = {
    "metric": "word_perplexity,none", "better": "lower", "before": 23.4, "after": None, "items": 5,
}  # fmt: skip
OF_ALL = {"metric": "mcc,none", "better": "higher", "before": 0.5, "after": 0.25, "items": 5}
BLEU = {
    "metric": "bleu_max,none", "better": "higher", "before": 23.5, "after": 20.5, "items": 9, "change": -3.0,
    "change_95": [-4.0, -2.0], "noise": False, "base_95": [20.0, 27.0], "inside_base_interval": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "better", "left"),
    [
        (0.5, 0.25, "higher", 0.5),
        (0.5, 0.75, "higher", 1.0),
        (0.5, 0.0, "higher", 0.0),
        (0.5, -0.1, "higher", 0.0),
        (20.0, 40.0, "lower", 0.5),
        (20.0, 10.0, "lower", 1.0),
        (20.0, 0.0, "lower", 1.0),
        (20.0, None, "lower", 0.0),
        (0.5, None, "higher", 0.0),
        (0.0, 0.5, "higher", None),
        (-0.1, 0.5, "higher", None),
        (None, 0.5, "higher", None),
    ],
)
def test_the_share_that_is_left(before: float | None, after: float | None, better: str, left: float | None) -> None:
    assert share_left(before, after, better) == left


@pytest.mark.parametrize(
    ("metric", "values", "share"),
    [
        ("acc,none", (0.5, 1.0), True),
        ("mcc,none", (-0.5, None), True),
        ("word_perplexity,none", (0.9, 0.8), False),
        ("bits_per_byte", (0.9, 0.8), False),
        ("bleu_max,none", (23.5, 20.5), False),
        ("bleu_max,none", (0.5, 20.5), False),
    ],
)
def test_what_is_shown_in_per_cent(metric: str, values: tuple[float | None, ...], share: bool) -> None:
    assert is_share(metric, *values) == share


def test_a_model_that_broke_down_keeps_nothing(scored: Scored) -> None:
    document = scored()
    document["after"]["general_change"] = {"wiki": COLLAPSED}
    assert kept({"wiki": COLLAPSED}) == (0.0, 0.0, 0.0) and task_kept(COLLAPSED) == 0.0
    assert [tile["after"] for tile in tiles(document) if tile["title"] == KEPT] == ["0.0 %"]
    assert of_run.states(document)[-1][2] == (0.0, 0.0, 0.0)
    drawn = of_run.general(document)
    assert isinstance(drawn, Missing) and drawn.why.startswith("No task has a change item by item")
    [row] = report.general_rows(document)
    assert row == [
        "wiki",
        "word_perplexity,none (lower is better)",
        "23.40",
        "-",
        "-",
        "5",
        "the edited model's value is no finite number",
    ]


def test_the_page_and_the_study_mean_the_same(scored: Scored) -> None:
    """The mean over the same tasks, a metric of all items together among them."""
    document = scored(loss=0.5)
    changes = document["after"]["general_change"] | {"wiki": COLLAPSED, "cola": OF_ALL}
    document["after"]["general_change"] = changes
    assert kept(changes) is not None and kept(changes)[0] == pytest.approx(100 * (0.5 + 0 + 0.5) / 3)  # type: ignore[index]
    assert "mean of 3 tasks" in str(tiles(document))
    of_edits = {metric: [1.0] for metric in study_report.METRICS}
    assert study_report.harmonic(document, of_edits) == pytest.approx(4 / (3 + 3))
    nothing = {"cola": {**OF_ALL, "before": 0.0}}
    assert kept(nothing) is None
    document["after"]["general_change"] = changes | {"none": nothing["cola"]}
    assert "mean of 3 tasks" in str(tiles(document)), "a task of which nothing can be lost is not among them"


def test_after_a_batch_nothing_left_is_nothing_left(scored: Scored) -> None:
    document = scored()
    change = {"metric": "acc,none", "better": "higher", "before": 0.5, "after": 0.25, "items": 5}
    document["after"]["general_change"] = {"choices": change}

    def after(value: float | None) -> Any:
        found = of_batches.kept_after(document, {"general": {"choices": {"metrics": {"acc,none": value}}}})
        return None if found is None else found[0]

    assert [after(value) for value in (0.4, 0.0, None, 0.6)] == [pytest.approx(80), 0, 0, 100]
    assert of_batches.kept_after(document, {"general": {}}) is None, "it was not asked then"


def test_what_is_no_share_stands_as_it_is(scored: Scored) -> None:
    document = scored()
    document["after"]["general_change"] = {"gen": BLEU, "cola": OF_ALL}
    rows = report.general_rows(document)
    assert rows[0][2:5] == ["23.50", "20.50", "-3.0 [-4.0, -2.0]"]
    assert rows[1][2:] == ["50.0 %", "25.0 %", "-", "5", "not compared item by item"]
    assert report.headline(document).endswith("; gen -3.0")
    drawn = of_run.general(document)
    assert not isinstance(drawn, Missing)
    assert [(p.x, p.y, p.low, p.high) for p in drawn.series[0].points] == [("gen", -3.0, -4.0, -2.0)]
    assert drawn.note.endswith("Without a change item by item, see the table: cola.")
