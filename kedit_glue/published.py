"""A publication in a folder: written whole, over nothing but an earlier publication of the same run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kedit_glue import changed, publication
from kedit_glue.atomic import PARTIAL
from kedit_glue.problems import CannotStart, listed
from kedit_glue.publication import MANIFEST, Item, Publication
from kedit_glue.restore import check_space

CHECKED = 1 << 26
"""Bytes; files of an earlier publication up to this size are read before they are replaced."""


def write_folder(made: Publication, target: Path) -> None:
    """Whole or not there; real files; ``check`` goes before."""
    with changed.whole_folder(target) as aside:
        for item in made.items:
            write(item, aside / item.name)


def check(made: Publication, target: Path) -> None:
    """Raises CannotStart where something else lies there, or the disk has no room."""
    check_free(target, made)
    check_space(made.size, target)


def write(item: Item, to: Path) -> None:
    """Raises CannotStart where it is no longer what was read before."""
    if changed.write_hashed(to, publication.chunks(item.content)) != item.xxh3:
        raise CannotStart(f"{item.name} changed while it was published: start this command again")


def check_free(target: Path, made: Publication) -> None:
    """Raises CannotStart unless nothing is there, or an earlier publication of the same run that nobody touched."""
    aside = target.with_name(target.name + PARTIAL)
    if aside.exists():
        raise CannotStart(f"{aside} is there already: delete it if a publish that was killed left it")
    if target.exists() and not target.is_dir():
        raise CannotStart(f"{target} is no folder: give --to another name")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if (why := not_ours(target, made)) is not None:
        raise CannotStart(f"{target} is not empty, and {why}: give --to a new folder, or empty this one")


def not_ours(target: Path, made: Publication) -> str | None:
    """Why a folder is no earlier publication of the same run, None where it is one."""
    earlier = manifest(target / MANIFEST)
    if earlier is None:
        return f"holds no {MANIFEST} of an earlier publication"
    if (told := of_another(earlier, made)) is not None:
        return told
    there = {path.relative_to(target).as_posix(): path for path in files_of(target)}
    files = earlier["files"]
    if strange := sorted(there.keys() - files.keys() - {MANIFEST}):
        return f"{listed(strange, 3)} did not come from there"
    for name, path in there.items():
        if name != MANIFEST and touched(path, files[name]):
            return f"{name} was changed since"
    return None


def files_of(folder: Path) -> Iterable[Path]:
    return (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def manifest(file: Path) -> dict[str, Any] | None:
    """An earlier publication's, None where there is none that can be read."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    sound = isinstance(found, dict) and isinstance(found.get("files"), dict)
    return found if sound and {"what", "run"} <= found.keys() else None


def of_another(earlier: Mapping[str, Any], made: Publication) -> str | None:
    """In words what else was published, None where it was the same run in the same form."""
    if (earlier["what"], earlier["run"]) == (made.what, made.run):
        return None
    return f"holds the {earlier['what']} of run {earlier['run']}"


def touched(path: Path, was: Mapping[str, Any]) -> bool:
    if path.is_symlink() or path.stat().st_size != was.get("bytes"):
        return True
    return path.stat().st_size <= CHECKED and publication.measured("", path).sha256 != was.get("sha256")
