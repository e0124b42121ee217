"""A run that is killed while it writes its files: no hand edit is lost, and none is made up."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from kedit_glue.files import EditedTwice, HandEdit, difference, write_rendered
from kedit_glue.plan import Rendered

OLD = "rate: 0.1\nepochs: 3\n"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "t.yaml.j2").write_text("rate: {{ rate | yaml }}\nepochs: 3\n")
    (tmp_path / "own" / "noted.yaml.j2").write_text("# {{ note }}\nrate: 0.1\nepochs: 3\n")
    return tmp_path / "own"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run folder" / "batch_001" / "t.yaml"


def write(own: Path, path: Path, rate: float) -> list[HandEdit]:
    return write_rendered([Rendered(path, "t.yaml", {"rate": rate}, {"rate": rate})], own)


def noted(own: Path, path: Path, note: str) -> list[HandEdit]:
    return write_rendered([Rendered(path, "noted.yaml", {"note": note}, {"rate": 0.1})], own)


def kept(path: Path) -> Path:
    return path.parent / ".rendered" / path.name


class Killed(BaseException):
    """Stands for SIGKILL."""


WRITE_TEXT = Path.write_text


class Disk:
    """Ends the process at a change on the disk: after ``left`` whole ones, a text is half written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 10**9
        for name in ("write_bytes", "write_text", "replace", "rename", "unlink"):
            monkeypatch.setattr(Path, name, self._counted(getattr(Path, name)))

    def _counted(self, real: Any) -> Any:
        def step(path: Path, *arguments: Any, **more: Any) -> Any:
            if self.left == 0:
                if real is WRITE_TEXT:
                    real(path, arguments[0][:7], **more)
                raise Killed
            self.left -= 1
            return real(path, *arguments, **more)

        return step


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


HAND = {
    "none": None,
    "a value": ("epochs: 3\n", "epochs: 30\n"),
    "beside the recipe's": ("epochs: 3\n", "warmup: 1\nepochs: 3\n"),
    "a comment": ("epochs: 3\n", "epochs: 3  # mine\n"),
}


def end_everywhere(disk: Disk, path: Path, before: Any, during: Any, after: Any) -> int:
    """Prepare, end the process at the n-th step of the writing, look; for every n. Returns how many there are."""
    for steps in range(100):
        disk.left = 10**9
        shutil.rmtree(path.parent, ignore_errors=True)
        before()
        disk.left = steps
        try:
            during()
            return steps
        except Killed:
            disk.left = 10**9
        after()
    raise AssertionError("it never ended")


@pytest.mark.parametrize("then", [0.1, 0.2, 0.3], ids=["taken back", "the same", "another"])
@pytest.mark.parametrize("hand", HAND)
def test_ended_between_two_steps_of_a_changed_recipe(own: Path, path: Path, disk: Disk, hand: str, then: float) -> None:
    """Written at 0.1, edited by hand, then 0.2 is cut off anywhere; the next run finds the hand's edit, and only it."""
    old, new = HAND[hand] or ("", "")

    def by_hand(text: str) -> str:
        return text.replace(old, new) if old else text

    def before() -> None:
        write(own, path, 0.1)
        path.write_text(by_hand(OLD))

    def after() -> None:
        assert path.read_text() in (by_hand(OLD), by_hand("rate: 0.2\nepochs: 3\n"))  # whole, at any time
        edits = write(own, path, then)
        wanted = by_hand(f"rate: {then}\nepochs: 3\n")
        assert path.read_text() == wanted
        assert edits == ([HandEdit(path, difference(f"rate: {then}\nepochs: 3\n", wanted, "t.yaml"))] if old else [])
        assert kept(path).read_text() == f"rate: {then}\nepochs: 3\n"
        assert sorted(p.name for p in kept(path).parent.iterdir() if p.suffix != ".partial") == ["t.yaml"]

    assert end_everywhere(disk, path, before, lambda: write(own, path, 0.2), after) == 5


