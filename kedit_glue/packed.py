"""What a packed model says of itself: its manifest, its size, and whether it is still as it was written.

A packed folder::

    manifest.json   for each file of the model: size, hash (XXH3) and where its bytes come from
    files/          what the original does not have, under the model's own names

A file of the model is there whole (``stored``), or the original has the same one (``original``), or it is
a shard of which the manifest keeps the header as it stood and ``files/`` the tensors that are not the
original's, as a shard of their own (``tensors``). ``kedit_glue.changed`` writes such folders and reads them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import xxhash
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from kedit_glue.atomic import write_json
from kedit_glue.content import hash_of

MANIFEST = "manifest.json"
FILES = "files"
CHECK = "check"


class ChangedError(ValueError):
    """A model cannot be packed or rebuilt; the message says which file is at fault and what to do."""


class Subset(BaseModel):
    """The shard in ``files/`` with those tensors of a shard that the original does not have."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    size: int
    hash: str
    tensors: tuple[str, ...]
    """Come from here; the shard's others come from the original."""


class Part(BaseModel):
    """A file of the model, and where its bytes come from."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    size: int
    hash: str
    mtime_ns: int
    seen: tuple[int, int]
    """Device and inode when it was packed: the next batch's link to the same file need not be read again."""
    how: Literal["stored", "original", "tensors"]
    header: str = ""
    """Of ``tensors``: the shard's JSON as it stood, padding included."""
    subset: Subset | None = None
    """None: all tensors are the original's."""


class Manifest(BaseModel):
    """What ``manifest.json`` says, beside its own hash (``check``)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal[1]
    original: str
    """Where the original lay."""
    original_seen: dict[str, tuple[int, int]]
    """Size and time of its weight files."""
    files: dict[str, Part]

    @property
    def size(self) -> int:
        """Bytes of the model's files."""
        return sum(part.size for part in self.files.values())

    @field_validator("files")
    @classmethod
    def _inside(cls, files: dict[str, Part]) -> dict[str, Part]:
        """A manifest is data: no name in it may lead out of the folder."""
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or name in ("", ".") or str(path) != name or "\0" in name:
                raise ValueError(f"{name!r} is no name of a file inside a model's folder")
        return files


def write_manifest(packed: Path, manifest: Manifest) -> int:
    """Returns its size in bytes."""
    said = manifest.model_dump(mode="json", exclude_defaults=True)
    write_json(packed / MANIFEST, {**said, CHECK: _check(said)})
    return (packed / MANIFEST).stat().st_size


def read_manifest(packed: Path) -> Manifest:
    """Raises ChangedError for a manifest that is missing, damaged, or leads out of its folder."""
    file = packed / MANIFEST
    try:
        said = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise damaged(file, "is missing") from None
    except ValueError:
        raise damaged(file, "is damaged: it is no JSON") from None
    if not isinstance(said, dict) or said.pop(CHECK, None) != _check(said):
        raise damaged(file, "is damaged: other content than was written")
    try:
        return Manifest.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ChangedError(f"{file} cannot be used, another program wrote it: {where}: {first['msg']}") from None


def _check(said: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(said, sort_keys=True).encode())


def damaged(file: Path, why: str) -> ChangedError:
    """``why``: what ``fault`` says of a file of a packed folder."""
    return ChangedError(
        f"{file} {why}\n  the model cannot be rebuilt without it: bring it back from a backup, or make the model again "
        "(run the recipe with --from and the batch's number)"
    )


def fault(file: Path, size: int, content: str | None = None) -> str | None:
    """What is wrong with a file that had this size and hash, None where nothing is; without a hash it is not read."""
    if not file.is_file():
        return "is missing"
    if (found := file.stat().st_size) != size:
        return f"is damaged: {found:,} bytes, not {size:,}"
    if content is not None and hash_of(file) != content:
        return "is damaged: other content than was written"
    return None


def damage(packed: Path) -> str | None:
    """What is wrong with a packed folder by its hashes, all of it read; None where it is whole. One line."""
    try:
        manifest = read_manifest(packed)
    except ChangedError as error:
        return str(error).splitlines()[0]
    for name, part in manifest.files.items():
        file, want = packed / FILES / name, part if part.how == "stored" else part.subset
        if want and (why := fault(file, want.size, want.hash)):
            return f"{file} {why}"
    return None


def files_of(folder: Path) -> list[Path]:
    """Every file in a folder and its subfolders, in the order of their names."""
    return sorted(file for file in folder.rglob("*") if file.is_file())


def bytes_of(*packed: Path) -> int:
    """Bytes of these folders' files; what several of them link to counts once."""
    found = [file.stat() for folder in packed for file in files_of(folder)]
    return sum({(at.st_dev, at.st_ino): at.st_size for at in found}.values())
