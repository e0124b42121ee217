"""Files and folders that are either the old ones or the whole new ones, never half; files that folders share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL = ".partial"


def write_text(path: Path, text: str, suffix: str = PARTIAL) -> None:
    """``suffix`` names the file that is written aside: one of its own for each process that may write at once."""
    aside = path.with_name(path.name + suffix)
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def write_json(path: Path, value: Any) -> None:
    """A reader sees the old file or the whole new one."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1))


@contextmanager
def new_folder(target: Path, suffix: str = PARTIAL) -> Iterator[Path]:
    """An empty folder to fill; it takes ``target``'s place, and name, when the block ends without an error."""
    aside = target.with_name(target.name + suffix)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    yield aside
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)


def link_or_copy(source: Path, target: Path) -> int:
    """A hard link where the file system allows it, else a copy; returns how many bytes were written.

    What is shared so is never written in place.
    """
    source = source.resolve()  # link(2) would link a symbolic link itself, as the hub's cache has them
    try:
        target.hardlink_to(source)
        return 0
    except OSError:  # another file system, or one without hard links
        shutil.copy(source, target)
        return target.stat().st_size
