"""What a stage's process can do to us, and what the user is told."""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import stage
from kedit_glue.runner import LAST_LINES, Job, Runner, StageFailed, last_lines, signal_name
from kedit_glue.stage import quiet_environment


@pytest.fixture
def job(tmp_path: Path) -> Job:
    folder = tmp_path / "run" / "batch_001"
    output = folder / "merged.partial"
    return Job("batch 1 of 3: merge", "merge", {"output": str(output)}, folder, "merge", "lower the weight")


@pytest.fixture
def runner(tool: Any) -> Runner:
    made = Runner("command", quiet_environment(offline=True), python=tool.python)
    made.start()
    return made


def failure(runner: Runner, job: Job) -> str:
    with pytest.raises(StageFailed) as caught:
        runner.run(job)
    assert caught.value.job is job
    return str(caught.value)


def test_a_job_that_works(runner: Runner, job: Job) -> None:
    events: list[Mapping[str, Any]] = []
    assert runner.run(job, events.append)["task_vector_norm_merged"] == 1.4
    assert [e["event"] for e in events] == ["started"]
    assert events[0]["pid"] != os.getpid()
    assert json.loads(job.file("job.json").read_text()) == {
        "title": job.title,
        "function": "merge",
        "arguments": dict(job.arguments),
        "events": str(job.file("events.jsonl")),
        "result": str(job.file("result.json")),
        "threads": None,
        "lock": None,
        "gpus": None,
    }


@pytest.mark.parametrize(
    ("device", "function", "processes", "gpus"),
    [
        (None, "train", 1, None),
        ("cpu", "train", 1, 0),
        ("cpu", "train", 2, 0),
        ("cpu", "score", 1, 0),
        ("cuda:0", "train", 1, 1),
        ("cuda:0", "independent", 1, 1),
        ("cuda:0", "train", 2, None),
        ("cuda:0", "search", 1, None),
    ],
)
def test_which_gpus_a_stage_sees(
    runner: Runner, job: Job, device: str | None, function: str, processes: int, gpus: int | None
) -> None:
    """LLaMA-Factory takes a GPU that it sees, asked or not, and refuses to train by one process where it sees two."""
    runner.device = device
    job = replace(job, function=function, processes=processes)
    runner.write_job(job)
    assert json.loads(job.file("job.json").read_text())["gpus"] == gpus


