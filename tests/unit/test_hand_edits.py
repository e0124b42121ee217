"""A generated YAML changed by hand, through whole runs with fake tools: used, shown, kept, and never run over."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from kedit_glue.files import BrokenEdit, EditedTwice
from kedit_glue.job import Options, run
from kedit_glue.progress import Display


def stages(*names: str) -> list[str]:
    """``stages("2 merge score", "3 train")``: what is done, in order."""
    return [f"batch_{int(n):03d}/{stage}" for n, *found in map(str.split, names) for stage in found]


AFTER_TRAIN_2 = [*stages("2 train merge score", "3 train merge score"), "batch_003/general"]
AFTER_MERGE_2 = [*stages("2 merge score", "3 train merge score"), "batch_003/general"]
EVERY_TRAIN = [*stages(*(f"{n} train merge score" for n in (1, 2, 3))), "batch_003/general"]
EVERY_MERGE = [*stages("1 merge score", *(f"{n} train merge score" for n in (2, 3))), "batch_003/general"]


class Session:
    """A user at work: the recipe, the files of batch 2, and what each run said and did."""

    def __init__(self, workplace: Any, display: Display) -> None:
        self.workplace = workplace
        self.display = display
        self.batch = workplace.run_folder / "batch_002"

    def go(self, *overrides: str, **more: Any) -> list[str]:
        """Run; the jobs that were begun."""
        self.begun()
        self.heard = len(self.log())
        run(Options(self.workplace.recipe, overrides, python=self.workplace.tool.python, **more), self.display)
        return self.begun()

    def begun(self) -> list[str]:
        found: list[str] = self.workplace.tool.calls()
        return found

    def log(self) -> str:
        file = self.workplace.run_folder / "log.txt"
        return file.read_text(encoding="utf-8") if file.is_file() else ""

    def said(self) -> str:
        """What the last run wrote into the log, without the times."""
        return re.sub(r"(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", self.log()[self.heard :])

    def edit(self, name: str, old: str, new: str) -> Path:
        path: Path = self.batch / name
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1
        path.write_text(text.replace(old, new), encoding="utf-8")
        return path

    def read(self, name: str, batch: int = 2) -> Any:
        return yaml.safe_load((self.batch.with_name(f"batch_{batch:03d}") / name).read_text(encoding="utf-8"))

    def weights(self) -> list[float]:
        return [self.read("merge.yaml", n)["models"][-1]["parameters"]["weight"] for n in (1, 2, 3)]


@pytest.fixture
def session(workplace: Any, display: Display) -> Session:
    workplace.values["keep"] = "all"  # which models are kept is tested elsewhere
    workplace.write()
    made = Session(workplace, display)
    made.go()
    return made


def test_training_changed_by_hand(session: Session) -> None:
    path = session.edit("train.yaml", "num_train_epochs: 3\n", "num_train_epochs: 9  # more\nwarmup_steps: 2\n")
    by_hand = path.read_text(encoding="utf-8")
    assert session.go() == AFTER_TRAIN_2  # batch 1 stands
    said = session.said()
    assert f"edited by hand, and kept: {path}" in said
    for line in ("-num_train_epochs: 3", "+num_train_epochs: 9  # more", "+warmup_steps: 2"):
        assert f"\n    {line}\n" in said
    assert path.read_text(encoding="utf-8") == by_hand
    assert session.go() == []
    assert f"edited by hand, and kept: {path}" in session.said()

    # another value in the recipe: the edit survives, the new value arrives
    session.workplace.values["train"]["learning_rate"] = 0.5
    session.workplace.write()
    assert session.go() == EVERY_TRAIN
    found = session.read("train.yaml")
    assert (found["learning_rate"], found["num_train_epochs"], found["warmup_steps"]) == (0.5, 9, 2)
    assert "num_train_epochs: 9  # more\n" in path.read_text(encoding="utf-8")
    assert session.read("train.yaml", 1)["num_train_epochs"] == 3
    said = session.said()
    assert "+num_train_epochs: 9  # more" in said and "learning_rate" not in said  # the hand's change, not the recipe's
    assert session.go() == []

    # the same value: it stops, shows both, starts nothing and changes nothing
    before = path.read_bytes()
    with pytest.raises(EditedTwice) as error:
        session.go("train.epochs=5")
    assert str(error.value) == (
        f"{path} was edited by hand, and the recipe changed it as well.\n"
        "  num_train_epochs: generated before: 3, by hand: 9, by the recipe now: 5\n"
        f"Take the recipe's change back, or make it in the file and delete {path.parent / '.rendered' / 'train.yaml'}, "
        f"or delete {path} to have it generated anew."
    )
    assert session.begun() == []
    assert path.read_bytes() == before
    assert session.read("train.yaml", 1)["num_train_epochs"] == 3
    assert session.go() == []  # the recipe's change taken back


def test_merging_changed_by_hand(session: Session) -> None:
    """A value deep in the file, beside others of its kind."""
    path = session.edit("merge.yaml", "weight: 0.7\n", "weight: 0.5\n      density: 0.9\n")
    assert session.go() == AFTER_MERGE_2  # batch 2's training stands
    assert "\n    -      weight: 0.7\n    +      weight: 0.5\n    +      density: 0.9\n" in session.said()
    assert session.go("merge.dtype=float32") == EVERY_MERGE
    assert session.weights() == [0.7, 0.5, 0.7]
    assert [session.read("merge.yaml", n)["dtype"] for n in (1, 2, 3)] == ["float32"] * 3
    with pytest.raises(EditedTwice) as error:
        session.go("merge.dtype=float32", "merge.parameters.weight=0.4")
    assert [line for line in str(error.value).splitlines() if "by hand:" in line] == [
        "  models[0].parameters.weight: generated before: 0.7, by hand: 0.5, by the recipe now: 0.4"
    ]
    assert session.begun() == []
    assert session.weights() == [0.7, 0.5, 0.7]
    # the other way out: the recipe's change made in the file, the old rendering deleted
    session.edit("merge.yaml", "weight: 0.5", "weight: 0.4")
    (path.parent / ".rendered" / "merge.yaml").unlink()
    assert session.go("merge.dtype=float32", "merge.parameters.weight=0.4") == EVERY_MERGE
    assert session.weights() == [0.4, 0.4, 0.4]
    assert session.read("merge.yaml")["models"][0]["parameters"]["density"] == 0.9


def test_r_sft_changed_by_hand(session: Session) -> None:
    path = session.edit("rsft.yaml", "loss_threshold: 0.05", "loss_threshold: 0.5")
    assert session.go() == AFTER_TRAIN_2
    assert f"edited by hand, and kept: {path}" in session.said()
    assert session.go("train.order=depth", "train.inner_steps=2") == EVERY_TRAIN
    found = session.read("rsft.yaml")
    assert (found["loss_threshold"], found["inner_steps"]) == (0.5, 2)


def test_a_comment_changed_by_hand(session: Session) -> None:
    path = session.edit("train.yaml", "### the optimizer", "### the optimizer (do not touch)")
    session.go()
    assert f"edited by hand, and kept: {path}" in session.said()
    session.go("train.epochs=5")
    assert "### the optimizer (do not touch)\n" in path.read_text(encoding="utf-8")
    assert session.read("train.yaml")["num_train_epochs"] == 5


def test_a_hand_edit_taken_back(session: Session) -> None:
    session.edit("train.yaml", "num_train_epochs: 3", "num_train_epochs: 9")
    session.go()
    session.edit("train.yaml", "num_train_epochs: 9", "num_train_epochs: 3")
    assert session.go() == AFTER_TRAIN_2
    assert "edited by hand" not in session.said()


def test_the_recipe_catches_up_with_the_hand(session: Session) -> None:
    session.edit("train.yaml", "num_train_epochs: 3", "num_train_epochs: 9")
    session.go()
    session.go("train.epochs=9")
    assert "edited by hand" not in session.said()
    session.go("train.epochs=5")
    assert [session.read("train.yaml", n)["num_train_epochs"] for n in (1, 2, 3)] == [5, 5, 5]


@pytest.mark.parametrize("name", ["train.yaml", "rsft.yaml", "merge.yaml"])
def test_a_hand_edit_that_is_no_yaml_starts_nothing(session: Session, name: str) -> None:
    path = session.batch / name
    path.write_text(path.read_text(encoding="utf-8") + "more: [1, 2\n", encoding="utf-8")
    line = len(path.read_text(encoding="utf-8").splitlines())
    with pytest.raises(BrokenEdit) as error:
        session.go()
    assert f"\n  {path}:{line}:7  '[' is not closed" in str(error.value)
    assert session.begun() == []
    path.unlink()
    assert session.go() == []  # generated again, as it was


def test_fresh_drops_the_hand_edit(session: Session) -> None:
    session.edit("train.yaml", "num_train_epochs: 3", "num_train_epochs: 9")
    session.go(fresh=True)
    assert "edited by hand" not in session.said()
    assert session.read("train.yaml")["num_train_epochs"] == 3


def test_a_dry_run_shows_a_hand_edit_and_keeps_it(session: Session) -> None:
    path = session.edit("train.yaml", "num_train_epochs: 3", "num_train_epochs: 9")
    assert session.go("train.learning_rate=0.5", dry_run=True) == []
    assert f"edited by hand, and kept: {path}" in session.said()
    assert session.read("train.yaml")["num_train_epochs"] == 9
    assert session.go() == AFTER_TRAIN_2  # the recipe's 0.5 was for the dry run only
