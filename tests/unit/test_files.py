"""A run's generated files: what the user changed by hand is never lost in silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kedit_glue.files import EditedTwice, HandEdit, difference, write_data, write_rendered
from kedit_glue.plan import Rendered
from kedit_glue.render import RenderError

OLD = "rate: 0.1\nepochs: 3\n"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "t.yaml.j2").write_text("rate: {{ rate | yaml }}\nepochs: 3\n")
    return tmp_path / "own"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run folder" / "batch_001" / "t.yaml"


def write(own: Path, path: Path, rate: float = 0.1, fresh: bool = False) -> list[HandEdit]:
    return write_rendered([Rendered(path, "t.yaml", {"rate": rate}, {"rate": rate})], own, fresh)


def test_first_writing_makes_the_folder(own: Path, path: Path) -> None:
    assert write(own, path) == []
    assert path.read_text() == OLD
    assert sorted(p.name for p in path.parent.iterdir()) == [".rendered", "t.yaml"]


def test_the_same_again_touches_nothing(own: Path, path: Path) -> None:
    write(own, path)
    before = path.stat().st_mtime_ns, path.stat().st_ino
    assert write(own, path) == []
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before


def test_a_changed_recipe_changes_the_file(own: Path, path: Path) -> None:
    write(own, path)
    assert write(own, path, 0.2) == []
    assert path.read_text() == "rate: 0.2\nepochs: 3\n"
    assert write(own, path, 0.2) == []  # and the new text is the one that hand edits are told from
    assert write(own, path) == []
    assert path.read_text() == OLD


def test_a_hand_edit_is_kept_and_shown_every_time(own: Path, path: Path) -> None:
    write(own, path)
    path.write_text("rate: 0.1\nepochs: 30\n")
    for _ in range(2):
        assert write(own, path) == [
            HandEdit(
                path,
                "    --- t.yaml as generated\n    +++ t.yaml now\n    @@ -2 +2 @@\n    -epochs: 3\n    +epochs: 30",
            )
        ]
        assert path.read_text() == "rate: 0.1\nepochs: 30\n"


def test_a_hand_edit_taken_back_is_none(own: Path, path: Path) -> None:
    write(own, path)
    path.write_text("rate: 0.9\nepochs: 3\n")
    write(own, path)
    path.write_text(OLD)
    assert write(own, path) == []


def test_changed_by_hand_and_by_the_recipe(own: Path, path: Path) -> None:
    write(own, path)
    path.write_text("rate: 0.1\nepochs: 30\n")
    with pytest.raises(EditedTwice) as error:
        write(own, path, 0.2)
    message = str(error.value)
    by_hand, by_recipe = message.split("by the recipe:")
    assert message.startswith(f"{path} was edited by hand, and the recipe changed it as well.")
    assert "-epochs: 3\n" in by_hand and "+epochs: 30" in by_hand and "rate: " not in by_hand
    assert "-rate: 0.1\n" in by_recipe and "+rate: 0.2" in by_recipe and "+epochs" not in by_recipe
    assert "--fresh" in message
    assert path.read_text() == "rate: 0.1\nepochs: 30\n"
    with pytest.raises(EditedTwice):  # nothing was settled by looking
        write(own, path, 0.2)


def test_the_advice_of_edited_twice_works(own: Path, path: Path) -> None:
    """Make the recipe's change in the file by hand and delete what was kept: the file stands as it is."""
    write(own, path)
    path.write_text("rate: 0.1\nepochs: 30\n")
    with pytest.raises(EditedTwice) as error:
        write(own, path, 0.2)
    kept = path.parent / ".rendered" / "t.yaml"
    assert f"delete {kept}" in str(error.value)
    path.write_text("rate: 0.2\nepochs: 30\n")
    kept.unlink()
    for _ in range(2):
        (edit,) = write(own, path, 0.2)
        assert "+epochs: 30" in edit.difference and "rate: " not in edit.difference
        assert path.read_text() == "rate: 0.2\nepochs: 30\n"
    with pytest.raises(EditedTwice):  # and the next change of the recipe is told from it again
        write(own, path, 0.3)


def test_taking_the_recipes_change_back_keeps_the_hand_edit(own: Path, path: Path) -> None:
    write(own, path)
    path.write_text("rate: 0.1\nepochs: 30\n")
    with pytest.raises(EditedTwice):
        write(own, path, 0.2)
    assert [e.path for e in write(own, path, 0.1)] == [path]


def test_hand_and_recipe_changed_it_to_the_same(own: Path, path: Path) -> None:
    write(own, path)
    path.write_text("rate: 0.2\nepochs: 3\n")
    assert write(own, path, 0.2) == []
    assert write(own, path, 0.2) == []


def test_fresh_drops_hand_edits(own: Path, path: Path) -> None:
    write(own, path)
    path.write_text("rate: 0.1\nepochs: 30\n")
    assert write(own, path, 0.2, fresh=True) == []
    assert path.read_text() == "rate: 0.2\nepochs: 3\n"
    assert write(own, path, 0.2) == []


def test_a_deleted_file_is_written_again(own: Path, path: Path) -> None:
    write(own, path)
    path.unlink()
    assert write(own, path) == []
    assert path.read_text() == OLD


def test_a_template_that_drops_a_key_writes_nothing(own: Path, path: Path) -> None:
    (own / "t.yaml.j2").write_text("epochs: 3\n")
    with pytest.raises(RenderError) as error:
        write(own, path)
    assert str(error.value).startswith(f"{path} does not say what the recipe says: rate: None")
    assert not path.exists()


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
