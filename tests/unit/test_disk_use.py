"""Bytes of a folder's parts: what they hold together is counted once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kedit_glue.disk_use import Use, disk_use


def written(path: Path, count: int) -> int:
    """Makes a file; returns what it takes on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(count))
    return path.stat().st_blocks * 512


def test_links_are_counted_where_they_come_first(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = written(run / "batch_001" / "tuned" / "model", 9000)
    second = written(run / "batch_002" / "own", 5000)
    (run / "batch_002" / "merged").mkdir()
    (run / "batch_002" / "merged" / "model").hardlink_to(run / "batch_001" / "tuned" / "model")
    (run / "batch_002" / "again").hardlink_to(run / "batch_002" / "own")
    top = written(run / "log.txt", 100) + written(run / "scores.json", 200)
    found = disk_use(run)
    assert found.parts == {
        "batch_001": Use(first, 9000),
        "batch_002": Use(second, 9000 + 5000 + 5000),
        "": Use(top, 300),
    }
    assert (found.own, found.shared_outside) == (first + second + top, 0)


def test_what_has_a_name_outside(tmp_path: Path) -> None:
    shared = written(tmp_path / "cache" / "untouched", 7000)
    (tmp_path / "run" / "base").mkdir(parents=True)
    (tmp_path / "run" / "base" / "untouched").hardlink_to(tmp_path / "cache" / "untouched")
    found = disk_use(tmp_path / "run")
    assert (found.own, found.shared_outside) == (shared, shared)


def test_what_a_link_leads_to_is_not_counted(tmp_path: Path) -> None:
    written(tmp_path / "elsewhere" / "big", 100_000)
    run = tmp_path / "run"
    run.mkdir()
    (run / "folder").symlink_to(tmp_path / "elsewhere")
    (run / "broken").symlink_to(tmp_path / "nothing")
    found = disk_use(run)
    assert list(found.parts) == [""] and found.own < 100_000


def test_a_file_that_goes_while_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = written(tmp_path / "batch_001" / "there", 100)
    written(tmp_path / "batch_001" / "going", 100)
    lstat = os.lstat

    def going(path: str) -> os.stat_result:
        if str(path).endswith("going"):
            raise FileNotFoundError(path)
        return lstat(path)

    monkeypatch.setattr("kedit_glue.disk_use.os.lstat", going)
    assert disk_use(tmp_path).parts == {"batch_001": Use(there, 100)}
