"""Names beside points, in the browser and on paper; the ends of axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from kedit_glue.page import labels, paper
from kedit_glue.page.figure import SHARES, Axis, Figure, Point, Series
from kedit_glue.page.interactive import FRAME, spec
from kedit_glue.page.labels import Room, ends, ranges

SHARE = Axis("share", "%")


def scatter(points: Sequence[Point], *others: Series, x: Axis = SHARE, y: Axis = SHARE) -> Figure:
    return Figure("f", "F", "s", "points", x, y, [Series("front", points, shows_labels=True), *others])


def texts(figure: Figure) -> list[tuple[str, str]]:
    """Those that the browser shows."""
    return [
        (text, where)
        for trace in spec(figure)["data"]
        for text, where in zip(trace["text"] or [], trace["textposition"], strict=bool(trace["text"]))
        if text
    ]


def boxes(figure: Figure, placed: Sequence[labels.Label], room: Room) -> list[labels.Box]:
    at = labels.placing(figure, room)
    made = [(labels.mark(at(one.point), room), one) for one in placed]
    return [labels.beside(own, one.text, one.where, room) for own, one in made]


def test_points_in_one_place_have_one_label() -> None:
    same = [Point(80.0, 100.0, label=f"layers-{n}") for n in (0, 2, 4, 6)]
    made = scatter([*same, Point(20.0, 50.0, label="layers-8")])
    assert [text for text, _ in texts(made)] == ["layers-0 and 3 more", "layers-8"]


def test_a_name_at_the_edge_stands_inside() -> None:
    made = scatter(
        [Point(95.0, 50.0, label="modification_counterfact_sft"), Point(5.0, 60.0, label="a_name_of_some_length")]
    )
    assert texts(made) == [("modification_counterfact_sft", "middle left"), ("a_name_of_some_length", "middle right")]


def test_a_name_stands_on_no_interval_where_it_can() -> None:
    made = scatter([Point(100.0, 93.0, 89.0, 97.0, 98.6, 100.0, "after batch 1"), Point(99.0, 20.0, label="original")])
    assert texts(made)[0] == ("after batch 1", "top left")


@pytest.mark.parametrize("count", [2, 5, 9, 30])
def test_no_name_stands_over_another(count: int) -> None:
    points = [
        Point(50.0 + 40.0 * (n * 7 % count) / count, 60.0 + 1.5 * n, label=f"a_cell_of_some_length_{n}")
        for n in range(count)
    ]
    made = scatter(points)
    placed, lost = labels.labels(made, points, FRAME, labels.by_name(points, FRAME.longest))
    found = boxes(made, placed, FRAME)
    assert placed and all(labels.inside(box, FRAME) for box in found)
    assert not [(a, b) for at, a in enumerate(found) for b in found[:at] if labels.over(a, b)]
    assert sum(len(group) for group in labels.groups(made, points, FRAME)) == count
    assert len(placed) + len(lost) == len(labels.groups(made, points, FRAME))


def paper_texts(figure: Figure) -> tuple[list[str], list[str]]:
    """Beside the points, and in the key."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas()
    paper.points(figure, canvas)
    key = [text.get_text() for legend in canvas.legends for text in legend.get_texts()]
    return [text.get_text() for text in canvas.axes[0].texts], key


def test_on_paper_many_points_have_numbers_with_a_key() -> None:
    few = [Point(10.0, 20.0, label="a"), Point(90.0, 80.0, label="b")]
    beaten = Series("others", [Point(10.0, 80.0, label="c")], quiet=True, line=False)
    assert paper_texts(scatter(few, beaten)) == (["a", "b", "c"], []), "also those that are beaten"
    same = [Point(80.0, 100.0, label=f"layers-{n}") for n in (0, 2, 4, 6)]
    still = Series("original", [Point(5.0, 5.0, label="original")], quiet=True, line=False, shows_labels=True)
    beside, key = paper_texts(scatter([*same, *few], beaten, still))
    assert beside == ["1-4", "5", "6", "7"]
    assert key == [*(f"{n}  layers-{2 * n - 2}" for n in (1, 2, 3, 4)), "5  a", "6  b", "7  c"]
    many = [Point(float(n), float(n), label=f"batch {n}") for n in range(60)]
    beside, key = paper_texts(scatter([few[1]], Series("others", many)))
    assert (beside, key) == (["1"], ["1  b"]), "too many for a key of all"
    assert not paper_texts(Figure("f", "F", "s", "points", SHARE, SHARE, [Series("s", few)]))[0], "none were asked for"
    assert paper.key_height(scatter(same)) > 0 == paper.key_height(scatter(few))


def test_numbers_in_a_row_are_a_range() -> None:
    assert ranges([7, 1, 2, 3, 5, 8, 1]) == "1-3, 5, 7, 8"


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([(50.0, 40.0, 60.0)], 38.8, 61.2),
        ([(99.0, 90.0, 100.0)], 89.4, 100.3),
        ([(100.0, None, None)], 97.88, 100.06),
        ([(0.0, 0.0, 20.0)], -0.6, 21.2),
        ([(0.0, None, None), (100.0, None, None)], -3.0, 103.0),
        ([(-4.0, None, None), (100.0, None, None)], -10.24, 106.24),
        ([(None, None, None)], None, None),
    ],
)
def test_shares_end_at_0_and_100(values: list[Any], low: float | None, high: float | None) -> None:
    found = ends(SHARE, [Point(0, *one) for one in values])
    assert found == (None if low is None else pytest.approx((low, high)))


@pytest.mark.parametrize("kind", ["dots", "lines", "points"])
def test_no_tick_of_a_share_stands_beyond_100(kind: Any) -> None:
    from matplotlib.figure import Figure as Canvas

    points = [Point(1.0, 99.0, 98.6, 99.4), Point(2.0, 100.0)]
    made = Figure("f", "F", "s", kind, Axis("x"), SHARE, [Series("s", points)])
    side = "x" if kind == "dots" else "y"
    assert spec(made)["layout"][f"{side}axis"]["range"][1] < 100.1
    canvas = Canvas()
    getattr(paper, kind)(made, canvas)
    axes = canvas.axes[0]
    low, high = getattr(axes, f"get_{side}lim")()
    assert max(tick for tick in getattr(axes, f"get_{side}ticks")() if low <= tick <= high) == 100.0


def test_ends_of_log_axes_and_of_a_single_value() -> None:
    log = Axis("s", log=True)
    assert ends(log, [Point(1.0, 1.0), Point(100.0, 1.0)], across=True) == pytest.approx((10**-0.12, 10**2.12))
    assert ends(log, [Point(3.0, 1.0)], across=True) == (2.0, 4.5)
    assert ends(Axis("s"), [Point(3.0, 1.0)], across=True) == pytest.approx((2.82, 3.18))
    made = spec(scatter([Point(1.0, 50.0), Point(100.0, 60.0)], x=log))
    assert made["layout"]["xaxis"]["range"] == pytest.approx([-0.12, 2.12])
    assert spec(Figure("f", "F", "s", "dots", Axis("c"), Axis("v", "%", SHARES), [Series("s", [Point("a", 5.0)])]))[
        "layout"
    ]["xaxis"]["range"] == [-3.0, 103.0]
