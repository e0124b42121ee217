"""Values come through templates with their types, a user's templates are confined, and what they drop is seen."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from kedit_glue import tool_yaml
from kedit_glue.plan import Plan
from kedit_glue.render import RenderError, content, render, require, says_plainly, template_folders


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's template folder with one template: each value on its own line, nested, and in a block."""
    folder = tmp_path / "own templates"
    folder.mkdir()
    write(
        folder, "t.yaml", "value: {{ value | yaml }}\nlist:\n  - deep:\n      one: {{ value | yaml }}\n      two: 2\n"
    )
    write(folder, "block.yaml", "block:\n  {{ value | yaml_block(2) }}\nafter: 1\n")
    return folder


def write(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.j2").write_text(text, encoding="utf-8")


VALUES: list[Any] = [
    1e-05, 1.0, 0.1, 10, 0, True, False, None,
    "no", "on", "~", "null", "1e-5", "1.0", "007", "2026-01-01", "",
    "{{ 7*7 }}", "{% raw %}", "# no comment", "a: b", "a #b", "- x", "[x", "{x", "*x", "&x", "!x", "%x", "@x", "`x`",
    "emoji 😀", "ŁÓDŹ", "it's", 'say "x"', "back\\slash", " spaces ", "tab\t", "\u2028", "\x07",
    "a prompt that ends in spaces   ", "two  blanks", "\t", "name: x\nepochs: 3", "a: [1, {b: *c}]", "? key", "| text",
    "".join(map(chr, range(1, 32))), "\x7f", "a\x85b", "a\x85", "a\u2029 b", "a\xa0b", "\ufeffmark", "a\ufeff",
    "נהר העיר", "\u202eabc\u202c", "\u200f-\u200e", "👩‍👩‍👧", "e\u0301", "a\\ud800b",
    "\udcff in a file's name", "𝄞" * 300,
    "two\nlines", "two\n\n lines\n", "windows\r\n", "old mac\r", "--- \n...", "---", "word " * 200,
    [1, "no", 0.5], ["two\nlines", 3, {"k": None}], {"filter": "mlp", "value": [0.1, 1e-09]}, [], {}, "x" * 500,
    ["a\x85b", "😀", {"a\u2028": " "}], -0.0, 1e300, float("inf"), 12345678901234567890,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_through_exactly(own: Path, value: Any) -> None:
    said = yaml.safe_load(text := render("t.yaml", {"value": value}, own))
    for found in (said["value"], said["list"][0]["deep"]["one"]):
        assert (found, type(found), repr(found)) == (value, type(value), repr(value))
    assert content(text, "t.yaml", own) == said
    assert said["list"][0]["deep"]["two"] == 2
    assert len(text.split("\n")) == 6  # each value stays on its line


def test_a_block_keeps_keys_order_and_values(own: Path) -> None:
    value = {"weight": 0.7, "lambda": (0.1, 1e-05), "no": "yes", "a: b": {"two\nlines": "x\ny"}, "empty": ()}
    said = yaml.safe_load(render("block.yaml", {"value": value}, own))
    assert said == {
        "block": {"weight": 0.7, "lambda": [0.1, 1e-05], "no": "yes", "a: b": {"two\nlines": "x\ny"}, "empty": []},
        "after": 1,
    }
    assert list(said["block"]) == list(value)


def test_the_users_folder_is_searched_first_and_the_projects_next(own: Path) -> None:
    write(own, "merge.yaml", "merge_method: {{ method | yaml }}\nmine: true\n")
    assert yaml.safe_load(render("merge.yaml", {"method": "ties"}, own)) == {"merge_method": "ties", "mine": True}
    shipped = template_folders(None)
    assert template_folders(own) == [own, *shipped]
    yamls = {f"{name}.yaml.j2" for name in ("train", "merge", "merge_file", "rsft", "edit", "editor")}
    assert {p.name for p in shipped[0].glob("*.j2")} == {*yamls, "vector_card.md.j2", "report.html.j2"}


def test_a_users_template_can_include_the_projects(own: Path) -> None:
    write(own, "merge.yaml", "{% include 'rsft.yaml.j2' %}\n")
    with pytest.raises(RenderError, match=r"templates/rsft.yaml.j2, line \d+: UndefinedError: 'batch' is undefined"):
        render("merge.yaml", {}, own)
    values = {"batch": 0, "order": "depth", "inner_steps": 4, "loss_threshold": 0.1, "trainable": "x"}
    values |= {"protect": None, "neighbours": 0, "tokens": "all"}
    assert yaml.safe_load(render("merge.yaml", values, own))["inner_steps"] == 4


BAD = [
    ("a: 1\nb: {{ learning_rat }}\n", 2, "UndefinedError: 'learning_rat' is undefined"),
    ("a: {{ value.nothing }}\n", 1, "UndefinedError: 'int object' has no attribute 'nothing'"),
    ("a: 1\n\nb: {% if %}\n", 3, "TemplateSyntaxError"),
    ("a: 1\nb: {{ value | upper_case }}\n", 2, "TemplateAssertionError: No filter named 'upper_case'"),
    ("a: 1\nb: {{ 1 / (value - 1) }}\n", 2, "ZeroDivisionError"),
    ("a: {{ value + 'x' }}\n", 1, "TypeError"),
]


@pytest.mark.parametrize(("text", "line", "what"), BAD, ids=[b[2].partition(":")[0] + str(b[1]) for b in BAD])
def test_an_error_names_file_and_line(own: Path, text: str, line: int, what: str) -> None:
    write(own, "bad.yaml", text)
    with pytest.raises(RenderError) as error:
        render("bad.yaml", {"value": 1}, own)
    assert str(error.value).startswith(f"template {own / 'bad.yaml.j2'}, line {line}: {what}")


UNSAFE = "SecurityError: access to attribute '{}' of '{}' object is unsafe."
ESCAPES = [
    ("{{ ''.__class__.__mro__[1].__subclasses__() }}", UNSAFE.format("__class__", "str")),
    ("{{ ''['__class__'] }}", UNSAFE.format("__class__", "str")),
    ("{{ '' | attr('__class__') }}", UNSAFE.format("__class__", "str")),
    ("{{ '' | attr('__cl' ~ 'ass__') }}", UNSAFE.format("__class__", "str")),
    ("{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}", UNSAFE.format("__class__", "tuple")),
    ("{{ value.__init__.__globals__ }}", UNSAFE.format("__init__", "int")),
    ("{{ cycler.__init__.__globals__ }}", UNSAFE.format("__init__", "type")),
    ("{{ self.__init__.__globals__ }}", UNSAFE.format("__init__", "TemplateReference")),
    ("{{ self._TemplateReference__context }}", UNSAFE.format("_TemplateReference__context", "TemplateReference")),
    ("{{ lipsum.__globals__['os'].getcwd() }}", UNSAFE.format("__globals__", "function")),
    ("{{ '{0.__class__}'.format(1) }}", UNSAFE.format("__class__", "int")),
    ("{% set f = '{0.__class__}'.format %}{{ f(1) }}", UNSAFE.format("__class__", "int")),
    ("{{ ('{0.__class__}' | attr('format'))(1) }}", UNSAFE.format("__class__", "int")),
    ("{{ '{x.__class__}'.format_map({'x': 1}) }}", UNSAFE.format("__class__", "int")),
    ("{{ '%s' | format(value.__class__) }}", UNSAFE.format("__class__", "int")),
    ("{{ [].append(1) }}", UNSAFE.format("append", "list")),
    ("{{ range(10 ** 9) | list }}", "OverflowError: Range too big"),
    ("{{ train.parse_raw(\"cos\\ngetcwd\\n(tR.\", proto='pickle', allow_pickle=True) }}", "UndefinedError"),
    ("{{ train.model_fields }}", "UndefinedError"),
]


class Section(BaseModel):
    """Stands for a section of the recipe, as ``train.yaml.j2`` is given it."""

    epochs: int = 3


@pytest.mark.parametrize(("escape", "refused"), ESCAPES)
def test_a_template_cannot_leave_the_sandbox(own: Path, escape: str, refused: str) -> None:
    write(own, "bad.yaml", f"a: {{{{ train.epochs }}}}\nb: {escape}\n")
    with pytest.raises(RenderError) as error:
        render("bad.yaml", {"value": 1, "train": Section()}, own)
    assert str(error.value).startswith(f"template {own / 'bad.yaml.j2'}, line 2: {refused}")


@pytest.mark.parametrize(
    "escape", ["{{ [1] | map(attribute='__class__') | list }}", "{{ [1] | groupby('__class__') | list }}"]
)
def test_filters_see_no_internals_either(own: Path, escape: str) -> None:
    write(own, "bad.yaml", f"b: '{escape}'\n")
    text = render("bad.yaml", {}, own)
    assert "Undefined" in text and "class" not in text


def test_templates_are_given_plain_data(plan_of: Callable[..., Plan]) -> None:
    """No object with methods: pydantic's ``parse_raw`` unpickles what a template hands it."""

    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(plain(k) and plain(v) for k, v in value.items())
        if isinstance(value, list | tuple):
            return all(map(plain, value))
        return value is None or type(value) in (str, int, float, bool)

    plan = plan_of("train: {layers: 4-5, protect: {directions: 3}, extra: {warmup_steps: 1}}")
    for file in plan.files:
        for name, value in file.values.items():
            assert plain(value.model_dump() if isinstance(value, BaseModel) else value), (file.template, name)


def test_a_template_reads_no_file_outside_its_folders(own: Path) -> None:
    (own.parent / "secret.j2").write_text("a: secret\n")
    for number, name in enumerate(("../secret.j2", str(own.parent / "secret.j2"))):
        write(own, f"bad{number}.yaml", f"{{% include {name!r} %}}")
        with pytest.raises(RenderError, match="TemplateNotFound"):
            render(f"bad{number}.yaml", {}, own)


def test_a_value_never_becomes_template_code(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "SECRET", "x")
    assert yaml.safe_load(render("t.yaml", {"value": "{{ 7*7 }}{% include 't.yaml.j2' %}"}, own))["value"] == (
        "{{ 7*7 }}{% include 't.yaml.j2' %}"
    )


def test_a_template_that_is_not_there(own: Path) -> None:
    with pytest.raises(RenderError, match=r"template nothing.yaml.j2: TemplateNotFound"):
        render("nothing.yaml", {}, own)


def test_a_template_that_changed_on_the_disk_is_read_again(own: Path) -> None:
    write(own, "mine.yaml", "a: 1\n")
    assert render("mine.yaml", {}, own) == "a: 1\n"
    write(own, "mine.yaml", "a: 2\n")
    file = own / "mine.yaml.j2"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 10**9))
    assert render("mine.yaml", {}, own) == "a: 2\n"