@pytest.mark.parametrize("then", [0.1, 0.2])
def test_the_hand_made_the_recipes_change_as_well(own: Path, path: Path, disk: Disk, then: float) -> None:
    def before() -> None:
        write(own, path, 0.1)
        path.write_text("rate: 0.2\nepochs: 30\n")

    def after() -> None:
        (edit,) = write(own, path, then)
        assert "+epochs: 30" in edit.difference
        assert path.read_text() == "rate: 0.2\nepochs: 30\n"

    assert end_everywhere(disk, path, before, lambda: write(own, path, 0.2), after) == 2


def test_the_hand_made_a_change_that_the_recipe_then_made_otherwise(own: Path, path: Path, disk: Disk) -> None:
    def before() -> None:
        write(own, path, 0.1)
        path.write_text("rate: 0.2\nepochs: 30\n")

    def after() -> None:
        with pytest.raises(EditedTwice, match=r"rate: generated before: 0\.1, by hand: 0\.2, by the recipe now: 0\.3"):
            write(own, path, 0.3)
        assert path.read_text() == "rate: 0.2\nepochs: 30\n"

    assert end_everywhere(disk, path, before, lambda: write(own, path, 0.2), after) == 2


@pytest.mark.parametrize("then", [0.1, 0.3])
def test_ended_between_two_steps_of_the_first_writing(own: Path, path: Path, disk: Disk, then: float) -> None:
    def after() -> None:
        assert write(own, path, then) == []
        assert path.read_text() == kept(path).read_text() == f"rate: {then}\nepochs: 3\n"

    assert end_everywhere(disk, path, lambda: None, lambda: write(own, path, 0.1), after) == 5


@pytest.mark.parametrize("hand", ["epochs: 3  # mine", "# mine\nepochs: 3", "epochs: 30"])
@pytest.mark.parametrize("then", ["10 facts", "9 facts", "8 facts"])
def test_ended_between_two_steps_of_a_changed_comment(own: Path, path: Path, disk: Disk, hand: str, then: str) -> None:
    def text(note: str) -> str:
        return f"# {note}\nrate: 0.1\n{hand}\n"

    def before() -> None:
        noted(own, path, "10 facts")
        path.write_text(text("10 facts"))

    def after() -> None:
        (edit,) = noted(own, path, then)
        assert "facts" not in edit.difference
        assert path.read_text() == text(then)

    assert end_everywhere(disk, path, before, lambda: noted(own, path, "9 facts"), after) == 5


@pytest.mark.parametrize("then", [0.1, 0.2, 0.3])
def test_ended_twice_in_a_row(own: Path, path: Path, disk: Disk, then: float) -> None:
    """The second process ends while it puts right what the first one left."""
    for first in range(5):

        def before(first: int = first) -> None:
            write(own, path, 0.1)
            path.write_text("rate: 0.1\nepochs: 30\n")
            disk.left = first
            with pytest.raises(Killed):
                write(own, path, 0.2)

        def after() -> None:
            (edit,) = write(own, path, then)
            assert "rate:" not in edit.difference
            assert path.read_text() == f"rate: {then}\nepochs: 30\n"

        assert end_everywhere(disk, path, before, lambda: write(own, path, 0.3), after) > 2


@pytest.mark.parametrize("then", [0.1, 0.2, 0.3])
def test_edited_by_hand_after_the_process_ended(own: Path, path: Path, disk: Disk, then: float) -> None:
    def after() -> None:
        path.write_text(path.read_text().replace("epochs: 3", "epochs: 30"))
        (edit,) = write(own, path, then)
        assert "rate:" not in edit.difference
        assert path.read_text() == f"rate: {then}\nepochs: 30\n"

    end_everywhere(disk, path, lambda: write(own, path, 0.1), lambda: write(own, path, 0.2), after)


def test_a_deleted_file_whose_writing_was_cut_off(own: Path, path: Path, disk: Disk) -> None:
    def after() -> None:
        path.unlink(missing_ok=True)
        assert write(own, path, 0.3) == []
        assert path.read_text() == kept(path).read_text() == "rate: 0.3\nepochs: 3\n"

    end_everywhere(disk, path, lambda: write(own, path, 0.1), lambda: write(own, path, 0.2), after)
