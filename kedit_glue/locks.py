"""One run in a folder at a time, and none beside a stage that a killed run left behind."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from kedit_glue.problems import CannotStart

LOCK = ".lock"
"""Held by the run's process, whose number it holds."""
STAGE_LOCK = ".stage.lock"
"""Held by every process of a stage, as long as it lives."""
SHORT = 1.0
"""Seconds that are waited for without a word."""


@contextmanager
def held(
    folder: Path, say: Callable[[str], None] = print, instead: str = "give the run another name"
) -> Iterator[None]:
    """The folder is this process's; a dead holder's lock goes with it. ``say`` tells the user why it takes a while.

    Raises CannotStart where another holds it, with what to do ``instead``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as lock:
        try:
            _take(lock)
        except BlockingIOError:
            lock.seek(0)
            raise CannotStart(
                f"{folder} is in use by process {lock.read().strip() or '?'}: wait for it, stop it, or {instead}"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        wait_for_stages(folder, say)
        yield


def wait_for_stages(folder: Path, say: Callable[[str], None] = print, seconds: float = 60.0) -> None:
    """Until no process of a stage of a run that was killed writes into the folder any more."""
    with (folder / STAGE_LOCK).open("a") as lock:
        began = time.monotonic()
        said = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                waited = time.monotonic() - began
                if waited > seconds:
                    raise CannotStart(
                        f"{folder}: the run that held it was killed, and a stage of it still works "
                        f"(a process that holds {folder / STAGE_LOCK}): wait for it, or stop it"
                    ) from None
                if waited > SHORT and not said:
                    said = True
                    say(f"waits up to {seconds:.0f} s for a stage of the run that was killed here to end")
                time.sleep(0.05)


def _take(lock: IO[str]) -> None:
    """Raises BlockingIOError where another run holds it, and goes on holding it for more than an instant.

    Who only looks whether somebody does (``run_folder.holder``) holds it for an instant, too.
    """
    for _ in range(3):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.02)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
