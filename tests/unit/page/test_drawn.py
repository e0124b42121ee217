"""Figures as they are drawn, by plotly and by matplotlib: names, ticks, what the two take for markup."""

from __future__ import annotations

import re
from typing import Any

import pytest

from kedit_glue.page import paper
from kedit_glue.page.figure import Axis, Figure, Point, Series, shortened
from kedit_glue.page.interactive import plain, spec, wrapped


def test_charts_take_no_markup_of_names() -> None:
    nasty = "<b>x</b> & <a href='javascript:1'>y</a>"
    made = Figure("f", "F", "s", "dots", Axis("cell"), Axis(nasty), [Series(nasty, [Point(nasty, 1.0, label=nasty)])])
    shown = spec(made)
    told = [shown["data"][0]["name"], *shown["layout"]["yaxis"]["ticktext"], shown["layout"]["xaxis"]["title"]["text"]]
    assert not [text for text in told if re.search(r"<(?!br>)", text)]
    assert plain("<b>&") == "&lt;b&gt;&amp;"
    assert "<b>x" not in shown["data"][0]["hovertext"][0]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("short", "short"),
        ("mmlu_pro_high_school_biology", "mmlu_pro_high_<br>school_biology"),
        ("two words of a longer name", "two words of a<br>longer name"),
        ("x" * 30, f"{'x' * 20}<br>{'x' * 10}"),
    ],
)
def test_long_names_are_parted(name: str, lines: str) -> None:
    assert wrapped(name, 20) == lines


@pytest.mark.parametrize(
    ("names", "drawn"),
    [
        (["a task", "another task"], ["a task", "another task"]),
        (["mmlu_pro_biology", "mmlu_pro_physics"], ["mmlu_pro_bi…", "mmlu_pro_ph…"]),
        (["mmlu_pro_high_biology", "mmlu_pro_high_physics"], ["mmlu_p…ology", "mmlu_p…ysics"]),
        (["mmlu_pro_high_old_biology", "mmlu_pro_high_new_biology"], ["1. mmlu_p…ology", "2. mmlu_p…ology"]),
        (["a  b", "a b", "a b"], ["1. a b", "2. a b", "2. a b"]),
    ],
)
def test_shortened_names_stay_apart(names: list[str], drawn: list[str]) -> None:
    assert shortened(names, 12) == drawn


LONG = ["a_task_with_quite_a_long_name_of_its_own_in_english", "a_task_with_quite_a_long_name_of_its_own_in_german"]


@pytest.mark.parametrize("kind", ["radar", "lines", "dots", "bars", "heat"])
def test_long_names_that_begin_alike_are_several_categories(kind: Any) -> None:
    points = [Point(name, 10.0 * at) for at, name in enumerate([*LONG, "c"])]
    made = Figure("f", "F", "s", kind, Axis("task"), Axis("score"), [Series(name, points) for name in LONG])
    shown = spec(made)
    layout = shown["layout"]
    ticks = (
        layout["polar"]["angularaxis"] if kind == "radar" else layout["yaxis" if kind in ("dots", "bars") else "xaxis"]
    )
    assert len(set(ticks["ticktext"])) == len(set(ticks["tickvals"])) == 3
    trace = shown["data"][0]
    places = trace["theta"][:3] if kind == "radar" else trace["y" if kind in ("dots", "bars") else "x"]
    assert len(set(places)) == 3
    if kind != "heat":
        assert len({one["name"] for one in shown["data"]}) == 2
        assert LONG[0] in trace["hovertext"][0].replace("<br>", "")
    assert made.categories() == [*LONG, "c"]


