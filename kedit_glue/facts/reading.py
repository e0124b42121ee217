"""From a file to raw records: JSON, JSONL and CSV."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

from kedit_glue.facts.errors import BadRecord, names, refused
from kedit_glue.facts.fields import BAD_RECORD, described, unwritable

DELIMITERS = ",;\t"
LISTS = (".json",)
LINES = (".jsonl", ".ndjson")
TABLES = (".csv", ".tsv")
EXTENSIONS = ", ".join((*LISTS, *LINES, *TABLES))


@dataclass(frozen=True)
class Raw:
    """One record as it stands in its file; ``flaw`` says why it could not even be read."""

    position: str
    value: object = None
    flaw: str = ""


def record_of(raw: Raw) -> dict[str, object]:
    """A record's named fields. Raises BadRecord for one that was not read, has none, or cannot be written down."""
    if raw.flaw:
        raise BadRecord(BAD_RECORD, raw.flaw)
    if not isinstance(raw.value, dict):
        raise BadRecord(BAD_RECORD, f"{described(raw.value)}, not an object with named fields")
    if flaw := unwritable(raw.value):
        raise BadRecord(BAD_RECORD, flaw)
    return raw.value


def text_of(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise refused(path, "no such file", "a file of facts", "check the path") from None
    except IsADirectoryError:
        raise refused(path, "a folder", f"one file ({EXTENSIONS})", "name a file in it") from None
    except OSError as error:
        raise refused(path, f"cannot be read ({error.strerror})", "a readable file", "check its permissions") from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise refused(path, "UTF-16 text", "UTF-8 text", "save it as UTF-8")
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise refused(path, f"a NUL byte in line {line}", "UTF-8 text", "remove it, or name a text file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # error.object lacks a byte order mark that was there, so count in it and not in ``data``
        found, todo = not_utf8(error.object, error.start)
        raise refused(path, found, "UTF-8 text", todo) from None
    if not text.strip():
        raise refused(path, "an empty file", "a list of records", "put at least one record into it")
    return text


def not_utf8(data: bytes, at: int) -> tuple[str, str]:
    """What is wrong with text whose byte at ``at`` is not UTF-8, and what to do: all of it, or some lines."""
    line = data[:at].count(b"\n") + 1
    guess = data[at : at + 1].decode("cp1252", "replace")
    likely = f" ({guess} in Windows-1252)" if guess.isprintable() and guess != "\ufffd" else ""
    found = f"not UTF-8: byte 0x{data[at]:02x}{likely} in line {line}"
    wrong, right = [], False
    for number, text in enumerate(data.split(b"\n"), 1):
        try:
            right |= not text.decode("utf-8").isascii()
        except UnicodeDecodeError:
            wrong.append(number)
    if not right:
        return found, "save it as UTF-8"
    more = f" and {len(wrong) - 10} more" if len(wrong) > 10 else ""
    lines = f"line{'s' * (len(wrong) > 1)} {', '.join(map(str, wrong[:10]))}{more}"
    return f"{found}, while other lines are UTF-8", f"write {lines} in UTF-8 as well"


def json_value(path: Path, text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise refused(
            path,
            f"line {error.lineno}, column {error.colno}: not valid JSON ({error.msg})",
            "one JSON list of records",
            json_remedy(text, error),
        ) from None
    except RecursionError:
        raise refused(path, "lists or objects nested too deep", "a list of records", "name another file") from None
    except ValueError as error:
        raise refused(path, f"not readable JSON ({error})", "a list of records", "correct that value") from None


def json_list(path: Path, value: object) -> list[Raw]:
    if isinstance(value, dict):
        raise refused(
            path,
            f"one JSON object (keys: {names(value)}) where a list of records should be",
            "a JSON list of records, [{…}, {…}]",
            "save the list itself, not an object around it",
        )
    if not isinstance(value, list):
        raise refused(path, f"JSON, but {described(value)}", "a JSON list of records", "name another file")
    if not value:
        raise refused(path, "an empty list", "a list of records", "put at least one record into it")
    return [Raw(f"record {number}", item) for number, item in enumerate(value, 1)]


def json_remedy(text: str, error: json.JSONDecodeError) -> str:
    if error.msg == "Extra data" and text.lstrip().startswith("{"):
        return "it looks like one record a line: name it .jsonl"
    if error.msg.startswith("Unterminated string") or not text[error.pos :].strip():
        return "the file seems cut off: fetch or write it again"
    return "correct it there"


def json_lines(path: Path, text: str) -> list[Raw]:
    if text.lstrip().startswith("["):
        raise refused(path, "a JSON list", "in a .jsonl file, one JSON object a line", "name it .json")
    # not splitlines(): it also breaks at characters that JSON allows inside a string
    lines = enumerate(text.split("\n"), 1)
    return [json_line(f"line {number}", line) for number, line in lines if line.strip()]


def json_line(position: str, line: str) -> Raw:
    try:
        return Raw(position, json.loads(line))
    except json.JSONDecodeError as error:
        return Raw(position, flaw=f"not valid JSON ({error.msg}, column {error.colno})")
    except RecursionError:
        return Raw(position, flaw="lists or objects nested too deep")
    except ValueError as error:
        return Raw(position, flaw=f"not readable JSON ({error})")


def csv_table(path: Path, text: str) -> tuple[list[str], list[Raw]]:
    """The header, and a dict for each row; blank lines are skipped."""
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # 131,072 characters by default
    # strict: otherwise one quote that is never closed swallows the rest of the file in silence
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter_of(text), strict=True, skipinitialspace=True)
    header: list[str] = []
    rows = []
    start = 1
    try:
        for cells in reader:
            if cells and not header:
                header = [cell.strip() for cell in cells]
            elif cells:
                rows.append(csv_row(f"line {start}", header, cells))
            start = reader.line_num + 1
    except csv.Error as error:
        raise refused(
            path,
            f"line {start}: not valid CSV ({error})",
            'a header and rows; text that holds a delimiter, a quote or a line break stands in "…", '
            'a quote in it is doubled ("")',
            "correct the quotes in the record that begins there",
        ) from None
    if not rows:
        raise refused(path, "a header and no rows", "a header and rows", "put at least one row under it")
    return header, rows


def csv_row(position: str, header: list[str], cells: list[str]) -> Raw:
    if len(cells) != len(header):
        count = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
        return Raw(
            position,
            flaw=f'{count} where the header has {len(header)} (text with a delimiter needs "…" around it)',
        )
    return Raw(position, dict(zip(header, cells, strict=True)))


def delimiter_of(text: str) -> str:
    """The one of ``,`` ``;`` and tab that splits the first line into most cells."""
    first = next(line for line in text.splitlines() if line.strip())
    return max(DELIMITERS, key=first.count)
