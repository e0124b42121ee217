"""What a run's folder takes on the disk. Files that it holds as hard links are counted once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Use:
    """Bytes of a part of a folder."""

    own: int = 0
    """On the disk, without what an earlier part already holds."""
    apparent: int = 0
    """As if nothing was shared: the sum of the files' lengths."""


@dataclass(frozen=True)
class DiskUse:
    """Bytes of a folder and of its parts."""

    parts: Mapping[str, Use]
    """Its folders by name, and the files beside them under the name ``""``."""
    own: int
    shared_outside: int
    """How much of ``own`` also has a name outside the folder: deleting the folder does not free it."""


def disk_use(folder: Path) -> DiskUse:
    """Parts in the order of their names: ``base``, the batches, ``model`` …"""
    names: dict[tuple[int, int], int] = {}
    found: dict[tuple[int, int], os.stat_result] = {}
    parts: dict[str, Use] = {}
    for part in sorted(os.listdir(folder)):
        path = os.path.join(folder, part)
        is_folder = os.path.isdir(path) and not os.path.islink(path)
        own = apparent = 0
        for status in _files(path) if is_folder else _statuses([path]):
            inode = (status.st_dev, status.st_ino)
            names[inode] = names.get(inode, 0) + 1
            apparent += status.st_size
            if inode not in found:
                found[inode] = status
                own += on_disk(status)
        key = part if is_folder else ""
        before = parts.get(key, Use())
        parts[key] = Use(before.own + own, before.apparent + apparent)
    outside = sum(on_disk(status) for inode, status in found.items() if status.st_nlink > names[inode])
    return DiskUse(parts, sum(map(on_disk, found.values())), outside)


def on_disk(status: os.stat_result) -> int:
    return status.st_blocks * 512


def _files(folder: str) -> Iterator[os.stat_result]:
    for root, _, names in os.walk(folder):
        yield from _statuses([os.path.join(root, name) for name in names])


def _statuses(files: list[str]) -> Iterator[os.stat_result]:
    for file in files:
        try:
            yield os.lstat(file)
        except FileNotFoundError:  # a run that is at work took it away
            continue
