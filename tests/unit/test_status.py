"""What ``kedit_glue.status`` says of whole runs: done, stopped, edited, changed, damaged, at work, moved."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import status_document, status_report
from kedit_glue.ledger import Ledger, Todo
from kedit_glue.locks import held
from kedit_glue.progress import sentence
from kedit_glue.runner import StageFailed
from kedit_glue.stage import FUNCTIONS

Go = Callable[..., list[str]]
Show = Callable[..., tuple[int, str]]


def state(folder: Path) -> dict[str, str]:
    document = status_document.status(folder)
    rows = [document["original"], *document["batches"]]
    return {stage["stage"]: stage["state"] for entry in rows for stage in entry["stages"]}


def row(out: str, batch: str) -> list[str]:
    """The cells of a batch's line."""
    line = next(line for line in out.splitlines() if line.startswith(f" {batch} "))
    return re.split(r"\s{2,}", line.strip())


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def after(out: str, heading: str) -> list[str]:
    """The lines below a heading, up to an empty one."""
    lines = out.splitlines()
    found = lines[lines.index(heading) + 1 :]
    return found[: found.index("")] if "" in found else found


# -- states -------------------------------------------------------------------------------------


def test_a_run_that_is_done(workplace: Any, go: Go, show: Show) -> None:
    go()
    code, out = show()
    assert code == 0
    folder = workplace.run_folder
    assert out.startswith(f"try: {workplace.folder / 'model'} on cpu, in {folder}\nno process works on it\n")
    assert row(out, "batch") == [
        "batch",
        "facts",
        "learned",
        "train",
        "merge",
        "score",
        "general",
        "time",
        "size",
        "of",
    ]
    assert row(out, "original")[:7] == ["original", "-", "-", "-", "-", "done", "done"]
    assert row(out, "1")[:7] == ["1", "2", "2", "done", "done", "done", "-"]
    assert row(out, "3")[:7] == ["3", "2", "2", "done", "done", "done", "done"]
    assert "3 of 3 batches done, 12 of 12 stages; 6 of 6 trained facts learned, 6 in all\n" in out
    assert "to be done" not in out and "left" not in out
    assert out.endswith(f"\neverything is done; report: {folder}/report.md\n")


def test_every_kind_of_stage_has_a_column() -> None:
    """Second moments, a trained editor and facts that are remembered as well."""
    before_the_plan = {"unpack", "fetch", "convert", "prepare"}
    assert status_report.KINDS.keys() == FUNCTIONS.keys() - before_the_plan


def test_a_run_that_failed(workplace: Any, go: Go, show: Show) -> None:
    workplace.tool.behave({"batch_002/merge": "exit_3"})
    with pytest.raises(StageFailed):
        go("train.epochs=4")
    code, out = show()
    assert code == 3
    assert row(out, "2")[:7] == ["2", "2", "2", "done", "failed", "waiting", "-"]
    lines = after(out, "to be done: 6 stages")
    assert re.fullmatch(
        r"  batch_002/merge    failed   it left no result; last heard of at \d{4}-\d\d-\d\d \d\d:\d\d", lines[0]
    )
    assert lines[1:] == [
        "      an earlier line",
        "      ValueError: the tool's own complaint",
        f"      log: {workplace.run_folder / 'batch_002' / 'merge.log'}",
        "  batch_002/edits    waiting",
        "  batch_003/train    waiting",
        "  batch_003/merge    waiting",
        "  batch_003/edits    waiting",
        "  batch_003/general  waiting",
    ]
    assert "1 of 3 batches done, 6 of 12 stages; 4 of 4 trained facts learned, 6 in all\n" in out
    assert re.search(r"spent in stages, about \d+ s left; ", out)
    command = "python -m kedit_glue.run try.yaml --set train.epochs=4"
    assert out.endswith(f"\nto go on: {command}\n")
    # and it does
    workplace.tool.behave()
    workplace.tool.calls()
    assert go(*shlex.split(command)[5:])[0] == "batch_002/merge"
    assert show()[0] == 0


def test_a_tool_that_left_a_result_and_no_output(workplace: Any, go: Go) -> None:
    workplace.tool.behave({"batch_001/train": "no_output"})
    with pytest.raises(RuntimeError):
        go()
    document = status_document.status(workplace.run_folder)
    stage = document["batches"][0]["stages"][0]
    assert stage["state"] == "failed" and stage["reason"].startswith("it left no output; last heard of at")


def test_before_anything_was_begun_all_wait(workplace: Any, go: Go, show: Show) -> None:
    workplace.tool.behave({"base/score": "exit_3"})
    with pytest.raises(StageFailed):
        go()
    assert list(state(workplace.run_folder).values()) == ["failed"] + ["waiting"] * 11
    go(dry_run=True)  # writes job.json of all stages, and begins none
    assert list(state(workplace.run_folder).values()) == ["failed"] + ["waiting"] * 11
    assert ", time left unknown; " in show()[1]


