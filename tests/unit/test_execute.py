"""Stages one after another: what a failure leaves, and what is done again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from kedit_glue.execute import OutputMissing, execute, export, has_content
from kedit_glue.keeping import Keeper
from kedit_glue.ledger import Ledger
from kedit_glue.modules import Trained
from kedit_glue.plan import Plan, Stage, partial
from kedit_glue.progress import Display
from kedit_glue.runner import Job, Runner, StageFailed
from kedit_glue.weights import read_header

RunIt = Callable[..., list[str]]


def merge_stage(folder: Path, number: int, after: tuple[str, ...] = (), setting: int = 0) -> Stage:
    batch = folder / f"batch_{number:03d}"
    output = batch / "merged"
    arguments = {"output": str(partial(output)), "shift": setting}
    job = Job(f"batch {number}: merge", "merge", arguments, batch, "merge", "look")
    return Stage(f"batch_{number:03d}/merge", number, job, (), after, output, {"weight": setting})


def plan_of(folder: Path, *settings: int) -> Plan:
    """A chain of merges, each after the one before."""
    stages: list[Stage] = []
    for number, setting in enumerate(settings, 1):
        stages.append(merge_stage(folder, number, tuple(s.name for s in stages[-1:]), setting))
    return Plan((), (), {}, tuple(stages), stages[-1].output, Trained("mlp", "mlp", 2))


@pytest.fixture
def run_it(tmp_path: Path, tool: Any, display: Display) -> RunIt:
    """Runs a plan; returns which stages were begun."""

    def run(*settings: int, keep: str = "all", again: Mapping[str, str] | None = None, **versions: str) -> list[str]:
        plan, ledger = plan_of(tmp_path / "run", *settings), Ledger(versions)
        keeper = Keeper(plan, ledger, keep, tmp_path / "original")
        execute(plan, ledger, Runner("command", {}, python=tool.python), display, keeper, again or {})
        return [name.removesuffix("/merge") for name in tool.calls()]

    return run


def said(display: Display) -> str:
    text: str = display.console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_each_stage_once(run_it: RunIt, tmp_path: Path, display: Display) -> None:
    assert run_it(0, 0, 0) == ["batch_001", "batch_002", "batch_003"]
    assert list(read_header(tmp_path / "run" / "batch_003" / "merged" / "model.safetensors")) == ["a.mlp.b"]
    assert list(tmp_path.rglob("*.partial")) == []
    assert run_it(0, 0, 0) == []
    assert "3 of 3 stages are done and stand" in said(display)


def test_what_failed_and_what_comes_after_is_done_next_time(run_it: RunIt, tool: Any, display: Display) -> None:
    tool.behave({"batch_002/merge": "exit_3"})
    with pytest.raises(StageFailed, match="batch 2: merge: exit code 3"):
        run_it(0, 0, 0)
    assert tool.calls() == ["batch_001/merge", "batch_002/merge"]
    tool.behave()
    assert run_it(0, 0, 0) == ["batch_002", "batch_003"]
    assert "1 of 3 stages are done and stand" in said(display)


@pytest.mark.parametrize("behaviour", ["killed", "terminated", "half_output_then_exit_1", "no_result", "bad_result"])
def test_an_output_of_a_failed_tool_is_never_taken(run_it: RunIt, tool: Any, tmp_path: Path, behaviour: str) -> None:
    tool.behave({"batch_001/merge": behaviour})
    with pytest.raises(StageFailed):
        run_it(0, 0)
    assert not (tmp_path / "run" / "batch_001" / "merged").exists()
    assert not list((tmp_path / "run").rglob("*.record.json"))
    tool.calls()
    tool.behave()
    assert run_it(0, 0) == ["batch_001", "batch_002"]


@pytest.mark.parametrize("behaviour", ["no_output", "no_weights", "empty_file"])
def test_a_tool_that_says_done_and_is_not(run_it: RunIt, tool: Any, tmp_path: Path, behaviour: str) -> None:
    tool.behave({"batch_002/merge": behaviour})
    with pytest.raises(OutputMissing) as caught:
        run_it(0, 0)
    batch = tmp_path / "run" / "batch_002"
    assert str(caught.value).splitlines() == [
        f"batch 2: merge: the tool ended without an error but wrote nothing to {batch / 'merged.partial'}",
        f"  log: {batch / 'merge.log'}",
        "  what to do: look",
    ]
    tool.calls()
    tool.behave()
    assert run_it(0, 0) == ["batch_002"]


def test_what_changed_and_what_follows_is_done_again(run_it: RunIt, display: Display) -> None:
    run_it(0, 0, 0)
    assert run_it(0, 5, 0) == ["batch_002", "batch_003"]
    assert "again: batch_002/merge: changed: setting weight" in said(display)
    assert "again: batch_003/merge: an earlier stage is done again (batch_002/merge)" in said(display)


def test_a_failed_change_leaves_no_old_record(run_it: RunIt, tool: Any, tmp_path: Path) -> None:
    """The old output is gone when the new one fails: going back to the old recipe must make it again."""
    run_it(0, 0)
    tool.behave({"batch_002/merge": "exit_3"})
    with pytest.raises(StageFailed):
        run_it(0, 5)
    tool.calls()
    tool.behave()
    assert run_it(0, 0) == ["batch_002"]


def test_another_version_of_a_tool_redoes_everything(run_it: RunIt, display: Display) -> None:
    run_it(0, 0, mergekit="1")
    assert run_it(0, 0, mergekit="2") == ["batch_001", "batch_002"]
    assert "changed: version of mergekit" in said(display)


def test_keep_last_deletes_what_nothing_reads(run_it: RunIt, tmp_path: Path) -> None:
    run_it(0, 0, 0, keep="last")
    kept = sorted(p.parent.name for p in (tmp_path / "run").rglob("merged") if p.is_dir())
    assert kept == ["batch_003"]
    assert run_it(0, 0, 0, keep="last") == []
    # a change in the last batch needs the model before it, and so on back to the first
    assert run_it(0, 0, 5, keep="last") == ["batch_001", "batch_002", "batch_003"]


def test_what_a_run_beside_did_is_taken_over(tmp_path: Path, tool: Any, display: Display) -> None:
    def run(name: str, *settings: int, keep: str = "all") -> tuple[int, list[str]]:
        plan = plan_of(tmp_path / name, *settings)
        ledger = Ledger({}, tmp_path / name, [tmp_path / "one", tmp_path / "two"])
        keeper = Keeper(plan, ledger, keep, tmp_path / "original")
        ran = execute(plan, ledger, Runner("command", {}, python=tool.python), display, keeper, {})
        return ran, [call.removesuffix("/merge") for call in tool.calls()]

    assert run("one", 0, 0, 0) == (3, ["batch_001", "batch_002", "batch_003"])
    assert run("two", 0, 5, 0) == (2, ["batch_002", "batch_003"])
    assert "batch 1: merge: taken from one" in said(display)
    assert run("three", 0, 5, 6, keep="last") == (1, ["batch_003"])
    assert "batch 2: merge: taken from two" in said(display)
    assert sorted(p.parent.name for p in (tmp_path / "three").rglob("merged") if p.is_dir()) == ["batch_003"]
    assert run("one", 0, 0, 0) == (0, [])  # what the others released is still there


def test_what_is_asked_for_is_done_again_once(run_it: RunIt, display: Display) -> None:
    run_it(0, 0, 0)
    assert run_it(0, 0, 0, again={"batch_002/merge": "because"}) == ["batch_002"], "the same came out"
    assert "again: batch_002/merge: because" in said(display)
    assert run_it(0, 0, 0) == []


def test_every_stage_is_told_of_once(run_it: RunIt, tool: Any, display: Display) -> None:
    """Also where what stood has to follow: what was said before is not said again."""
    run_it(0, 0, 0)
    begun = len(said(display))
    tool.behave({"batch_001/merge": "otherwise"})
    assert run_it(0, 0, 0, again={"batch_001/merge": "because"}) == ["batch_001", "batch_002"]
    lines = [line for line in said(display)[begun:].splitlines() if "merge …" not in line and "done in" not in line]
    assert lines == [
        "2 of 3 stages are done and stand (batch_002/merge, batch_003/merge)",
        "again: batch_001/merge: because",
        "again: batch_002/merge: it was made from another output of batch_001/merge",
    ]


def test_the_log_tells_what_happened(run_it: RunIt, display: Display, tmp_path: Path) -> None:
    display.log = tmp_path / "log.txt"
    run_it(0)
    log = display.log.read_text(encoding="utf-8")
    assert "batch 1: merge: done in 0 s, change's norm 2.00 -> 1.40, 100% of the numbers differ" in log


def test_has_content(tmp_path: Path) -> None:
    assert not has_content(tmp_path / "none")
    file = tmp_path / "answers.json"
    file.write_text("")
    assert not has_content(file)
    file.write_text("{}")
    assert has_content(file)
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"x")
    assert not has_content(model)
    (model / "config.json").write_text("{}")
    assert has_content(model)
    (model / "model.safetensors").write_bytes(b"")
    assert not has_content(model)


def test_export_replaces_an_older_model(tmp_path: Path) -> None:
    model, extra, target = tmp_path / "merged", tmp_path / "report.md", tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"new")
    extra.write_text("report")
    target.mkdir()
    (target / "old.safetensors").write_bytes(b"old")
    export(model, tmp_path, "a card", [extra])
    assert (target / "README.md").read_text() == "a card"
    assert sorted(str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()) == [
        "README.md",
        "model.safetensors",
        "provenance/report.md",
    ]


def test_where_no_model_is_left_the_files_that_say_how_are(tmp_path: Path) -> None:
    extra = tmp_path / "report.md"
    extra.write_text("report")
    export(None, tmp_path, "", [extra])
    assert (tmp_path / "provenance" / "report.md").read_text() == "report"
    assert not (tmp_path / "model").exists()
