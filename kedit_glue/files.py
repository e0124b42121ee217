"""A plan's files on disk, and the user's own changes to them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedit_glue.atomic import write_text
from kedit_glue.plan import Rendered
from kedit_glue.render import render, require

KEPT = ".rendered"
"""Folder beside the YAML with what was last rendered, to tell a hand edit from an old rendering."""


class EditedTwice(ValueError):
    """A file was changed by hand and the recipe now renders it differently, too."""


@dataclass(frozen=True)
class HandEdit:
    """A generated file that the user changed, and how."""

    path: Path
    difference: str


def write_data(data: Mapping[Path, Any]) -> None:
    """Write the plan's JSON files; one that already says the same is left alone."""
    for path, value in data.items():
        _write_if_new(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def write_rendered(files: Iterable[Rendered], templates: Path | None, fresh: bool = False) -> list[HandEdit]:
    """Render and write each file; one changed by hand is kept and returned.

    ``fresh`` writes over hand edits. Raises EditedTwice where recipe and hand both changed a file,
    RenderError where a template failed or does not say what the recipe says.
    """
    edits = []
    for file in files:
        text = render(file.template, file.values, templates)
        require(text, file.must_say, str(file.path))
        kept = file.path.parent / KEPT / file.path.name
        on_disk = file.path.read_text(encoding="utf-8") if file.path.is_file() else None
        # deleted by the user, as EditedTwice advises: the file stands as it is
        last = kept.read_text(encoding="utf-8") if kept.is_file() else text
        by_hand = on_disk is not None and on_disk not in (last, text)
        if not by_hand or fresh:
            _write_if_new(file.path, text)
            _write_if_new(kept, text)
        elif text == last:
            _write_if_new(kept, text)
            edits.append(HandEdit(file.path, difference(last, on_disk or "", file.path.name)))
        else:
            raise EditedTwice(
                f"{file.path} was edited by hand, and the recipe changed it as well.\n"
                f"by hand:\n{difference(last, on_disk or '', file.path.name)}\n"
                f"by the recipe:\n{difference(last, text, file.path.name)}\n"
                "Take the recipe's change back, or make it in the file and delete "
                f"{kept}, or give --fresh to drop the edits made by hand."
            )
    return edits


def difference(old: str, new: str, name: str) -> str:
    """Unified difference without context lines' noise."""
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), f"{name} as generated", f"{name} now", lineterm="", n=0
    )
    return "\n".join(f"    {line}" for line in lines)


def _write_if_new(path: Path, text: str) -> None:
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
