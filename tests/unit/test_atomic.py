"""Folders that are never half."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from kedit_glue.atomic import ABANDONED_SECONDS, new_folder


def test_a_folder_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "editor"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(ZeroDivisionError), new_folder(target, ".partial-1"):
        raise ZeroDivisionError
    assert [file.name for file in target.iterdir()] == ["old"]
    with new_folder(target, ".partial-1") as aside:
        (aside / "new").touch()
        assert [file.name for file in target.iterdir()] == ["old"]
    assert [file.name for file in tmp_path.iterdir()] == ["editor"]
    assert [file.name for file in target.iterdir()] == ["new"]


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path: Path) -> None:
    left, busy, kept = (tmp_path / name for name in ("a.partial-7", "b.partial-8", "c"))
    for folder in (left, busy, kept):
        (folder / "weights").mkdir(parents=True)
        (folder / "weights" / "file").touch()
        old = time.time() - ABANDONED_SECONDS - 60
        for path in (folder / "weights" / "file", folder / "weights", folder):
            os.utime(path, (old, old))
    os.utime(busy / "weights" / "file")  # a long training, whose folder is old
    with new_folder(tmp_path / "d", ".partial-9"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.partial-8", "c", "d"]