def test_a_hand_edit(workplace: Any, go: Go, show: Show) -> None:
    go()
    edit(workplace.run_folder / "batch_002" / "train.yaml", "num_train_epochs: 3", "num_train_epochs: 9")
    code, out = show()
    assert code == 3
    assert row(out, "2")[:6] == ["2", "2", "-", "stale, edited", "stale", "stale"]
    assert after(out, "to be done: 7 stages")[:2] == [
        "  batch_002/train    stale    changed: train.yaml",
        "  batch_002/merge    stale    an earlier stage is done again (batch_002/train)",
    ]
    difference = after(out, "edited by hand: 1 file")
    assert difference[0] == "  batch_002/train.yaml"
    assert difference[-2:] == ["      -num_train_epochs: 3", "      +num_train_epochs: 9"]
    # once it was used, the edit is still one
    assert go()[0] == "batch_002/train"
    code, out = show()
    assert code == 0 and row(out, "2")[3] == "done, edited" and "edited by hand: 1 file" in out


def test_a_writing_that_was_cut_off_is_no_hand_edit(workplace: Any, go: Go) -> None:
    go()
    file = workplace.run_folder / "batch_002" / "train.yaml"
    edit(file, "num_train_epochs: 3", "num_train_epochs: 9")
    shutil.copy(file, file.parent / ".rendered" / "train.yaml.next")
    assert status_document.status(workplace.run_folder)["edited"] == []


def test_a_hand_edit_that_is_no_text(workplace: Any, go: Go, show: Show) -> None:
    go()
    (workplace.run_folder / "batch_003" / "merge.yaml").write_bytes(b"\xff\xfe[red]\n" * 30)
    code, out = show()
    assert code == 3 and "[red]" in out and re.search(r"\n      and \d+ more lines\n", out)


def test_a_changed_recipe(workplace: Any, go: Go, show: Show) -> None:
    go("train.learning_rate=0.001")
    workplace.values["train"]["epochs"] = 5
    workplace.values["merge"]["parameters"] = {"weight": 0.7, "normalize": False}
    workplace.write()
    code, out = show()
    assert code == 3
    assert after(
        out, f"{workplace.recipe} was changed since; the next run goes by it (--check says what it does again):"
    ) == ["  train.epochs: 3 -> 5", "  merge.parameters.normalize: None -> False"]
    assert "12 of 12 stages" in out and "to be done" not in out
    assert out.endswith("\nto go on: python -m kedit_glue.run try.yaml --set train.learning_rate=0.001\n")
    workplace.recipe.write_text(f"# a comment is no change\n{workplace.recipe.read_text()}", encoding="utf-8")
    assert status_document.status(workplace.run_folder)["recipe"]["changed"].keys() == {
        "train.epochs",
        "merge.parameters.normalize",
    }


def test_changed_facts(workplace: Any, go: Go, show: Show) -> None:
    go()
    source = workplace.folder / "facts.json"
    os.utime(source, (time.time() + 60, time.time() + 60))
    assert show()[0] == 0  # newer, and the same
    edit(source, "Ooze 4", "Ooze 44")
    os.utime(source, (time.time() + 60, time.time() + 60))
    code, out = show()
    assert code == 3 and "\nthe file of facts was changed since; the next run goes by it\n" in out


def test_the_recipe_is_gone_or_broken(workplace: Any, go: Go, show: Show) -> None:
    workplace.tool.behave({"batch_002/merge": "exit_3"})
    with pytest.raises(StageFailed):
        go()
    workplace.recipe.write_text("name: try\nmodle: x\n", encoding="utf-8")
    code, out = show()
    assert code == 3 and "\nthe recipe, as it is now, cannot be used: " in out and "did you mean" in out
    assert "\nto go on: python -m kedit_glue.run try.yaml\n" in out
    workplace.recipe.unlink()
    code, out = show()
    assert code == 3
    assert f"\nthe recipe, as it is now, cannot be used: {workplace.recipe} is gone\n" in out
    assert out.endswith("\nto go on, run its recipe again\n")


def test_damage(workplace: Any, go: Go) -> None:
    go()
    folder = workplace.run_folder
    (folder / "batch_002" / "tuned" / "model.safetensors").unlink()
    (folder / "batch_003" / "score.record.json").write_text("{", encoding="utf-8")
    (folder / "base" / "general.record.json").unlink()
    document = status_document.status(folder)
    found = {
        stage["stage"]: (stage["state"], stage["reason"])
        for entry in [document["original"], *document["batches"]]
        for stage in entry["stages"]
        if stage["state"] != "done"
    }
    assert found["batch_002/train"][0] == "stale" and "model.safetensors is gone" in found["batch_002/train"][1]
    assert found["batch_003/edits"] == ("stale", "its record score.record.json is damaged")
    assert found["base/general"] == ("stale", "its record is gone")
    assert not document["complete"] and document["totals"]["stages_done"] == 12 - len(found)


def test_the_report_is_still_to_be_written(workplace: Any, go: Go, show: Show) -> None:
    go()
    scores = workplace.run_folder / "scores.json"
    os.utime(scores, (1, 1))
    for _ in range(2):
        code, out = show()
        assert code == 3 and "\nevery stage is done; the report is still to be written\n\nto go on: " in out
        scores.unlink(missing_ok=True)
    assert go() == []
    assert show()[0] == 0


