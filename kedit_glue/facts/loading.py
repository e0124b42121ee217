"""One file, in any of the formats, to one FactSet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kedit_glue.facts import (
    counterfact,
    knowedit,
    mquake,
    qaedit,
    reading,
    records,
    rippleedits,
    sanitation,
    table,
    wikibigedit,
    zsre,
)
from kedit_glue.facts.cleaning import clean, number_of
from kedit_glue.facts.detect import detect
from kedit_glue.facts.edit import Edit, FactSet, Unusable
from kedit_glue.facts.errors import BadRecord, FactsError, nearest, refused, shown
from kedit_glue.facts.fields import Parsed, Record, trimmed
from kedit_glue.facts.report import reasons

PARSERS: Mapping[str, Callable[[Record, str], Parsed]] = {
    "knowedit": knowedit.to_edit,
    "counterfact": counterfact.to_edit,
    "zsre": zsre.to_edit,
    "wikibigedit": wikibigedit.to_edit,
    "qaedit": qaedit.to_edit,
    "mquake": mquake.to_edit,
    "rippleedits": rippleedits.to_edit,
    "records": records.to_edit,
    "csv": table.to_edit,
}
FORMATS = tuple(PARSERS)


def load(
    path: Path, format: str = "auto", limit: int | None = None, skip: int = 0, with_subject: bool = False
) -> FactSet:
    """The sound facts of a file behind the first ``skip``, ``limit`` of them; what is not sound is in ``unusable``.

    ``with_subject``: of those only the ones that ``found_at_subject`` finds.

    Raises FactsError where the file as a whole, or all it holds, cannot be used.
    """
    path = Path(path)
    if format != "auto" and format not in FORMATS:
        like = nearest(format, ("auto", *FORMATS))
        todo = f"did you mean {like!r}?" if like else "name one of these"
        raise FactsError(f"{path}: unknown format {shown(format)}. Allowed: auto, {', '.join(FORMATS)}. Next: {todo}")
    if skip < 0:
        raise refused(path, f"skip {skip}", "0 or more", "raise it or leave it out")
    if limit is not None and limit < 1:
        raise refused(path, f"limit {limit}", "a limit of 1 or more, or none", "raise it or leave it out")
    file = read(path, format)

    parsed: list[Parsed] = []
    broken: list[Unusable] = []
    for raw in file.raws:
        outcome = parse(raw, file.format)
        if isinstance(outcome, Unusable):
            broken.append(outcome)
        else:
            parsed.append(outcome)
    edits, others = clean(parsed)
    if not edits:
        raise nothing_sound(path, file.format, in_order(broken + others), file.records)
    unasked: list[Unusable] = []
    if not file.of_chosen:
        edits, unasked = file.finish(edits)
    if skip >= len(edits):
        held = f"{len(edits)} sound fact{'s' * (len(edits) != 1)}"
        raise refused(path, f"skip {skip}", f"a number below the file's {held}", "lower it")
    wanted = [edit for edit in edits[skip:] if not with_subject or found_at_subject(edit)]
    if not wanted:
        found = f"none of {len(edits) - skip} facts has a subject that stands in its prompt, without a brace in them"
        raise refused(path, found, "facts that a method can look up at their subjects", "set edits.with_subject: false")
    passed = len(edits) - skip - len(wanted)
    if file.of_chosen:
        wanted, unasked = file.finish(wanted)
    unusable = in_order(broken + others + unasked)
    return FactSet(tuple(wanted[:limit]), unusable, file.format, file.records, file.source, passed)


def found_at_subject(edit: Edit) -> bool:
    """Whether ROME, MEMIT and EMMET can look a fact up."""
    return bool(edit.subject) and not has_brace(edit.prompt, edit.target_new)


def has_brace(prompt: str, target: str) -> bool:
    """Whether EasyEdit would take a part of these for a place: it marks the subject's as ``{}``, joins prompt and
    target, and calls str.format (easyeditor 0.0.1.dev0, models/memit/compute_z.py:47 and rome/compute_v.py:39)."""
    return bool({"{", "}"} & set(prompt + target))


def in_order(unusable: Sequence[Unusable]) -> tuple[Unusable, ...]:
    return tuple(sorted(unusable, key=lambda item: number_of(item.position)))


Finish = Callable[[Sequence[Edit]], tuple[list[Edit], list[Unusable]]]


def as_they_are(edits: Sequence[Edit]) -> tuple[list[Edit], list[Unusable]]:
    return list(edits), []


@dataclass(frozen=True)
class File:
    """What a file holds, before any record is looked into."""

    format: str
    raws: list[reading.Raw]
    """Each becomes at most one edit."""
    records: int
    source: str
    finish: Finish = as_they_are
    """Gives the sound edits what only the whole file tells."""
    of_chosen: bool = False
    """Whether that depends on which edits are made."""


def read(path: Path, format: str) -> File:
    text = reading.text_of(path)
    suffix = path.suffix.lower()
    if format == "csv" or (format == "auto" and suffix in reading.TABLES):
        header, rows = reading.csv_table(path, text)
        if error := table.header_error(path, header):
            raise error
        return File("csv", rows, len(rows), path.name)
    if suffix in reading.TABLES:
        raise refused(path, f"a {suffix} file, to be read as {format}", ".json or .jsonl for it", "use format csv")
    start = text.lstrip()[0]
    if suffix in reading.LISTS or (suffix not in reading.LINES and start == "["):
        value = reading.json_value(path, text)
        if format in ("auto", "knowedit") and sanitation.is_sanitation(value):
            both = sanitation.sanitation(path, value)
            return File("knowedit", both.raws, len(both.raws), both.source, both.hang)
        return of_records(path, format, reading.json_list(path, value))
    if suffix in reading.LINES or start == "{":
        return of_records(path, format, reading.json_lines(path, text))
    raise refused(
        path,
        f"neither JSON nor a table: it begins with {shown(text.lstrip()[:20])}",
        reading.EXTENSIONS,
        "give the file the extension of what it holds",
    )


def of_records(path: Path, format: str, raws: list[reading.Raw]) -> File:
    if format == "auto":
        objects = [raw.value for raw in raws if isinstance(raw.value, dict)]
        format = detect(path, objects) if objects else "records"
    if format == "mquake":
        rewrites, cases = mquake.cases(raws)
        return File(format, rewrites, len(raws), path.name, partial(mquake.hang, cases), of_chosen=True)
    if format == "knowedit":
        return File(format, raws, len(raws), path.name, lambda edits: (knowedit.finished(edits, path.name), []))
    return File(format, raws, len(raws), path.name)


def parse(raw: reading.Raw, format: str) -> Parsed | Unusable:
    """One record as an edit, or why it cannot be one."""
    try:
        record = reading.record_of(raw)
        edit, dropped = PARSERS[format](record, raw.position)
        return edit, [*dropped, *trimmed(record, edit)]
    except BadRecord as bad:
        return Unusable(raw.position, bad.kind, bad.message)


def nothing_sound(path: Path, format: str, unusable: tuple[Unusable, ...], count: int) -> FactsError:
    return refused(
        path,
        f"read as {format}, none of its {count} records can be used: {'; '.join(reasons(unusable, 3))}",
        "records with a prompt and a new target, both of them text",
        "correct these, or name the right format",
    )
