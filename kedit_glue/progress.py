"""What a person sees while a run works, and what programs read: a live display, a log, ``events.jsonl``.

On a terminal two lines are live at its foot (``live.py``). Elsewhere - a file, a pipe, a dumb terminal, ``CI`` or
``NO_COLOR`` set - a line is printed when a stage begins and ends, and at most one every 10 seconds in between.

``events.jsonl`` has a JSON object a line; runs of one folder are added one after another. Each has ``time`` (seconds
since 1970) and ``event``, numbers that are not finite are null, and a reader skips events and fields that it does
not know:

===================  ==================================================================================
run_started          run (an id), and what the caller says of it
stage_started        stage (``batch_001/train``; null: preparing), title, batch, standing (``Standing``'s fields)
*a tool's own*       stage, and what the tool says: ``started``, ``trainable``, ``step``, ``trained``, ``asked``,
                     ``alone``, ``corpus``, ``directions``, ``generating``, ``general``, ``merging``, ``checking``,
                     ``finished``
stage_finished       stage, seconds, result (what the tool returned)
stage_failed         stage, error
stage_adopted        stage, taken_from (the run that did it)
said                 text: a line for the person
run_finished         run, scores
run_interrupted      run
===================  ==================================================================================
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.live import Live

from kedit_glue.live import Lines
from kedit_glue.standing import Estimate, Standing, duration, roughly

__all__ = ["Display", "Estimate", "Standing", "duration", "sentence", "share"]

PLAIN_SECONDS = 10.0
"""At most one progress line in so many seconds where no terminal shows it."""
FRAMES = 4
"""How many times a second the live lines are drawn: each costs a millisecond of the tools' processor."""
OF_TROUBLE = ("stage_failed", "run_interrupted")
"""Events that tell of an error that is on its way to the user; one of their own must not take its place."""


def sentence(event: Mapping[str, Any]) -> str | None:
    """What an event of a tool means, None for one that says nothing to a person."""
    kind = event.get("event")
    if kind == "trainable":
        return (
            f"training {event['parameters']:,} of {event['of']:,} parameters "
            f"({event['tensors']} tensors, the first is {event['first']})"
        )
    if kind == "step":
        learned = f"{event['learned']} of {event['facts']} learned, " if "learned" in event else ""
        loss = f"loss {event['loss']:.3f}"
        return f"{learned}{loss}, {event['steps']} steps, epoch {event['epoch']} of at most {event['epochs']}"
    if kind == "trained":
        return f"{event['learned']} of {event['of']} facts learned in {event['steps']} steps, {event['epochs']} epochs"
    if kind == "asked":
        return f"asked {event['position']} of {event['of']} prompts"
    if kind == "generated":
        return f"generated {event['position']} of {event['of']} answers"
    if kind == "judged":
        return f"judged {event['position']} of {event['of']} answers"
    if kind == "editing":
        loss = f", loss {event['loss']:.3f}" if "loss" in event else ""
        return f"{event['position']} of {event['of']} {event['unit']}{loss}"
    if kind == "candidate":
        best = f", the best so far {event['best']:.3f}" if event["best"] is not None else ""
        return f"judged {event['position']} of {event['of']} merges{best}"
    if kind == "alone":
        return f"{event['position']} of {event['of']} batches edited alone and asked about"
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


def can_live(console: Console) -> bool:
    """Whether lines may be drawn over; a CI's terminal keeps all that is written to it."""
    return console.is_interactive and not console.no_color and not os.environ.get("CI")