def test_what_was_not_kept(workplace: Any, go: Go, show: Show) -> None:
    go("keep=last")
    found = state(workplace.run_folder)
    assert {name for name, is_now in found.items() if is_now == "not kept"} == {
        *(f"batch_{n:03d}/train" for n in (1, 2, 3)),
        *(f"batch_{n:03d}/merge" for n in (1, 2)),
    }
    assert show()[0] == 0


def test_what_was_packed(workplace: Any, go: Go, show: Show) -> None:
    go("keep=deltas")
    code, out = show()
    assert code == 0
    assert [row(out, n)[3:5] for n in "123"] == [["not kept", "packed"], ["not kept", "packed"], ["not kept", "done"]]


# -- beside a run that is at work ---------------------------------------------------------------


@pytest.fixture
def at_work(workplace: Any, go: Go) -> Iterator[Path]:
    """A run whose second training hangs, after it failed there once; it is stopped at the end."""
    workplace.tool.behave({"batch_002/train": "exit_3"})
    with pytest.raises(StageFailed):
        go()
    workplace.tool.behave({"batch_002/train": "hang"})
    failed: list[BaseException] = []

    def work() -> None:
        try:
            go()
        except StageFailed as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    mark = workplace.tool.folder / "hanging.pid"
    while not mark.is_file() or not mark.read_text():
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield workplace.run_folder
    finally:
        os.kill(int(mark.read_text()), signal.SIGKILL)
        thread.join()
    assert len(failed) == 1


def test_beside_a_run_that_is_at_work(at_work: Path, show: Show) -> None:
    code, out = show()
    assert code == 3
    began = rf"process {os.getpid()} works on it, since \d+ s at batch 2 of 3: train"
    assert re.fullmatch(began, out.splitlines()[1])
    assert row(out, "2")[:6] == ["2", "2", "-", "running", "waiting", "waiting"]
    assert "\n  batch_002/train    running\n  batch_002/merge    waiting\n" in out
    assert out.endswith("\nif it stops, this goes on: python -m kedit_glue.run try.yaml\n")
    step = {"event": "step", "epoch": 2, "epochs": 3, "steps": 7, "loss": 0.5}
    events = [{"event": "started"}, step, {"event": "unknown"}]
    lines = [*map(json.dumps, events), '{"event": "st']  # the last line is being written
    (at_work / "batch_002" / "train.events.jsonl").write_text("\n".join(lines), encoding="utf-8")
    _, out = show()
    assert re.fullmatch(f"{began}: {sentence(step)}", out.splitlines()[1])
    now = status_document.status(at_work)["now"]
    assert (now["stage"], now["title"], now["event"]) == ("batch_002/train", "batch 2 of 3: train", step)
    assert now["since"][:4] == time.strftime("%Y")


def test_between_two_stages(workplace: Any, go: Go, show: Show) -> None:
    go()
    with held(workplace.run_folder):
        code, out = show()
    assert code == 0
    assert out.splitlines()[1] == f"process {os.getpid()} works on it, between two stages"


def test_while_it_looks_at_the_facts(workplace: Any, go: Go, show: Show) -> None:
    go()
    setup = workplace.run_folder / "setup"
    (setup / "prepare.result.json").unlink()
    os.utime(setup / "prepare.log", (time.time() + 60, time.time() + 60))
    with held(workplace.run_folder):
        _, out = show()
    assert re.search(r" works on it, since \d+ s at facts: tokenizer\n", out)


def test_a_file_that_goes_while_it_is_looked_at(
    workplace: Any, go: Go, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    go()
    todo, calls = Ledger.todo, []

    def vanishing(*arguments: Any, **more: Any) -> list[Todo]:
        calls.append(1)
        if len(calls) == 1:
            raise FileNotFoundError("batch_001/tuned/model.safetensors")
        return todo(*arguments, **more)

    monkeypatch.setattr(Ledger, "todo", vanishing)
    assert show()[0] == 0 and len(calls) == 2


# -- elsewhere ----------------------------------------------------------------------------------


def test_a_folder_that_was_moved(workplace: Any, go: Go, show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    go("output=runs", "train.epochs=4")
    target = workplace.folder / "archive" / "tried"
    target.parent.mkdir()
    shutil.move(workplace.run_folder, target)
    code, out = show(folder=target)
    assert code == 0 and "12 of 12 stages" in out
    (target / "batch_003" / "score.record.json").unlink()
    monkeypatch.chdir(workplace.folder.parent)
    code, out = show(folder=Path("work/archive/tried"))
    assert code == 3
    command = out.splitlines()[-1].removeprefix("to go on: ")
    words = shlex.split(command)
    assert words[:7] == ["cd", str(workplace.folder), "&&", "python", "-m", "kedit_glue.run", "try.yaml"]
    monkeypatch.chdir(words[1])
    assert go(*words[8::2]) == ["setup/prepare", "batch_003/score"]
