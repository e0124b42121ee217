"""What goes wrong while facts are loaded."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class FactsError(ValueError):
    """A facts file as a whole cannot be used; the message says why, what is allowed and what to do."""


class BadRecord(Exception):
    """One record, or one value in it, cannot be used; never leaves this package."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message


def refused(path: Path, found: str, allowed: str, todo: str) -> FactsError:
    return FactsError(f"{path}: {found}. Allowed: {allowed}. Next: {todo}.")


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name most like ``word``, or None where none is like it."""
    return next(iter(difflib.get_close_matches(word.strip().lower(), list(known), 1, cutoff)), None)


def shown(text: str, most: int = 60) -> str:
    """``text`` quoted on one line, cut where it is long: safe to print whatever a file holds."""
    return repr(text if len(text) <= most else text[: most - 1] + "…")


def plain(name: str) -> str:
    """A file's own key as it is, but quoted where it would not print as one short word."""
    return name if name.isprintable() and 0 < len(name) <= 40 else shown(name, 40)


def names(keys: Iterable[str], most: int = 20) -> str:
    """A file's own keys, for a message."""
    keys = list(keys)
    if not keys:
        return "none"
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(shown(key, 40) for key in keys[:most]) + more
