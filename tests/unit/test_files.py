"""A run's generated files: what the user changed by hand is never lost in silence, and never made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import files
from kedit_glue.files import BrokenEdit, EditedTwice, HandEdit, difference, write_data, write_rendered
from kedit_glue.plan import Rendered
from kedit_glue.render import RenderError

OLD = "rate: 0.1\nepochs: 3\n"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "t.yaml.j2").write_text("rate: {{ rate | yaml }}\nepochs: 3\n")
    (tmp_path / "own" / "noted.yaml.j2").write_text("# {{ note }}\nrate: {{ rate | yaml }}\nepochs: 3\n")
    return tmp_path / "own"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run folder" / "batch_001" / "t.yaml"


def write(own: Path, path: Path, rate: float = 0.1) -> list[HandEdit]:
    return write_rendered([Rendered(path, "t.yaml", {"rate": rate}, {"rate": rate})], own)


def noted(own: Path, path: Path, note: str, rate: float = 0.1) -> list[HandEdit]:
    return write_rendered([Rendered(path, "noted.yaml", {"note": note, "rate": rate}, {"rate": rate})], own)


def kept(path: Path) -> Path:
    return path.parent / ".rendered" / path.name


def changed(*lines: str) -> str:
    return "\n".join(f"    {line}" for line in ("--- t.yaml as generated", "+++ t.yaml now", *lines))


def test_first_writing_makes_the_folder(own: Path, path: Path) -> None:
    assert write(own, path) == []
    assert path.read_text() == OLD
    assert sorted(p.name for p in path.parent.rglob("*")) == [".rendered", "t.yaml", "t.yaml"]


def test_the_same_again_touches_nothing(own: Path, path: Path) -> None:
    write(own, path)
    before = [(p.stat().st_mtime_ns, p.stat().st_ino) for p in (path, kept(path), path.parent, kept(path).parent)]
    assert write(own, path) == []
    after = [(p.stat().st_mtime_ns, p.stat().st_ino) for p in (path, kept(path), path.parent, kept(path).parent)]
    assert after == before


def test_a_changed_recipe_changes_the_file(own: Path, path: Path) -> None:
    write(own, path)
    assert write(own, path, 0.2) == []
    assert path.read_text() == "rate: 0.2\nepochs: 3\n"
    assert write(own, path, 0.2) == []  # and the new text is the one that hand edits are told from
    assert write(own, path) == []
    assert path.read_text() == OLD


# -- edited by hand -----------------------------------------------------------------------------


def test_a_hand_edit_is_kept_and_shown_every_time(own: Path, path: Path) -> None:
    write(own, path)
    path.write_text("rate: 0.1\nepochs: 30\n")
    for _ in range(2):
        assert write(own, path) == [HandEdit(path, changed("@@ -2 +2 @@", "-epochs: 3", "+epochs: 30"))]
        assert path.read_text() == "rate: 0.1\nepochs: 30\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rate: 0.1  # mine\nepochs: 3\n", changed("@@ -1 +1 @@", "-rate: 0.1", "+rate: 0.1  # mine")),
        ("rate: 0.1\n\nepochs: 3\n", changed("@@ -1,0 +2 @@", "+")),
        ("rate: 0.1 \nepochs: 3\n", changed("@@ -1 +1 @@", "-rate: 0.1", "+rate: 0.1 ")),
        ("rate: 0.1\r\nepochs: 3\r\n", "    only the ends of lines differ"),
        ("rate: 0.1\nepochs: 3", "    only the ends of lines differ"),
    ],
)
def test_an_edit_that_changes_no_value_is_one(own: Path, path: Path, text: str, shown: str) -> None:
    write(own, path)
    path.write_bytes(text.encode())
    for _ in range(2):
        assert write(own, path) == [HandEdit(path, shown)]
        assert path.read_bytes() == text.encode()


def test_a_hand_edit_taken_back_is_none(own: Path, path: Path) -> None:
    write(own, path)
    path.write_text("rate: 0.9\nepochs: 3\n")
    write(own, path)
    path.write_text(OLD)
    assert write(own, path) == []


def test_a_hand_edit_survives_a_change_of_something_else(own: Path, path: Path) -> None:
    """The difference that is shown is the hand's alone, and it can be taken back."""
    write(own, path)
    path.write_text("# mine\nrate: 0.1\nepochs: 30\n")
    edit = HandEdit(path, changed("@@ -0,0 +1 @@", "+# mine", "@@ -2 +3 @@", "-epochs: 3", "+epochs: 30"))
    for rate in (0.2, 0.2, 0.3, 0.1):
        assert write(own, path, rate) == [edit]
        assert path.read_text() == f"# mine\nrate: {rate}\nepochs: 30\n"
        assert kept(path).read_text() == f"rate: {rate}\nepochs: 3\n"
    path.write_text(OLD)
    assert write(own, path) == []


