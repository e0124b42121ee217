"""What is done, and why something has to be done again.

A stage's record is written last, after its output was checked and renamed. Its key is a hash of
everything the output depends on: the YAML as it stands (edited by hand or not), data, tool
versions, the original model, and the keys of the stages before it. That a file exists never means
'done'. Where the run's folder lies is no part of a key: a run beside it that did a stage with the
same key has the same output, which is then taken over.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kedit_glue.atomic import link_or_copy, write_json
from kedit_glue.plan import Stage

RUN_FOLDER = b"<run folder>/"
"""Stands for the run's own folder where a file's hash must not depend on it."""


@dataclass(frozen=True)
class Todo:
    """A stage to run and the reason, for the user; None: its record stands."""

    stage: Stage
    reason: str | None


def digest(path: Path) -> str:
    """Hash of a file's bytes, or of all files in a folder with their names."""
    if path.is_dir():
        parts = [f"{f.relative_to(path)}:{digest(f)}" for f in sorted(path.rglob("*")) if f.is_file()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def fingerprint(path: Path) -> dict[str, Any]:
    """Names, sizes and times of an output, cheap for gigabytes of weights."""
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    return {
        (f.name if f == path else str(f.relative_to(path))): [f.stat().st_size, f.stat().st_mtime_ns] for f in files
    }


class Ledger:
    """Records of a run folder."""

    def __init__(self, versions: Mapping[str, str], folder: Path | None = None, elsewhere: Sequence[Path] = ()):
        """``folder`` is the run's, absolute, and ``elsewhere`` those of runs whose stages may be taken over."""
        self.versions = dict(versions)
        self.folder = folder
        self.elsewhere = tuple(elsewhere)
        # a file may be edited while stages run: a record tells what its stage began with
        self._done: dict[str, str] = {}
        self._begun: dict[str, dict[str, str]] = {}

    @staticmethod
    def record_file(stage: Stage) -> Path:
        return stage.output.with_name(f"{stage.job.name}.record.json")

    def record(self, stage: Stage) -> dict[str, Any] | None:
        """The stage's record, None where there is none or it cannot be read."""
        file = self.record_file(stage)
        if not file.is_file():
            return None
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            return None
        return found if isinstance(found, dict) and {"key", "parts", "output"} <= found.keys() else None

    def parts(self, stage: Stage, keys: Mapping[str, str]) -> dict[str, str]:
        """Everything the stage's output depends on, by a name that a person understands."""
        found = self._digests(stage)
        found |= {f"stage {name}": keys[name] for name in stage.after}
        found |= {f"setting {k}": _hash(v) for k, v in stage.settings.items()}
        found |= {f"version of {tool}": version for tool, version in self.versions.items()}
        return found

    def _digests(self, stage: Stage) -> dict[str, str]:
        return {path.name: self._digest(path) for path in stage.reads}

    def _digest(self, path: Path) -> str:
        """As ``digest``; of a file in the run's folder, without where that folder lies."""
        if self.folder is None or not path.is_relative_to(self.folder) or not path.is_file():
            return digest(path)
        text = path.read_bytes().replace(os.fsencode(f"{self.folder}/"), RUN_FOLDER)
        return hashlib.sha256(text).hexdigest()[:16]

    def todo(self, stages: Sequence[Stage]) -> list[Todo]:
        """For each stage, in order, whether it has to run and why."""
        keys: dict[str, str] = {}
        reasons: dict[str, str | None] = {}
        for stage in stages:
            parts = self.parts(stage, keys)
            keys[stage.name] = _hash(parts)
            reasons[stage.name] = self._reason(stage, parts, keys[stage.name])
            if reasons[stage.name] is None:
                self._done[stage.name] = keys[stage.name]
        # an output that was not kept is needed again when a stage that reads it runs
        by_name = {s.name: s for s in stages}
        for stage in reversed(stages):
            if reasons[stage.name] is None:
                continue
            for name in stage.after:
                if reasons[name] is None and not by_name[name].output.exists():
                    reasons[name] = f"{stage.name} needs its output, which was not kept"
        return [Todo(s, reasons[s.name]) for s in stages]

    def _reason(self, stage: Stage, parts: Mapping[str, str], key: str) -> str | None:
        record = self.record(stage)
        if record is None:
            return "not done yet"
        if record["key"] != key:
            changed = [n for n in {**parts, **record["parts"]} if parts.get(n) != record["parts"].get(n)]
            earlier = [n for n in changed if n.startswith("stage ")]
            return (
                f"changed: {', '.join(sorted(changed))}"
                if not earlier or len(changed) > len(earlier)
                else (f"an earlier stage is done again ({', '.join(n.removeprefix('stage ') for n in earlier)})")
            )
        if missing := [path.name for path in stage.beside if not path.is_file()]:
            return f"its {missing[0]} is gone"
        if not stage.output.exists():
            return None if record.get("released") else f"its output {stage.output.name} is gone"
        if fingerprint(stage.output) != record["output"]:
            return f"its output {stage.output.name} was changed from outside"
        return None

    def begin(self, stage: Stage) -> None:
        """Forget what was there: no record, no half output. From here on the stage's files are what they are now."""
        self._begun[stage.name] = self._digests(stage)
        self.record_file(stage).unlink(missing_ok=True)
        for path in (stage.output, stage.working):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def adopt(self, stage: Stage) -> str | None:
        """Take over what another run made from the same inputs; returns its folder's name, None where there is none.

        Only outputs that are whole are taken: as links, or copies. The record keeps the seconds they cost there.
        """
        parts = self.parts(stage, self._done)
        for other in self.elsewhere:
            twin = self._twin(stage, other)
            record = self.record(twin)
            if record is None or record["key"] != _hash(parts) or not _is_whole(twin, record):
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

    def finish(self, stage: Stage, result: Mapping[str, Any], seconds: float, **more: Any) -> None:
        """The output is whole: give it its name, then write the record, atomically and last."""
        stage.working.rename(stage.output)
        parts = self.parts(stage, self._done) | self._begun.pop(stage.name, {})
        self._done[stage.name] = _hash(parts)
        self._write(
            stage,
            {
                "stage": stage.name,
                "key": _hash(parts),
                "parts": parts,
                "result": dict(result),
                "output": fingerprint(stage.output),
                "seconds": round(seconds, 3),
                "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                **more,
            },
        )

    def release(self, stage: Stage) -> None:
        """Delete an output that no later stage reads, and say so in its record."""
        record = self.record(stage)
        if record is None or not stage.output.exists():
            return
        self._write(stage, {**record, "released": True})
        shutil.rmtree(stage.output)

    def _write(self, stage: Stage, record: Mapping[str, Any]) -> None:
        write_json(self.record_file(stage), record)


def _is_whole(stage: Stage, record: Mapping[str, Any]) -> bool:
    """Whether everything that the record tells of is still there as it was made."""
    return (
        stage.output.exists()
        and fingerprint(stage.output) == record["output"]
        and all(path.is_file() for path in stage.beside)
    )


def _link(source: Path, target: Path) -> None:
    """A file, or a folder with all that is in it."""
    files = [source] if source.is_file() else [file for file in source.rglob("*") if file.is_file()]
    for file in files:
        to = target / file.relative_to(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(file, to)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]
