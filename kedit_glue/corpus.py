"""General texts: a file, a data set (folder or hub), or the small text that ships with the project.

A file holds JSON lines or a JSON list of objects with ``text``, or plain paragraphs.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from kedit_glue.models import HUB_ID

SHIPPED = "background_text.jsonl"
SUBJECTS = "subjects.jsonl"
"""Persons, places, firms, works: what a prompt may be about instead of its own subject."""
FROM_DATA_SET = 1000
"""So many texts of a data set are read where the recipe does not say how many."""
FILES = frozenset([".txt", ".md", ".json", ".jsonl", ".csv", ".parquet"])


class CorpusError(ValueError):
    """There are no texts to be had; the message says what was found and what is allowed."""


def shipped(name: str = SHIPPED) -> Path:
    """The project's own general text, or other of its texts (``recipes/data/README.md``): beside the package, or inside
    an installed one."""
    beside_package = Path(__file__).resolve().parent.parent / "recipes" / "data"
    installed = Path(str(importlib.resources.files("kedit_glue"))) / "data"
    return (beside_package if beside_package.is_dir() else installed) / name


def name_of(corpus: str | None) -> str:
    """A short name for file names: the file's without its ending, the data set's with ``_`` for ``/`` and ``:``."""
    path = Path(SHIPPED if corpus is None else corpus)
    if corpus is None or path.suffix in FILES or path.is_file():
        return path.stem
    return corpus.strip("/").replace("/", "_").replace(":", "_")


def read_corpus(corpus: str | None, texts: int | None = None) -> list[str]:
    """The first ``texts`` texts of ``corpus``, in order, without empty ones.

    ``corpus``: None (the text that is shipped), the path of a file, or a data set - a folder or hub id
    ``owner/name``, with ``:split`` where that is not ``train``, with ``:configuration:split`` where it has several
    (``Salesforce/wikitext:wikitext-103-raw-v1:train``) - whose column ``text`` is read.
    ``texts`` None: all of a file, 1,000 of a data set. Raises CorpusError.
    """
    if corpus is None:
        return read_texts(shipped())[:texts]
    if Path(corpus).is_file():
        return read_texts(Path(corpus))[:texts]
    name, *parts = corpus.split(":")
    *configuration, split = parts or [""]
    of_hub = HUB_ID.fullmatch(name) and Path(name).suffix not in FILES
    if not (Path(name).is_dir() or of_hub) or len(configuration) > 1:
        form = "owner/name[:split] or owner/name:configuration:split"
        raise CorpusError(f"{corpus!r} is neither a file that exists nor a data set {form}")
    found = list(islice(_data_set(name, "".join(configuration), split or "train"), texts or FROM_DATA_SET))
    if not found:
        raise CorpusError(f"data set {corpus} holds no text")
    return found


def _data_set(name: str, configuration: str, split: str) -> Iterator[str]:
    """The column ``text`` of a data set, streamed: no more is read than is asked for."""
    import datasets

    which = f"configuration {configuration}, split {split}" if configuration else f"split {split}"
    try:
        for record in datasets.load_dataset(name, configuration or None, split=split, streaming=True):
            text = record.get("text")
            if "text" not in record:
                raise CorpusError(f"data set {name} has no column 'text'; its columns are {', '.join(record)}")
            if isinstance(text, str) and text.strip():
                yield text.strip()
    except CorpusError:
        raise
    except Exception as error:  # the library raises some ten kinds, from its own to those of the network's
        raise CorpusError(
            f"data set {name} ({which}) cannot be read: {type(error).__name__}: {error}. "
            "Offline only a file, a folder or a data set fetched before will do"
        ) from error


def read_texts(path: Path) -> list[str]:
    """The texts of a file, in order, without empty ones."""
    content = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".jsonl":
            # not splitlines(): it also breaks at characters that JSON allows inside a string
            records: list[Any] = [json.loads(line) for line in content.split("\n") if line.strip()]
        elif path.suffix == ".json":
            records = json.loads(content)
        else:
            records = content.split("\n\n")
    except ValueError as error:
        raise CorpusError(f"{path} is no JSON: {error}") from error
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