def test_hand_and_recipe_changed_it_to_the_same(own: Path, path: Path) -> None:
    write(own, path)
    path.write_text("rate: 0.2\nepochs: 3\n")
    assert write(own, path, 0.2) == []
    assert write(own, path, 0.2) == []
    assert write(own, path, 0.3) == []
    assert path.read_text() == "rate: 0.3\nepochs: 3\n"


def test_a_deleted_file_is_written_again(own: Path, path: Path) -> None:
    write(own, path)
    path.unlink()
    assert write(own, path) == []
    assert path.read_text() == OLD
    path.unlink()
    assert write(own, path, 0.2) == []
    assert path.read_text() == "rate: 0.2\nepochs: 3\n"


# -- edited twice -------------------------------------------------------------------------------


def test_changed_by_hand_and_by_the_recipe(own: Path, path: Path) -> None:
    write(own, path)
    path.write_text("rate: 0.5\nepochs: 30\n")
    for _ in range(2):  # nothing is settled by looking
        with pytest.raises(EditedTwice) as error:
            write(own, path, 0.2)
        assert str(error.value) == (
            f"{path} was edited by hand, and the recipe changed it as well.\n"
            "  rate: generated before: 0.1, by hand: 0.5, by the recipe now: 0.2\n"
            f"Take the recipe's change back, or make it in the file and delete {kept(path)}, "
            f"or delete {path} to have it generated anew."
        )
        assert (path.read_text(), kept(path).read_text()) == ("rate: 0.5\nepochs: 30\n", OLD)


def test_changed_by_both_in_a_line_that_says_nothing(own: Path, path: Path) -> None:
    noted(own, path, "10 facts")
    path.write_text("# ten facts\nrate: 0.1\nepochs: 3\n")
    with pytest.raises(EditedTwice) as error:
        noted(own, path, "9 facts")
    assert str(error.value).splitlines()[:-1] == [
        f"{path} was edited by hand, and the recipe changed it as well.",
        "  no value is in conflict, but lines are that both changed",
        "by hand:",
        *changed("@@ -1 +1 @@", "-# 10 facts", "+# ten facts").splitlines(),
        "by the recipe:",
        *changed("@@ -1 +1 @@", "-# 10 facts", "+# 9 facts").splitlines(),
    ]


def test_the_advice_of_edited_twice_works(own: Path, path: Path) -> None:
    """Make the recipe's change in the file by hand and delete what was kept: the file stands as it is."""
    write(own, path)
    path.write_text("rate: 0.5\nepochs: 30\n")
    with pytest.raises(EditedTwice) as error:
        write(own, path, 0.2)
    assert f"delete {kept(path)}" in str(error.value)
    path.write_text("rate: 0.2\nepochs: 30\n")
    kept(path).unlink()
    for _ in range(2):
        (edit,) = write(own, path, 0.2)
        assert "+epochs: 30" in edit.difference and "rate: " not in edit.difference
        assert path.read_text() == "rate: 0.2\nepochs: 30\n"
    path.write_text("rate: 0.5\nepochs: 30\n")
    with pytest.raises(EditedTwice, match=r"generated before: 0\.2, by hand: 0\.5, by the recipe now: 0\.3"):
        write(own, path, 0.3)  # and the next change of the recipe is told from it again


def test_taking_the_recipes_change_back_keeps_the_hand_edit(own: Path, path: Path) -> None:
    write(own, path)
    path.write_text("rate: 0.5\nepochs: 3\n")
    with pytest.raises(EditedTwice):
        write(own, path, 0.2)
    assert [e.path for e in write(own, path, 0.1)] == [path]


def test_all_conflicts_are_shown_at_once_and_nothing_is_written(own: Path, path: Path) -> None:
    paths = [path.with_name(f"t{n}.yaml") for n in range(9)]

    def go(rate: float) -> list[HandEdit]:
        return write_rendered([Rendered(p, "t.yaml", {"rate": rate}, {"rate": rate}) for p in paths], own)

    go(0.1)
    for p in paths[1:-1]:
        p.write_text("rate: 0.5\nepochs: 3\n")
    before = {p: p.read_text() for p in path.parent.rglob("*.yaml")}
    with pytest.raises(EditedTwice) as error:
        go(0.2)
    text = str(error.value)
    assert text.count("was edited by hand") == text.count("by hand: 0.5") == 5
    assert all(str(p) in text for p in paths[1:6]) and "t6.yaml" not in text
    assert text.endswith("The same holds for 2 more files.")
    assert {p: p.read_text() for p in path.parent.rglob("*.yaml")} == before


# -- what cannot be read ------------------------------------------------------------------------

