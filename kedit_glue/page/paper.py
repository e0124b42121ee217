"""A figure for papers: matplotlib, as PDF and PNG. The same numbers as on the page, from the same ``Figure``."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

from kedit_glue.page import labels
from kedit_glue.page.figure import Axis, Figure, Point, named, shortened
from kedit_glue.page.labels import Label

MARKS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "cross": "P",
    "x": "X",
    "triangle-down": "v",
    "star": "*",
}
STYLE = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "pdf.fonttype": 42,  # journals refuse type 3
    "text.parse_math": False,
    "svg.hashsalt": "kedit_glue",
}
WIDTH = 3.4
"""Inches: a column of a paper."""
DPI = 300
LINE = 0.15
"""Inches of a line of the legend."""
FRAME = labels.Room(185, 110, character=3.5, line=7, mark=2.5, longest=28)
"""Of points, in typographic points."""
MOST_NAMES = 6
"""More points have numbers, with a key."""
KEY_LINE = 0.13
KEY_CHARACTERS = 76
"""Of the key: inches of a line, and what stands on one."""
MOST_TICKS = 7
"""Of a log axis."""


def drawn(figure: Figure) -> dict[str, bytes]:
    """Ending -> file. The same bytes each time."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(STYLE):
        canvas = Canvas(
            figsize=(WIDTH, height(figure) + LINE * legend_rows(figure) + key_height(figure)), layout="constrained"
        )
        FigureCanvasAgg(canvas)
        draw = {"radar": radar, "lines": lines, "points": points, "dots": dots, "bars": bars, "heat": heat}
        draw[figure.kind](figure, canvas)
        if len(figure.series) > 1 and figure.kind != "heat":
            canvas.legend(loc="outside upper center", ncols=legend_columns(figure))
        found = {}
        for ending, more in (("pdf", {"metadata": {"CreationDate": None}}), ("png", {"dpi": DPI})):
            out = io.BytesIO()
            canvas.savefig(out, format=ending, bbox_inches="tight", **more)
            found[ending] = out.getvalue()
    return found


def height(figure: Figure) -> float:
    """Inches."""
    if figure.kind in ("dots", "bars"):
        return max(1.4, 0.19 * len(figure.categories()) + 0.7)
    return {"radar": 3.2, "heat": max(1.8, min(4.5, 0.26 * len(figure.series) + 0.8))}.get(figure.kind, 2.5)


def errors(points: list[Point], across: bool = False) -> Any:
    """Lengths below and above; None where no point has an interval."""
    ends = [(p.x, p.x_low, p.x_high) if across else (p.y, p.low, p.high) for p in points]
    if all(low is None for _, low, _ in ends):
        return None
    below = [float(m or 0) - low if low is not None else 0.0 for m, low, _ in ends]
    above = [high - float(m or 0) if high is not None else 0.0 for m, _, high in ends]
    return [[max(0.0, v) for v in below], [max(0.0, v) for v in above]]


def measured(points: Any) -> list[Point]:
    return [p for p in points if p.y is not None]


def framed(axes: Any, of: Axis, side: str, ends: tuple[float, float] | None = None) -> None:
    """Title, range and scale of the axis ``x`` or ``y``; ``ends``: its range where the axis itself says none."""
    getattr(axes, f"set_{side}label")(of.head)
    if of.log:
        getattr(axes, f"set_{side}scale")("log")
        if ends:
            getattr(axes, f"set_{side}lim")(*ends)
        plain_log(getattr(axes, f"{side}axis"), *getattr(axes, f"get_{side}lim")())
    elif of.whole == (0.0, 0.0):
        getattr(axes, f"set_{side}lim")(**{"left" if side == "x" else "bottom": 0})
    elif of.whole is not None:
        low, high = of.whole
        getattr(axes, f"set_{side}lim")(low - 0.03 * (high - low), high + 0.03 * (high - low))
    elif ends:
        getattr(axes, f"set_{side}lim")(*ends)
    if of.mark is not None:
        {"x": axes.axvline, "y": axes.axhline}[side](of.mark, color="0.4", linewidth=0.8, linestyle=":")


