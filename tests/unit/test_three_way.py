"""What is merged, what is a conflict, and that the merged text says what both sides said."""

from __future__ import annotations

import random
from typing import Any

import pytest
import yaml

from kedit_glue.three_way import MISSING, Conflict, holds, merge, merge_lines, same

BASE = """\
# Batch 1: 10 facts.
rate: 0.1
epochs: 3

### the model
model: /m
models:
  - model: /a
  - model: /b
    parameters:
      weight: 0.7
      density: 1.0
seed: 0
"""


def replaced(*pairs: tuple[str, str]) -> str:
    text = BASE
    for old, new in pairs:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


RATE, RATE_5 = ("rate: 0.1", "rate: 0.2"), ("rate: 0.1", "rate: 0.5")
EPOCHS = ("epochs: 3", "epochs: 9")
WEIGHT = ("weight: 0.7", "weight: 0.5")
DENSITY = ("density: 1.0", "density: 0.3")
MERGED = [
    ((RATE,), (WEIGHT,), (RATE, WEIGHT)),
    ((RATE,), (EPOCHS,), (RATE, EPOCHS)),  # adjacent lines
    ((WEIGHT,), (DENSITY,), (WEIGHT, DENSITY)),
    ((RATE, EPOCHS), (RATE,), (RATE, EPOCHS)),  # the same change by both
    ((RATE, EPOCHS), (EPOCHS, WEIGHT), (RATE, EPOCHS, WEIGHT)),
    ((("# Batch 1", "# mine\n# Batch 1"),), (("10 facts", "9 facts"),), (("# Batch 1: 10", "# mine\n# Batch 1: 9"),)),
    ((("epochs: 3", "epochs: 3  # enough"),), (RATE,), (("epochs: 3", "epochs: 3  # enough"), RATE)),
    ((("\nseed: 0", ""),), (RATE,), (("\nseed: 0", ""), RATE)),
    ((("epochs: 3\n", "epochs: 3\nwarmup: 1\n"),), (RATE,), (("epochs: 3\n", "epochs: 3\nwarmup: 1\n"), RATE)),
    # both insert at the same place, or beside what the other replaced
    ((("epochs: 3\n", "epochs: 3\na: 1\n"),), (("epochs: 3\n", "epochs: 3\nb: 1\n"),), (("3\n", "3\nb: 1\na: 1\n"),)),
    ((("epochs: 3\n", "epochs: 3\na: 1\n"),), (EPOCHS,), (("epochs: 3\n", "epochs: 9\na: 1\n"),)),
    ((("seed: 0\n", "seed: 0\nlast: 1\n"),), (("seed: 0", "seed: 1"),), (("seed: 0\n", "seed: 1\nlast: 1\n"),)),
    # a list's item by its position
    ((("- model: /b", "- model: /c"),), (("model: /a", "model: /z"),), (("- model: /b", "- model: /c"), ("/a", "/z"))),
    ((), (RATE,), (RATE,)),
    ((RATE,), (), (RATE,)),
]  # fmt: skip


@pytest.mark.parametrize(("hand", "new", "merged"), MERGED)
def test_merged(hand: Any, new: Any, merged: Any) -> None:
    three = BASE, replaced(*hand), replaced(*new)
    found = merge(*three)
    assert (found.text, found.conflicts) == (replaced(*merged), ())
    assert merge(BASE, three[2], three[1]).conflicts == ()  # either way round
    assert not new or holds(BASE, found.text, three[2])
    # what came of it can be merged with again: the recipe's change taken back leaves the hand's
    back = merge(three[2], found.text, BASE).text
    assert back is None or yaml.safe_load(back) == yaml.safe_load(replaced(*(set(hand) - set(new))))
    assert merge(three[2], found.text, three[2]).text == found.text


def models(*items: str) -> str:
    return "rate: 0.1\nmodels:\n" + "".join(f"- {item}\n" for item in items)


