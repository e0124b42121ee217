"""What a file holds, as a short hash: finds damage, of which nobody is an author, at the speed of memory."""

from __future__ import annotations

from pathlib import Path

import xxhash

CHUNK = 1 << 20
"""Bytes that are read at once."""


def hash_of(path: Path | str) -> str:
    """XXH3 (128 bits) of a file's bytes, as 32 hexadecimal digits; 10 to 20 times faster than SHA-256 on weights."""
    found = xxhash.xxh3_128()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()