# -- content ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a: [1\n", "rendered to text that is no YAML"),
        ("a: 1\nb: {c: 2, c: 3}\n", "rendered to text that is no YAML: the key 'c' is there twice (first in line 2)"),
        ("- a\n- b\n", "rendered to no mapping"),
        ("", "rendered to no mapping"),
        ("a: 1\n---\nb: 2\n", "rendered to text that is no YAML: expected a single document"),
    ],
)
def test_what_was_rendered_is_read_again(own: Path, text: str, what: str) -> None:
    write(own, "bad.yaml", text)
    with pytest.raises(RenderError) as error:
        content(render("bad.yaml", {}, own), "bad.yaml", own)
    assert str(error.value).startswith(f"template {own / 'bad.yaml.j2'} {what}")


# -- require ------------------------------------------------------------------------------------

RETYPED = [
    ("learning_rate: 1e-5", 1e-5, "learning_rate: '1e-5' (str) instead of 1e-05 (float)"),
    ("learning_rate: 1", 1.0, "learning_rate: 1 (int) instead of 1.0 (float)"),
    ("learning_rate: true", 1, "learning_rate: True (bool) instead of 1 (int)"),
    ("learning_rate: no", "no", "learning_rate: False (bool) instead of 'no' (str)"),
    ("learning_rate: 2.0e-5", 1e-5, "learning_rate: 2e-05 (float) instead of 1e-05 (float)"),
    ("other: 1", 1e-5, "learning_rate: None (NoneType) instead of 1e-05 (float)"),
    ("other: 1", None, "learning_rate: None (NoneType) instead of None (NoneType)"),
]


