"""A plan's files on disk, and the user's own changes to them.

What was last rendered is kept beside each file: a file that differs from it was edited by hand. A
changed file is written in three steps, any of which may be the process's last: the new rendering is
put down as ``.next``, the file is written, ``.next`` becomes what is kept.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kedit_glue import strict_yaml, three_way, tool_yaml
from kedit_glue.atomic import write_text
from kedit_glue.plan import Rendered
from kedit_glue.problems import RecipeError
from kedit_glue.render import content, render, require, says_plainly

KEPT = ".rendered"
"""Folder beside the YAML with what was last rendered, to tell a hand edit from an old rendering."""
NEXT = ".next"
"""Ends the name of a rendering there whose file may not have been written yet."""
MOST_NAMED = 5
"""Files with a conflict that a message shows in full."""


class EditedTwice(ValueError):
    """Files were changed by hand and the recipe now renders the same values, or lines, differently, too."""


class BrokenEdit(ValueError):
    """A file that was changed by hand can no longer be read."""


@dataclass(frozen=True)
class HandEdit:
    """A generated file that the user changed, and how."""

    path: Path
    difference: str


@dataclass(frozen=True)
class _State:
    """A file as it is: on disk, as it was last rendered (None: there is none), and rendered now."""

    path: Path
    disk: str | None
    kept: str | None
    now: str

    @property
    def kept_file(self) -> Path:
        return kept_file(self.path)


def kept_file(path: Path) -> Path:
    """Where the last rendering of a file is kept."""
    return path.parent / KEPT / path.name


def write_data(data: Mapping[Path, Any]) -> None:
    """Write the plan's JSON files; one that already says the same is left alone."""
    for path, value in data.items():
        text = data_text(value)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)


def data_text(value: Any) -> str:
    """What a data file holds."""
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def write_rendered(files: Iterable[Rendered], templates: Path | None) -> list[HandEdit]:
    """Render and write each file; what was changed by hand is kept, merged with what the recipe changed, and returned.

    Nothing is written where this raises: EditedTwice where recipe and hand changed the same, BrokenEdit where a
    hand edit cannot be read, RenderError where a template failed or does not say what the recipe says.
    """
    edits, changes, conflicts = [], [], []
    for file in files:
        state = _look(file, templates)
        if state is None:
            continue
        text = _wanted(state)
        if text is None:
            conflicts.append(state)
            continue
        if (text, state.now) != (state.disk, state.kept):
            changes.append((state, text))
        if text != state.now:
            edits.append(HandEdit(state.path, difference(state.now, text, state.path.name)))
    if conflicts:
        raise EditedTwice(_explain(conflicts))
    for state, text in changes:
        _write(state, text)
    return edits


def difference(old: str, new: str, name: str) -> str:
    """Unified difference without context lines' noise."""
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), f"{name} as generated", f"{name} now", lineterm="", n=0
    )
    shown = "\n".join(f"    {line}" for line in lines)
    return shown if shown or old == new else "    only the ends of lines differ"


def _look(file: Rendered, templates: Path | None) -> _State | None:
    """The file's state, its rendering checked; None where there is nothing to do."""
    now = render(file.template, file.values, templates)
    disk, kept = _read(file.path), _read(kept_file(file.path))
    kept = _settle(file.path, disk, kept)
    if now != kept or not says_plainly(now, file.must_say):  # else it was checked when it was written
        require(content(now, file.template, templates), file.must_say, str(file.path))
    return None if disk == now == kept else _State(file.path, disk, kept, now)


def _settle(path: Path, disk: str | None, kept: str | None) -> str | None:
    """What the file on disk was made from; ends a writing that was cut off, one way or the other."""
    pending = kept_file(path).with_name(path.name + NEXT)
    text = _read(pending)
    if text is None:
        return kept
    if disk is not None and disk != kept and (kept is None or disk == text or _made_from(path, disk, kept, text)):
        pending.replace(kept_file(path))
        return text
    pending.unlink()
    return kept


def _made_from(path: Path, disk: str, kept: str, pending: str) -> bool:
    _readable(path, disk)
    _readable(kept_file(path), kept)
    return three_way.holds(kept, disk, pending)


def _wanted(state: _State) -> str | None:
    """The text that the file should have; None where hand and recipe are in conflict."""
    if state.disk is None or state.disk in (state.kept, state.now):
        return state.now
    _readable(state.path, state.disk)
    # no rendering kept: deleted by the user, as EditedTwice advises; the file stands as it is
    if state.kept is None or state.kept == state.now:
        return state.disk
    return _merged(state, state.disk, state.kept).text


def _merged(state: _State, disk: str, kept: str) -> three_way.Merged:
    _readable(state.kept_file, kept)
    return three_way.merge(kept, disk, state.now)


def _explain(conflicts: list[_State]) -> str:
    shown = []
    for state in conflicts[:MOST_NAMED]:
        disk, kept, name = state.disk or "", state.kept or "", state.path.name
        lines = [f"{state.path} was edited by hand, and the recipe changed it as well."]
        lines += [f"  {conflict}" for conflict in _merged(state, disk, kept).conflicts]
        if len(lines) == 1:
            lines += [
                "  no value is in conflict, but lines are that both changed",
                f"by hand:\n{difference(kept, disk, name)}",
                f"by the recipe:\n{difference(kept, state.now, name)}",
            ]
        advice = f"Take the recipe's change back, or make it in the file and delete {state.kept_file}"
        shown.append("\n".join([*lines, f"{advice}, or delete {state.path} to have it generated anew."]))
    if len(conflicts) > MOST_NAMED:
        shown.append(f"The same holds for {len(conflicts) - MOST_NAMED} more files.")
    return "\n".join(shown)


def _write(state: _State, text: str) -> None:
    """Write file and rendering so that no last step, whichever it is, makes an edit of what was none."""
    path, kept = state.path, state.kept_file
    kept.parent.mkdir(parents=True, exist_ok=True)
    if state.now == state.kept:
        write_text(path, text)
    elif text == state.disk:
        write_text(kept, state.now)
    else:
        pending = kept.with_name(kept.name + NEXT)
        write_text(pending, state.now)
        write_text(path, text)
        pending.replace(kept)


def _read(path: Path) -> str | None:
    """The text with its line ends as they are; None where there is no file."""
    try:
        return path.read_bytes().decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError:
        raise BrokenEdit(_why_broken(path)) from None


def _readable(path: Path, text: str) -> None:
    try:
        if isinstance(tool_yaml.load(text), dict):
            return
    except yaml.YAMLError as error:
        raise BrokenEdit(_why_broken(path, f"  {error}")) from None
    raise BrokenEdit(_why_broken(path))


def _why_broken(path: Path, problem: str = "  no mapping of keys to values") -> str:
    """In the plain words that a recipe's problems have; ``problem`` is said where those find none."""
    try:
        strict_yaml.load(path)
    except RecipeError as error:
        problem = "\n".join(f"  {each}" for each in error.problems)
    if path.parent.name == KEPT:
        what, advice = "is what was last generated", "Delete it: the file that it was kept for then stands as it is."
    else:
        what, advice = "was edited by hand", "Put it right, or delete it to have it generated again."
    return f"{path} {what} and cannot be read any more; nothing was started\n{problem}\n{advice}"
