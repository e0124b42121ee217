"""General texts from a file: JSON lines or a JSON list of objects with ``text``, or plain paragraphs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class CorpusError(ValueError):
    """The file holds no texts; the message says what was found and what is allowed."""


def read_texts(path: Path) -> list[str]:
    """The texts of a file, in order, without empty ones."""
    content = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        records: list[Any] = [json.loads(line) for line in content.splitlines() if line.strip()]
    elif path.suffix == ".json":
        records = json.loads(content)
    else:
        records = content.split("\n\n")
    texts = [_text(record, path).strip() for record in records]
    if not any(texts):
        raise CorpusError(f"{path} holds no text")
    return [text for text in texts if text]


def _text(record: Any, path: Path) -> str:
    if isinstance(record, str):
        return record
    for key in ("text", "Text"):
        if isinstance(record, dict) and isinstance(record.get(key), str):
            return str(record[key])
    raise CorpusError(f"{path}: a record is neither a text nor an object with 'text': {str(record)[:80]!r}")