@pytest.mark.parametrize(
    ("given", "gpus", "seen"),
    [
        (None, None, None),
        (None, 0, ""),
        (None, 1, "0"),
        ("2,3", 1, "2"),
        ("2,3", None, "2,3"),
        ("2,3", 0, ""),
        ("GPU-a1,GPU-b2", 1, "GPU-a1"),
        ("", 0, ""),
        ("", 1, ""),
    ],
)
def test_they_are_among_those_that_the_run_was_given(
    monkeypatch: pytest.MonkeyPatch, given: str | None, gpus: int | None, seen: str | None
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    stage.see(gpus)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == seen


def test_the_message_has_everything(runner: Runner, job: Job, tool: Any) -> None:
    tool.behave({"merge": "exit_3"})
    assert failure(runner, job).splitlines() == [
        "batch 1 of 3: merge: exit code 3",
        f"  command: '{tool.python}' -m kedit_glue.stage {job.file('job.json')}",
        f"  last lines of {job.file('log')}:",
        "    an earlier line",
        "    ValueError: the tool's own complaint",
        "  what to do: lower the weight",
    ]
    command = shlex.split(failure(runner, job).splitlines()[1].removeprefix("  command: "))
    assert command == runner.command(job)


@pytest.mark.parametrize(
    ("behaviour", "what"),
    [
        ("exit_3", "exit code 3"),
        ("half_output_then_exit_1", "exit code 1"),
        ("killed", "killed by SIGKILL (out of memory, perhaps)"),
        ("terminated", "killed by SIGTERM"),
        ("no_result", "exit code 0, but it left no result"),
        ("bad_result", "exit code 0, but its result {result} is not one"),
        ("list_result", "exit code 0, but its result {result} is not one"),
        ("no_space", "exit code 1 (no space left on the disk)"),
    ],
)
def test_ways_to_fail(runner: Runner, job: Job, tool: Any, behaviour: str, what: str) -> None:
    tool.behave({"merge": behaviour})
    expected = what.format(result=job.file("result.json"))
    assert failure(runner, job).splitlines()[0] == f"batch 1 of 3: merge: {expected}"


def test_a_silent_failure_says_that_the_log_is_empty(runner: Runner, job: Job, tool: Any) -> None:
    tool.behave({"merge": "terminated"})
    assert f"last lines of {job.file('log')}:\n    (the log is empty)\n" in failure(runner, job)


def test_what_an_earlier_try_left_is_no_result(runner: Runner, job: Job, tool: Any) -> None:
    runner.run(job)
    assert job.file("result.json").is_file()
    tool.behave({"merge": "no_output"})
    assert runner.run(job) == {}
    tool.behave({"merge": "killed"})
    assert "killed by SIGKILL" in failure(runner, job)
    assert not job.file("result.json").exists()


def test_events_up_to_the_end_and_nothing_that_is_none(runner: Runner, job: Job, tool: Any) -> None:
    tool.behave({"merge": "events_then_exit_1"})
    events: list[Mapping[str, Any]] = []
    with pytest.raises(StageFailed):
        runner.run(job, events.append)
    assert [e["text"] for e in events] == ["first", "second"]


def test_a_log_of_garbage(runner: Runner, job: Job, tool: Any) -> None:
    tool.behave({"merge": "garbage_log"})
    lines = failure(runner, job).splitlines()
    # the first line is further than 64 KB from the end
    assert lines[3].startswith("    xxxxx") and len(lines[3]) < 520
    assert len(lines) == 5


def test_last_lines_of_a_progress_bar_and_of_bytes_that_are_no_text(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"caf\xe9 [/bold]\r\n\r 10%|#   |\r100%|####|\n\n  \nend")
    assert last_lines(log) == ["caf\ufffd [/bold]", "100%|####|", "end"]
    assert last_lines(tmp_path / "none") == []


def test_a_long_log_is_cut(runner: Runner, job: Job, tool: Any) -> None:
    tool.behave({"merge": "long_log"})
    lines = [line.strip() for line in failure(runner, job).splitlines()[3:-1]]
    assert lines == [f"line {n}" for n in range(100_000 - LAST_LINES, 100_000)]


def test_the_process_is_stopped_when_the_run_is(runner: Runner, job: Job, tool: Any) -> None:
    tool.behave({"merge": "work"})

    def interrupt(event: Mapping[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run(job, interrupt)


def test_an_interpreter_that_is_not_there(job: Job, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Runner("command", {}, python=str(tmp_path / "none")).run(job)


def test_starting_the_command_mode_leaves_the_environment_alone(tool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEDIT_GLUE_TEST", raising=False)
    Runner("command", {"KEDIT_GLUE_TEST": "1"}, python=tool.python).start()
    assert "KEDIT_GLUE_TEST" not in os.environ


def test_what_tools_get_on_top(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "HF_HUB_OFFLINE" not in quiet_environment(offline=False)
    assert quiet_environment(offline=True)["HF_HUB_OFFLINE"] == "1"


def test_signals_without_a_name() -> None:
    assert signal_name(signal.SIGKILL) == "SIGKILL"
    assert signal_name(40) == "signal 40"


# -- several processes --------------------------------------------------------------------------


def test_several_processes_are_torchruns(runner: Runner, job: Job) -> None:
    stage_command = ["-m", "kedit_glue.stage", str(job.file("job.json"))]
    assert runner.command(job) == [runner.python, *stage_command]
    assert runner.command(replace(job, processes=2)) == [
        runner.python,
        *["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"],
        *stage_command,
    ]


@pytest.mark.parametrize("mode", ["command", "spawn", "warm"])
def test_several_processes_are_started_by_their_command_in_every_mode(
    mode: str, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Runner, "start", lambda self: None)  # no server
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\necho "$@" > "$(dirname "$0")/arguments"\necho "{\\"quiet\\": \\"$QUIET\\"}" > '
        f"'{job.file('result.json')}'\n"
    )
    python.chmod(0o755)
    shared = replace(job, processes=3)
    runner = Runner(mode, {"QUIET": "yes"}, python=str(python))
    assert runner.run(shared) == {"quiet": "yes"}, "with the tools' environment"
    assert (tmp_path / "arguments").read_text().split() == runner.command(shared)[1:]


@pytest.mark.parametrize(("rank", "speaks"), [(None, True), ("0", True), ("1", False)])
def test_one_of_several_processes_speaks_for_all(
    rank: str | None, speaks: bool, runner: Runner, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``stage.execute`` as each process of torchrun runs it, here with a tool of ours."""
    if rank is None:
        monkeypatch.delenv("RANK", raising=False)
    else:
        monkeypatch.setenv("RANK", rank)
    worked: list[Mapping[str, Any]] = []

    def tool(arguments: Mapping[str, Any], emit: Any) -> dict[str, Any]:
        worked.append(arguments)
        emit({"event": "step"})
        return {"rank": rank}

    monkeypatch.setattr(stage, "a_tool", tool, raising=False)
    monkeypatch.setitem(stage.FUNCTIONS, "merge", ("kedit_glue.stage", "a_tool"))
    runner.write_job(job)
    stage.execute(str(job.file("job.json")))
    assert worked == [dict(job.arguments)], "each does the work"
    told = [json.loads(line)["event"] for line in job.file("events.jsonl").read_text().splitlines()]
    assert told == (["started", "step", "finished"] if speaks else [])
    assert job.file("result.json").is_file() == speaks


def test_every_function_of_a_stage_is_there() -> None:
    """By name, without importing the tools' own imports."""
    for module, function in stage.FUNCTIONS.values():
        source = Path(stage.__file__).parent / f"{module.removeprefix('kedit_glue.').replace('.', '/')}.py"
        assert f"def {function}(" in source.read_text(encoding="utf-8"), (module, function)
