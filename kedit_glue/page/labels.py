"""Where points' names stand: one for points in the same place, none over another or beyond the frame. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kedit_glue.page.figure import SHARES, Axis, Figure, Point, shortened

PAD = 0.06
"""Of what is measured, that an axis goes on for at both ends."""
MARGIN = 0.03
"""Beyond an axis' own end, for marks on it: less than any two ticks are apart."""
LEAST = 2.0
"""Percentage points that an axis of shares spans at least."""
MOST_KEY = 24
"""Names that have a number each."""
Where = tuple[str, str]
PLACES: tuple[Where, ...] = (
    ("center", "top"),
    ("center", "bottom"),
    ("right", "middle"),
    ("left", "middle"),
    ("right", "top"),
    ("left", "top"),
    ("right", "bottom"),
    ("left", "bottom"),
)
"""Of a text beside its point, the first that is free is taken."""


@dataclass(frozen=True)
class Room:
    """A frame and what stands in it, in one unit."""

    width: float
    height: float
    character: float
    line: float
    mark: float
    """Half of a mark's side."""
    longest: int
    """Characters of a name."""


@dataclass(frozen=True)
class Label:
    """``where``: on which side of its point the text stands."""

    point: Point
    text: str
    where: Where


Box = tuple[float, float, float, float]


def ends(axis: Axis, points: Iterable[Point], across: bool = False) -> tuple[float, float] | None:
    """The range in which all points stand with their intervals; shares do not go on beyond 0 and 100."""
    found = [value for p in points for value in ((p.x, p.x_low, p.x_high) if across else (p.y, p.low, p.high))]
    values = [float(value) for value in found if value is not None]
    if not values:
        return None
    low, high = min(values), max(values)
    if axis.log:
        more = (high / low) ** PAD if high > low else 1.5
        return low / more, high * more
    if share := axis.unit == "%" and SHARES[0] <= low and high <= SHARES[1]:
        middle = min(max((low + high) / 2, SHARES[0] + LEAST / 2), SHARES[1] - LEAST / 2)
        low, high = min(low, middle - LEAST / 2), max(high, middle + LEAST / 2)
    span = high - low or abs(high) or 1.0
    low, high = low - PAD * span, high + PAD * span
    return (max(low, SHARES[0] - MARGIN * span), min(high, SHARES[1] + MARGIN * span)) if share else (low, high)


def share_ends(figure: Figure) -> tuple[float, float] | None:
    """Of values in per cent."""
    return ends(figure.y, [p for s in figure.series for p in s.points]) if figure.y.unit == "%" else None


def part(axis: Axis, value: float, of: tuple[float, float]) -> float:
    """How far ``value`` is between the ends, 0 to 1."""
    low, high = of
    if axis.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def shown(figure: Figure) -> list[Point]:
    """Those that show their names."""
    return [p for series in figure.series if series.shows_labels for p in series.points if p.y is not None]


def groups(figure: Figure, points: Sequence[Point], room: Room) -> list[list[Point]]:
    """Points whose marks cover each other stand together."""
    found: list[tuple[tuple[float, float], list[Point]]] = []
    if not points:
        return []
    at = placing(figure, room)
    for p in points:
        place = at(p)
        near = (group for first, group in found if math.dist(place, first) <= 2 * room.mark)
        if group := next(near, None):
            group.append(p)
        else:
            found.append((place, [p]))
    return [group for _, group in found]


def placing(figure: Figure, room: Room) -> Callable[[Point], tuple[float, float]]:
    """Gives a point's place in the frame, from left and below."""
    every = [one for series in figure.series for one in series.points]
    across, up = ends(figure.x, every, across=True), ends(figure.y, every)
    assert across and up, "something is measured"

    def at(p: Point) -> tuple[float, float]:
        assert p.y is not None, "it is measured"
        return room.width * part(figure.x, float(p.x), across), room.height * part(figure.y, p.y, up)

    return at


Write = Callable[[Sequence[Point]], str]
"""What is written at points that stand together."""


def by_name(points: Sequence[Point], longest: int) -> Write:
    """The first one's name, and how many more there are."""
    names = dict(zip((p.label for p in points), shortened([p.label for p in points], longest), strict=True))

    def write(group: Sequence[Point]) -> str:
        return names[group[0].label] + (f" and {len(group) - 1} more" if len(group) > 1 else "")

    return write


def labels(figure: Figure, points: Sequence[Point], room: Room, write: Write) -> tuple[list[Label], list[Point]]:
    """Texts where there is room for them, and the points (the first of each group) that there is none for."""
    every = [p for series in figure.series for p in series.points if p.y is not None]
    if not points:
        return [], []
    at = placing(figure, room)
    marks = [mark(at(p), room) for p in every]
    bars = [bar for p in every for bar in intervals(p, at)]
    placed: list[Label] = []
    taken: list[Box] = []
    lost: list[Point] = []
    for group in groups(figure, points, room):
        own = mark(at(group[0]), room)
        others = [*taken, *(one for one in marks if not over(one, own))]
        tried = [Label(group[0], write(group), where) for where in PLACES]
        boxes = [(one, beside(own, one.text, one.where, room)) for one in tried]
        free = [(one, box) for one, box in boxes if inside(box, room) and not any(over(box, other) for other in others)]
        free.sort(key=lambda found: sum(over(found[1], bar) for bar in bars))  # of these the order stays
        if free:
            placed.append(free[0][0])
            taken.append(free[0][1])
        else:
            lost.append(group[0])
    return placed, lost


def intervals(p: Point, at: Callable[[Point], tuple[float, float]]) -> list[Box]:
    """The lines that are drawn for its intervals."""
    found = []
    if p.x_low is not None and p.x_high is not None:
        found.append((*at(replace(p, x=p.x_low)), *at(replace(p, x=p.x_high))))
    if p.low is not None and p.high is not None:
        found.append((*at(replace(p, y=p.low)), *at(replace(p, y=p.high))))
    return found


def mark(place: tuple[float, float], room: Room) -> Box:
    x, y = place
    return x - room.mark, y - room.mark, x + room.mark, y + room.mark


def beside(own: Box, text: str, where: Where, room: Room) -> Box:
    """The text's box next to the box of its mark."""
    left, low, right, high = own
    width, (across, up) = len(text) * room.character, where
    start = {"left": left - width, "right": right, "center": (left + right - width) / 2}[across]
    foot = {"bottom": low - room.line, "top": high, "middle": (low + high - room.line) / 2}[up]
    return start, foot, start + width, foot + room.line


def inside(box: Box, room: Room) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= room.width and box[3] <= room.height


def over(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def key(figure: Figure) -> dict[str, int]:
    """A number for each name, for where names have no room: of all points, or of a figure of more than ``MOST_KEY`` of
    those that show theirs; empty where these are too many as well. A name that the legend has needs none."""
    loud = [series for series in figure.series if {p.label for p in series.points} != {series.name}]
    for some in (loud, [series for series in loud if series.shows_labels]):
        names = dict.fromkeys(p.label for series in some for p in series.points if p.label and p.y is not None)
        if len(names) <= MOST_KEY:
            return {name: number for number, name in enumerate(names, 1)}
    return {}


def by_number(numbers: Mapping[str, int]) -> Write:
    def write(group: Sequence[Point]) -> str:
        return ranges([numbers[p.label] for p in group])

    return write


def ranges(numbers: Sequence[int]) -> str:
    """``1-3, 5``."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in parts)
