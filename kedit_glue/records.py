"""A stage's record: what it was made from, what came out with its hashes, and a seal of its own."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kedit_glue.atomic import write_json
from kedit_glue.content import hash_of

NEEDED = {"key", "parts", "output", "content", "beside"}
SEAL = "seal"
Prints = Mapping[str, tuple[int, int, str]]
"""File -> size in bytes, time of its last change in ns, hash of its content."""


def hashed(value: Any) -> str:
    """Hash of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def files_in(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every file of an output, by its name in it, with its size and time."""
    if not path.is_dir():
        yield path.name, path.stat()
        return
    for root, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            file = os.path.join(root, name)
            yield os.path.relpath(file, path), os.stat(file)


def fingerprint(path: Path) -> dict[str, list[int]]:
    """Names, sizes and times of a file, or of all files of a folder: cheap for gigabytes of weights."""
    return {name: [found.st_size, found.st_mtime_ns] for name, found in files_in(path)}


def prints(path: Path) -> dict[str, tuple[int, int, str]]:
    """``fingerprint`` with each file's hash."""
    return {
        name: (found.st_size, found.st_mtime_ns, hash_of(path / name if path.is_dir() else path))
        for name, found in files_in(path)
    }


def content(output: Prints) -> str:
    """Hash of what a later stage reads of an output: weights and configuration of a model, else all of it."""
    weights = {name: p[2] for name, p in output.items() if name.endswith((".safetensors", "config.json"))}
    return hashed(weights or {name: p[2] for name, p in output.items()})


def damage(path: Path, output: Prints, thorough: bool) -> str | None:
    """What is no longer as the record says, None where all is.

    Files of another size or time are read and hashed; ``thorough`` reads all of them, which also finds a bit that
    turned on the disk.
    """
    found = dict(files_in(path))
    if missing := sorted(output.keys() - found.keys()):
        return f"{missing[0]} is gone"
    if added := sorted(found.keys() - output.keys()):
        return f"{added[0]} is new"
    for name, (size, changed, mark) in output.items():
        if found[name].st_size != size:
            return f"{name} has another size"
        looked = thorough or found[name].st_mtime_ns != changed
        if looked and hash_of(path / name if path.is_dir() else path) != mark:
            return f"{name} holds something else"
    return None


def write_record(file: Path, record: Mapping[str, Any]) -> None:
    """Atomically, with its seal."""
    # through JSON and back, as it will be read: tuples become lists, numbers as keys text
    plain = json.loads(json.dumps({key: value for key, value in record.items() if key != SEAL}))
    write_json(file, {**plain, SEAL: hashed(plain)})


def read_record(file: Path) -> dict[str, Any] | None:
    """None where there is none. Raises ValueError for one that is not as it was written."""
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        return None
    found = json.loads(text)  # UnicodeDecodeError and JSONDecodeError are ValueErrors
    if not isinstance(found, dict):
        raise ValueError("no mapping")
    seal = found.pop(SEAL, None)
    if not found.keys() >= NEEDED or seal != hashed(found):
        raise ValueError("its seal does not fit")
    return found
