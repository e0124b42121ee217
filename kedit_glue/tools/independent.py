"""The stage of independent edits: each batch is edited into the original, asked about, and thrown away.

The original is loaded once. Each batch edits a twin of it (``twin.py``) that has copies of the tensors that may change
and shares the others, and is asked through another, which has the edited tensors: no flag, hook or wrapper of an editor
reaches the next batch, or the scores. That the original kept every bit is seen at the end.
"""

from __future__ import annotations

import gc
import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kedit_glue import batch_files
from kedit_glue.independent import together
from kedit_glue.methods import TRAINED
from kedit_glue.questions import Fact
from kedit_glue.tools import Emit, editing, scorer
from kedit_glue.tools.twin import clones, first_difference, touched, twin

SCRATCH = "scratch"
"""Folder for what LLaMA-Factory and mergekit want to see on disk."""
Made = tuple[dict[str, Any], dict[str, Any]]
"""Of one batch: name -> edited tensor, and what is to be recorded of the edit."""


class NotRestored(RuntimeError):
    """The original changed while batches were edited; nothing of the stage is kept."""


def edit_each(job: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """Write ``job['output']``, the answers about the facts of several batches, each batch edited alone.

    ``job``: ``method``, ``model`` (folder), ``facts`` (facts.json), ``from`` and ``upto`` (which of them),
    ``batch_size``, ``first_batch`` and ``batches`` (for what is said), ``train_yaml``, ``rsft_yaml``, ``merge_yaml`` or
    ``edit_yaml`` (as the method has them), ``tuned`` (how ``merge_yaml`` names the tuned model), ``moments``,
    ``editor``, ``checkout``, ``trainable`` (as in ``editing.edit``), ``asked`` (as in ``scorer.answers``), ``trace``
    (JSON lines to write, or None), ``seed``, ``device``, ``trust_remote_code``.

    Returns ``facts``, ``prompts`` (asked), ``learned`` (where a method says so) and ``batches``: for each its number,
    what training, merge or editor reported, ``seconds`` (of the edit) and ``seconds_scoring``. Raises NotRestored.
    """
    from kedit_glue.tools import asking

    model, tokenizer = asking.load(job["model"], job["device"], job["trust_remote_code"])
    facts = json.loads(Path(job["facts"]).read_text(encoding="utf-8"))[job["from"] : job["upto"]]
    size = job["batch_size"]
    batches = [facts[start : start + size] for start in range(0, len(facts), size)]
    emit({"event": "loaded"})

    def brief(event: Mapping[str, Any]) -> None:
        """Of what happens to a batch only what is to be said: thousands of batches have thousands of steps."""
        if event["event"] == "say":
            emit(event)

    found: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    prompts = 0
    with scratch_folder(Path(job["output"]).parent / SCRATCH) as scratch:
        edit = (Trainer if job["method"] in TRAINED else Editing)(job, model, scratch, brief).edit
        for number, batch in enumerate(batches, job["first_batch"]):
            started = time.monotonic()
            values, said = edit(number, batch)
            edited = time.monotonic()
            asker = asking.Asker(twin(model, values), tokenizer, brief)
            found.append(scorer.answers({**job, **job["asked"]}, batch, asker, brief))
            prompts += asker.asked
            del asker, values
            gc.collect()  # a twin and its hooks hold each other
            seconds = {"seconds": round(edited - started, 3), "seconds_scoring": round(time.monotonic() - edited, 3)}
            entries.append({"batch": number, **said, **seconds})
            emit({"event": "alone", "position": len(found), "of": len(batches), "batch": number, **seconds})
        if (name := first_difference(model, Path(job["model"]))) is not None:
            raise NotRestored(f"{name} of the original changed in memory while batches were edited, by {job['method']}")
        if job["trace"]:
            traces = [trace_file(scratch, entry["batch"]).read_text(encoding="utf-8") for entry in entries]
            Path(job["trace"]).write_text("".join(traces), encoding="utf-8")
    Path(job["output"]).write_text(json.dumps(together(found), ensure_ascii=False), encoding="utf-8")
    learned = [entry["training"]["learned"] for entry in entries if "training" in entry]
    counted = {"learned": sum(learned)} if learned else {}
    return {"facts": len(facts), "prompts": prompts, **counted, "batches": entries}


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """An empty folder that is gone afterwards; one that a killed process left is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def trace_file(scratch: Path, number: int) -> Path:
    return scratch / f"trace_{number}.jsonl"


class Trainer:
    """LLaMA-Factory trains, and mergekit merges where the method wants it."""

    def __init__(self, job: Mapping[str, Any], model: Any, scratch: Path, emit: Emit):
        self.job, self.model, self.scratch, self.emit = job, model, scratch, emit
        self.merger = None
        if job["method"] == "rsft_merge":
            from kedit_glue.tools.merge_memory import Merger

            (scratch / "merge").mkdir()
            self.merger = Merger(job, scratch / "merge")

    def edit(self, number: int, batch: Sequence[Fact]) -> Made:
        """Name -> tensor of the tuned or merged model, and ``training`` and ``merge`` as their stages report them."""
        import torch

        started = time.monotonic()
        tuned, training = self._train(number, batch)
        trained = time.monotonic()
        said: dict[str, Any] = {"training": {**training, "seconds": round(trained - started, 3)}}
        if self.merger is None:
            return tuned, said
        with torch.no_grad():
            merged, merge = self.merger.merge(touched(self.model, self.job["trainable"]), tuned)
        said["merge"] = {**merge, "seconds": round(time.monotonic() - trained, 3)}
        return merged, said

    def _train(self, number: int, batch: Sequence[Fact]) -> Made:
        from llamafactory.train.tuner import run_exp

        from kedit_glue.tools import llamafactory
        from kedit_glue.tools.llamafactory_compat import in_memory

        job = self.job
        folder = self.scratch / f"batch_{number}"  # datasets keeps what it read by its path
        folder.mkdir()
        arguments, settings = llamafactory.read_yaml(job)
        samples = batch_files.samples(batch, tokens=settings.get("tokens", "all"))
        (folder / "edits.json").write_text(json.dumps(samples, ensure_ascii=False), encoding="utf-8")
        (folder / "dataset_info.json").write_text(json.dumps(batch_files.DATASET_INFO), encoding="utf-8")
        arguments |= {"dataset_dir": str(folder), "output_dir": str(folder / "tuned")}
        arguments.setdefault("cache_dir", str(folder / "cache"))
        callback = llamafactory.prepared(arguments, settings, samples, trace_file(self.scratch, number), self.emit)

        def fresh() -> Any:
            return twin(self.model, clones(touched(self.model, settings["trainable"])))

        with in_memory(self.model, Path(job["model"]), fresh) as trained:
            run_exp(arguments, callbacks=[callback])
        [tuned] = trained
        check_untouched(self.model, tuned, settings["trainable"])
        values = {name: value.detach() for name, value in touched(tuned, settings["trainable"]).items()}
        shutil.rmtree(folder)
        return values, llamafactory.said(callback)


class Editing:
    """One of the field's editors."""

    def __init__(self, job: Mapping[str, Any], model: Any, scratch: Path, emit: Emit):
        from kedit_glue.tools import asking

        self.job, self.model, self.emit = job, model, emit
        # the editors set how it pads, and what is unknown to it
        self.tokenizer = asking.load_tokenizer(job["model"], job["trust_remote_code"])
        self.hparams, self.moments = editing.hparams_of(job), editing.moments_of(job)

    def edit(self, number: int, batch: Sequence[Fact]) -> Made:
        """Name -> edited tensor, and ``editing`` as ``editing.edit`` reports it."""
        import torch

        started = time.monotonic()
        trainable = self.job["trainable"]
        own = twin(self.model, clones(touched(self.model, trainable)))
        requests = batch_files.requests(batch)
        edited = editing.edit_model(self.job, own, self.tokenizer, self.hparams, self.moments, requests, self.emit)
        seconds = round(time.monotonic() - started, 3)
        old = dict(self.model.named_parameters())
        new = {name: value.detach() for name, value in edited.state_dict().items() if name in old}
        with torch.no_grad():
            values, norm = editing.changes(new, old, trainable)
        said = {"facts": len(batch), "seconds_editing": seconds, "task_vector_norm": norm}
        said["bytes_changed"] = editing.bytes_of(values)
        return values, {"editing": {**said, "seconds": round(time.monotonic() - started, 3)}}


def check_untouched(model: Any, tuned: Any, trainable: str) -> None:
    """Raises WeightsError for a tensor that training changed and ``trainable`` does not find."""
    import torch

    from kedit_glue.weights import WeightsError

    pattern, old = re.compile(trainable), dict(model.named_parameters())
    for name, value in tuned.named_parameters():
        if not pattern.search(name) and not torch.equal(value.detach().to(old[name].dtype), old[name].detach()):
            raise WeightsError(f"training changed {name}, which {trainable!r} does not find")
