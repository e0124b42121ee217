"""A stage's record: what it was made from, what came out with its hashes, and a seal of its own."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from kedit_glue.atomic import write_text
from kedit_glue.content import hash_of

NEEDED = {"key", "parts", "output", "content", "beside"}
SEAL = ',\n "seal": "'
"""Stands in a record's text before its seal, which is its last value."""
Prints = Mapping[str, tuple[int, int, str]]
"""File -> size in bytes, time of its last change in ns, hash of its content."""


def hashed(value: Any) -> str:
    """Hash of a value that JSON can hold."""
    return _hashed_once(value) if isinstance(value, str | int | float | None) else _hashed(value)


def _hashed(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


_hashed_once = functools.lru_cache(maxsize=1024, typed=True)(_hashed)
"""Most settings are the same for all stages of a run."""


def files_in(path: Path) -> Iterator[tuple[str, str, os.stat_result]]:
    """Every file of an output: its name in it, where it lies, its size and time. Raises FileNotFoundError."""
    itself = path.stat()
    if not stat.S_ISDIR(itself.st_mode):
        yield path.name, str(path), itself
        return
    begins = len(str(path)) + 1
    for root, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            file = os.path.join(root, name)
            yield file[begins:], file, os.stat(file)


def fingerprint(path: Path) -> dict[str, list[int]]:
    """Names, sizes and times of a file, or of all files of a folder: cheap for gigabytes of weights."""
    return {name: [found.st_size, found.st_mtime_ns] for name, _, found in files_in(path)}


def prints(path: Path) -> dict[str, tuple[int, int, str]]:
    """``fingerprint`` with each file's hash."""
    return {name: (found.st_size, found.st_mtime_ns, hash_of(file)) for name, file, found in files_in(path)}


def content(output: Prints) -> str:
    """Hash of what a later stage reads of an output: weights and configuration of a model, else all of it."""
    weights = {name: p[2] for name, p in output.items() if name.endswith((".safetensors", "config.json"))}
    return hashed(weights or {name: p[2] for name, p in output.items()})


def damage(path: Path, output: Prints, thorough: bool = False) -> str | None:
    """What is no longer as the record says, None where all is. Raises FileNotFoundError where nothing is there.

    Of a folder files of another time are read and hashed; ``thorough`` reads all of them, which also finds a bit that
    turned on the disk. An output that is a single file is always read.
    """
    found = {name: (file, at) for name, file, at in files_in(path)}
    thorough = thorough or (found.keys() == {path.name} and found[path.name][0] == str(path))
    if missing := sorted(output.keys() - found.keys()):
        return f"{missing[0]} is gone"
    if added := sorted(found.keys() - output.keys()):
        return f"{added[0]} is new"
    for name, (size, changed, mark) in output.items():
        file, at = found[name]
        if at.st_size != size:
            return f"{name} has another size"
        if (thorough or at.st_mtime_ns != changed) and hash_of(file) != mark:
            return f"{name} holds something else"
    return None


def write_record(file: Path, record: Mapping[str, Any]) -> None:
    """Atomically, with its seal: a hash of the text before it."""
    text = json.dumps(record, ensure_ascii=False, indent=1).removesuffix("\n}")
    write_text(file, f'{text}{SEAL}{_seal(text.encode())}"\n}}')


def _seal(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]


def read_record(file: Path, needed: Collection[str] = NEEDED) -> dict[str, Any] | None:
    """None where there is none. Raises ValueError for one that is not as it was written, or lacks what is needed."""
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        return None
    sealed, _, seal = text.rpartition(SEAL.encode())
    if seal != f'{_seal(sealed)}"\n}}'.encode():
        raise ValueError("its seal does not fit")
    found: dict[str, Any] = json.loads(sealed + b"\n}")
    if not found.keys() >= set(needed):
        raise ValueError("it lacks what a record has")
    return found
