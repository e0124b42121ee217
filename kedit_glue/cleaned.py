"""Texts without what only this machine and its user are to know: local paths, secrets, logins. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kedit_glue.redact import Redaction, in_json

REST = r"[^\s/\"'`<>|\\,;()\[\]{}*]+"
"""One name of a path."""
ABSOLUTE = re.compile(rf"(?<![\w/.<])(?:file://)?(?:~[\w.-]*(?:/{REST})+|(?:/{REST}){{2,}})/?")
"""A path from the root of the disk, or from a home: two names or more; no part of a URL."""
HOMES = re.compile(r"/(?:home|Users)/[^/]+|/root")
TOKEN = re.compile(
    rb"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    rb"|xox[abp]-[\w-]{10,}|AKIA[0-9A-Z]{16})"
)
"""Access tokens that are known by their shape: the hub's, of model services, code hosts, chats and clouds."""
NAMED = re.compile(
    rb"(?im)(?:^|(?<=[\s\"'#{,?&]))(?:[\w-]*(?:password|passwd|passphrase|secret|api[_-]?key)"
    rb"|(?:[\w-]*(?:access|api|auth|hf|hub)[_-])?token)"
    rb"[\"']?[ \t]*[:=][ \t]*[\"']?(?P<value>[^\s\"',}]{8,})"
)
"""A value that a settings file calls a secret."""
HIDDEN = b"x"
"""Stands for each byte of a secret."""
RECORDS = "provenance/"
"""Folder of a published model with what tells how it was made."""
CARDS = (".md", "/config.json")
VOCABULARY = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json", ".jinja")


@dataclass(frozen=True)
class Cleaned:
    """A text, and how much was taken out of it."""

    text: str
    paths: int
    secrets: int


class Cleaning:
    """Takes local paths and secrets out of texts that are given away."""

    def __init__(self, places: Iterable[str], environment: Mapping[str, str], home: str) -> None:
        """``places``: absolute folders that are known to be this machine's; ``environment``: its secrets are hidden."""
        known = {place.rstrip("/") for place in (*places, home)} - {""}
        spelled = sorted({way for place in known for way in (place, *in_json(place))}, key=len, reverse=True)
        # longest first; a place may hold blanks, which ABSOLUTE does not know
        self.known = re.compile(
            rf"(?<![\w/.])(?:file://)?(?:{'|'.join(map(re.escape, spelled))})(?:/{REST})*/?(?![\w-])"
            if known
            else r"(?!)"
        )
        self.home = home.rstrip("/")
        self.redaction = Redaction(environment)

    def file(self, name: str, text: str) -> Cleaned:
        """A file's text, by the name that it is given away under.

        Known places and secrets go; from cards, settings and records any absolute path, of which the last name stays.
        Vocabularies and templates, where a word that is changed changes the model, are the original's: left alone.
        """
        if name.endswith(VOCABULARY):
            return Cleaned(text, 0, 0)
        raw, secrets = text.encode("utf-8", "surrogatepass"), 0
        for pattern in (self.redaction.pattern, TOKEN):
            raw, found = pattern.subn(_hidden, raw)
            secrets += found
        if name.endswith((".yaml", ".yml", ".md")):
            raw, found = NAMED.subn(_value_hidden, raw)
            secrets += found
        text, paths = self.known.subn(self._name, raw.decode("utf-8", "surrogatepass"))
        if name.startswith(RECORDS) or f"/{name}".endswith(CARDS):
            text, found = ABSOLUTE.subn(self._name, text)
            paths += found
        return Cleaned(text, paths, secrets)

    def _name(self, match: re.Match[str]) -> str:
        path = match[0].removeprefix("file://").rstrip("/")
        return "~" if path == self.home or HOMES.fullmatch(path) else path.rpartition("/")[2]


def _hidden(match: re.Match[bytes]) -> bytes:
    """Not stars: YAML takes them for an alias."""
    return HIDDEN * len(match[0])


def _value_hidden(match: re.Match[bytes]) -> bytes:
    value = match["value"]
    return match[0].removesuffix(value) + HIDDEN * len(value)
