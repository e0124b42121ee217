"""A search's trace: JSON lines, the first says what is searched, each other one is a candidate.

It is also what a search that was cut off goes on from: candidates are chosen anew in the same order, and those that the
trace holds are not judged again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def begin(file: Path, head: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The candidates that were judged before under the same head, in order.

    A file with another head is begun anew, and one with no candidate that could be judged: what was wrong then may be
    put right now. What a kill left of a last line is dropped.
    """
    known = []
    for line in _lines(file):
        try:
            known.append(json.loads(line))
        except ValueError:
            break
    if not known or known[0] != json.loads(json.dumps(head)) or not any("fitness" in entry for entry in known[1:]):
        known = [dict(head)]
    _write(file, known)
    return known[1:]


def cut(file: Path, count: int) -> None:
    """Only the head and the first ``count`` candidates stay."""
    head, candidates = read(file)
    _write(file, [head, *candidates[:count]])


def add(file: Path, candidate: Mapping[str, Any]) -> None:
    """One more line."""
    with file.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(candidate) + "\n")


def read(file: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The head and the candidates of a search that is done."""
    head, *candidates = [json.loads(line) for line in _lines(file)]
    return head, candidates


def _write(file: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")


def _lines(file: Path) -> list[str]:
    return [line for line in file.read_text(encoding="utf-8").split("\n") if line] if file.is_file() else []