CONFLICTS = [
    ("a: 1\n", "a: 2\n", "a: 3\n", ["a: generated before: 1, by hand: 2, by the recipe now: 3"]),
    ("a: 1\nb: 1\n", "a: 2\nb: 2\n", "a: 3\nb: 3\n", ["a: generated before: 1", "b: generated before: 1"]),
    ("a: 1\nb: 1\n", "b: 1\n", "a: 3\nb: 1\n", ["a: generated before: 1, by hand: not there, by the recipe now: 3"]),
    ("a: 1\nb: 1\n", "a: 2\nb: 1\n", "b: 1\n", ["a: generated before: 1, by hand: 2, by the recipe now: not there"]),
    ("b: 1\n", "b: 1\na: 2\n", "a: 3\nb: 1\n", ["a: generated before: not there, by hand: 2, by the recipe now: 3"]),
    # the same number as another type is another value
    ("a: 1\n", "a: 2\n", "a: 2.0\n", ["a: generated before: 1, by hand: 2, by the recipe now: 2.0"]),
    ("a: 1\n", "a: 'no'\n", "a: no\n", ["a: generated before: 1, by hand: 'no', by the recipe now: false"]),
    # one side changed the kind of, or removed, what the other changed below
    ("a: {b: 1}\n", "a: 5\n", "a: {b: 2}\n", ["a: generated before: {b: 1}, by hand: 5, by the recipe now: {b: 2}"]),
    (
        "a:\n  b: 1\nx: 1\n",
        "x: 1\n",
        "a:\n  b: 1\n  c: 2\nx: 1\n",
        ["a: generated before: {b: 1}, by hand: not there, by the recipe now: {b: 1, c: 2}"],
    ),
    (
        "a: {b: {c: 1}}\n",
        "a: {b: {c: 2}}\n",
        "a: {b: [1]}\n",
        ["a.b: generated before: {c: 1}, by hand: {c: 2}, by the recipe now: [1]"],
    ),
    # lists by position
    (
        models("x", "y"),
        models("h", "x", "y"),
        models("x", "z"),
        ["models[1]: generated before: y, by hand: x, by the recipe now: z"],
    ),
    (
        models("x"),
        models("x", "h"),
        models("x", "n"),
        ["models[1]: generated before: not there, by hand: h, by the recipe now: n"],
    ),
    (
        models("x", "y"),
        models("x"),
        models("x", "y", "n"),  # nothing can stand third behind one
        ["models: generated before: [x, y], by hand: [x], by the recipe now: [x, y, n]"],
    ),
    (
        "models:\n- {parameters: {weight: 0.7, density: 1.0}}\n",
        "models:\n- {parameters: {weight: 0.5, density: 1.0}}\n",
        "models:\n- {parameters: {weight: 0.4, density: 0.9}}\n",
        ["models[0].parameters.weight: generated before: 0.7, by hand: 0.5, by the recipe now: 0.4"],
    ),
]


@pytest.mark.parametrize(("base", "hand", "new", "expected"), CONFLICTS)
def test_conflicts(base: str, hand: str, new: str, expected: list[str]) -> None:
    found = merge(base, hand, new)
    assert found.text is None
    assert [str(c)[: len(e)] for c, e in zip(found.conflicts, expected, strict=True)] == expected
    swapped = merge(base, new, hand)
    assert [(c.key, c.base, c.hand, c.new) for c in swapped.conflicts] == [
        (c.key, c.base, c.new, c.hand) for c in found.conflicts
    ]
    assert not holds(base, hand, new)


@pytest.mark.parametrize(
    ("base", "hand", "new"),
    [
        # one line of text, several values
        ("a: {b: 1, c: 1}\n", "a: {b: 2, c: 1}\n", "a: {b: 1, c: 2}\n"),
        # comments only, on the same line
        ("# 10 facts\na: 1\n", "# ten facts\na: 1\n", "# 9 facts\na: 1\n"),
        # each side wrote the same key, in other places
        ("a: 1\nm: 1\nb: 1\n", "a: 1\nc: 1\nm: 1\nb: 1\n", "a: 1\nm: 1\nc: 1\nb: 1\n"),
        # the hand laid out anew what the recipe changed
        ("a:\n  b: 1\n  c: 1\n", "a: {b: 1, c: 1}\n", "a:\n  b: 1\n  c: 2\n"),
        # the recipe's line below what the hand renamed would fall to another key
        ("a:\n  b: 1\nz: 1\n", "a2:\n  b: 1\nz: 1\n", "a:\n  b: 1\n  c: 1\nz: 1\n"),
    ],
)
def test_texts_that_cannot_be_merged_line_by_line(base: str, hand: str, new: str) -> None:
    assert merge(base, hand, new).text is None
    assert merge(base, new, hand).text is None


def test_the_second_order_of_insertions_is_tried() -> None:
    """The recipe's line belongs below the last model, the hand's above the next key."""
    base = "models:\n- model: x\nz: 1\n"
    hand = "models:\n- model: x\n  parameters: {w: 1}\nz: 1\n"
    new = "models:\n- model: x\ny: 1\nz: 1\n"
    assert merge(base, hand, new).text == "models:\n- model: x\n  parameters: {w: 1}\ny: 1\nz: 1\n"
    assert merge(base, new, hand).text == "models:\n- model: x\n  parameters: {w: 1}\ny: 1\nz: 1\n"


@pytest.mark.parametrize("end", ["", "\r\n"])
def test_ends_of_lines_are_no_change(end: str) -> None:
    hand = replaced(EPOCHS).removesuffix("\n") if not end else replaced(EPOCHS).replace("\n", end)
    assert merge(BASE, hand, replaced(RATE)).text == replaced(EPOCHS, RATE)


