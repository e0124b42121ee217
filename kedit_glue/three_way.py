"""Three-way merge of a YAML text: as it was generated, as it is by hand, as it is generated now. Pure functions.

What counts is what the texts say: a value that hand and recipe changed differently is a conflict.
Where there is none the texts are merged by lines, so that comments and layout stay, and the merged
text is taken only if it says what the values say.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from kedit_glue import tool_yaml
from kedit_glue.problems import dotted


class _Missing:
    """Stands for what one of the three does not have."""

    def __repr__(self) -> str:
        return "not there"


MISSING = _Missing()


@dataclass(frozen=True)
class Conflict:
    """A value that was changed by hand and, differently, by the recipe."""

    key: str
    """Dotted, as in ``models[1].parameters.weight``."""
    base: Any
    hand: Any
    new: Any

    def __str__(self) -> str:
        base, hand, new = map(_shown, (self.base, self.hand, self.new))
        return f"{self.key}: generated before: {base}, by hand: {hand}, by the recipe now: {new}"


@dataclass(frozen=True)
class Merged:
    """The merged text; None where values are in conflict or, with no conflict named, lines that say no value are."""

    text: str | None
    conflicts: tuple[Conflict, ...] = ()


def merge(base: str, hand: str, new: str) -> Merged:
    """Both changes to ``base`` in one text. YAMLError where one of the three is no YAML."""
    conflicts: list[Conflict] = []
    wanted = _merge((), [tool_yaml.load(text) for text in (base, hand, new)], conflicts)
    if conflicts:
        return Merged(None, tuple(conflicts))
    return Merged(next((t for t in merge_lines(base, hand, new) if _says(t, wanted)), None))


def holds(base: str, hand: str, new: str) -> bool:
    """Whether ``hand`` has everything that changed from ``base`` to ``new``: it was made from ``new``."""
    said = [tool_yaml.load(text) for text in (base, hand, new)]
    if same(said[0], said[2]):  # only comments changed
        return _distance(new, hand) < _distance(base, hand)
    conflicts: list[Conflict] = []
    return same(_merge((), said, conflicts), said[1]) and not conflicts


def same(one: Any, other: Any) -> bool:
    """Equal in value and type: neither 1 and 1.0 nor 1 and true are; nan is itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(v, other[k]) for k, v in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or (one != one and other != other)


def _merge(path: tuple[Any, ...], three: Sequence[Any], conflicts: list[Conflict]) -> Any:
    """The merged value of base, hand and new; a list's items are told by their position."""
    base, hand, new = three
    if same(base, hand):
        return new
    if same(base, new) or same(hand, new):
        return hand
    if all(isinstance(value, dict) for value in three):
        keys = list(dict.fromkeys(itertools.chain(*three)))
        found = {k: _merge((*path, k), [v.get(k, MISSING) for v in three], conflicts) for k in keys}
        return {key: value for key, value in found.items() if value is not MISSING}
    if all(isinstance(value, list) for value in three):
        before = len(conflicts)
        columns = itertools.zip_longest(*three, fillvalue=MISSING)
        items = [_merge((*path, at), column, conflicts) for at, column in enumerate(columns)]
        there = list(itertools.takewhile(lambda item: item is not MISSING, items))
        if len(conflicts) > before or all(item is MISSING for item in items[len(there) :]):
            return there
    conflicts.append(Conflict(_key(path), base, hand, new))
    return hand


def merge_lines(base: str, hand: str, new: str) -> Iterator[str]:
    """Texts with both changes to ``base``'s lines: none where both changed the same lines differently.

    Two where both inserted at the same place: either's lines may come first.
    """
    lines, *others = (_lines(text) for text in (base, hand, new))
    by_hand, by_recipe = (list(_hunks(lines, other)) for other in others)
    if any(_clash(one, other) for one in by_hand for other in by_recipe if one != other):
        return
    made = (
        _apply(lines, [*dict.fromkeys(hunks)])
        for hunks in ((*by_recipe, *by_hand), (*by_hand, *by_recipe))  # the first hunk comes first at the same place
    )
    yield from dict.fromkeys(made)


@dataclass(frozen=True)
class _Hunk:
    """``lines`` in the place of the lines from ``start`` to before ``end``; inserted before ``start`` if both agree."""

    start: int
    end: int
    lines: tuple[str, ...]


def _lines(text: str) -> list[str]:
    """Without line ends; not ``splitlines``, which also parts lines where YAML has text."""
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


def _hunks(base: list[str], other: list[str]) -> Iterator[_Hunk]:
    for kind, i, j, k, m in difflib.SequenceMatcher(None, base, other, autojunk=False).get_opcodes():
        if kind == "replace" and j - i == m - k:  # line by line: adjacent lines are no conflict
            pairs = zip(range(i, j), other[k:m], strict=True)
            yield from (_Hunk(at, at + 1, (line,)) for at, line in pairs if line != base[at])
        elif kind != "equal":
            yield _Hunk(i, j, tuple(other[k:m]))


def _distance(one: str, other: str) -> int:
    """Lines that differ."""
    return sum(max(h.end - h.start, len(h.lines)) for h in _hunks(_lines(one), _lines(other)))


def _clash(one: _Hunk, other: _Hunk) -> bool:
    """Whether both change a line of the base, or one inserts inside what the other replaces."""
    return one.start < other.end and other.start < one.end


def _apply(base: list[str], hunks: list[_Hunk]) -> str:
    made, at = [], 0
    for hunk in sorted(hunks, key=lambda h: (h.start, h.end)):  # stable; what is inserted precedes what is replaced
        made += [*base[at : hunk.start], *hunk.lines]
        at = hunk.end
    return "\n".join([*made, *base[at:]]) + "\n"


def _says(text: str, wanted: Any) -> bool:
    try:
        return same(tool_yaml.load(text), wanted)
    except yaml.YAMLError:
        return False


def _key(path: tuple[Any, ...]) -> str:
    return dotted(part if isinstance(part, int) else str(part) for part in path)


def _shown(value: Any) -> str:
    return repr(value) if value is MISSING else tool_yaml.flow(value)
