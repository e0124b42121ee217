"""One way to run a stage: a process of its own, its log, its events, its result.

``warm`` forks from a server that has imported the tools once (about 30 s for all of them, then
milliseconds a stage); ``spawn`` starts each stage afresh; ``command`` runs the printed command line.
Whatever the way, a stage is done only when its process ended with 0 *and* its result file is there.
"""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kedit_glue import nodes
from kedit_glue.redact import Redaction
from kedit_glue.stage import die_with_parent, execute_logged
from kedit_glue.stall import Watch

Event = Mapping[str, Any]
POLL_SECONDS = 0.02
LAST_LINES = 15
LONGEST_LINE = 500
ONE_GPU = ("train", "independent")
"""Stages that train in one process."""


@dataclass(frozen=True)
class Job:
    """A function of a tool, its arguments, and the files beside it."""

    title: str
    function: str
    arguments: Mapping[str, Any]
    folder: Path
    """Where the job's own files go: ``<name>.job.json``, ``<name>.log`` …"""
    name: str
    advice: str = ""
    """What to do when it fails, for the error message."""
    processes: int = 1
    """How many processes of a machine do it together (torchrun)."""
    nodes: int = 1
    """On how many machines (``nodes``)."""

    @property
    def together(self) -> bool:
        return self.processes * self.nodes > 1

    def file(self, suffix: str) -> Path:
        return self.folder / f"{self.name}.{suffix}"


class StageFailed(RuntimeError):
    """A stage's process failed, died or lied; the message is the user's."""

    def __init__(self, job: Job, command: str, what: str, log: Path, tail: list[str], disk_full: bool = False):
        self.job = job
        self.disk_full = disk_full
        lines = "".join(f"\n    {line}" for line in tail) or "\n    (the log is empty)"
        super().__init__(
            f"{job.title}: {what}\n  command: {command}\n  last lines of {log}:{lines}"
            + (f"\n  what to do: {job.advice}" if job.advice else "")
        )


class _Process(Protocol):
    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def stop(self) -> None: ...


@dataclass
class Runner:
    """Runs jobs one after another."""

    mode: str
    """``warm``, ``spawn`` or ``command``."""
    environment: Mapping[str, str]
    threads: int | None = None
    python: str = sys.executable
    lock: Path | None = None
    """Every stage's process holds this file as long as it lives."""
    device: str | None = None
    """``cpu`` or ``cuda:0``; None: stages see the GPUs that the run sees."""
    _context: Any = field(default=None, init=False)

    def start(self) -> None:
        """Begin importing the tools in the background (warm only); ``run`` does it where it was not done."""
        if self.mode == "command" or self._context is not None:
            return  # by command each process is given its environment
        os.environ.update(self.environment)
        if self.mode == "warm":
            self._context = multiprocessing.get_context("forkserver")
            self._context.set_forkserver_preload(["kedit_glue.warm"])
            from multiprocessing import forkserver

            forkserver.ensure_running()
        else:
            self._context = multiprocessing.get_context("spawn")

    def command(self, job: Job) -> list[str]:
        """The command line that does the same by hand."""
        stage = ["-m", "kedit_glue.stage", str(job.file("job.json"))]
        return [self.python, *(nodes.torchrun(job.processes, job.nodes) if job.together else []), *stage]

    def write_job(self, job: Job) -> None:
        job.folder.mkdir(parents=True, exist_ok=True)
        job.file("job.json").write_text(
            json.dumps(
                {
                    "title": job.title,
                    "function": job.function,
                    "arguments": dict(job.arguments),
                    "events": str(job.file("events.jsonl")),
                    "result": str(job.file("result.json")),
                    "threads": self.threads,
                    "lock": str(self.lock) if self.lock else None,
                    "gpus": self._gpus(job),
                },
                ensure_ascii=False,
                indent=1,
            ),
            encoding="utf-8",
        )

    def _gpus(self, job: Job) -> int | None:
        """How many GPUs the stage sees, None for all.

        LLaMA-Factory 0.9.5 loads onto a GPU wherever it sees one (hparams/parser.py:517), ``use_cpu`` or not, and
        refuses to train by one process where it sees two (:350).
        """
        if self.device == "cpu":
            return 0
        return 1 if self.device and job.function in ONE_GPU and not job.together else None

    def run(self, job: Job, on_event: Callable[[Event], None] = lambda event: None) -> dict[str, Any]:
        """Run one job to its end; returns what its function returned. Raises StageFailed."""
        for suffix in ("events.jsonl", "result.json", "log"):
            job.file(suffix).unlink(missing_ok=True)
        self.write_job(job)
        self.start()
        process = self._begin(job)
        redaction = Redaction({**os.environ, **self.environment})
        try:
            with _tail(job.file("events.jsonl"), redaction) as new_events:
                watch = Watch(process.pid, (job.file("events.jsonl"), job.file("log")))
                while (code := process.poll()) is None:
                    for event in new_events():
                        on_event(event)
                    if silence := watch.look():
                        on_event({"event": "say", "text": silence})
                    time.sleep(POLL_SECONDS)
                for event in new_events():
                    on_event(event)
        except BaseException:
            process.stop()
            raise
        finally:
            for suffix in ("log", "events.jsonl", "result.json"):
                redaction.file(job.file(suffix))
        return self._result(job, code)

    def _begin(self, job: Job) -> _Process:
        log = job.file("log")
        log.touch()
        if self.mode == "command" or job.together:
            command, environment = self.command(job), {**os.environ, **self.environment}
            if job.nodes > 1:
                environment |= nodes.announce(job.folder.parent, command, log, self.environment)
            return _Command(command, log, environment)
        environment = dict(os.environ)  # the warm server has that of its own start
        process = self._context.Process(
            target=execute_logged, args=(str(job.file("job.json")), str(log), os.getpid(), environment)
        )
        process.start()
        return _Forked(process)

    def _result(self, job: Job, code: int) -> dict[str, Any]:
        log = job.file("log")
        if code < 0:
            what = f"killed by {signal_name(-code)}"
            if -code == signal.SIGKILL:
                what += " (out of memory, perhaps)"
        elif code != 0:
            what = f"exit code {code}"
        elif not job.file("result.json").is_file():
            what = "exit code 0, but it left no result"
        else:
            with contextlib.suppress(ValueError):
                found = json.loads(job.file("result.json").read_text(encoding="utf-8"))
                if isinstance(found, dict):
                    return found
            what = f"exit code 0, but its result {job.file('result.json')} is not one"
        tail = last_lines(log, cut=job.together)
        full = any("No space left on device" in line or "Disk quota exceeded" in line for line in tail)
        what += " (no space left on the disk)" if full else ""
        raise StageFailed(job, shlex.join(self.command(job)), what, log, tail, full)


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


