"""The two lines that stay at the foot of a terminal: where the run stands, and what its stage does."""

from __future__ import annotations

import os
import time

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.control import Control
from rich.progress_bar import ProgressBar
from rich.segment import ControlType, Segment
from rich.text import Text

from kedit_glue.standing import Standing, clock, roughly

BARS = ((100, 20), (72, 12), (48, 4))
"""Width of a terminal from which on a bar is so wide, in columns; narrower than all there is none."""


class Lines:
    """Drawn anew several times a second for the terminal's width of that moment; no line is ever longer than it."""

    def __init__(self, title: str, left: float | None, standing: Standing | None):
        self.title = title
        self.left = left
        self.standing = standing
        self.note = ""
        self.done: float | None = None
        """How much of the stage is done, 0 to 1; None where its tool does not tell."""
        self.began = time.monotonic()
        self.width = 0
        """Of the terminal when the lines were last drawn, and how long each was, in columns."""
        self.drawn: list[int] = []

    def left_now(self) -> float | None:
        """The estimate counts down while the stage runs; None where there is none, or it was too small."""
        left = None if self.left is None else self.left - (time.monotonic() - self.began)
        return left if left is not None and left > 0 else None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # the last column stays free: a terminal may go to the next line when it is written
        width = max(options.max_width - 1, 1)
        bar = next((columns for least, columns in BARS if options.max_width >= least), 0)
        room = width - (bar + 1 if bar else 0)
        between = " | " if options.ascii_only else " · "
        rows: list[tuple[float | None, str]] = []
        if self.standing is not None:
            rows.append((self.standing.share, overall(self.standing, self.left_now(), room, between)))
        rows.append((self.done, self._stage(room, between)))
        if options.max_width < self.width and reflows():
            # the terminal has folded what stands there: the rows that this made are above the ones that rich clears
            folded = sum(-(-length // options.max_width) - 1 for length in self.drawn)
            yield Control(*[(ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)] * folded)
        self.width, self.drawn = options.max_width, []
        for share, text in rows:
            if bar:
                drawn = ProgressBar(total=1.0, completed=share or 0.0, width=bar, pulse=share is None)
                yield from Segment.adjust_line_length(list(console.render(drawn, options)), bar + 1)
            yield Segment(text)
            yield Segment.line()
            self.drawn.append(width - room + cell_len(text))

    def _stage(self, room: int, between: str) -> str:
        title, known = self.title, self.standing
        if known is not None and known.batch:
            title = title.removeprefix(f"batch {known.batch} of {known.batches}: ")  # the line above says it
        end = f"{between}{clock(time.monotonic() - self.began)}"
        if known is None and (left := self.left_now()) is not None:
            end += f"{between}about {roughly(left)} left"
        return shortened(f"{title}: {self.note}" if self.note else title, room - cell_len(end)) + end


def overall(standing: Standing, left: float | None, room: int, between: str) -> str:
    """The run's line in at most ``room`` columns: in words, in brief, then without the disk, then without the facts."""
    brief = standing.in_brief(left)
    for parts in (standing.in_words(left), brief, brief[:-1], [brief[0], *brief[2:-1]]):
        if cell_len(text := between.join(parts)) <= room:
            return text
    return shortened(brief[0], room)


def reflows() -> bool:
    """Whether a terminal that is made narrower folds the lines it shows; xterm and screen do not."""
    return "TMUX" in os.environ or not {"XTERM_VERSION", "STY"} & os.environ.keys()


def shortened(text: str, room: int) -> str:
    """Text in at most ``room`` columns and one line, an ellipsis where it was cut, no control characters."""
    flat = Text("".join(c if c.isprintable() else " " for c in text))
    flat.truncate(max(room, 0), overflow="ellipsis")
    return flat.plain
