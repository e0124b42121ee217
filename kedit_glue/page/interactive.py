"""A figure as plotly's JSON: data and layout. Colours of page and text are the page's own script's. Pure."""

from __future__ import annotations

import functools
import html
import math
import textwrap
from collections.abc import Sequence
from typing import Any

from kedit_glue.page import labels
from kedit_glue.page.figure import MOST_LABEL, Axis, Figure, Point, Series, apart, named, short

ROW = 30
"""Pixels of a category down the side."""
HEIGHT = 400
CELLS_WITH_TEXT = 144
FRAME = labels.Room(440, 300, character=6.4, line=14, mark=6, longest=28)
"""Of points, in pixels: half the page's width."""
PART = "\x00"


def spec(figure: Figure) -> dict[str, Any]:
    """``data`` and ``layout`` for ``Plotly.newPlot``."""
    made = {"radar": radar, "lines": lines, "points": points, "dots": dots, "bars": bars, "heat": heat}[figure.kind]
    data, layout = made(figure)
    many = len(data) > 1
    base = {
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "showlegend": many and figure.kind != "heat",
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "yanchor": "bottom",
            "itemsizing": "constant",
            "traceorder": "normal",
        },
        "hovermode": "closest",
        "height": HEIGHT,
        "font": {"size": 13},
    }
    return {"data": data, "layout": base | layout}


def plain(text: object) -> str:
    """A text that plotly shows as it stands: it takes some HTML for markup."""
    return html.escape(str(text), quote=False)


def hover(figure: Figure, series: Series, p: Point) -> str:
    """What stands beside a point."""
    lines = [f"<b>{whole(p.label or (p.x if isinstance(p.x, str) else series.name))}</b>"]
    if p.label or isinstance(p.x, str):
        lines += [whole(series.name)] if len(figure.series) > 1 else []
    if not isinstance(p.x, str):
        lines.append(f"{plain(figure.x.title)}: {value(p.x, figure.x.unit)}{ends(p.x_low, p.x_high)}")
    lines.append(f"{plain(figure.y.title)}: {value(p.y, figure.y.unit)}{ends(p.low, p.high)}")
    if p.count is not None:
        lines.append(f"over {p.count}")
    return "<br>".join(lines)


def whole(text: str) -> str:
    """On as many lines as a name takes."""
    return "<br>".join(plain(line) for line in textwrap.wrap(text, MOST_LABEL, max_lines=5, placeholder="…"))


def value(number: float | None, unit: str) -> str:
    return "not measured" if number is None else f"{number:.4g}{f' {unit}' if unit else ''}"


def ends(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{low:.4g}, {high:.4g}]"


def errors(points: Sequence[Point], across: bool = False) -> dict[str, Any]:
    """Error bars, of ``x`` where ``across``; plotly takes lengths, not ends."""
    found = [(p.x, p.x_low, p.x_high) if across else (p.y, p.low, p.high) for p in points]
    up = [high - float(middle or 0) if high is not None else 0 for middle, _, high in found]
    down = [float(middle or 0) - low if low is not None else 0 for middle, low, _ in found]
    drawn = any(up) or any(down)
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.4, "width": 4} | (
        {"visible": drawn}
    )


def axis(of: Axis, range_of: tuple[float, float] | None, **more: Any) -> dict[str, Any]:
    """``range_of``: the ends, where the axis itself says none."""
    made: dict[str, Any] = {
        "title": {"text": plain(of.head), "standoff": 8, "font": {"size": 13}},
        "automargin": True,
        "zeroline": False,
    }
    if of.log:
        made["type"] = "log"
        if range_of is not None:
            made["range"] = [math.log10(end) for end in range_of]
    elif of.whole == (0.0, 0.0):
        made["rangemode"] = "tozero"
    elif of.whole is not None:
        low, high = of.whole
        margin = 0.03 * (high - low)
        made["range"] = [low - margin, high + margin]
    elif range_of is not None:
        made["range"] = list(range_of)
    return made | more


def places(names: Sequence[str], width: int = 20) -> dict[str, Any]:
    """Ticks of categories at 0, 1, …: plotly would take names such as ``4`` or ``2024-01`` for numbers or dates."""
    return {
        "tickmode": "array",
        "tickvals": list(range(len(names))),
        "ticktext": parted(names, width),
        "ticklabeloverflow": "allow",  # or the last one is gone on a phone; automargin makes room for it
    }


def parted(names: Sequence[str], width: int) -> list[str]:
    """Each as ``wrapped``, and no two names alike."""
    return apart(names, functools.partial(wrapped, width=width), 2 * width)