class _Forked:
    def __init__(self, process: Any):
        self.process = process

    @property
    def pid(self) -> int:
        number: int = self.process.pid
        return number

    def poll(self) -> int | None:
        code: int | None = self.process.exitcode
        return code

    def stop(self) -> None:
        self.process.terminate()
        self.process.join(10)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()


class _Command:
    def __init__(self, command: list[str], log: Path, environment: Mapping[str, str]):
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                preexec_fn=functools.partial(die_with_parent, os.getpid()),  # torchrun does not look after it
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def poll(self) -> int | None:
        return self.process.poll()

    def stop(self) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
            return
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def _tail(path: Path, redaction: Redaction) -> Iterator[Callable[[], list[Event]]]:
    """Yields a function that returns the events of the whole lines written since it was last called."""
    position = 0

    def new_events() -> list[Event]:
        nonlocal position
        if not path.is_file():
            return []
        with path.open("rb") as file:
            file.seek(position)
            whole, newline, _ = file.read().rpartition(b"\n")
        position += len(whole) + len(newline)
        return [event for line in redaction.raw(whole).splitlines() if isinstance(event := _parsed(line), dict)]

    yield new_events


def _parsed(line: bytes) -> Any:
    """A line's JSON; None for a line that is none, which is no reason to end a stage."""
    try:
        return json.loads(line)
    except ValueError:
        return None


LAUNCHER = "torch/distributed/run.py"


def last_lines(log: Path, count: int = LAST_LINES, cut: bool = False) -> list[str]:
    """The last lines of a log, each shortened; of a progress bar's redrawn line, only its last state.

    ``cut`` leaves out torchrun's own traceback, which follows the one that tells.
    """
    if not log.is_file():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 65536))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.rstrip().rpartition("\r")[2] for line in text.split("\n")]
    lines = [line for line in lines if line.strip()]
    if cut and (launcher := next((i for i, line in enumerate(lines) if LAUNCHER in line), 0)):
        heads = [i for i, line in enumerate(lines[:launcher]) if line.startswith("Traceback")]
        lines = lines[: heads[-1]] if heads else lines
    lines = lines[-count:]
    return [line if len(line) <= LONGEST_LINE else line[:LONGEST_LINE] + " …" for line in lines]
