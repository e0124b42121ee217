"""What stays on disk of each batch: ``keep: all``, ``deltas`` or ``last``."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from kedit_glue import changed
from kedit_glue.ledger import Ledger
from kedit_glue.plan import Plan, Stage

MODELS = ("train", "merge", "project", "regmean", "edit")
"""Functions whose output is a model."""
PACKED = "changed"
"""Folder of a batch that holds what its model has and the original has not."""


class Keeper:
    """Lets go of models as soon as no stage that is still to come reads them."""

    def __init__(self, plan: Plan, ledger: Ledger, keep: str, original: Path):
        self.ledger = ledger
        self.keep = keep
        self.original = original
        models = {s.name: s for s in plan.stages if s.job.function in MODELS}
        last_of_batch = {s.batch: s.name for s in models.values()}
        self.batches_model = set(last_of_batch.values())
        """Stages that make the model that a batch leaves."""
        self.read_by: dict[str, list[Stage]] = {}
        """Stage -> the models that it reads."""
        self.all_readers: dict[str, set[str]] = {name: set() for name in models}
        """Model -> stages that read it."""
        self.readers: dict[str, set[str]] = {}
        """The same, of those stages that are still to come."""
        for stage in plan.stages:
            for name in {*stage.after, *stage.looks_at} & models.keys():
                self.all_readers[name].add(stage.name)
                self.read_by.setdefault(stage.name, []).append(models[name])
        self.models = {s.name: s for s in models.values() if s.output != plan.final_model}
        self.like: Path | None = None

    def begin(self, pending: Collection[str]) -> None:
        """These stages are to come; what none of them reads goes at once."""
        to_come = set(pending)
        self.readers = {name: stages & to_come for name, stages in self.all_readers.items()}
        for name, stage in self.models.items():
            if name not in to_come and not self.readers[name]:
                self._let_go(stage)
            if name in self.batches_model and (packed := stage.output.with_name(PACKED)).is_dir():
                self.like = packed

    def done(self, stage: Stage) -> None:
        """A stage ended: let go of the models that it was the last to read, and of its own if nobody reads it."""
        for model in [*self.read_by.get(stage.name, []), *([stage] if stage.name in self.models else [])]:
            self.readers[model.name].discard(stage.name)
            if model.name in self.models and not self.readers[model.name]:
                self._let_go(model)

    def _let_go(self, stage: Stage) -> None:
        if self.keep == "all" or (stage.output / "adapter_config.json").is_file():
            return  # an adapter is small, and no model
        packed = stage.output.with_name(PACKED)
        of_batch = stage.name in self.batches_model
        if not stage.output.exists() and not (self.keep == "last" and of_batch and packed.is_dir()):
            return
        record = self.ledger.record(stage)
        if record is None:
            return
        if self.keep == "last" or not of_batch:
            self.ledger.release(stage, packed=None)
        elif record.get("released"):
            self.ledger.release(stage)  # a kill came between the record and the deletion
        else:
            changed.pack(stage.output, self.original, packed, self.like)
            self.ledger.release(stage, packed=PACKED)
            self.like = packed