def wrapped(text: str, width: int = 20) -> str:
    """On at most three lines."""
    parted = short(text).replace("_", f"_{PART} ")  # names have no spaces to part them at
    found = textwrap.wrap(parted, width + parted.count(PART), max_lines=3, placeholder="…")
    return "<br>".join(plain(line.replace(f"{PART} ", "").replace(PART, "")) for line in found)


def line_at(of: Axis, upright: bool) -> list[dict[str, Any]]:
    if of.mark is None:
        return []
    along, across = ("x", "y") if upright else ("y", "x")
    ends_of = {f"{across}0": 0, f"{across}1": 1, f"{across}ref": "paper"}
    return [
        {"type": "line", f"{along}0": of.mark, f"{along}1": of.mark, **ends_of, "line": {"width": 1.5, "dash": "dot"}}
    ]


def texts(figure: Figure, series: Series) -> dict[str, Any]:
    return {"hovertext": [hover(figure, series, p) for p in series.points], "hoverinfo": "text"}


def radar(figure: Figure) -> tuple[list[Any], dict[str, Any]]:
    """Spokes at angles: plotly would take names that look alike for one."""
    names = figure.categories()
    angles = {name: 360 * at / len(names) for at, name in enumerate(names)}
    data = []
    for series, label, colour, mark in named(figure.series):
        once = [*series.points, *series.points[:1]]
        data.append(
            {
                "type": "scatterpolar",
                "name": plain(label),
                "r": [p.y for p in once],
                "theta": [angles[str(p.x)] for p in once],
                "mode": "lines+markers",
                "marker": {"color": colour, "symbol": mark, "size": 7},
                "line": {"color": colour, "width": 2, "dash": "dot" if series.quiet else "solid"},
                "fill": "none" if series.quiet or len(figure.series) > 2 else "toself",
                "fillcolor": f"{colour}33",
                "hovertext": [hover(figure, series, p) for p in once],
                "hoverinfo": "text",
            }
        )
    aside = 90 - 180 / len(names)  # between the first two spokes, whose names stay free
    layout = {
        "polar": {
            "radialaxis": {
                "range": [0, 100],
                "ticksuffix": " %",
                "tickvals": [25, 50, 75, 100],
                "angle": aside,
                "tickangle": aside,  # upright: it is counted from the axis
            },
            "angularaxis": {
                "type": "linear",
                "direction": "clockwise",
                "rotation": 90,
                "tickmode": "array",
                "tickvals": list(angles.values()),
                "ticktext": parted(names, 14),
            },
        },
        "margin": {"l": 96, "r": 96, "t": 36, "b": 28},
        "legend": {"orientation": "h", "x": 0.5, "xanchor": "center", "y": -0.12, "yanchor": "top"},
        "height": HEIGHT + 22 * len(figure.series),
    }
    return data, layout


def lines(figure: Figure) -> tuple[list[Any], dict[str, Any]]:
    names = figure.categories()
    numeric = figure.numeric()
    data = []
    for series, label, colour, mark in named(figure.series):
        data.append(
            {
                "type": "scatter",
                "name": plain(label),
                "x": [p.x if numeric else names.index(str(p.x)) for p in series.points],
                "y": [p.y for p in series.points],
                "mode": "lines" if series.steps else "lines+markers" if series.line else "markers",
                "marker": {"color": colour, "symbol": mark, "size": 14 if series.large else 8},
                "line": {"color": colour, "width": 2} | ({"shape": "hv"} if series.steps else {}),
                "error_y": errors(series.points) | {"color": colour},
                **texts(figure, series),
            }
        )
    values = sorted({float(p.x) for s in figure.series for p in s.points}) if numeric else []
    few = {"tickmode": "array", "tickvals": values, "ticktext": [f"{v:g}" for v in values]} if len(values) <= 12 else {}
    return data, {
        "xaxis": axis(figure.x, None, **(few if numeric else places(names))),
        "yaxis": axis(figure.y, labels.share_ends(figure)),
        "shapes": line_at(figure.y, upright=False),
    }


