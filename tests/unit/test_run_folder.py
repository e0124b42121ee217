"""A run's folder opened to be read: what a run that goes on there would see, wherever the folder lies by now."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kedit_glue import strict_yaml
from kedit_glue.locks import held
from kedit_glue.problems import CannotStart
from kedit_glue.recipe import normalized
from kedit_glue.run_folder import holder, open_run

Go = Callable[..., list[str]]


def reasons(folder: Path) -> dict[str, str]:
    opened = open_run(folder)
    return {item.stage.name: item.reason for item in opened.ledger.todo(opened.plan.stages) if item.reason}


def on_disk(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in folder.rglob("*")}


def refused(folder: Path) -> str:
    with pytest.raises(CannotStart) as caught:
        open_run(folder)
    return str(caught.value)


# -- what is found ------------------------------------------------------------------------------


def test_a_whole_run_stands_and_nothing_is_written(workplace: Any, go: Go) -> None:
    go("train.epochs=4")
    folder = workplace.run_folder
    before = on_disk(folder)
    opened = open_run(Path("runs/../runs/try/"))
    assert [t.reason for t in opened.ledger.todo(opened.plan.stages)] == [None] * 12
    assert on_disk(folder) == before
    assert (opened.folder, opened.model, opened.device) == (folder, str(workplace.folder / "model"), "cpu")
    assert strict_yaml.dump(normalized(opened.recipe)) == (folder / "resolved.yaml").read_text(encoding="utf-8")
    assert opened.recipe.train.epochs == 4
    assert opened.plan.final_model == folder / "batch_003" / "merged"
    assert opened.origin == {
        "folder": str(folder),
        "model": str(workplace.folder / "model"),
        "device": "cpu",
        "recipe": str(workplace.recipe),
        "set": ["train.epochs=4"],
        "cwd": str(workplace.folder),
    }


@pytest.mark.parametrize(
    "values",
    [
        {"train": {"layers": [0, 1], "epochs": 3, "from": "base"}, "merge": {"when": "end", "onto": "base"}},
        {"train": {"parameters": r"mlp\.down_proj", "epochs": 3}},
        {"keep": "last"},
    ],
)
def test_every_form_of_recipe_is_read_as_it_was_written(workplace: Any, go: Go, values: dict[str, Any]) -> None:
    merge = {**workplace.values["merge"], **values.pop("merge", {})}
    workplace.values |= {**values, "merge": merge}
    workplace.write()
    go()
    assert reasons(workplace.run_folder) == {}
    text = (workplace.run_folder / "resolved.yaml").read_text(encoding="utf-8")
    assert strict_yaml.dump(normalized(open_run(workplace.run_folder).recipe)) == text


def test_what_stopped_in_the_middle(workplace: Any, go: Go) -> None:
    workplace.tool.behave({"batch_002/merge": "exit_3"})
    with pytest.raises(RuntimeError):
        go()
    assert list(reasons(workplace.run_folder)) == [
        "batch_002/merge",
        "batch_002/edits",
        "batch_003/train",
        "batch_003/merge",
        "batch_003/edits",
        "batch_003/general",
    ]


def test_a_folder_that_was_moved_stands(workplace: Any, go: Go) -> None:
    go()
    target = workplace.folder / "elsewhere" / "again"
    target.parent.mkdir()
    shutil.move(workplace.run_folder, target)
    opened = open_run(target)
    assert opened.folder == target and opened.plan.final_model == target / "batch_003" / "merged"
    assert reasons(target) == {}
    # as the run itself finds; it only asks the tokenizer for facts in a new place
    assert go("output=elsewhere", "name=again") == ["setup/prepare"]
    assert open_run(target).origin["folder"] == str(target)
    train = target / "batch_002" / "train.yaml"
    assert str(target) in train.read_text(encoding="utf-8")


def test_a_folder_that_was_moved_to_where_paths_are_quoted(workplace: Any, go: Go) -> None:
    go()
    target = workplace.folder / "else where" / "again"
    target.parent.mkdir()
    shutil.move(workplace.run_folder, target)
    assert reasons(target) == {}
    assert go("output=else where", "name=again")[1:] == []


def test_a_hand_edit_in_a_folder_that_was_moved(workplace: Any, go: Go) -> None:
    go()
    file = workplace.run_folder / "batch_003" / "merge.yaml"
    text = file.read_text(encoding="utf-8")
    assert "weight: 0.7" in text
    file.write_text(text.replace("weight: 0.7", "weight: 0.6"), encoding="utf-8")
    target = workplace.folder / "runs" / "try" / ".." / "tried"
    shutil.move(workplace.run_folder, target)
    assert reasons(workplace.folder / "runs" / "tried") == {
        "batch_003/merge": "changed: merge.yaml",
        "batch_003/edits": "an earlier stage is done again (batch_003/merge)",
        "batch_003/general": "an earlier stage is done again (batch_003/merge)",
    }


def test_a_folder_behind_a_link(workplace: Any, go: Go) -> None:
    go()
    (workplace.folder / "link").symlink_to(workplace.folder / "runs")
    assert open_run(workplace.folder / "link" / "try").folder == workplace.run_folder
    assert reasons(workplace.folder / "link" / "try") == {}


def test_data_that_is_gone_by_now_is_not_needed(workplace: Any, go: Go) -> None:
    go()
    (workplace.folder / "facts.json").unlink()
    workplace.recipe.unlink()
    assert reasons(workplace.run_folder) == {}


def test_files_that_the_next_run_writes_again(workplace: Any, go: Go) -> None:
    go()
    for name in ("train.yaml", "edits.json"):
        (workplace.run_folder / "batch_001" / name).unlink()
    assert reasons(workplace.run_folder) == {}
    assert go() == []
    # a dry run leaves edits.json without the end of the targets
    go(dry_run=True)
    assert reasons(workplace.run_folder) == {}


def test_a_file_outside_that_is_gone(workplace: Any, go: Go) -> None:
    corpus = workplace.folder / "texts.jsonl"
    corpus.write_text('{"text": "a"}\n', encoding="utf-8")
    workplace.values["merge"]["protect"] = {"directions": 3, "corpus": "texts.jsonl"}
    workplace.write()
    workplace.tool.behave({"protect": "exit_3"})
    with pytest.raises(RuntimeError):
        go()
    assert reasons(workplace.run_folder)["base/protect"] == "not done yet"
    corpus.unlink()
    assert reasons(workplace.run_folder)["base/protect"] == "not done yet"


def test_another_model_in_the_same_folder(workplace: Any, go: Go) -> None:
    go()
    config = workplace.folder / "model" / "config.json"
    config.write_text(config.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert reasons(workplace.run_folder)["base/edits"] == "changed: setting model"


def test_no_tool_is_imported() -> None:
    code = (
        "import sys, kedit_glue.run_folder, kedit_glue.status\n"
        "tools = {'torch', 'transformers', 'llamafactory', 'mergekit', 'easyeditor', 'lm_eval', 'numpy'}\n"
        "print(sorted(tools & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


# -- what cannot be opened ----------------------------------------------------------------------


def test_no_such_folder_names_the_runs_beside_it(workplace: Any, go: Go) -> None:
    go()
    runs = workplace.folder / "runs"
    assert refused(runs / "tri") == f"{runs / 'tri'}: no such folder; runs in {runs}: try"
    assert refused(workplace.folder / "nope" / "x") == f"{workplace.folder / 'nope' / 'x'}: no such folder"


def test_a_folder_of_runs_is_no_run(workplace: Any, go: Go) -> None:
    go()
    runs = workplace.folder / "runs"
    for name in "abcdefghi":
        shutil.copytree(workplace.run_folder, runs / name)
    said = refused(runs)
    assert said == (
        f"{runs} is not a run's folder: it holds no resolved.yaml; runs in {runs}: a, b, c, d, e, f, g, h and 2 more"
    )
    assert refused(workplace.folder / "model").endswith("model is not a run's folder: it holds no resolved.yaml")


def test_a_file_is_no_folder(workplace: Any) -> None:
    assert refused(workplace.recipe) == f"{workplace.recipe}: no such folder"


@pytest.mark.parametrize("dry", ["dry_run", "check"])
def test_a_run_that_was_only_looked_at(workplace: Any, go: Go, dry: str) -> None:
    go(**{dry: True})
    folder = workplace.run_folder
    assert refused(folder) == f"{folder} never got to its facts: only its recipe was checked; run it first"


def test_a_run_that_never_got_to_its_facts(workplace: Any, go: Go) -> None:
    workplace.tool.behave({"prepare": "exit_3"})
    with pytest.raises(RuntimeError):
        go()
    folder = workplace.run_folder
    expected = f"{folder} never got to its facts: its recipe, facts or model could not be used; run it first"
    assert refused(folder) == expected
    with held(folder):
        said = f"{folder} has not got to its facts yet: process {os.getpid()} works on it; look again in a minute"
        assert refused(folder) == said


def test_a_study_is_no_run(workplace: Any, go: Go) -> None:
    go("output=runs/weights", "name=low")
    study = workplace.folder / "runs" / "weights"
    with held(study):
        assert refused(study) == f"{study} is not a run's folder: it holds no resolved.yaml; runs in {study}: low"


AGAIN = "run its recipe again (--check is enough), which writes it anew"


def test_another_version_wrote_the_recipe(workplace: Any, go: Go) -> None:
    go()
    file = workplace.run_folder / "resolved.yaml"
    plain = yaml.safe_load(file.read_text(encoding="utf-8"))
    plain["train"]["warp"] = 9
    file.write_text(yaml.safe_dump(plain), encoding="utf-8")
    why = "train.warp: Extra inputs are not permitted"
    assert refused(workplace.run_folder) == (
        f"{file} was written by another version of kedit_glue, or damaged ({why}): {AGAIN}"
    )
    file.write_text("train: [", encoding="utf-8")
    assert refused(workplace.run_folder).startswith(f"{file} was written by another version of kedit_glue, or damaged")
    # and what it advises helps
    go(check=True)
    assert reasons(workplace.run_folder) == {}


@pytest.mark.parametrize("text", ["[", "{}", "", "\x00"])
def test_damaged_facts(workplace: Any, go: Go, text: str) -> None:
    go()
    (workplace.run_folder / "facts.json").write_text(text, encoding="utf-8")
    assert refused(workplace.run_folder).startswith(f"{workplace.run_folder / 'facts.json'} is damaged (")


@pytest.mark.parametrize("keep", [None, {}, {"model": "m", "device": "cpu"}])
def test_a_run_that_does_not_say_its_model(workplace: Any, go: Go, keep: dict[str, str] | None) -> None:
    go()
    folder = workplace.run_folder
    place = folder / "setup" / "place.json"
    place.unlink()
    if keep is not None:
        place.write_text(json.dumps(keep), encoding="utf-8")
    assert refused(folder) == f"{folder} does not say which model it began with (setup/place.json): {AGAIN}"
    go(check=True)
    assert reasons(folder) == {}


def test_the_model_is_gone(workplace: Any, go: Go) -> None:
    go()
    folder = workplace.run_folder
    shutil.move(workplace.folder / "model", workplace.folder / "other")
    said = f"{folder} began with the model {workplace.folder / 'model'}, which is not there: put it back"
    assert refused(folder) == said


def test_the_merge_file_is_gone(workplace: Any, go: Go) -> None:
    own = workplace.folder / "own.yaml"
    own.write_text(
        "merge_method: task_arithmetic\nbase_model: previous\n"
        "models: [{model: tuned, parameters: {weight: 0.5}}]\ndtype: float32\n",
        encoding="utf-8",
    )
    workplace.values["merge"] = {"file": "own.yaml", "onto": "previous"}
    workplace.write()
    go()
    assert reasons(workplace.run_folder) == {}
    own.unlink()
    why = "no such file; allowed: an existing YAML file"
    assert refused(workplace.run_folder) == f"{workplace.run_folder} needs a file that cannot be used: {own}  {why}"


def test_mergekit_has_no_such_method_any_more(workplace: Any, go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    go()
    monkeypatch.setattr("kedit_glue.job.merge_methods", lambda: {})
    expected = f"{workplace.run_folder}: the installed mergekit has no method task_arithmetic: uv sync"
    assert refused(workplace.run_folder) == expected


# -- who holds it -------------------------------------------------------------------------------


def test_nobody_holds_it(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    (tmp_path / ".lock").write_text("12345", encoding="utf-8")  # a process that is dead
    assert holder(tmp_path) is None


def test_somebody_holds_it(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom kedit_glue.locks import held\n"
        "with held(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], **pipes) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        assert holder(tmp_path) == str(process.pid)
        process.kill()
    assert holder(tmp_path) is None


def test_asking_leaves_the_lock_alone(tmp_path: Path) -> None:
    with held(tmp_path):
        before = (tmp_path / ".lock").read_bytes()
        assert holder(tmp_path) is not None
        assert (tmp_path / ".lock").read_bytes() == before
        with pytest.raises(CannotStart, match="is in use by process"), held(tmp_path):
            pass
    assert holder(tmp_path) is None
    with held(tmp_path):
        pass