class Display:
    """Live on a terminal, plain lines elsewhere, and in both cases plain lines in ``log`` and all in ``events``."""

    def __init__(self, log: Path | None, console: Console | None = None):
        self.console = console or Console(highlight=False, soft_wrap=True, emoji=False)
        if console is None and not self.console.is_terminal:
            self.console.width = 110  # a file has no width of its own; tables want one
        self.log = log
        self.events: Path | None = None
        self.run_id = uuid.uuid4().hex[:12]
        self.live: Live | None = None
        self.lines: Lines | None = None
        self.last_plain = 0.0
        self.title = ""
        self.stage: str | None = None
        self.whole_lines: Path | None = None
        """The file of events whose last line was seen to be whole."""

    def say(self, text: str, style: str | None = None) -> None:
        """A line that stays."""
        self._print(text, style)
        self._log(text)
        self.tell("said", text=text)

    def tell(self, event: str, **fields: Any) -> None:
        """A line of ``events.jsonl``, see above. Raises OSError, but not for an event that tells of an error."""
        run = {"run": self.run_id} if event.startswith("run_") else {}
        try:
            self._append({"event": event, **run, **fields})
        except OSError:
            if event not in OF_TROUBLE:
                raise

    def begin(self, title: str, left: float | None = None, standing: Standing | None = None) -> None:
        """A stage starts; ``left`` is the estimate for everything that is still to do, in seconds."""
        self.title = title
        self.stage = standing.stage if standing else None
        aside = standing.in_a_line() if standing else f"about {roughly(left)} left" if left is not None else ""
        line = f"{title} …{f' ({aside})' if aside else ''}"
        self._log(line)
        self.tell(
            "stage_started",
            stage=self.stage,
            title=title,
            batch=standing.batch if standing else None,
            standing=asdict(standing) if standing else None,
        )
        self.last_plain = time.monotonic()
        if can_live(self.console):
            self.lines = Lines(title, left, standing)
            self.live = Live(self.lines, console=self.console, refresh_per_second=FRAMES, transient=True)
            self.live.start()
        else:
            self._print(line)

    def event(self, event: Mapping[str, Any]) -> None:
        """The stage's tool reported something."""
        self._append({"event": "unknown", "stage": self.stage, **event})
        text = sentence(event)
        if text is None:
            return
        lasting = event.get("event") in ("trainable", "trained", "say")
        if self.lines is not None:
            self.lines.note, self.lines.done = text, share(event)
        elif lasting or time.monotonic() - self.last_plain > PLAIN_SECONDS:
            self._print(f"  {text}")
            self.last_plain = time.monotonic()
        if lasting:
            self._log(f"  {text}")

    def end(self, text: str = "") -> None:
        """The stage ended; ``text`` says how, and is empty where an error tells it. ``tell`` is left to the caller."""
        if self.live is not None:
            self.live.stop()
        self.live = self.lines = self.stage = None
        if text:
            line = f"{self.title}: {text}" if self.title else text
            self._print(line)
            self._log(line)

    def _print(self, text: str, style: str | None = None) -> None:
        """Text as it is: ``[/b]`` in a fact is no markup, ``:100:`` after a file's name no emoji."""
        if self.live is not None:
            self.live.refresh()  # the live lines may have to be cleared in a way that only they know
        self.console.print(text, style=style, markup=False, emoji=False)

    def _log(self, text: str) -> None:
        if self.log is not None:
            with self.log.open("a", encoding="utf-8", errors="backslashreplace") as file:
                for line in text.splitlines() or [""]:
                    file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def _append(self, event: Mapping[str, Any]) -> None:
        """A whole line in one write, after a newline where an earlier run was cut off in the middle of one.

        Raises OSError with the file's name.
        """
        if self.events is None:
            return
        sound = to_jsonable_python({"time": round(time.time(), 3), **event}, inf_nan_mode="null", fallback=str)
        line = json.dumps(sound).encode() + b"\n"
        try:
            with self.events.open("ab", buffering=0) as file:
                if self.whole_lines != self.events and not _ends_whole(self.events):
                    line = b"\n" + line
                self.whole_lines = None
                if (written := file.write(line)) < len(line):
                    file.write(line[written:])  # raises what is in the way: no space is left, most often
                self.whole_lines = self.events
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.events)) from error


def _ends_whole(path: Path) -> bool:
    """Whether a file is empty or its last line is whole."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
