"""A table with a header, as CSV."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from kedit_glue.facts import records
from kedit_glue.facts.errors import FactsError, names, nearest, refused, shown
from kedit_glue.facts.fields import Parsed

REQUIRED = ("prompt", "target_new")
COLUMNS = (
    *REQUIRED, "id", "case_id", "subject", "ground_truth", "rephrase_prompt",
    "locality_prompt", "locality_ground_truth", "portability_prompt", "portability_ground_truth",
)  # fmt: skip
NUMBERED = re.compile(r"rephrase_prompt_\d+")
ALLOWED = f"columns {', '.join(COLUMNS)}, and rephrase_prompt_2, rephrase_prompt_3 …"


def to_edit(row: Mapping[str, object], position: str) -> Parsed:
    """An empty cell is a value that was not given, but in the two required columns."""
    given = {name: cell for name, cell in row.items() if name in REQUIRED or str(cell or "").strip()}
    return records.to_edit(given, position)


def header_error(path: Path, header: Sequence[str]) -> FactsError | None:
    """What is wrong with the header, if anything."""
    for number, name in enumerate(header, 1):
        if header.index(name) != number - 1:
            return refused(
                path,
                f"line 1: two columns are named {shown(name)}",
                ALLOWED,
                "rename one, e.g. rephrase_prompt_2",
            )
        if name not in COLUMNS and not NUMBERED.fullmatch(name):
            like = nearest(name, COLUMNS)
            todo = f"rename it to {like}" if like else "remove it, or give it one of these names"
            return refused(path, f"line 1: unknown column {shown(name)} (column {number})", ALLOWED, todo)
    if missing := [name for name in REQUIRED if name not in header]:
        return refused(
            path,
            f"line 1: no column {' and no column '.join(missing)} (found: {names(header)})",
            ALLOWED,
            "name the columns in the first line; prompt and target_new must be there",
        )
    return None
