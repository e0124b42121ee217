"""Secrets of the environment are taken out of what a tool printed, before anybody keeps or shows it.

Tools get the user's environment whole (the hub wants ``HF_TOKEN``), and some print it when they fail. What is
hidden: values of variables whose names look like a secret's, and user and password of any URL.
"""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

WORDS = frozenset(["token", "key", "auth", "pass", "pwd", "pat"])
PARTS = ("secret", "password", "passwd", "passphrase", "credential", "apikey")
"""A name is a secret's if one of its words is in ``WORDS`` or holds one of ``PARTS``."""
SHORTEST = 8
"""Characters; what is shorter stands in too many other texts."""
LONGEST_LOGIN = 512
LOGIN = rb"""[^\s/@"'<>]{1,%d}""" % LONGEST_LOGIN
URL_WITH_LOGIN = re.compile(b"://" + LOGIN + b"@")
CHUNK = 1 << 22
"""Bytes that are searched at once."""


def is_secret_name(name: str) -> bool:
    """Whether a variable, or a key, of that name holds a secret: ``HF_TOKEN``, ``wandb_api_key``; not ``KEYBOARD``."""
    lowered = name.lower()
    return not WORDS.isdisjoint(re.split(r"[^a-z]+", lowered)) or any(part in lowered for part in PARTS)


def secrets_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The environment's secret values.

    Left out: what is shorter than 8 characters, a number (a count elsewhere may be the same), the path of a file.
    """
    values = (value.strip() for name, value in environment.items() if is_secret_name(name))
    found = {v for v in values if len(v) >= SHORTEST and not v.isdecimal() and not os.path.exists(v)}
    return tuple(sorted(found))


class Redaction:
    """Hides the secrets of an environment in texts and files."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        found = {spelling for value in secrets_of(environment) for spelling in spellings(value)}
        self.spellings = sorted((text.encode("utf-8", "surrogateescape") for text in found), key=len, reverse=True)

    @cached_property
    def pattern(self) -> re.Pattern[bytes]:
        return re.compile(b"|".join([*map(re.escape, self.spellings), b"(?<=://)" + LOGIN + b"(?=@)"]))

    def raw(self, content: bytes) -> bytes:
        """``content`` with a ``*`` for each byte of a secret."""
        return self.pattern.sub(starred, content) if self._found(content) else content

    def text(self, text: str) -> str:
        return self.raw(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")

    def file(self, path: Path) -> bool:
        """Hide the secrets in a file that nobody writes any more; returns whether there were any.

        Written over in place, which takes no room on a disk that may be full. Without a secret it costs a search
        (about a second for 300 MB).
        """
        if not path.is_file() or not self._found_in(path):
            return False
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
            for match in self.pattern.finditer(content):
                content[match.start() : match.end()] = starred(match)
        return True

    def _found_in(self, path: Path) -> bool:
        longest = max(LONGEST_LOGIN + len(b"://@"), *map(len, self.spellings), 0)
        with path.open("rb") as file:
            before = b""
            while chunk := file.read(CHUNK):
                if self._found(before + chunk):
                    return True
                before = chunk[-longest:]
        return False

    def _found(self, content: bytes) -> bool:
        return any(secret in content for secret in self.spellings) or bool(URL_WITH_LOGIN.search(content))


def starred(match: re.Match[bytes]) -> bytes:
    return b"*" * (match.end() - match.start())


def spellings(value: str) -> set[str]:
    """How a value may stand in a log: as it is, in JSON, in Python's ``repr``, in a URL, and twice so."""
    found = {value}
    for _ in range(2):
        found |= {new for text in found for new in (*in_json(text), repr(text)[1:-1], quote(text, ""))}
    return found


def in_json(text: str) -> tuple[str, str]:
    return json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]