BROKEN = [
    ("rate: 0.1\nepochs: [3\n", "{path}:2:9  '[' is not closed; allowed: [one, two]"),
    ("rate: 0.1\n\tepochs: 3\n", "{path}:2:1  a tab in the indentation; allowed: spaces; indent with spaces"),
    ("rate: 0.1\nepochs: 3\nrate: 0.2\n", "{path}:3:1  rate: the key is there twice (first in line 1)"),
    ("rate: 0.1\nepochs: 3: 4\n", "{path}:2:10  a ':' that cannot stand here"),
    ("- rate\n- epochs\n", "{path}:1:1  the top level is a list; allowed: a mapping of keys to values"),
    ("", "{path}  the file is empty or holds comments only; allowed: a mapping of keys to values"),
    ("# nothing\n", "{path}  the file is empty or holds comments only"),
    ("rate: !!python/name:os.system\nepochs: 3\n", "{path}:1:7  rate: a Python object"),
    (b"rate: 0.1\nepochs: 3 # caf\xe9\n", "{path}:2:16  byte 0xe9 is not UTF-8; allowed: UTF-8 text; save it as UTF-8"),
    ("rate: 0.1\nepochs: 3\n".encode("utf-16"), "{path}  the file is UTF-16"),
    (b"rate: 0.1\nepochs: \0\n", "{path}:2:9  a NUL byte: the file is binary"),
    ("rate: 2026-13-45\nepochs: 3\n", "month must be in 1..12"),  # what only the tools' reader stumbles over
]


@pytest.mark.parametrize("recipe", [0.1, 0.2], ids=["same recipe", "changed recipe"])
@pytest.mark.parametrize(("text", "problem"), BROKEN, ids=[p[7:50] for _, p in BROKEN])
def test_a_hand_edit_that_cannot_be_read(own: Path, path: Path, text: Any, problem: str, recipe: float) -> None:
    write(own, path)
    path.write_bytes(raw := text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BrokenEdit) as error:
        write(own, path, recipe)
    head, said, *_, advice = str(error.value).splitlines()
    assert head == f"{path} was edited by hand and cannot be read any more; nothing was started"
    assert said.startswith("  " + problem.format(path=path))
    assert advice == "Put it right, or delete it to have it generated again."
    assert (path.read_bytes(), kept(path).read_text()) == (raw, OLD)
    path.unlink()
    assert write(own, path, recipe) == []


def test_a_damaged_rendering_is_named(own: Path, path: Path) -> None:
    write(own, path)
    path.write_text("rate: 0.1\nepochs: 30\n")
    kept(path).write_bytes(b"rate: [0.1\n")
    with pytest.raises(BrokenEdit) as error:
        write(own, path, 0.2)
    assert str(error.value).splitlines() == [
        f"{kept(path)} is what was last generated and cannot be read any more; nothing was started",
        f"  {kept(path)}:1:7  '[' is not closed; allowed: [one, two]",
        "Delete it: the file that it was kept for then stands as it is.",
    ]
    kept(path).unlink()
    (edit,) = write(own, path, 0.2)
    assert "+epochs: 30" in edit.difference


def test_a_template_that_drops_a_key_writes_nothing(own: Path, path: Path) -> None:
    (own / "t.yaml.j2").write_text("epochs: 3\n")
    with pytest.raises(RenderError) as error:
        write(own, path)
    assert str(error.value).startswith(f"{path} does not say what the recipe says: rate: None")
    assert not path.exists()


def test_a_template_that_does_not_follow_the_recipe_is_seen_though_its_text_is_the_same(own: Path, path: Path) -> None:
    (own / "fixed.yaml.j2").write_text("rate: 0.1\nepochs: 3\n")
    assert write_rendered([Rendered(path, "fixed.yaml", {}, {"rate": 0.1})], own) == []
    for recipe in (0.2, 1):
        with pytest.raises(RenderError, match=rf"rate: 0\.1 \(float\) instead of {recipe}"):
            write_rendered([Rendered(path, "fixed.yaml", {}, {"rate": recipe})], own)


# -- speed ----------------------------------------------------------------------------------------


def test_an_unchanged_file_is_not_parsed(own: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(own, path)

    def no(*_: Any) -> Any:
        raise AssertionError("parsed")

    monkeypatch.setattr(files, "content", no)
    monkeypatch.setattr("kedit_glue.tool_yaml.load", no)
    assert write(own, path) == []
    with pytest.raises(AssertionError, match="parsed"):
        write(own, path, 0.2)


# -- JSON -----------------------------------------------------------------------------------------


def test_difference_of_equal_texts_is_empty() -> None:
    assert difference("a\n", "a\n", "x") == ""


def test_data_is_readable_json_and_left_alone_while_it_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "new" / "edits.json"
    write_data({path: [{"prompt": "Łódź lies in", "target_new": "日本"}]})
    assert json.loads(path.read_text(encoding="utf-8")) == [{"prompt": "Łódź lies in", "target_new": "日本"}]
    assert "Łódź" in path.read_text(encoding="utf-8")
    before = path.stat().st_mtime_ns, path.stat().st_ino
    write_data({path: [{"prompt": "Łódź lies in", "target_new": "日本"}]})
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
    write_data({path: []})
    assert json.loads(path.read_text(encoding="utf-8")) == []
    assert [p.name for p in path.parent.iterdir()] == ["edits.json"]
