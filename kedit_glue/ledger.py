"""What is done, and why something has to be done again.

A stage's record is written last, after its output was checked and renamed. Its key is a hash of
everything the output depends on: the YAML as it stands (edited by hand or not), data, tool
versions, the original model, and the keys of the stages before it. That a file exists never means
'done'. The record also holds the hash of every file of the output, and of the outputs it was made
from, so that damage is found before anything is made from it. Where the run's folder lies is no
part of a key: a run beside it that did a stage with the same key has the same output, which is
then taken over.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kedit_glue import changed, records
from kedit_glue.atomic import link_or_copy
from kedit_glue.content import hash_of
from kedit_glue.packed import read_manifest
from kedit_glue.plan import Stage
from kedit_glue.records import hashed

RUN_FOLDER = b"<run folder>/"
"""Stands for the run's own folder where a file's hash must not depend on it."""
NEW = "not done yet"
NOT_THERE = "not there yet"
"""In place of a file's hash: a stage before writes it."""
BY_HAND = ".by_hand"
"""Ends the name of a file that a hand changed and a stage wrote anew."""


@dataclass(frozen=True)
class Todo:
    """A stage to run and the reason, for the user; None: its record stands."""

    stage: Stage
    reason: str | None
    seconds: float = 0.0
    """How long it took, where its record stands."""
    learned: int = 0
    """How many facts were learned then."""


