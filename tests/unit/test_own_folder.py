"""What a run may do with its own folder, and what it never does with others."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import run as program
from kedit_glue.execute import OutputMissing
from kedit_glue.job import Options, run
from kedit_glue.problems import CannotStart
from kedit_glue.recipe import RecipeError


def go(workplace: Any, display: Any, *overrides: str, **more: Any) -> list[str]:
    run(Options(workplace.recipe, overrides, python=workplace.tool.python, **more), display)
    found: list[str] = workplace.tool.calls()
    return found


def tree(folder: Path) -> dict[str, bytes]:
    left = (".lock", ".stage.lock", "log.txt", "events.jsonl")
    return {str(f): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file() and f.name not in left}


@pytest.mark.parametrize("fresh", [False, True])
def test_a_runs_own_model_is_not_edited_in_its_place(workplace: Any, display: Any, fresh: bool) -> None:
    go(workplace, display)
    before = tree(workplace.run_folder)
    own = workplace.run_folder / "model"
    said = re.escape(f"model is {own}, in this run's own folder, which the run writes anew: give the run another name")
    with pytest.raises(CannotStart, match=said):
        go(workplace, display, f"model={own}", fresh=fresh)
    assert tree(workplace.run_folder) == before
    assert "batch_001/train" in go(workplace, display, f"model={own}", "name=second_round")


def test_facts_in_the_runs_own_folder_are_not_read(workplace: Any, display: Any) -> None:
    go(workplace, display)
    mine = shutil.copy(workplace.values["edits"]["source"], workplace.run_folder / "mine.json")
    with pytest.raises(CannotStart, match=r"edits\.source is .*mine\.json, in this run's own folder"):
        go(workplace, display, f"edits.source={mine}", fresh=True)
    assert Path(mine).is_file()


def test_fresh_deletes_no_folder_that_is_no_runs(workplace: Any, display: Any) -> None:
    folder = workplace.run_folder
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(CannotStart, match=r"that is no run's folder \(notes\.txt\): set output: or name: to another"):
        go(workplace, display, fresh=True)
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "mine"
    (folder / "notes.txt").unlink()
    assert "batch_001/train" in go(workplace, display, fresh=True)


def test_a_stage_that_is_forced_is_not_taken_from_another_run(workplace: Any, display: Any) -> None:
    go(workplace, display, "keep=all")
    beside = {"elsewhere": [workplace.run_folder]}
    assert go(workplace, display, "name=other", **beside) == ["setup/prepare"]
    assert "batch_003/merge" in go(workplace, display, "name=other", force=["batch_003/merge"], **beside)


def test_a_run_is_not_beside_itself(workplace: Any, display: Any) -> None:
    go(workplace, display)
    again = go(workplace, display, force=["batch_003/merge"], elsewhere=[workplace.run_folder])
    assert "batch_003/merge" in again
    assert (workplace.run_folder / "scores.json").is_file()


def test_a_conflict_leaves_the_records_as_they_are(workplace: Any, display: Any) -> None:
    go(workplace, display)
    train = workplace.run_folder / "batch_002" / "train.yaml"
    text = train.read_text(encoding="utf-8")
    train.write_text(text.replace("num_train_epochs: 3", "num_train_epochs: 9"), encoding="utf-8")
    before = tree(workplace.run_folder)
    with pytest.raises(ValueError, match="was edited by hand, and the recipe changed it as well"):
        go(workplace, display, "train.epochs=5")
    assert tree(workplace.run_folder) == before


def test_the_command_that_goes_on_forces_the_same(
    workplace: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*given: Any) -> None:
        raise OutputMissing("no luck")

    monkeypatch.setattr(program, "run", fail)
    words = ["--set", "train.epochs=5", "--force", "merge", "--from", "2", "--beside", "runs/a b"]
    assert program.main([str(workplace.recipe), *words]) == 1
    told = capsys.readouterr()
    assert f"python -m kedit_glue.run {shlex.join([str(workplace.recipe), *words])}" in told.out + told.err


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("{file}", "is a file; allowed: a folder, new or not"),
        ("{file}/deeper", "is a file; allowed: a folder, new or not"),
        ('"a\\0b"', "allowed: a path; embedded null"),
    ],
)
def test_an_output_that_can_be_no_folder(workplace: Any, display: Any, output: str, said: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(said)):
        go(workplace, display, f"output={output.format(file=workplace.recipe)}")


def test_an_output_in_the_home(workplace: Any, display: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    go(workplace, display, "output=~/my_runs")
    assert json.loads((tmp_path / "home" / "my_runs" / workplace.run_folder.name / "scores.json").read_text())
    assert not Path("~").exists()


@pytest.mark.parametrize("value", ["score.edits.judge={model: x, endpoint: 'http://ann:s3cr3t@host/v1'}"])
def test_a_login_inside_a_mapping_is_refused(workplace: Any, display: Any, value: str) -> None:
    with pytest.raises(RecipeError, match="a URL with a login in it"):
        go(workplace, display, value)
