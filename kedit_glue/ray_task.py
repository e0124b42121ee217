"""What a Ray worker does with a run that it was given: looks whether it may begin, starts it, watches it.

The run is a process of its own, ``python -m kedit_glue.ray_task WORKER RECIPE …``, which dies with the worker. Ray
itself is not imported here.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedit_glue import report
from kedit_glue.atomic import write_text
from kedit_glue.run_folder import holder
from kedit_glue.stage import die_with_parent

LOG = "ray.log"
"""In the run's folder: what its attempts printed, one after another."""
ATTEMPTS = "ray.jsonl"
"""In the run's ``setup`` folder: the order's token, then a line for each attempt."""
LOCK_SECONDS = 300.0
"""How long an attempt waits for the folder while something holds it: a machine that was cut off, and still works."""
STOP_SECONDS = 30.0
"""How long a run that is told to stop may take."""
SEE_SECONDS = 60.0
"""How long a network file system may show what was there before."""
POLL_SECONDS = 0.2
STOPPED = (128 + 2, 128 + 15)
"""Exit codes of a run that was interrupted or terminated."""


@dataclass(frozen=True)
class Order:
    """A run to take up. It holds paths and values of ``--set``, and nothing of the driver's environment."""

    name: str
    recipe: str
    """Absolute, as the next two."""
    cwd: str
    folder: str
    overrides: tuple[str, ...]
    gpus: int
    token: str
    beside: tuple[str, ...] = ()
    """Folders of other runs, whose stages may be taken over."""

    @property
    def attempts(self) -> Path:
        return Path(self.folder) / "setup" / ATTEMPTS

    @property
    def log(self) -> Path:
        return Path(self.folder) / LOG


@dataclass(frozen=True)
class Outcome:
    """How a run ended that no other attempt would change."""

    done: bool
    said: str
    """The headline of its report, or what went wrong."""


class RunLost(RuntimeError):
    """Something stopped the run that has nothing to do with it: another attempt goes on where it was."""


def place(order: Order) -> None:
    """The driver's part: leave the order's token where every attempt must find it, and an empty log."""
    order.attempts.parent.mkdir(parents=True, exist_ok=True)
    write_text(order.attempts, json.dumps({"token": order.token}) + "\n")
    write_text(order.log, "")


def attempts(order: Order) -> list[dict[str, Any]]:
    """Where this order was taken up so far: ``node``, and the worker's ``pid`` there.

    Raises OSError or ValueError where the file is not to be seen, or is an earlier order's.
    """
    first, *others = [json.loads(line) for line in order.attempts.read_text(encoding="utf-8").splitlines()]
    if first != {"token": order.token}:
        raise ValueError(f"{order.attempts} is another order's")
    return others


def take_up(order: Order, lock_seconds: float = LOCK_SECONDS) -> Outcome:
    """The task: one attempt at a run. Raises RunLost where another attempt should be made."""
    node = socket.gethostname()
    if (before := earlier_attempts(order)) is None:
        return Outcome(
            False,
            f"{node} does not see {order.folder} as the driver does: set output: to a folder on storage that all "
            "nodes share, under the same path",
        )
    with order.attempts.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"node": node, "pid": os.getpid()}) + "\n")
    with order.log.open("a", encoding="utf-8", buffering=1) as log:

        def say(text: str) -> None:
            log.write(text + "\n")

        say(f"attempt {len(before) + 1} on {node}, worker {os.getpid()}")
        if not Path(order.cwd).is_dir():
            return Outcome(False, f"{node} has no folder {order.cwd}, which the command was given in")
        if (pid := await_folder(Path(order.folder), lock_seconds, say)) is not None:
            waited = f"{lock_seconds / 60:.0f} min"
            return Outcome(False, f"its folder was still in use by process {pid} after {waited}: stop it and run again")
        return outcome(order, watch(start(order, log.fileno())))


def earlier_attempts(order: Order) -> list[dict[str, Any]] | None:
    """``attempts``, as soon as this node sees them; None where it does not."""
    end = time.monotonic() + SEE_SECONDS
    while True:
        try:
            return attempts(order)
        except (OSError, ValueError):
            if time.monotonic() >= end:
                return None
            time.sleep(POLL_SECONDS)


def await_folder(folder: Path, seconds: float, say: Callable[[str], None]) -> str | None:
    """Until nothing holds the run's folder; returns the process that still holds it after so many seconds."""
    end = time.monotonic() + seconds
    waits = False
    while (pid := holder(folder)) is not None:
        if time.monotonic() >= end:
            return pid
        if not waits:
            say(f"waits for process {pid}, which holds the folder")
            waits = True
        time.sleep(POLL_SECONDS)
    return None


def start(order: Order, out: int) -> subprocess.Popen[bytes]:
    """The run, in a process that dies with this one. It gets the environment of its node, less GPUs it did not ask for:
    Ray 2.60 hides none from a task without GPUs (ray/_private/accelerators/accelerator.py:5).
    """
    values = [word for value in order.overrides for word in ("--set", value)]
    values += [word for folder in order.beside for word in ("--beside", folder)]
    hidden: Mapping[str, str] = {} if order.gpus else {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, "-m", "kedit_glue.ray_task", str(os.getpid()), order.recipe, *values],
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        cwd=order.cwd,
        env={**os.environ, **hidden},
    )


def watch(process: subprocess.Popen[bytes]) -> int:
    """Its exit code. Not ``wait``: ``ray.cancel`` raises KeyboardInterrupt between two steps of Python only."""
    try:
        while (code := process.poll()) is None:
            time.sleep(POLL_SECONDS)
    except BaseException:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
    return code


def outcome(order: Order, code: int) -> Outcome:
    """What an exit code means (those of ``kedit_glue.run``). Raises RunLost where the run was stopped from outside."""
    if code == 0:
        scores = json.loads((Path(order.folder) / "scores.json").read_text(encoding="utf-8"))
        return Outcome(True, report.headline(scores))
    if code < 0 or code in STOPPED:
        raise RunLost(f"the run's process was stopped from outside ({f'signal {-code}' if code < 0 else code})")
    what = {1: "a stage failed", 2: "could not start"}.get(code, f"exit code {code}")
    return Outcome(False, f"{what}, see above or {order.log}")


def main() -> int:
    """The run's own process."""
    worker = int(sys.argv.pop(1))
    die_with_parent(worker)
    if os.getppid() != worker:  # it died before this
        return 1
    from kedit_glue.run import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