@pytest.mark.parametrize(("text", "value", "message"), RETYPED)
def test_a_key_that_was_dropped_or_retyped_is_named(text: str, value: Any, message: str) -> None:
    with pytest.raises(RenderError) as error:
        require(yaml.safe_load(text), {"learning_rate": value}, "train.yaml")
    assert str(error.value) == f"train.yaml does not say what the recipe says: {message}"
    assert not says_plainly(text + "\n", {"learning_rate": value})


def test_everything_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(RenderError, match=r"a: 1 .*; b: 2 "):
        require({"a": 1, "b": 2, "c": 3}, {"a": 5, "b": 6, "c": 3}, "x")


def test_more_keys_than_required_are_fine() -> None:
    require({"a": 1, "b": {"c": 0.5}}, {"b": {"c": 0.5}}, "x")


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_what_is_said_plainly_is_what_is_required(value: Any) -> None:
    said = f"a: 1\n{tool_yaml.flow('the key')}: {tool_yaml.flow(value)}\nb: 2\n"
    assert says_plainly(said, {"the key": value, "a": 1})
    assert not says_plainly(said, {"key": value})
    assert not says_plainly(said, {"the key": [value]})
    assert not says_plainly(said + said, {"the key": value})
    assert not says_plainly("x:\n  " + said.replace("\n", "\n  ") + "\n", {"the key": value})
