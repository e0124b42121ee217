"""``scores.json``, the one result type: reads a file of any version, and checks what is written.

``python -m kedit_glue.result --schema`` prints its JSON schema (``docs/scores.schema.json``), ``--fields`` the page
``docs/scores.md``; with a folder or file it says whether that holds a sound result. The fields: ``result_fields.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kedit_glue.problems import CannotStart, dotted, listed
from kedit_glue.result_fields import MOST_NAMED, SCHEMA, Result

FILE = "scores.json"
AGAIN = "run the recipe again, or score the models again, which writes it anew"


class ResultError(CannotStart):
    """A file is no result, or none that can be read; the message says why and what to do."""


def check(document: Mapping[str, Any]) -> None:
    """For what writes a result; raises ResultError that names where the document is not as ``Result`` says."""
    if flaws := _parsed(document)[1]:
        raise ResultError(f"scores that are not as kedit_glue/result_fields.py says: {flaws}")


def load(path: Path | str) -> Result:
    """The result in a file, a run's or scores' folder, or a model's; one of schema 1 is brought to schema 2.

    Raises ResultError for what is not there, damaged, no result, or of a version that this program does not know.
    """
    file = find(Path(path))
    document = _read(file)
    version = document.get("schema")
    if isinstance(version, bool) or not isinstance(version, int) or not {"facts", "after"} <= document.keys():
        raise ResultError(f"{file} is not a result of kedit_glue: {_what_it_is(document)}")
    if version > SCHEMA:
        raise ResultError(
            f"{file} was written by a newer kedit_glue: its schema is {version}, this one reads 1 to {SCHEMA}; update "
            "kedit_glue"
        )
    if version < 1:
        raise ResultError(f"{file} has schema {version}, which no kedit_glue wrote: versions begin with 1")
    if version == 1:
        from kedit_glue.result_schema_1 import upgraded

        try:
            document = upgraded(document)
        except (KeyError, TypeError, AttributeError) as error:
            what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ResultError(f"{file} has schema 1 and cannot be brought to {SCHEMA}: {what}; {AGAIN}") from None
    result, flaws = _parsed(document)
    if result is None:
        raise ResultError(f"{file} is damaged, or was changed by hand: {flaws}; {AGAIN}")
    return result


def plain(result: Result) -> dict[str, Any]:
    """As a mapping, the way a run writes it: what is optional and null in the file, or not there, is absent."""
    return result.model_dump(by_alias=True, exclude_unset=True, exclude_defaults=True)


def find(path: Path) -> Path:
    """The ``scores.json`` that is meant by a file or folder; raises ResultError where there is none."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise ResultError(f"{path}: no such file or folder")
    for file in (path / FILE, path / "provenance" / FILE):
        if file.is_file():
            return file
    inside = sorted(found.parent.name for found in path.glob(f"*/{FILE}"))
    if inside:
        raise ResultError(f"{path} holds no {FILE}; in it are the results {listed(inside, MOST_NAMED)}")
    unfinished = "; the run has not come to its end: start it again" if (path / "resolved.yaml").is_file() else ""
    raise ResultError(f"{path} holds no {FILE}{unfinished}")


def _read(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{file} is damaged, or no JSON ({error}): {AGAIN}") from None
    except OSError as error:
        raise ResultError(f"{file} cannot be read: {error.strerror}") from None
    if not isinstance(document, dict):
        raise ResultError(f"{file} is not a result of kedit_glue: it holds a {type(document).__name__}")
    return document


def _what_it_is(document: Mapping[str, Any]) -> str:
    if "study" in document:
        return "it is a study's table; compare the study's runs, or read study.md"
    if "schema" not in document:
        return "it has no schema"
    if isinstance(document["schema"], bool) or not isinstance(document["schema"], int):
        return f"its schema is {document['schema']!r}, not a whole number"
    return f"it has no {' and no '.join(sorted({'facts', 'after'} - document.keys()))}"


def _parsed(document: Mapping[str, Any]) -> tuple[Result | None, str]:
    """The result, or None and its flaws in words."""
    try:
        return Result.model_validate(document), ""
    except ValidationError as error:
        flaws = list(dict.fromkeys(_flaws(document, error)))
    more = f"; and {len(flaws) - MOST_NAMED} more" if len(flaws) > MOST_NAMED else ""
    return None, "; ".join(flaws[:MOST_NAMED]) + more


def _flaws(document: Mapping[str, Any], error: ValidationError) -> Iterator[str]:
    for flaw in error.errors(include_url=False, include_context=False):
        message = flaw["msg"].removeprefix("Value error, ")
        where = dotted(_place(document, flaw["loc"], flaw["type"] == "missing"))
        yield f"{where}: {message[:1].lower()}{message[1:]}" if where else message


def _place(document: Any, location: Sequence[int | str], missing: bool) -> Iterator[int | str]:
    """The parts of pydantic's location that the document has, or lacks; the others name branches of its types."""
    at = document
    for number, part in enumerate(location):
        if isinstance(at, Mapping) and part in at:
            at = at[str(part)]
        elif isinstance(at, list) and isinstance(part, int) and part < len(at):
            at = at[part]
        elif not (missing and number == len(location) - 1):
            continue
        yield part


if __name__ == "__main__":
    import sys

    from kedit_glue.result_page import main

    sys.exit(main())