def test_text_with_odd_line_separators_stays_whole() -> None:
    base = "a: 'x\u2028y\x85z'\nb: 1\nc: 1\n"
    found = merge(base, base.replace("b: 1", "b: 2"), base.replace("c: 1", "c: 2"))
    assert found.text == base.replace("b: 1", "b: 2").replace("c: 1", "c: 2")


def test_holds_tells_what_a_file_was_made_from() -> None:
    hand, new = replaced(EPOCHS), replaced(RATE, WEIGHT)
    assert not holds(BASE, hand, new)
    assert holds(BASE, replaced(EPOCHS, RATE, WEIGHT), new)
    assert not holds(BASE, replaced(EPOCHS, RATE), new)  # half of it is not it
    assert not holds(BASE, replaced(EPOCHS, RATE_5, WEIGHT), new)
    comments = replaced(("10 facts", "9 facts"))
    assert not holds(BASE, hand, comments)
    assert holds(BASE, replaced(("10 facts", "9 facts"), EPOCHS), comments)


@pytest.mark.parametrize("text", ["a: [\n", "a: 1\na: 2\n"])
def test_what_is_no_yaml_is_raised(text: str) -> None:
    for three in ((text, BASE, BASE), (BASE, text, BASE), (BASE, BASE, text)):
        with pytest.raises(yaml.YAMLError):
            merge(*three)


def test_same_looks_at_types() -> None:
    nan = float("nan")
    assert same({"a": [1, nan]}, {"a": [1, nan]})
    for one, other in ((1, 1.0), (1, True), (0, None), ([1], [1.0]), ({"a": 1}, {"b": 1}), ([1], [1, 1]), ("1", 1)):
        assert not same(one, other)
    assert same(MISSING, MISSING) and not same(MISSING, None)


def test_a_conflict_shows_nested_values_on_one_line() -> None:
    shown = str(Conflict("x", {"a": ["two\nlines"]}, MISSING, None))
    assert shown == 'x: generated before: {"a": ["two\\nlines"]}, by hand: not there, by the recipe now: null'


# -- against a plain model of it ----------------------------------------------------------------


def yaml_of(values: dict[str, dict[str, int]]) -> str:
    """Sections of keys with a comment each, and a trailing list."""
    lines = []
    for section, keys in values.items():
        lines += ["", f"### {section}", f"{section}:", *(f"  {k}: {v}" for k, v in keys.items())]
    return "\n".join([*lines, "end: 1", ""])


def changed(values: dict[str, dict[str, int]], dice: random.Random) -> dict[str, dict[str, int]]:
    """One to three values changed, dropped or added; a section keeps a key at least."""
    made = {section: dict(keys) for section, keys in values.items()}
    for _ in range(dice.randint(1, 3)):
        keys = made[dice.choice(list(made))]
        key = dice.choice(list(keys))
        kind = dice.random()
        if kind < 0.6:
            keys[key] = dice.randint(10, 12)
        elif kind < 0.8 and len(keys) > 2:
            del keys[key]
        else:
            keys[f"n{dice.randint(0, 5)}"] = dice.randint(10, 12)
    return made


@pytest.mark.parametrize("seed", range(300))
def test_any_two_changes_are_merged_or_in_conflict(seed: int) -> None:
    dice = random.Random(seed)
    base = {s: {f"{s}{n}": n for n in range(dice.randint(3, 6))} for s in "abc"}
    hand, new = changed(base, dice), changed(base, dice)
    expected: dict[str, dict[str, int]] = {s: {} for s in base}
    clashes = set()
    for section in base:
        for key in base[section] | hand[section] | new[section]:
            b, h, n = (v[section].get(key) for v in (base, hand, new))
            if b != h and b != n and h != n:
                clashes.add(f"{section}.{key}")
            value = h if b != h else n
            if value is not None:
                expected[section][key] = value
    found = merge(yaml_of(base), yaml_of(hand), yaml_of(new))
    assert {c.key for c in found.conflicts} == clashes
    if clashes:
        assert found.text is None
    elif found.text is not None:
        assert yaml.safe_load(found.text) == {**expected, "end": 1}
        assert found.text.count("###") == 3
        assert holds(yaml_of(base), found.text, yaml_of(new))
    else:  # the same lines in the text, then
        both = [t for t in merge_lines(yaml_of(base), yaml_of(hand), yaml_of(new)) if "a:" in t]
        assert all(yaml.safe_load(t) != {**expected, "end": 1} for t in both)


def test_nearly_all_of_them_are_merged() -> None:
    """The text rarely stands in the way where the values do not."""
    outcome = {"merged": 0, "conflict": 0, "lines": 0}
    for seed in range(300):
        dice = random.Random(seed)
        base = {s: {f"{s}{n}": n for n in range(dice.randint(3, 6))} for s in "abc"}
        found = merge(*(yaml_of(v) for v in (base, changed(base, dice), changed(base, dice))))
        outcome["merged" if found.text else "conflict" if found.conflicts else "lines"] += 1
    assert outcome["lines"] < 0.1 * outcome["merged"], outcome
