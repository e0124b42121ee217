"""Tools that are missing, fail, lie, die or hang: what is said, whole, and that the run can go on."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from kedit_glue import environment, stall
from kedit_glue.progress import Display

Main = Callable[..., int]

COMMAND = "  command: '{tool}' -m kedit_glue.stage {batch}/train.job.json\n"
LOG = "  last lines of {batch}/train.log:\n"
TODO = (
    "  what to do: read the log; lower train.learning_rate if the loss is not finite, train.mini_batch if memory "
    "ran out; then run the same command again: finished stages are kept\n"
)
GO_ON = "  what was finished stays; to go on: python -m kedit_glue.run try.yaml\n"

FAILS = {
    "exit 1": (
        "half_output_then_exit_1",
        f"batch 1 of 3: train: exit code 1\n{COMMAND}{LOG}    (the log is empty)\n",
    ),
    "exit 3, with a complaint": (
        "exit_3",
        f"batch 1 of 3: train: exit code 3\n{COMMAND}{LOG}    an earlier line\n"
        "    ValueError: the tool's own complaint\n",
    ),
    "exit 0, no result": (
        "no_result",
        f"batch 1 of 3: train: exit code 0, but it left no result\n{COMMAND}{LOG}    (the log is empty)\n",
    ),
    "exit 0, half a result": (
        "bad_result",
        "batch 1 of 3: train: exit code 0, but its result {batch}/train.result.json is not one\n"
        f"{COMMAND}{LOG}    (the log is empty)\n",
    ),
    "exit 0, no output": (
        "no_output",
        "batch 1 of 3: train: the tool ended without an error but wrote nothing to {batch}/tuned.partial\n"
        "  log: {batch}/train.log\n",
    ),
    "killed": (
        "killed",
        f"batch 1 of 3: train: killed by SIGKILL (out of memory, perhaps)\n{COMMAND}{LOG}    working on it\n",
    ),
    "terminated": ("terminated", f"batch 1 of 3: train: killed by SIGTERM\n{COMMAND}{LOG}    (the log is empty)\n"),
}  # fmt: skip


def said(out: str, workplace: Any) -> str:
    """What follows the stage's own line, places as in the table."""
    for place, name in (
        (workplace.run_folder / "batch_001", "{batch}"),
        (workplace.tool.python, "{tool}"),
    ):
        out = out.replace(str(place), name)
    return out.rpartition("batch 1 of 3: train …")[2].partition("\n\n")[2]


@pytest.mark.parametrize("case", FAILS)
def test_a_stage_fails(case: str, main: Main, workplace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    behaviour, message = FAILS[case]
    workplace.tool.behave({"batch_001/train": behaviour})
    assert main() == 1
    found = capsys.readouterr()
    assert said(found.out, workplace) == f"{message}{TODO}{GO_ON}"
    assert found.err == ""
    workplace.tool.calls()
    workplace.tool.behave()
    assert main() == 0
    assert workplace.tool.calls()[0] == "batch_001/train"


@pytest.mark.parametrize("arguments", [[], ["--check"]], ids=["run", "check"])
def test_another_version(
    arguments: list[str],
    main: Main,
    workplace: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(environment, "versions", lambda: {**environment.TESTED, "mergekit": "0.1.4"})
    assert main(*arguments) == 0
    out = capsys.readouterr().out.splitlines()
    assert "warn    mergekit: 0.1.4 is installed; 0.1.5 is what was tested here" in out


@pytest.mark.parametrize("arguments", [[], ["--check"]], ids=["run", "check"])
def test_missing(
    arguments: list[str],
    main: Main,
    workplace: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = {**environment.TESTED, "lm-eval": "missing", "torch": "missing"}
    monkeypatch.setattr(environment, "versions", lambda: found)
    assert main(*arguments) == 2
    assert capsys.readouterr().err == (
        "tools are missing; nothing was started\n"
        "  lm-eval: not installed; install it with: uv sync, or: pip install lm-eval==0.4.13\n"
        "  torch: not installed; install it with: uv sync, or: pip install torch==2.11.0\n"
    )
    assert workplace.tool.calls() == []


def test_hangs(main: Main, workplace: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody waits ten minutes here: the first silence is said, and answered with Ctrl-C."""
    monkeypatch.setattr(stall, "SILENT_SECONDS", 0.0)
    monkeypatch.setattr(stall, "LOOK_SECONDS", 0.0)
    show = Display.event

    def give_up(self: Display, event: Any) -> None:
        show(self, event)
        if event["event"] == "say":
            raise KeyboardInterrupt

    monkeypatch.setattr(Display, "event", give_up)
    workplace.tool.behave({"prepare": "hang"})
    assert main() == 130
    out = re.sub(r"process \d+", "process N", capsys.readouterr().out)
    assert out.splitlines()[-5:] == [
        "loading the tools and the facts …",
        "  no sign of life for 0 min: process N reports nothing, logs nothing and takes no processor time; if it "
        "hangs, stop it with Ctrl-C: what was finished stays",
        "",
        "interrupted",
        GO_ON.rstrip("\n"),
    ]
