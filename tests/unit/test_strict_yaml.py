"""YAML with positions, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from kedit_glue import strict_yaml
from kedit_glue.problems import Problem, RecipeError

PLAIN = "allowed: plain YAML: mappings, lists, text, numbers, true/false, null"
QUOTE = "put it in quotes"

# content, the problems' text after the file's name
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "  the file is empty or holds comments only; allowed: a mapping of keys to values"),
    "comments only": (
        b"# a\n\n",
        "  the file is empty or holds comments only; allowed: a mapping of keys to values",
    ),
    "empty document": (
        b"---\n",
        "  the file is empty or holds comments only; allowed: a mapping of keys to values",
    ),
    "list": (
        b"- a\n",
        ":1:1  the top level is a list; allowed: a mapping of keys to values, such as 'name: my-run'",
    ),
    "scalar": (
        b"\nhello\n",
        ":2:1  the top level is a single value; allowed: a mapping of keys to values, such as 'name: my-run'",
    ),
    "NUL": (b"a: 1\nb: \0", ":2:4  a NUL byte: the file is binary; allowed: UTF-8 text"),
    "UTF-16": ("a: 1".encode("utf-16"), "  the file is UTF-16; allowed: UTF-8 text; save it as UTF-8"),
    "Latin-1": (
        "ä: 1\n".encode() + b"b: x\xe4\n",
        ":2:5  byte 0xe4 is not UTF-8; allowed: UTF-8 text; save it as UTF-8",
    ),
    "control": (b"a: b\n  \x07", ":2:3  control character U+0007; allowed: printable text"),
    "too large": (
        b"#" * 1_000_001,
        "  1,000,001 bytes; allowed: at most 1,000,000 bytes; is this the data file?",
    ),
    "tab indents": (
        b"a:\n\tb: 1\n",
        ":2:1  a tab in the indentation; allowed: spaces; indent with spaces",
    ),
    "tab after spaces": (
        b"a:\n  \tb: 1\n",
        ":2:3  a tab in the indentation; allowed: spaces; indent with spaces",
    ),
    "tab between": (b"a:\tb\n", ":1:3  a tab between words; allowed: spaces; replace the tab by a space"),
    "duplicate": (
        b"a: 1\nb: 2\na: 3\n",
        ":3:1  a: the key is there twice (first in line 1); allowed: each key once",
    ),
    "duplicate below": (
        b"a:\n  - b: 1\n    b: 2\n",
        ":3:5  a[0].b: the key is there twice (first in line 2); allowed: each key once",
    ),
    "two documents": (
        b"a: 1\n---\nb: 1\n",
        ":2:1  a second document begins here ('---'); allowed: one document per file",
    ),
    "alias without anchor": (
        b"a: &here 1\nb: *her\n",
        ":2:4  alias *her has no anchor &her above it; allowed: *here; did you mean 'here'?",
    ),
    "anchor twice": (
        b"a: &x 1\nb: &x 2\n",
        ":2:4  the anchor &x is there twice (first in line 1); allowed: each anchor name once",
    ),
    "alias of itself": (
        b"a: &x [*x]\n",
        ":1:4  a[0]: an alias inside its own anchor; allowed: a value that ends; name an anchor of another value",
    ),
    "star": (
        b"filter: *\n",
        (":1:9  '*' begins an alias here; allowed: *name, for an anchor &name above; put text with '*' in quotes"),
    ),
    "ampersand": (
        b"a: &\n",
        ":1:4  '&' begins an anchor here; allowed: &name; put text with '&' in quotes",
    ),
    "merge scalar": (
        b"<<: 5\n",
        ":1:1  <<: a merge key that names no mapping; allowed: <<: *anchor, of a mapping, or a list of such",
    ),
    "merge list of scalars": (
        b"a: {<<: [1]}\n",
        (":1:5  a.<<: a merge key that names no mapping; allowed: <<: *anchor, of a mapping, or a list of such"),
    ),
    "merge twice": (
        b"a: &a {b: 1}\nc:\n  <<: *a\n  <<: *a\n",
        ":4:3  c.<<: the key is there twice (first in line 3); allowed: each key once",
    ),
    "python object": (
        b"a: !!python/object/apply:os.system ['true']\n",
        (f":1:4  a: a Python object: !!python/object/apply:os.system; {PLAIN}; remove !!python/object/apply:os.system"),
    ),
    "python name": (
        b"a: !!python/name:os.system\n",
        (
            f":1:4  a: a Python object: !!python/name:os.system; {PLAIN}; "
            "remove !!python/name:os.system or quote the text"
        ),
    ),
    "own tag": (b"a: !thing 3\n", f":1:4  a: a YAML tag: !thing; {PLAIN}; remove !thing or quote the text"),
    "set": (b"a: !!set {b}\n", f":1:4  a: a YAML tag: !!set; {PLAIN}; remove !!set"),
    "wrong tag": (b"a: !!int b\n", ":1:4  a: b cannot be read; allowed: a whole number"),
    "octal": (
        b"a: 010\n",
        (
            ":1:4  a: 010 (a number in base 8 or 60); allowed: a decimal number; "
            "write it without leading zeros, or in quotes if it is text"
        ),
    ),
    "base 60": (
        b"a: 1:30\n",
        (
            ":1:4  a: 1:30 (a number in base 8 or 60); allowed: a decimal number; "
            "write it without leading zeros, or in quotes if it is text"
        ),
    ),
    "endless number": (
        b"a: " + b"9" * 5000,
        f":1:4  a: {'9' * 37}... cannot be read; allowed: a whole number",
    ),
    "list as key": (
        b"? [a]\n: 1\n",
        ":1:3  a list as a key; allowed: text as a key; put text that begins with '{' or '[' in quotes",
    ),
    "true as key": (
        b"on: 1\n",
        f':1:1  on: YAML reads this key as true/false; allowed: text as a key; if you mean it, {QUOTE}: "on"',
    ),
    "number as key": (
        b"a: {1: 2}\n",
        (f':1:5  a.1: YAML reads this key as a whole number; allowed: text as a key; if you mean it, {QUOTE}: "1"'),
    ),
    "open list": (b"a: [1\nb: 2\n", ":1:4  '[' is not closed; allowed: [one, two]"),
    "open mapping": (
        b"a: {c: 1\nb: 2\n",
        ":1:4  '{' is not closed; allowed: {key: value, other: value}",
    ),
    "open at the end": (
        b"a: [",
        ":1:5  a value is missing here; allowed: a value; is a '[' or '{' not closed?",
    ),
    "open quote": (
        b"a: 'x\n",
        (
            ":1:4  a quote that is not closed or not closed well; allowed: the same quote at the end; "
            "found unexpected end of stream"
        ),
    ),
    "colon in text": (
        b"a: b: c\n",
        (
            ":1:5  a ':' that cannot stand here; allowed: one 'key: value' per line; "
            "put text that holds ': ' in quotes, or check the indentation and the line above"
        ),
    ),
    "no colon": (
        b"x: 1\na\nb: 1\n",
        ":2:1  a line that is no 'key: value'; allowed: key: value; is a ':' missing?",
    ),
    "at sign": (
        b"a: @x\n",
        f":1:4  '@' cannot begin a value; {PLAIN}; put text that begins with '@' in quotes",
    ),
    "indentation": (
        b"a:\n    b: 1\n  c: 2\n",
        ":3:3  the indentation fits no line above; allowed: the same indentation for all keys of a section",
    ),
    "too deep": (
        b"a: " + b"[" * 60 + b"]" * 60,
        ":1:54  values are nested too deeply; allowed: at most 50 levels",
    ),
    "much too deep": (b"a: " + b"[" * 3000, "  values are nested too deeply; allowed: at most 50 levels"),
    "alias bomb": (
        b"a: &a [1,1,1,1,1,1,1,1,1]\n"
        + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in b"bcdefghij"),
        "  more than 20,000 values once its aliases are expanded; allowed: at most 20,000 values",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_refuses(case: str, tmp_path: Path) -> None:
    content, expected = BAD[case]
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        strict_yaml.load(path)
    assert [str(problem) for problem in caught.value.problems] == [f"{path}{expected}"]
    assert str(caught.value) == f"1 problem in {path}; nothing was started\n{path}{expected}"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, expected in (
        (tmp_path / "none.yaml", "no such file; allowed: an existing YAML file"),
        (tmp_path, "this is a folder; allowed: a YAML file"),
        (tmp_path / ("x" * 300), "cannot be read: File name too long; allowed: a readable YAML file"),
    ):
        with pytest.raises(RecipeError) as caught:
            strict_yaml.load(path)
        assert [str(p) for p in caught.value.problems] == [f"{path}  {expected}"]


def test_several_problems_in_line_order() -> None:
    with pytest.raises(RecipeError) as caught:
        strict_yaml.parse("b: !!set {}\na: 010\nb: 2\n3: 4\n", "x.yaml")
    assert [(p.line, p.column, p.key) for p in caught.value.problems] == [
        (1, 4, "b"), (2, 4, "a"), (3, 1, "b"), (4, 1, "3"),
    ]  # fmt: skip
    assert str(caught.value).startswith("4 problems in x.yaml; nothing was started\nx.yaml:1:4  b: ")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5), ("5E-5", 5e-5), ("1e5", 1e5), ("-1e+3", -1000.0), ("1.5e3", 1500.0), ("1.", 1.0),
        (".5", 0.5), ("+.5e1", 5.0), ("1_000.5", 1000.5), (".inf", math.inf), ("-.inf", -math.inf),
        ("5", 5), ("-5", -5), ("0", 0), ("0x1F", 31), ("1_000", 1000),
        ("0.05", 0.05), ("e5", "e5"), ("1e", "1e"), ("1e-", "1e-"), ("'1e-5'", "1e-5"), ("1-5", "1-5"),
        ("2024-01-01", "2024-01-01"), ("=", "="), ("1.2.3", "1.2.3"), ("08", "08"),
        ("!!str 5", "5"), ("!!float 5", 5.0), ("yes", True), ("null", None), ("~", None), ("", None),
        ("[a, 1e-5]", ["a", 1e-5]), ("{a: {b: 1e-5}}", {"a": {"b": 1e-5}}), ("last 4", "last 4"),
    ],
)  # fmt: skip
def test_values(text: str, value: object) -> None:
    read = strict_yaml.parse_value(text, "x")
    assert read == value
    assert type(read) is type(value)
    assert strict_yaml.parse(f"key: {text}\n", "x")[0] == {"key": value}


def test_dump_reads_back() -> None:
    data = {
        "a": "1e-5",
        "b": 1e-5,
        "c": ["no", "2024-01-01", "010", "x: y", None, True],
        "d": {"e": "ä\nb", "f": 1e22},
    }
    assert strict_yaml.parse(strict_yaml.dump(data), "x")[0] == data
    assert strict_yaml.parse_value(strict_yaml.dump(data, flow=True), "x") == data
    assert strict_yaml.dump("7 x", flow=True) == "7 x"


def test_nan() -> None:
    assert math.isnan(strict_yaml.parse_value(".nan", "x"))


def test_positions() -> None:
    text = "# c\na: 1\nb:\n  c: 'x y'\n  d:\n  - 7\n  - e: {f: no}\ng:\n"
    data, positions = strict_yaml.parse(text, "x.yaml")
    assert data == {"a": 1, "b": {"c": "x y", "d": [7, {"e": {"f": False}}]}, "g": None}
    where = {k: (p.line, p.column, p.value_line, p.value_column, p.written) for k, p in positions.items()}
    assert where == {
        ("a",): (2, 1, 2, 4, "1"),
        ("b",): (3, 1, 4, 3, None),
        ("b", "c"): (4, 3, 4, 6, "'x y'"),
        ("b", "d"): (5, 3, 6, 3, None),
        ("b", "d", 0): (6, 5, 6, 5, "7"),
        ("b", "d", 1): (7, 5, 7, 5, None),
        ("b", "d", 1, "e"): (7, 5, 7, 8, None),
        ("b", "d", 1, "e", "f"): (7, 9, 7, 12, "no"),
        ("g",): (8, 1, 8, 3, ""),
    }
    assert {p.file for p in positions.values()} == {"x.yaml"}


def test_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: \xc3\xa4\r\n")
    data, positions = strict_yaml.load(path)
    assert data == {"a": 1, "b": "ä"}
    assert (positions[("a",)].line, positions[("a",)].column, positions[("b",)].line) == (1, 1, 2)


def test_anchors_and_merge_keys() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc:\n  <<: [*a, *b]\n  x: 9\nd: *a\ne: {'<<': 5}\n"
    data, positions = strict_yaml.parse(text, "x")
    assert data["c"] == {"x": 9, "y": 2, "z": 4}
    assert data["d"] == {"x": 1, "y": 2}
    assert data["e"] == {"<<": 5}
    assert (positions[("c", "x")].line, positions[("c", "y")].line, positions[("c", "z")].line) == (5, 1, 2)


def test_problem_text() -> None:
    problem = Problem(
        "recipes/x.yaml", 12, 3, "train.learning_rat", "unknown key", "learning_rate, epochs",
        "did you mean 'learning_rate'?",
    )  # fmt: skip
    assert str(problem) == (
        "recipes/x.yaml:12:3  train.learning_rat: unknown key; known here: learning_rate, epochs; "
        "did you mean 'learning_rate'?"
    )


def test_errors_are_listed_once_and_in_order() -> None:
    late = Problem("x", 10, 1, "k", "f", "a")
    early = Problem("x", 9, 5, "k", "f", "a")
    whole = Problem("x", None, None, "k", "f", "a")
    given = Problem("--set k", None, None, "k", "f", "a")
    assert RecipeError([given, late, early, late, whole], "x").problems == (whole, early, late, given)