def plain_log(axis: Any, low: float, high: float) -> None:
    """Numbers as they are spoken, at few places: a log axis' own are mathtext, which texts here are not."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    axis.set_major_locator(FixedLocator(log_ticks(low, high)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between the ends; where these are fewer than three, more in between; at most ``MOST_TICKS``."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
        found = [float(f"{step}e{power}") for power in powers for step in steps]
        found = [value for value in found if low <= value <= high]
        if len(found) >= (3 if len(steps) < 9 else 2):
            return found[:: -(-len(found) // MOST_TICKS)]
    return [low, high]


def legend_columns(figure: Figure) -> int:
    """As many as fit beside each other in a column of a paper."""
    longest = max(len(label) for _, label, _, _ in named(figure.series))
    return max(1, min(len(figure.series), 48 // (longest + 7)))


def legend_rows(figure: Figure) -> int:
    return math.ceil(len(figure.series) / legend_columns(figure))


def radar(figure: Figure, canvas: Any) -> None:
    axes = canvas.add_subplot(projection="polar")
    axes.set_theta_offset(math.pi / 2)
    axes.set_theta_direction(-1)
    names = figure.categories()
    angles = [2 * math.pi * at / len(names) for at in range(len(names))]
    for series, label, colour, mark in named(figure.series):
        at = {str(p.x): p.y for p in series.points}
        values = [math.nan if at.get(name) is None else at[name] for name in names]
        axes.plot(
            [*angles, angles[0]],
            [*values, values[0]],
            color=colour,
            marker=MARKS[mark],
            markersize=3.5,
            linewidth=1.2,
            linestyle=":" if series.quiet else "-",
            label=label,
        )
    axes.set_ylim(0, 100)
    axes.set_yticks([25, 50, 75, 100], ["25", "50", "75", "100 %"], fontsize=6)
    axes.set_xticks(angles, [name.replace(" ", "\n", 1) for name in shortened(names, 22)], fontsize=7)
    for tick, angle in zip(axes.get_xticklabels(), angles, strict=True):
        aside = math.sin(angle)
        tick.set_horizontalalignment("center" if abs(aside) < 0.1 else "left" if aside > 0 else "right")
    axes.tick_params(axis="x", pad=0)


def lines(figure: Figure, canvas: Any) -> None:
    axes = canvas.add_subplot()
    names, numeric = figure.categories(), figure.numeric()
    for series, label, colour, mark in named(figure.series):
        there = measured(series.points)
        axes.errorbar(
            [p.x if numeric else names.index(str(p.x)) for p in there],
            [p.y for p in there],
            yerr=errors(there),
            color=colour,
            marker="" if series.steps else MARKS[mark],
            markersize=6 if series.large else 3.5,
            linewidth=1.2,
            elinewidth=0.7,
            capsize=1.5,
            linestyle="-" if series.line else "none",
            drawstyle="steps-post" if series.steps else "default",
            label=label,
        )
    framed(axes, figure.x, "x")
    framed(axes, figure.y, "y", labels.share_ends(figure))
    if not numeric:
        axes.set_xticks(range(len(names)), shortened(names, 20), rotation=30, ha="right")
    else:
        values = sorted({float(p.x) for s in figure.series for p in s.points})
        if len(values) <= 10:
            axes.set_xticks(values, [f"{v:g}" for v in values])
            axes.minorticks_off()


def points(figure: Figure, canvas: Any) -> None:
    axes = canvas.add_subplot()
    for series, label, colour, mark in named(figure.series):
        there = measured(series.points)
        axes.errorbar(
            [p.x for p in there],
            [p.y for p in there],
            xerr=errors(there, across=True),
            yerr=errors(there),
            color=colour,
            marker=MARKS[mark],
            markersize=7 if series.large else 4.5,
            elinewidth=0.5,
            linewidth=0.9,
            linestyle="--" if series.line else "none",
            label=label,
        )
    every = [p for s in figure.series for p in s.points]
    framed(axes, figure.x, "x", labels.ends(figure.x, every, across=True))
    framed(axes, figure.y, "y", labels.ends(figure.y, every))
    texts, numbers = names_of(figure)
    for one in texts:
        across, up = one.where
        aside = {"left": (-3, "right"), "center": (0, "center"), "right": (3, "left")}[across]
        above = {"bottom": (-3, "top"), "middle": (0, "center"), "top": (3, "bottom")}[up]
        how = {"xytext": (aside[0], above[0]), "textcoords": "offset points", "ha": aside[1], "va": above[1]}
        axes.annotate(one.text, (one.point.x, one.point.y), fontsize=6, **how)
    if numbers:
        key_below(canvas, numbers)


def names_of(figure: Figure) -> tuple[list[Label], dict[str, int]]:
    """Names beside all points where all have room; else numbers, with their key."""
    named_ones = labels.shown(figure)
    if not named_ones:
        return [], {}
    every = [p for s in figure.series for p in s.points if p.y is not None and p.label]
    if len(every) <= MOST_NAMES:
        placed, lost = labels.labels(figure, every, FRAME, labels.by_name(every, FRAME.longest))
        if not lost and len(placed) == len(every):
            return placed, {}
    if not (numbers := labels.key(figure)):
        return labels.labels(figure, named_ones, FRAME, labels.by_name(named_ones, FRAME.longest))[0], {}
    those = [p for p in every if p.label in numbers]
    placed, lost = labels.labels(figure, those, FRAME, write := labels.by_number(numbers))
    groups = labels.groups(figure, those, FRAME)
    crowded = [Label(group[0], write(group), ("right", "top")) for group in groups if group[0] in lost]
    return [*placed, *crowded], numbers


def key_below(canvas: Any, numbers: Mapping[str, int]) -> None:
    from matplotlib.lines import Line2D

    lines_of = [
        f"{number}  {name}" for name, number in zip(shortened(list(numbers), 60), numbers.values(), strict=True)
    ]
    canvas.legend(
        [Line2D([], [], linestyle="none") for _ in lines_of],
        lines_of,
        loc="outside lower left",
        ncols=key_columns(numbers),
        handlelength=0,
        handletextpad=0,
        fontsize=6,
    )


def key_columns(numbers: Mapping[str, int]) -> int:
    longest = max(min(len(name), 60) for name in numbers)
    return max(1, min(len(numbers), KEY_CHARACTERS // (longest + 6)))


def key_height(figure: Figure) -> float:
    """Inches."""
    numbers = names_of(figure)[1] if figure.kind == "points" else {}
    return KEY_LINE * math.ceil(len(numbers) / key_columns(numbers)) if numbers else 0.0


def dots(figure: Figure, canvas: Any) -> None:
    axes = canvas.add_subplot()
    names, count = figure.categories(), len(figure.series)
    for number, (series, label, colour, mark) in enumerate(named(figure.series)):
        there = measured(series.points)
        aside = (number - (count - 1) / 2) * min(0.24, 0.6 / count)
        axes.errorbar(
            [p.y for p in there],
            [names.index(str(p.x)) + aside for p in there],
            xerr=errors(there),
            color=colour,
            marker=MARKS[mark],
            markersize=4,
            elinewidth=0.8,
            capsize=1.5,
            linestyle="none",
            label=label,
        )
    down_the_side(figure, axes, names)


def bars(figure: Figure, canvas: Any) -> None:
    """Stacked; a total stands at the end of each."""
    axes = canvas.add_subplot()
    names, ends = figure.categories(), dict.fromkeys(figure.categories(), 0.0)
    for series, label, colour, _ in named(figure.series):
        there = measured(series.points)
        places = [names.index(str(p.x)) for p in there]
        left = [ends[str(p.x)] for p in there]
        axes.barh(places, [p.y for p in there], left=left, height=0.62, color=colour, label=label)
        for p in there:
            ends[str(p.x)] += p.y or 0.0
    for place, end in enumerate(ends.values()):
        aside = {"xytext": (2, 0), "textcoords": "offset points", "va": "center", "fontsize": 6}
        axes.annotate(f"{end:.4g}", (end, place), **aside)
    down_the_side(figure, axes, names)
    axes.margins(x=0.12)


def down_the_side(figure: Figure, axes: Any, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), shortened(names, 34))
    axes.set_ylim(len(names) - 0.4, -0.6)
    framed(axes, figure.y, "x", labels.share_ends(figure))


def heat(figure: Figure, canvas: Any) -> None:
    axes = canvas.add_subplot()
    columns = figure.categories()
    rows = [[next((p.y for p in s.points if p.x == c), None) for c in columns] for s in figure.series]
    grid = [[math.nan if v is None else v for v in row] for row in rows]
    low, high = figure.y.whole or (None, None)
    image = axes.imshow(grid, cmap="viridis", vmin=low, vmax=high, aspect="auto")
    few = len(columns) * len(rows) <= 144
    for y, row in enumerate(rows) if few else []:
        for x, cell in enumerate(row):
            if cell is not None:
                light = cell > 0.6 * (high or 100.0)
                axes.text(
                    x, y, f"{cell:.1f}", ha="center", va="center", fontsize=6, color="black" if light else "white"
                )
    every = max(1, -(-len(columns) // 10))
    axes.set_xticks(range(0, len(columns), every), columns[::every], rotation=30 if len(columns) > 5 else 0)
    names = [s.name for s in figure.series]
    axes.set_yticks(range(0, len(names), every), shortened(names, 24)[::every])
    axes.set_xlabel(figure.x.head)
    axes.grid(False)
    canvas.colorbar(image, ax=axes, label=figure.y.head, pad=0.02)
