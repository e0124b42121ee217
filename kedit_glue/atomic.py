"""Files and folders that are either the old ones or the whole new ones, never half; files that folders share."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL = ".partial"
ABANDONED_SECONDS = 24 * 3600
"""Nobody fills a folder any more that nothing was written to for so long."""


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
    """An empty folder to fill; it takes ``target``'s place, and name, when the block ends without an error.

    With a ``suffix`` of its own, several processes may fill one target. What killed ones left beside it is removed.
    """
    for left in target.parent.glob(f"*{PARTIAL}-*"):
        if time.time() - last_written(left) > ABANDONED_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    aside = target.with_name(target.name + suffix)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    yield aside
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)


def last_written(folder: Path) -> float:
    """When something in it was written last, in seconds since 1970; now where it is just being removed."""
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    except FileNotFoundError:
        return time.time()


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
