"""Whether a stage's process still lives: its events, its log, its processor time.

Nothing is stopped for it: a slow disk, a download or a compiler may be silent for long. It is said, and said again
when the silence has doubled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

SILENT_SECONDS = 600.0
LOOK_SECONDS = 10.0
BUSY = 0.02
"""Processor seconds a second: what waits for a signal or a lock, and only polls, takes less."""


class Watch:
    """Looks at a process and its children every ten seconds, however often it is asked."""

    def __init__(self, pid: int, files: Iterable[Path], clock: Callable[[], float] = time.monotonic) -> None:
        self.pid, self.files, self.clock = pid, tuple(files), clock
        self.looked = self.alive = clock()
        self.seen = (self.bytes_written(), self.processor_seconds())
        self.limit = SILENT_SECONDS

    def look(self) -> str | None:
        """What to say, None mostly: there was a sign of life in the last ten minutes, or it was said already."""
        now = self.clock()
        if now - self.looked < LOOK_SECONDS:
            return None
        written, seconds = self.bytes_written(), self.processor_seconds()
        worked = abs(seconds - self.seen[1]) > BUSY * (now - self.looked)  # less: a child has ended
        if written != self.seen[0] or worked:
            self.alive, self.limit = now, SILENT_SECONDS
        self.looked, self.seen = now, (written, seconds)
        if now - self.alive < self.limit:
            return None
        self.limit *= 2
        return (
            f"no sign of life for {int((now - self.alive) / 60)} min: process {self.pid} reports nothing, logs nothing "
            "and takes no processor time; if it hangs, stop it with Ctrl-C: what was finished stays"
        )

    def bytes_written(self) -> int:
        """Into the events and the log."""
        return sum(file.stat().st_size for file in self.files if file.is_file())

    def processor_seconds(self) -> float:
        """Of the process and all that it started and that still run; 0 once it has ended."""
        try:
            process = psutil.Process(self.pid)
            family = [process, *process.children(recursive=True)]
        except psutil.Error:
            return 0.0
        total = 0.0
        for member in family:
            try:
                used = member.cpu_times()
            except psutil.Error:  # ended meanwhile
                continue
            total += used.user + used.system
        return total
