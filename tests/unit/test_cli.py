"""The command line: exit codes, and that nobody sees a traceback who did nothing wrong in Python."""

from __future__ import annotations

import errno
import functools
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import job, recipe, runner
from kedit_glue import run as cli
from kedit_glue.execute import OutputMissing

Main = Callable[..., int]


@pytest.fixture
def main(workplace: Any, monkeypatch: pytest.MonkeyPatch) -> Main:
    """``main("--check")`` on the workplace's recipe, with the fake tool."""
    monkeypatch.setattr(cli, "Options", functools.partial(job.Options, python=workplace.tool.python))
    return lambda *arguments: cli.main([str(workplace.recipe), *arguments])


def failing(error: BaseException) -> Callable[..., None]:
    def run(*_: Any) -> None:
        raise error

    return run


# -- exit codes ---------------------------------------------------------------------------------


def test_done_is_0(main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0
    assert "6 facts in 3 batches" in capsys.readouterr().out


def test_a_failed_stage_is_1_and_says_how_to_go_on(
    main: Main, workplace: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    workplace.tool.behave({"batch_002/train": "exit_3"})
    assert main("--set", "train.epochs=4", "--set", "name=a-name", "--fresh") == 1
    out = capsys.readouterr().out
    folder = workplace.folder / "runs" / "a-name" / "batch_002"
    assert "\nbatch 2 of 3: train: exit code 3\n" in out
    assert f"  command: '{workplace.tool.python}' -m kedit_glue.stage {folder / 'train.job.json'}\n" in out
    assert f"  last lines of {folder / 'train.log'}:\n    an earlier line\n" in out
    assert "    ValueError: the tool's own complaint\n" in out
    assert "  what to do: read the log; lower train.learning_rate" in out
    # --fresh is left out: it would not go on, but begin
    values = "--set train.epochs=4 --set name=a-name"
    assert f"what was finished stays; to go on: python -m kedit_glue.run {workplace.recipe} {values}\n" in out.replace(
        "'", ""
    )
    assert "Traceback" not in out
    log = (folder.parent / "log.txt").read_text(encoding="utf-8")
    assert "batch 2 of 3: train: exit code 3" in log


def test_a_recipe_that_cannot_be_used_is_2(main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("--set", "train.epochs=0", "--set", "trian.epochs=3") == 2
    err = capsys.readouterr().err
    assert "2 problems in" in err and "nothing was started" in err and "did you mean" in err


@pytest.mark.parametrize(
    "name", ["nope.yaml", "no/such/folder/nope.yaml", "[bold]nope.yaml", "no\u00efpe \U0001f4a5.yaml"]
)
def test_no_such_recipe(main: Main, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name]) == 2
    found = capsys.readouterr()
    assert found.err == (
        f"1 problem in {name}; nothing was started\n{name}  no such file; allowed: an existing YAML file\n"
    )
    assert found.out == ""


def test_facts_that_cannot_be_used_are_2(main: Main, workplace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace.folder / "facts.json").write_text('[{"questoin": "?"}]')
    assert main() == 2
    assert "no known format has these keys" in capsys.readouterr().err


def test_a_folder_in_use_is_2(main: Main, workplace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with job.held(workplace.run_folder):
        assert main() == 2
    assert f"is in use by process {os.getpid()}: wait for it" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["x.yaml", "--unknown"], ["x.yaml", "--fresh", "--dry-run"]])
def test_a_wrong_command_line_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "usage: python -m kedit_glue.run" in capsys.readouterr().err


@pytest.mark.parametrize("other", ["--dry-run", "--check"])
def test_fresh_deletes_nothing_where_nothing_is_run(main: Main, workplace: Any, other: str) -> None:
    assert main() == 0
    with pytest.raises(SystemExit):
        main("--fresh", other)
    assert (workplace.run_folder / "scores.json").is_file()


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "a [b].safetensors"),
            1,
            "disk (a [b].safetensors), 1.5 GB are free: make",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "no space left on the disk, 1.5 GB are free: make room"),
        (PermissionError(errno.EACCES, "Permission denied", "/runs/[x]"), 2, "Permission denied (/runs/[x]): check"),
        (OSError(errno.EROFS, "Read-only file system", "/runs"), 2, "Read-only file system (/runs): check"),
        (OutputMissing("train: wrote nothing"), 1, "train: wrote nothing"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (job.CannotStart("not [now] :100:"), 2, "not [now] :100:"),
    ],
)
def test_errors_in_a_run(
    main: Main,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    text: str,
) -> None:
    monkeypatch.setattr(cli, "run", failing(error))
    monkeypatch.setattr("kedit_glue.environment.disk_free", lambda path: 1_500_000_000)
    assert main() == code
    found = capsys.readouterr()
    assert text in found.out + found.err
    assert ("to go on: python -m kedit_glue.run" in found.out) == (code != 2)


