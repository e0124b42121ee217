"""What is wrong with a recipe: one Problem per finding, all of them raised together."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

UNKNOWN_KEY = "unknown key"
SET_PREFIX = "--set "
"""A problem's ``file`` begins with this when the value came from the command line."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, where it stands, and what would be right.

    ``line`` and ``column`` count from 1; both are None for what no line holds (a key that is
    missing at the top level, a file that does not exist, a value from ``--set``).
    """

    file: str
    line: int | None
    column: int | None
    key: str
    """Dotted, as in ``train.learning_rate``; empty where the text is no YAML at all."""
    found: str
    allowed: str
    hint: str = ""

    def __str__(self) -> str:
        where = self.file
        if self.line is not None:
            where += f":{self.line}"
            if self.column is not None:
                where += f":{self.column}"
        text = self.found
        if self.allowed:
            text += f"; {'known here' if self.found == UNKNOWN_KEY else 'allowed'}: {self.allowed}"
        if self.hint:
            text += f"; {self.hint}"
        return printable(f"{where}  {self.key}: {text}" if self.key else f"{where}  {text}")


class RecipeError(Exception):
    """A recipe cannot be used; ``problems`` holds everything that was found, in line order."""

    def __init__(self, problems: Iterable[Problem], source: str = "") -> None:
        self.problems: tuple[Problem, ...] = tuple(sorted(dict.fromkeys(problems), key=_order))
        if not source and self.problems:
            source = self.problems[0].file
        self.source = source
        super().__init__(str(self))

    def __str__(self) -> str:
        count = len(self.problems)
        header = f"{count} problem{'' if count == 1 else 's'} in {self.source}; nothing was started"
        return "\n".join([header, *map(str, self.problems)])


def printable(text: str) -> str:
    """``text`` with control characters and the like as escapes: a message is one line, and changes no terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else repr(c)[1:-1] for c in text)


def _order(problem: Problem) -> tuple[int, int, int]:
    """What concerns the whole file first, then by line, then what came from the command line."""
    from_command_line = problem.file.startswith(SET_PREFIX)
    return 2 if from_command_line else int(problem.line is not None), problem.line or 0, problem.column or 0


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that ``word`` was most likely meant to be, if any comes close."""
    names = list(known)
    lowered = {name.lower(): name for name in names}
    if word.lower().replace("-", "_") in lowered:
        return lowered[word.lower().replace("-", "_")]
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return close[0] if close else None


def did_you_mean(word: str, known: Iterable[str], synonyms: Mapping[str, str] | None = None) -> str:
    """``did you mean 'x'?``, or nothing when no known word comes close."""
    names = list(known)
    other = (synonyms or {}).get(word.lower())
    close = other if other in names else nearest(word, names)
    return f"did you mean '{close}'?" if close else ""


def listed(names: Sequence[str], most: int) -> str:
    """The first ``most`` names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def dotted(path: Iterable[str | int]) -> str:
    """``('score', 'edits', 'metrics', 1)`` as ``score.edits.metrics[1]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


class CannotStart(ValueError):
    """Something that was looked at before the start forbids it; the message is the user's."""