@pytest.mark.parametrize("kind", ["radar", "lines", "dots", "bars", "heat"])
def test_long_names_that_begin_alike_have_ticks_of_their_own_on_paper(kind: Any) -> None:
    from matplotlib.figure import Figure as Canvas

    points = [Point(name, 10.0 * at) for at, name in enumerate([*LONG, "c"])]
    made = Figure("f", "F", "s", kind, Axis("task"), Axis("score"), [Series(name, points) for name in LONG])
    canvas = Canvas()
    getattr(paper, kind)(made, canvas)
    axes = canvas.axes[0]
    ticks = axes.get_yticklabels() if kind in ("dots", "bars") else axes.get_xticklabels()
    assert len({tick.get_text() for tick in ticks}) == len(ticks) == 3
    if kind != "heat":
        assert len(set(axes.get_legend_handles_labels()[1])) == 2


@pytest.mark.parametrize("kind", ["radar", "lines", "dots", "bars", "heat"])
def test_specs_are_plotlys_own(kind: Any) -> None:
    from plotly.graph_objects import Figure as Plotly

    points = [Point("a", 1.0, 0.5, 2.0, count=3), Point("b", None), Point("c", 2.0)]
    axis = Axis("score", "%", (0.0, 100.0), mark=0.0)
    made = Figure("f", "F", "s", kind, Axis("x"), axis, [Series("one", points), Series("two", points, quiet=True)])
    Plotly(spec(made))  # refuses a property that plotly does not know


def test_points_are_plotlys_own_and_drawn_for_papers() -> None:
    from plotly.graph_objects import Figure as Plotly

    points = [Point(1.0, 1.0, 0.5, 2.0, 0.5, 1.5, "a $x$ b"), Point(90.0, 2.0, label="b")]
    made = Figure("f", "F", "s", "points", Axis("x", log=True), Axis("y"), [Series("s", points, shows_labels=True)])
    Plotly(spec(made))
    drawn = paper.drawn(made)
    assert drawn["pdf"][:5] == b"%PDF-" and drawn["png"][1:4] == b"PNG"
    assert paper.drawn(made)["pdf"] == drawn["pdf"], "the same bytes each time"


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.2, 120.0, [1.0, 10.0, 100.0]),
        (0.3, 90.0, [0.3, 1.0, 3.0, 10.0, 30.0]),
        (1.5, 60.0, [3.0, 10.0, 30.0]),
        (1.5, 9.0, [2.0, 4.0, 6.0, 8.0]),
        (2.1, 4.9, [3.0, 4.0]),
        (1e-6, 1e6, [1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4, 1e6]),
        (3.2, 3.8, [3.2, 3.8]),
    ],
)
def test_log_axes_have_ticks_at_few_round_numbers(low: float, high: float, ticks: list[float]) -> None:
    assert paper.log_ticks(low, high) == ticks


def test_log_axes_of_papers_show_plain_numbers() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas()
    FigureCanvasAgg(canvas)
    points = [Point(0.3, 1.0), Point(90.0, 2.0)]
    axis = Axis("seconds", log=True)
    paper.points(Figure("f", "F", "s", "points", axis, axis, [Series("s", points)]), canvas)
    canvas.draw_without_rendering()
    across, up = canvas.axes[0].xaxis, canvas.axes[0].yaxis
    assert [label.get_text() for label in across.get_ticklabels()] == ["1", "10", "100"]
    assert len(up.get_ticklabels()) >= 2 and "1" in [label.get_text() for label in up.get_ticklabels()]
    assert not any(label.get_text() for side in (across, up) for label in side.get_ticklabels(minor=True))


@pytest.mark.parametrize("count", [3, 4, 5, 8])
def test_a_radars_ticks_stand_on_no_spoke(count: int) -> None:
    points = [Point(f"aspect {at}", 50.0) for at in range(count)]
    polar = spec(Figure("f", "F", "s", "radar", Axis("aspect"), Axis("score"), [Series("s", points)]))["layout"][
        "polar"
    ]
    turned = polar["angularaxis"]["rotation"]
    spokes = [turned - at for at in polar["angularaxis"]["tickvals"]]
    aside = [abs((polar["radialaxis"]["angle"] - spoke + 180) % 360 - 180) for spoke in spokes]
    assert min(aside) == pytest.approx(180 / count)
