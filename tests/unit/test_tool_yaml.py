"""YAML as the tools read it: libyaml's speed, PyYAML's verdict, and nothing that ends the process."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
import yaml

from kedit_glue.tool_yaml import MAX_DEPTH, MAX_FAST, flow, load

FILES = [
    "a: 1\nb: [1.0e-5, 1e-5, no, null, ~]\nc:\n  d: {e: 'x'}\n  f:\n  - 1\n  - g: 2\n",
    "base: &b {x: 1, y: 2}\nmine: {<<: *b, x: 3}\n",
    "a: 2026-01-01\n",
    "a: |\n  two\n  lines\nb: >\n  one\n  line\n",
    "\ufeff# with a byte order mark\r\na: 1\r\n",
    "",
    "# nothing\n",
    "[1, 2]",
]


@pytest.mark.parametrize("text", FILES)
@pytest.mark.parametrize("libyaml", [True, False])
def test_the_same_as_pyyaml(text: str, libyaml: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yaml.__with_libyaml__", libyaml)
    assert load(text) == yaml.safe_load(text)


def test_a_long_text_is_read_by_pyyaml() -> None:
    text = "".join(f"key_{n}: {n}\n" for n in range(MAX_FAST // 10))
    assert len(text) > MAX_FAST
    assert load(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [1\n", "expected ',' or ']'"),
        ("a: 1\na: 2\n", "the key 'a' is there twice (first in line 1)"),
        ("x:\n- b: {c: 1, c: 1}\n", "the key 'c' is there twice (first in line 2)"),
        ("a: &x [*x]\n", f"nested more than {MAX_DEPTH} levels deep, or an alias inside its own anchor"),
        ("a: " + "[" * 150 + "]" * 150, f"nested more than {MAX_DEPTH} levels deep"),
        ("- " * 4000, f"nested more than {MAX_DEPTH} levels deep"),  # for libyaml
        ("[" * 200_000, f"nested more than {MAX_DEPTH} levels deep"),  # would end the process in libyaml
        ("a: !!python/object/apply:os.getcwd []\n", "could not determine a constructor for the tag"),
        ("a: 1\n---\nb: 1\n", "expected a single document in the stream"),
        ("a: *nowhere\n", "found undefined alias 'nowhere'"),
        ("a: 2026-13-45\n", "month must be in 1..12"),
        ("a: \x00\n", "special characters are not allowed"),
        ("{[1]: 2, {}: 3}\n", "found unhashable key"),
        ("a: \ud800\n", "special characters are not allowed"),
    ],
    ids=lambda value: value[:20],
)
def test_what_is_refused(text: str, problem: str) -> None:
    with pytest.raises(yaml.YAMLError) as error:
        load(text)
    assert problem in str(error.value)


def test_a_merge_key_may_be_overridden_and_an_anchor_used_often() -> None:
    shared = "a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: [*a, *b], x: 3}\nd: [*a, *a, *b]\n"
    assert load(shared) == {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 3}, "d": [{"x": 1}, {"x": 1}, {"x": 2}]}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (1e-05, "1.0e-05"),
        (-0.0, "-0.0"),
        (0.0, "0.0"),
        ("no", "'no'"),
        ("1e-5", "1e-5"),
        ("/a b/c", "/a b/c"),
        ("emoji 😀", "emoji 😀"),
        ("two\nlines", '"two\\nlines"'),
        ("a\x85b", '"a\\Nb"'),
        ([1, "x", {"y": None}], "[1, x, {y: null}]"),
        (datetime.date(2026, 1, 1), "2026-01-01"),
    ],
)
def test_flow(value: Any, text: str) -> None:
    assert flow(value) == text
    said = yaml.safe_load(f"a:\n  - {flow(value)}\n")["a"][0]
    assert (said, type(said), repr(said)) == (value, type(value), repr(value))