def points(figure: Figure) -> tuple[list[Any], dict[str, Any]]:
    """With as many names as there is room for; the others are told at a touch."""
    every, named_ones = [p for s in figure.series for p in s.points], labels.shown(figure)
    placed, _ = labels.labels(figure, named_ones, FRAME, labels.by_name(named_ones, FRAME.longest))
    beside = {id(one.point): one for one in placed}
    data = []
    for series, label, colour, mark in named(figure.series):
        found = [beside.get(id(p)) for p in series.points]
        data.append(
            {
                "type": "scatter",
                "name": plain(label),
                "x": [p.x for p in series.points],
                "y": [p.y for p in series.points],
                "mode": f"{'lines+' if series.line and len(series.points) > 1 else ''}markers{'+text' * any(found)}",
                "text": [plain(one.text) if one else "" for one in found] if any(found) else None,
                "textposition": [" ".join(reversed(one.where)) if one else "top center" for one in found],
                "textfont": {"size": 11},
                "cliponaxis": False,
                "marker": {"color": colour, "symbol": mark, "size": 17 if series.large else 10},
                "line": {"color": colour, "width": 1.5, "dash": "dash"},
                "error_x": errors(series.points, across=True) | {"color": f"{colour}88"},
                "error_y": errors(series.points) | {"color": f"{colour}88"},
                **texts(figure, series),
            }
        )
    across, up = labels.ends(figure.x, every, across=True), labels.ends(figure.y, every)
    return data, {"xaxis": axis(figure.x, across), "yaxis": axis(figure.y, up)}


def dots(figure: Figure) -> tuple[list[Any], dict[str, Any]]:
    names = figure.categories()
    count = len(figure.series)
    data = []
    for number, (series, label, colour, mark) in enumerate(named(figure.series)):
        aside = (number - (count - 1) / 2) * min(0.24, 0.6 / count)
        data.append(
            {
                "type": "scatter",
                "name": plain(label),
                "x": [p.y for p in series.points],
                "y": [names.index(str(p.x)) + aside for p in series.points],
                "mode": "markers",
                "marker": {"color": colour, "symbol": mark, "size": 9},
                "error_x": errors(series.points) | {"color": colour},
                **texts(figure, series),
            }
        )
    return data, across_layout(figure, names)


def bars(figure: Figure) -> tuple[list[Any], dict[str, Any]]:
    """Stacked; a total stands at the end of each."""
    names, totals = figure.categories(), figure.totals()
    last = {str(p.x): series for series in figure.series for p in series.points}
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": plain(label),
            "x": [p.y for p in series.points],
            "y": [names.index(str(p.x)) for p in series.points],
            "marker": {"color": colour},
            "width": 0.62,
            "text": [value(totals[str(p.x)], figure.y.unit) if last[str(p.x)] is series else "" for p in series.points],
            "textposition": "auto",
            **texts(figure, series),
        }
        for series, label, colour, _ in named(figure.series)
    ]
    return data, across_layout(figure, names) | {"barmode": "stack"}


def across_layout(figure: Figure, names: Sequence[str]) -> dict[str, Any]:
    """Categories down the side, the first on top."""
    side = {"automargin": True, "zeroline": False, "range": [len(names) - 0.4, -0.6], **places(names, 24)}
    return {
        "xaxis": axis(figure.y, labels.share_ends(figure)),
        "yaxis": side,
        "shapes": line_at(figure.y, upright=True),
        "height": max(190, ROW * len(names) + 110),
    }


def heat(figure: Figure) -> tuple[list[Any], dict[str, Any]]:
    columns = figure.categories()
    rows = [[next((p.y for p in s.points if p.x == column), None) for column in columns] for s in figure.series]
    words = [[hover(figure, s, p) for p in s.points] for s in figure.series]
    low, high = figure.y.whole or (None, None)
    data = {
        "type": "heatmap",
        "z": rows,
        "x": list(range(len(columns))),
        "y": list(range(len(rows))),
        "zmin": low,
        "zmax": high,
        "colorscale": "Viridis",
        "xgap": 2 if len(columns) <= 20 else 0,
        "ygap": 2 if len(columns) <= 20 else 0,
        "hoverongaps": False,
        "hovertext": words,
        "hoverinfo": "text",
        "colorbar": {"thickness": 12, "ticksuffix": f" {figure.y.unit}", "outlinewidth": 0},
    }
    if len(columns) * len(rows) <= CELLS_WITH_TEXT:
        data |= {"texttemplate": "%{z:.1f}", "textfont": {"size": 12}}
    names = [s.name for s in figure.series]
    sparse = max(1, -(-len(columns) // 12))
    across = {k: v[::sparse] if isinstance(v, list) else v for k, v in places(columns).items()}
    down = {k: v[::sparse] if isinstance(v, list) else v for k, v in places(names).items()}
    layout = {
        "xaxis": axis(figure.x, None, **across),
        "yaxis": {"automargin": True, "autorange": "reversed", "zeroline": False, **down},
        "height": max(240, min(620, 44 * len(rows) + 110)),
    }
    return [data], layout