def digest(path: Path) -> str:
    """Hash of a file's bytes, or of all files in a folder with their names."""
    if path.is_dir():
        parts = [f"{f.relative_to(path)}:{digest(f)}" for f in sorted(path.rglob("*")) if f.is_file()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def without_place(text: bytes, place: str) -> bytes:
    """A file's bytes with ``RUN_FOLDER`` for ``place``, without the quotes that YAML puts a path with a blank into."""
    spelled = re.escape(os.fsencode(place))
    return re.sub(rb"(')?" + spelled + rb"([^'\n]*)(?(1)')", RUN_FOLDER + rb"\2", text)


class Ledger:
    """Records of a run folder."""

    def __init__(self, versions: Mapping[str, str], folder: Path | None = None, elsewhere: Sequence[Path] = ()):
        """``folder`` is the run's, absolute, and ``elsewhere`` those of runs whose stages may be taken over."""
        self.versions = {f"version of {tool}": version for tool, version in versions.items()}
        self.folder = folder
        self.here = f"{folder}/"
        self.elsewhere = tuple(elsewhere)
        # a file may be edited while stages run: a record tells what its stage began with
        self._done: dict[str, str] = {}
        self._begun: dict[str, dict[str, str]] = {}
        self._content: dict[str, str] = {}
        """Stage that is done -> hash of what it made, as later stages read it."""

    @staticmethod
    def record_file(stage: Stage) -> Path:
        return stage.output.with_name(f"{stage.job.name}.record.json")

    def record(self, stage: Stage) -> dict[str, Any] | None:
        """The stage's record, None where there is none or it is damaged."""
        try:
            return records.read_record(self.record_file(stage))
        except ValueError:
            return None

    # -- what depends on what -------------------------------------------------------------------

    def parts(self, stage: Stage, keys: Mapping[str, str]) -> dict[str, str]:
        """Everything the stage's output depends on, by a name that a person understands."""
        found = self._digests(stage)
        found |= {f"stage {name}": keys[name] for name in stage.after}
        found |= {f"setting {k}": hashed(v) for k, v in stage.settings.items()}
        return found | self.versions

    def _digests(self, stage: Stage) -> dict[str, str]:
        return {path.name: self._digest_or_none(path) for path in stage.reads}

    def _digest_or_none(self, path: Path) -> str:
        try:
            return self._digest(path)
        except FileNotFoundError:
            return NOT_THERE

    def _digest(self, path: Path) -> str:
        """As ``digest``; of a file in the run's folder, without where that folder lies."""
        if not str(path).startswith(self.here):
            return digest(path)
        try:
            text = without_place(path.read_bytes(), self.here)
        except IsADirectoryError:
            return digest(path)
        return hashlib.sha256(text).hexdigest()[:16]

    # -- what is to be done ---------------------------------------------------------------------

    def todo(
        self,
        stages: Sequence[Stage],
        again: Mapping[str, str] | None = None,
        final: Path | None = None,
        thorough: bool = True,
    ) -> list[Todo]:
        """For each stage, in order, whether it has to run and why.

        ``again``: stages that are to run in any case, and why. Outputs that a stage to run reads, and ``final``, are
        read and compared with their hashes (``thorough``, for a model takes seconds); others are judged by size and
        time, small ones by their hashes.
        """
        again = again or {}
        keys: dict[str, str] = {}
        reasons: dict[str, str | None] = {}
        before: dict[str, tuple[float, int]] = {}
        self._content = {}
        for stage in stages:
            parts = self.parts(stage, keys)
            found = again.get(stage.name) or self._stands(stage, parts, reasons)
            if isinstance(found, str):
                reasons[stage.name], keys[stage.name] = found, hashed(parts)
                continue
            reasons[stage.name], keys[stage.name] = None, found["key"]
            self._done[stage.name], self._content[stage.name] = found["key"], found["content"]
            before[stage.name] = found["seconds"], found["result"].get("learned") or 0
        self._look_at_inputs(stages, reasons, final, thorough)
        return [Todo(s, reasons[s.name], *before.get(s.name, ())) for s in stages]

    def _look_at_inputs(
        self, stages: Sequence[Stage], reasons: dict[str, str | None], final: Path | None, thorough: bool
    ) -> None:
        """An output that is not whole, or was not kept, is needed again when a stage that reads it runs."""
        by_name = {s.name: s for s in stages}
        looked = set()
        for stage in reversed(stages):
            if stage.output == final and reasons[stage.name] is None:
                reasons[stage.name] = self._unreadable(stage, "the end of the run", thorough)
            if reasons[stage.name] is None:
                continue
            for name in stage.after:
                if reasons[name] is None and name not in looked:
                    looked.add(name)
                    reasons[name] = self._unreadable(by_name[name], stage.name, thorough)

    def _unreadable(self, stage: Stage, by: str, thorough: bool) -> str | None:
        """Why the output of a stage that is done cannot be read by another."""
        record = self.record(stage)
        assert record is not None, f"{stage.name} is done"
        if record.get("packed"):
            folder = stage.output.with_name(record["packed"])
            wrong = (changed.damage(folder) if thorough else None) or made_otherwise(folder, record["output"])
            return f"what was kept of it is damaged: {wrong}" if wrong else None
        if record.get("released"):
            return f"{by} needs its output, which was not kept"
        if stage.editable:
            return None
        wrong = records.damage(stage.output, record["output"], thorough)
        return f"its output {stage.output.name} is damaged: {wrong}" if wrong else None

    def _stands(
        self, stage: Stage, parts: Mapping[str, str], reasons: Mapping[str, str | None]
    ) -> dict[str, Any] | str:
        """The stage's record where it stands, else the reason why it does not."""
        try:
            record = records.read_record(self.record_file(stage))
        except ValueError:
            return f"its record {self.record_file(stage).name} is damaged"
        if record is None:
            return NEW
        if record["parts"] != parts:
            return _what_changed(parts, record["parts"])
        for name, mark in record["beside"].items():
            file = next((path for path in stage.beside if path.name == name), None)
            if file is None or not file.is_file():
                return f"its {name} is gone"
            if hash_of(file) != mark:
                return f"its {name} is damaged"
        for name, mark in record.get("inputs", {}).items():
            if reasons.get(name) is None and self._content.get(name, mark) != mark:
                return f"it was made from another output of {name}"
        if record.get("packed") or record.get("released"):
            return record
        if stage.editable and stage.output.is_file():
            return record
        try:
            wrong = records.damage(stage.output, record["output"])
        except FileNotFoundError:
            return f"its output {stage.output.name} is gone"
        return f"its output {stage.output.name} was changed from outside: {wrong}" if wrong else record

    # -- while it is done -----------------------------------------------------------------------

    def begin(self, stage: Stage) -> Path | None:
        """Forget what was there: no record, no half output. From here on the stage's files are what they are now.

        Returns where its output is kept, if that is a file that a hand had changed.
        """
        self._begun[stage.name] = self._digests(stage)
        record = self.record(stage) or {}
        packed, kept = record.get("packed"), None
        if stage.editable and stage.output.is_file() and records.damage(stage.output, record.get("output", {}), True):
            kept = stage.output.rename(stage.output.with_name(stage.output.name + BY_HAND))
        self.record_file(stage).unlink(missing_ok=True)
        # what lies beside the output of a stage that was not done yet is what it goes on from
        beside = stage.beside if record else ()
        for path in (stage.output, stage.working, *beside, *([stage.output.with_name(packed)] if packed else [])):
            remove(path)
        return kept

    def adopt(self, stage: Stage) -> str | None:
        """Take over what another run made from the same inputs; returns its folder's name, None where there is none.

        Only outputs that are whole are taken: as links, or copies. The record keeps the seconds they cost there.
        """
        parts = self.parts(stage, self._done)
        for other in self.elsewhere:
            twin = self._twin(stage, other)
            record = self.record(twin)
            if record is None or record["key"] != hashed(parts) or not _is_whole(twin, record):
                continue
            if record.get("inputs") != self._inputs(stage):
                continue
            self.begin(stage)
            self._begun[stage.name] = parts  # what the twin was made from
            _link(twin.output, stage.working)
            for theirs, ours in zip(twin.beside, stage.beside, strict=True):
                shutil.copy(theirs, ours)
            self.finish(stage, record["result"], record["seconds"], adopted_from=other.name)
            return other.name
        return None

    def _twin(self, stage: Stage, other: Path) -> Stage:
        """The same stage in another run's folder."""
        assert self.folder is not None, "a run that looks elsewhere has a folder"
        here = self.folder
        output, *beside = (other / path.relative_to(here) for path in (stage.output, *stage.beside))
        return replace(stage, output=output, beside=tuple(beside))

    def _inputs(self, stage: Stage) -> dict[str, str]:
        return {name: self._content[name] for name in stage.after if name in self._content}

    def finish(self, stage: Stage, result: Mapping[str, Any], seconds: float, **more: Any) -> dict[str, Any]:
        """The output is whole: give it its name, then write the record, atomically and last. Returns the record."""
        stage.working.rename(stage.output)
        made = records.prints(stage.output)
        beside = {path.name: hash_of(path) for path in stage.beside}
        parts = self.parts(stage, self._done) | self._begun.pop(stage.name, {})
        self._done[stage.name] = hashed(parts)
        record = {
            "stage": stage.name,
            "key": hashed(parts),
            "parts": parts,
            "inputs": self._inputs(stage),
            "result": dict(result),
            "output": made,
            "content": records.content(made),
            "beside": beside,
            "seconds": round(seconds, 3),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **more,
        }
        records.write_record(self.record_file(stage), record)
        self._content[stage.name] = record["content"]
        return record

    # -- what is kept ---------------------------------------------------------------------------

    def release(self, stage: Stage, **more: Any) -> None:
        """Delete an output that no later stage reads, and say so in its record.

        ``packed``: the folder beside it with what is kept of it, None: nothing.
        """
        record = self.record(stage)
        if record is not None:
            now = {**record, "released": True, **more}
            records.write_record(self.record_file(stage), now)
            remove(stage.output)
            if record.get("packed") and not now.get("packed"):
                remove(stage.output.with_name(record["packed"]))

    def restore(self, stage: Stage, original: Path) -> bool:
        """Bring back a model of which only the changed tensors were kept; False where nothing was."""
        record = self.record(stage)
        if record is None or not record.get("packed"):
            return False
        packed = stage.output.with_name(record["packed"])
        remove(stage.output)  # what a kill may have left of it
        changed.rebuild(packed, original, stage.output)
        made = records.prints(stage.output)
        records.write_record(self.record_file(stage), {**record, "output": made, "released": False, "packed": None})
        remove(packed)
        return True


def _what_changed(parts: Mapping[str, str], before: Mapping[str, str]) -> str:
    names = [n for n in {**parts, **before} if parts.get(n) != before.get(n)]
    earlier = [n for n in names if n.startswith("stage ")]
    if earlier and len(names) == len(earlier):
        return f"an earlier stage is done again ({', '.join(n.removeprefix('stage ') for n in earlier)})"
    return f"changed: {', '.join(sorted(names))}"


def made_otherwise(folder: Path, output: records.Prints) -> str | None:
    """A file of a sound packed model that is not the one the stage made: it was damaged before it was packed."""
    try:
        files = read_manifest(folder).files
    except changed.ChangedError as error:
        return str(error)
    wrong = [name for name, (_, _, mark) in output.items() if name not in files or files[name].hash != mark]
    return f"{wrong[0]} holds something else than the stage made" if wrong else None


def remove(path: Path) -> None:
    """A file or a folder, or nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_whole(stage: Stage, record: Mapping[str, Any]) -> bool:
    """Whether everything that the record tells of is still there as it was made."""
    return (
        stage.output.exists()
        and records.damage(stage.output, record["output"], thorough=True) is None
        and all(path.is_file() and hash_of(path) == record["beside"].get(path.name) for path in stage.beside)
    )


def _link(source: Path, target: Path) -> None:
    """A file, or a folder with all that is in it."""
    files = [source] if source.is_file() else [file for file in source.rglob("*") if file.is_file()]
    for file in files:
        to = target / file.relative_to(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(file, to)