def test_a_mistake_of_ours_is_not_hidden(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (KeyError("x"), OSError(errno.EIO, "I/O error")):
        monkeypatch.setattr(cli, "run", failing(error))
        with pytest.raises(type(error)):
            main()


def test_the_disk_is_full_for_the_log_as_well(
    main: Main, workplace: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workplace.tool.behave({"batch_001/train": "no_space"})
    begin = runner.Runner.run

    def run_then_full(self: Any, of: Any, *more: Any) -> Any:
        if of.name == "train":
            monkeypatch.setattr("kedit_glue.progress.Display._log", failing(OSError(errno.ENOSPC, "No space left")))
        return begin(self, of, *more)

    monkeypatch.setattr(runner.Runner, "run", run_then_full)
    assert main() == 1
    out = capsys.readouterr().out
    assert "batch 1 of 3: train: exit code 1 (no space left on the disk)\n" in out
    assert f"to {workplace.run_folder / 'batch_001'}, and " in out and " are free: make room\n" in out
    assert "to go on: python" in out


def test_mergekit_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from importlib.metadata import PackageNotFoundError

    monkeypatch.setattr("kedit_glue.tools.mergekit.methods", failing(PackageNotFoundError("mergekit")))
    assert cli.main([str(tmp_path / "any.yaml")]) == 2
    assert capsys.readouterr().err == "mergekit is not installed; install it with: uv sync\n"


# -- what is printed ----------------------------------------------------------------------------


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--explain"]) == 0
    found = capsys.readouterr()
    assert found.out == recipe.describe()
    assert "loss_threshold: 0.05" in found.out and found.err == ""


def test_help_ends_in_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    assert "exit codes: 0 done" in capsys.readouterr().out


def test_dry_run_and_check(main: Main, workplace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("--dry-run") == 0
    assert "12 stages, nothing started" in capsys.readouterr().out
    assert main("--check") == 0
    assert "nothing stands in the way" in capsys.readouterr().out
    assert workplace.tool.calls() == []


def test_a_tool_that_prints_anything(main: Main, workplace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    workplace.tool.behave({"batch_001/train": "garbage_log"})
    assert main() == 1
    assert "xxxxx …\n" in capsys.readouterr().out


@pytest.mark.parametrize("behaviour", ["events_then_exit_1", "long_log"])
def test_events_and_long_logs(main: Main, workplace: Any, capsys: pytest.CaptureFixture[str], behaviour: str) -> None:
    workplace.tool.behave({"batch_001/train": behaviour})
    assert main() == 1
    out = capsys.readouterr().out
    assert "batch 1 of 3: train: exit code 1" in out
    assert ("  second\n" in out) == (behaviour == "events_then_exit_1")


def test_markup_and_odd_characters_of_the_user(
    main: Main, workplace: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    text = (workplace.folder / "facts.json").read_text()
    odd = "[red]f0[/blue] :100: \\u202e\\u0007\\ud83d\\ude00"
    (workplace.folder / "facts.json").write_text(text.replace('"id": "f0"', f'"id": "{odd}"'))
    assert main("--set", "edits.limit=1", "--set", "edits.batch_size=1", "--set", "score.examples=1") == 0
    assert "an [odd] answer :100:" in capsys.readouterr().out


def test_a_terminal_without_unicode(main: Main, workplace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii", write_through=True))
    assert main() == 0
    assert b"batch 1 of 3: train ?" in shown.getvalue()


# -- signals, in a process of its own -----------------------------------------------------------

DRIVER = """
import functools, sys
from kedit_glue import job, run
from kedit_glue.merging import MergeMethod
shared = dict.fromkeys(("normalize", "lambda"), "shared")
method = MergeMethod("task_arithmetic", "required", 1, None, {**shared, "weight": "non_base"})
job.merge_methods = lambda: {"task_arithmetic": method}
run.Options = functools.partial(job.Options, python=sys.argv[1])
sys.exit(run.main(sys.argv[2:]))
"""


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(workplace: Any, number: int, code: int) -> None:
    workplace.tool.behave({"batch_002/train": "hang"})
    command = [sys.executable, "-c", DRIVER, workplace.tool.python, str(workplace.recipe)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        # a shell that starts these tests in the background has the interrupt ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        hanging = workplace.tool.folder / "hanging.pid"
        until = time.monotonic() + 60
        while not (hanging.is_file() and hanging.read_text()) and time.monotonic() < until:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.02)
        child = int(hanging.read_text())
        assert is_alive(child)

        # meanwhile nobody else gets in, and is told who is there
        second = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
        assert second.returncode == 2
        assert second.stderr.startswith(f"{workplace.run_folder} is in use by process {process.pid}: ")

        process.send_signal(number)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == code, out
    assert not is_alive(child)
    assert out.splitlines()[-2:] == [
        "interrupted",
        f"  what was finished stays; to go on: python -m kedit_glue.run {workplace.recipe}",
    ]
    assert "Traceback" not in out

    # and it goes on
    workplace.tool.calls()
    workplace.tool.behave()
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert workplace.tool.calls()[:2] == ["batch_002/train", "batch_002/merge"]
