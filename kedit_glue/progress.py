"""What a person sees while a run works: a live line on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

PLAIN_SECONDS = 10.0  # at most one progress line in so many seconds where no terminal shows it


def sentence(event: Mapping[str, Any]) -> str | None:
    """What an event of a tool means, None for one that says nothing to a person."""
    kind = event.get("event")
    if kind == "trainable":
        return (
            f"training {event['parameters']:,} of {event['of']:,} parameters "
            f"({event['tensors']} tensors, the first is {event['first']})"
        )
    if kind == "step":
        return f"epoch {event['epoch']} of at most {event['epochs']}, {event['steps']} steps, loss {event['loss']:.3f}"
    if kind == "trained":
        return f"{event['learned']} of {event['of']} facts learned in {event['steps']} steps, {event['epochs']} epochs"
    if kind == "asked":
        return f"asked {event['position']} of {event['of']} prompts"
    if kind == "corpus":
        return f"read {event['position']} of {event['of']} texts"
    if kind == "directions":
        return f"directions of {event['position']} of {event['of']} matrices"
    if kind == "generating":
        return f"generating text for {event['of']} facts (fluency)"
    if kind == "general":
        return f"lm-eval: {', '.join(event['tasks'])}"
    if kind == "say":
        return str(event["text"])
    return {"merging": "merging", "checking": "comparing tensors"}.get(str(kind))


def share(event: Mapping[str, Any]) -> float | None:
    """How much of the stage is done, 0 to 1, where the event tells."""
    if "position" in event and event.get("of"):
        return min(1.0, float(event["position"]) / float(event["of"]))
    return None


def duration(seconds: float) -> str:
    """``8 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


ROUGHLY = {"train": 4.0, "merge": 4.0, "project": 4.0, "protect": 100.0, "general": 40.0}
"""Seconds a unit of each kind takes, in seconds that scoring a fact takes: the demo's, until it was measured."""


class Estimate:
    """Time left, from the mean duration of finished stages of the same kind."""

    def __init__(self) -> None:
        self.seen: dict[str, list[tuple[float, float]]] = {}

    def done(self, kind: str, size: float, seconds: float) -> None:
        """A stage of this kind and size (facts it works on) took so long."""
        self.seen.setdefault(kind, []).append((max(size, 1.0), seconds))

    def rate(self, kind: str) -> float | None:
        """Seconds for one unit of a kind: measured, else from the seconds that scoring a fact takes, else None."""
        if seen := self.seen.get(kind):
            return sum(t for _, t in seen) / sum(s for s, _ in seen)
        if kind in ROUGHLY and (scoring := self.rate("score")) is not None:
            return ROUGHLY[kind] * scoring
        return None

    def left(self, stages: Sequence[tuple[str, float]]) -> float | None:
        """Seconds for these (kind, size) stages; None while nothing is known of a kind."""
        rates = [self.rate(kind) for kind, _ in stages]
        known = [r for r in rates if r is not None]
        if len(known) < len(rates):
            return None
        return sum(r * max(size, 1.0) for r, (_, size) in zip(known, stages, strict=True))


class Display:
    """Live on a terminal, plain lines elsewhere, and plain lines in the run's log in both cases."""

    def __init__(self, log: Path | None, console: Console | None = None):
        self.console = console or Console(highlight=False, soft_wrap=True, emoji=False)
        if console is None and not self.console.is_terminal:
            self.console.width = 110  # a file has no width of its own; tables want one
        self.log = log
        self.live: Progress | None = None
        self.bar: Any = None
        self.last_plain = 0.0
        self.title = ""
        self.left = ""

    def say(self, text: str, style: str | None = None) -> None:
        """A line that stays."""
        self._print(text, style)
        self._log(text)

    def begin(self, title: str, left: float | None) -> None:
        """A stage starts; ``left`` is the estimate for everything that is still to do, in seconds."""
        self.title = title
        self.left = f"about {duration(left)} left" if left is not None else ""
        self._log(f"{title} …{' (' + self.left + ')' if self.left else ''}")
        self.last_plain = time.monotonic()
        if self.console.is_terminal:
            self.live = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=self.console,
                transient=True,
            )
            self.live.start()
            self.bar = self.live.add_task(title, total=None, note=self.left)
        else:
            self._print(f"{title} …{' (' + self.left + ')' if self.left else ''}")

    def event(self, event: Mapping[str, Any]) -> None:
        """The stage's tool reported something."""
        text = sentence(event)
        if text is None:
            return
        lasting = event.get("event") in ("trainable", "trained", "say")
        if self.live is not None:
            done = share(event)
            self.live.update(
                self.bar,
                description=f"{self.title}: {text}",
                total=1.0 if done is not None else None,
                completed=done or 0.0,
                note=self.left,
            )
        elif lasting or time.monotonic() - self.last_plain > PLAIN_SECONDS:
            self._print(f"  {text}")
            self.last_plain = time.monotonic()
        if lasting or (self.live is not None and event.get("event") == "step"):
            self._log(f"  {text}")

    def end(self, text: str = "") -> None:
        """The stage ended; ``text`` says how."""
        if self.live is not None:
            self.live.stop()
            self.live = None
        if text:
            self.say(f"{self.title}: {text}" if self.title else text)

    def _print(self, text: str, style: str | None = None) -> None:
        """Text as it is: ``[/b]`` in a fact is no markup, ``:100:`` after a file's name no emoji."""
        self.console.print(text, style=style, markup=False, emoji=False)

    def _log(self, text: str) -> None:
        if self.log is not None:
            with self.log.open("a", encoding="utf-8", errors="backslashreplace") as file:
                for line in text.splitlines() or [""]:
                    file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
