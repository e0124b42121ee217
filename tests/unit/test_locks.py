"""One run in a folder at a time; a killed run leaves no process behind that writes into it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import locks, stage
from kedit_glue.locks import LOCK, STAGE_LOCK, held, wait_for_stages
from kedit_glue.problems import CannotStart

PATIENCE = 30.0
"""Seconds that something is waited for which takes less than one."""
HOLD = """
import fcntl, sys
lock = open(sys.argv[1], "a")
fcntl.flock(lock, getattr(fcntl, sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""


def until(true: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # a process that nobody waits for any more is dead
    return re.search(r"^State:\s+Z", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE) is None


@contextmanager
def another_process(file: Path, kind: str = "LOCK_EX") -> Iterator[subprocess.Popen[str]]:
    """A process that holds a lock."""
    command = [sys.executable, "-IS", "-c", HOLD, str(file), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


# -- two runs -----------------------------------------------------------------------------------


def test_the_second_run_is_refused_and_told_who_is_there(workplace: Any) -> None:
    folder = workplace.run_folder
    with held(folder), pytest.raises(CannotStart) as caught:
        workplace.go()
    assert str(caught.value) == (
        f"{folder} is in use by process {os.getpid()}: wait for it, stop it, or give the run another name"
    )
    assert workplace.tool.calls() == []
    assert workplace.go() != []


def test_the_holder_writes_its_number_and_others_leave_it(tmp_path: Path) -> None:
    with another_process(tmp_path / LOCK):
        (tmp_path / LOCK).write_text("4711")
        for _ in range(2):
            with pytest.raises(CannotStart, match="in use by process 4711: "), held(tmp_path):
                pass
        assert (tmp_path / LOCK).read_text() == "4711"


def test_a_holder_that_did_not_say_its_number(tmp_path: Path) -> None:
    with another_process(tmp_path / LOCK), pytest.raises(CannotStart, match=r"in use by process \?: "), held(tmp_path):
        pass


def test_a_dead_holders_lock_is_taken_over(tmp_path: Path) -> None:
    with another_process(tmp_path / LOCK) as process:
        (tmp_path / LOCK).write_text(f"{process.pid} and more than a number is long")
    with held(tmp_path):
        assert (tmp_path / LOCK).read_text() == str(os.getpid())


def test_a_number_in_the_file_alone_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(str(os.getpid()))
    with held(tmp_path):
        pass


def test_the_lock_is_given_back_when_a_run_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError), held(tmp_path):
        raise KeyError
    with held(tmp_path):
        pass


def test_who_only_looks_for_an_instant_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``run_folder.holder`` takes the lock for an instant."""
    with another_process(tmp_path / LOCK, "LOCK_SH") as process:
        waited: list[float] = []

        def wait(seconds: float) -> None:
            waited.append(seconds)
            process.kill()
            process.wait()

        monkeypatch.setattr(locks.time, "sleep", wait)
        with held(tmp_path):
            assert len(waited) == 1


def test_two_folders_are_two_runs(tmp_path: Path) -> None:
    with held(tmp_path / "one"), held(tmp_path / "two"):
        pass


# -- a stage that a killed run left behind ------------------------------------------------------


def test_a_stage_that_still_works_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with another_process(tmp_path / STAGE_LOCK, "LOCK_SH") as process:
        waited: list[float] = []

        def wait(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) == 3:
                process.kill()
                process.wait()

        monkeypatch.setattr(locks.time, "sleep", wait)
        with held(tmp_path):
            assert len(waited) == 3


def test_a_stage_that_does_not_end_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(locks, "SHORT", 0.0)
    with another_process(tmp_path / STAGE_LOCK, "LOCK_SH"), pytest.raises(CannotStart) as caught:
        wait_for_stages(tmp_path, said.append, seconds=0.2)
    assert said == ["waits up to 0 s for a stage of the run that was killed here to end"]
    assert str(caught.value) == (
        f"{tmp_path}: the run that held it was killed, and a stage of it still works "
        f"(a process that holds {tmp_path / STAGE_LOCK}): wait for it, or stop it"
    )


def test_several_processes_of_a_stage_hold_it_together(tmp_path: Path) -> None:
    lock = tmp_path / STAGE_LOCK
    with stage.alive(str(lock)), another_process(lock, "LOCK_SH"), pytest.raises(CannotStart):
        wait_for_stages(tmp_path, seconds=0)
    wait_for_stages(tmp_path, seconds=0)


def test_a_job_without_a_run_holds_nothing() -> None:
    with stage.alive(None):
        pass


# -- a run that is killed -----------------------------------------------------------------------

RUN = """
import functools, sys
from kedit_glue import job, run
from kedit_glue.merging import MergeMethod
method = MergeMethod("task_arithmetic", "required", 1, None, {"normalize": "shared", "weight": "non_base"})
job.merge_methods = lambda: {"task_arithmetic": method}
run.Options = functools.partial(job.Options, python=sys.argv[1])
sys.exit(run.main(sys.argv[2:]))
"""


def test_a_stages_process_dies_with_its_run(workplace: Any) -> None:
    workplace.tool.behave({"batch_002/train": "hang"})
    command = [sys.executable, "-c", RUN, workplace.tool.python, str(workplace.recipe)]
    hanging = workplace.tool.folder / "hanging.pid"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: hanging.is_file() and hanging.read_text(), "the stage hangs")
            child = int(hanging.read_text())
            assert is_alive(child)
            with pytest.raises(CannotStart):
                wait_for_stages(workplace.run_folder, seconds=0)
        finally:
            process.kill()
    until(lambda: not is_alive(child), "the stage's process is gone")
    workplace.tool.behave()
    rest = workplace.go()
    assert rest[:2] == ["batch_002/train", "batch_002/merge"], "what was done stands"
    assert rest[-1] == "batch_003/general"


STAGES = """
import json, multiprocessing, os, sys, time
from pathlib import Path
from kedit_glue import stage
from kedit_glue.runner import Job, Runner

HERE = Path(__file__).parent


def sleep(arguments, emit):
    (HERE / "hanging.pid").write_text(str(os.getpid()))
    time.sleep(60)


stage.FUNCTIONS["sleep"] = ("__main__", "sleep")

if __name__ == "__main__":
    runner = Runner(sys.argv[1], {}, lock=HERE / ".stage.lock")
    if sys.argv[1] == "warm":  # the server without the tools
        runner._context = multiprocessing.get_context("forkserver")
        runner._context.set_forkserver_preload([])
    runner.run(Job("sleep", "sleep", {}, HERE, "sleep"))
"""


@pytest.mark.parametrize("mode", ["spawn", "warm"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stages_process_dies_with_its_run_in_every_mode(tmp_path: Path, mode: str, number: int) -> None:
    (tmp_path / "stages.py").write_text(STAGES)
    hanging = tmp_path / "hanging.pid"
    with subprocess.Popen([sys.executable, str(tmp_path / "stages.py"), mode], stderr=subprocess.PIPE) as process:
        try:
            until(lambda: (hanging.is_file() and hanging.read_text()) or process.poll() is not None, "the stage hangs")
            assert process.poll() is None, process.stderr and process.stderr.read()
            child = int(hanging.read_text())
            with pytest.raises(CannotStart):
                wait_for_stages(tmp_path, seconds=0)
            process.send_signal(number)
            process.wait(PATIENCE)
        finally:
            process.kill()
    until(lambda: not is_alive(child), "the stage's process is gone")
    wait_for_stages(tmp_path)


def test_a_process_whose_run_is_gone_does_not_begin(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-IS", "-c", ""])
    gone.wait()
    code = f"from kedit_glue.stage import die_with_parent\ndie_with_parent({gone.pid})\nprint('begun')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert (found.returncode, found.stdout) == (1, "")
