"""Trackers that training reports to (TensorBoard, Weights & Biases …): one run over all batches.

LLaMA-Factory starts a trainer for each batch; left to itself each would be a run of its own, its steps counted from 0.
So LLaMA-Factory is told to report to none, and transformers' own callbacks are called through ``OneRun``, which
counts on from where the batch before ended. Promised for TensorBoard and Weights & Biases; the other trackers that
transformers knows get their events the same way, but open a run a batch unless their own settings say otherwise.

In ``runs/x/trackers``:

* ``batches.jsonl``: where each batch began and ended; a batch that is done again begins where it began.
* ``tensorboard/``: one folder, one run; a file a batch. A batch that is done again empties its file and those of later
  batches, so that no reader sees a step twice, and begins with a purge mark for a viewer that has read them.
* ``wandb/`` and ``wandb.json``: what was sent cannot be taken back. A batch that broke off and is done again from the
  same files is sent from where it broke off, in the same run; one that is done again from other files, or from before
  later batches, opens a new run. Offline (``WANDB_MODE=offline``) each batch leaves a folder: ``wandb sync`` puts
  those of one run together.

No torch is imported before ``reporting`` is entered with a tracker to report to.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import importlib.util
import json
import netrc
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kedit_glue.atomic import write_json
from kedit_glue.records import fingerprint
from kedit_glue.stage import first_process
from kedit_glue.tools import Emit

MODULES = {"azure_ml": "azureml", "flyte": "flytekit", "kubeflow": "kubernetes"}
"""Tracker -> the module it needs, where that has another name."""
EXTRA = ("tensorboard", "wandb")
"""What ``uv sync --extra trackers`` installs."""
PROJECT = "kedit_glue"
"""Weights & Biases' project, unless WANDB_PROJECT names another."""

Position = tuple[int, float]
"""Trainer steps and epochs since the first batch began."""


# -- before the start -------------------------------------------------------------------------------


def missing(names: Iterable[str]) -> list[str]:
    """A message for each tracker that is not installed."""
    return [
        f"train.report_to: {name} is not installed; "
        + (f"uv sync --extra trackers, or pip install {name}" if name in EXTRA else f"pip install {name}")
        for name in names
        if importlib.util.find_spec(MODULES.get(name, name)) is None
    ]


def no_login(names: Iterable[str], environment: Mapping[str, str]) -> str | None:
    """A message where Weights & Biases would ask for a login, which a run cannot answer."""
    if "wandb" not in names or environment.get("WANDB_API_KEY"):
        return None
    if environment.get("WANDB_MODE", "online") not in ("online", "shared"):
        return None
    host = urlsplit(environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    file = Path(environment.get("NETRC", "~/.netrc")).expanduser()
    try:
        found = netrc.netrc(file).authenticators(host) if file.is_file() else None
    except (netrc.NetrcParseError, OSError):
        found = None
    if found is not None:
        return None
    return (
        f"train.report_to: wandb has no login for {host}: training would stop there; run wandb login, set "
        "WANDB_API_KEY, or set WANDB_MODE=offline"
    )


def named(report_to: Any) -> list[str]:
    """LLaMA-Factory's ``report_to`` as a list: none, a name, or a list of names."""
    names = [report_to] if isinstance(report_to, str) else list(report_to or ())
    return [name for name in names if name != "none"]


# -- where a batch begins ---------------------------------------------------------------------------


def begins_at(folder: Path, batch: int) -> Position:
    """Where the batch before ended; of a run that took some over from another, the last before that was trained."""
    file = folder / "batches.jsonl"
    for line in reversed(file.read_text(encoding="utf-8").splitlines() if file.is_file() else []):
        try:
            entry = json.loads(line)
        except ValueError:  # a line that a run was killed in
            continue
        if entry["batch"] < batch:
            steps, epochs = entry["end"]
            return int(steps), float(epochs)
    return 0, 0.0


def note_end(folder: Path, batch: int, start: Position, end: Position) -> None:
    with (folder / "batches.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n" * (file.tell() > 0) + json.dumps({"batch": batch, "start": start, "end": end}))


# -- a trainer's events -----------------------------------------------------------------------------


class OneRun:
    """A callback of transformers' trainer, which asks it for nothing but ``on_…``: hands every event on to trackers'
    own callbacks with steps and epochs counted from the first batch on, and adds what R-SFT knows.
    """

    def __init__(
        self,
        trackers: Sequence[Any],
        start: Position,
        knows: Callable[[], Mapping[str, float]],
        at_end: Callable[[], Mapping[str, float]],
    ):
        self.trackers = trackers
        self.start = self.position = start
        self.knows = knows
        self.at_end = at_end

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return functools.partial(self._hand_on, name)

    def _hand_on(self, name: str, args: Any, state: Any, control: Any, **more: Any) -> None:
        steps, epochs = self.start
        state = copy.copy(state)
        state.global_step += steps
        state.max_steps += steps
        state.epoch = epochs + (state.epoch or 0.0)
        self.position = state.global_step, state.epoch
        if name == "on_train_end":  # before it: a tracker's callback closes its run there
            self._each("on_log", args, state, control, {**more, "logs": dict(self.at_end())})
        if name == "on_log":
            # an epoch with each step's numbers only: those of an evaluation or of the end are for the same step again
            logs = {key: value for key, value in more["logs"].items() if key != "epoch"}
            more["logs"] = {**logs, "epoch": state.epoch, **self.knows()} if "loss" in logs else logs
        self._each(name, args, state, control, more)

    def _each(self, name: str, args: Any, state: Any, control: Any, more: Mapping[str, Any]) -> None:
        for tracker in self.trackers:
            getattr(tracker, name)(args, state, control, **more)


class Unrepeated:
    """A tracker that cannot take anything back: logs only what is past ``file``'s mark, and moves the mark on."""

    def __init__(self, tracker: Any, file: Path):
        self.tracker = tracker
        self.file = file
        self.notes = json.loads(file.read_text(encoding="utf-8"))
        self.seen = list(self.notes["at"])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tracker, name)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **more: Any) -> None:
        at = [state.global_step, int("loss" not in logs)]  # what is logged at a batch's end comes after its last step
        if at <= self.seen:
            return
        # first the mark: a point that is lost when the process is killed here draws a better curve than one sent twice
        self.notes["at"] = at
        write_json(self.file, self.notes)
        self.tracker.on_log(args, state, control, logs=logs, **more)


# -- TensorBoard ------------------------------------------------------------------------------------


def clear_events(folder: Path, batch: int) -> bool:
    """Empty the event files of this batch and later ones; returns whether they held anything.

    They are not deleted: a TensorBoard that is reading one would look for it for ever.
    """
    files = [f for f in folder.glob("events.out.tfevents.*.batch_*") if int(f.name.rpartition("_")[2]) >= batch]
    held = [file for file in files if file.stat().st_size]
    for file in held:
        os.truncate(file, 0)
    return bool(held)


def event_writer(folder: Path, batch: int, start: Position) -> Any:
    """TensorBoard's writer for a batch."""
    from torch.utils.tensorboard import SummaryWriter

    again = clear_events(folder, batch)
    # the batch before has points at its last step, which stay
    return SummaryWriter(str(folder), purge_step=start[0] + 1 if again else None, filename_suffix=f".batch_{batch:03d}")


# -- Weights & Biases ---------------------------------------------------------------------------------


def inputs_of(files: Iterable[Path], model: Path) -> str:
    """Hash of what a batch is trained from: files by their bytes, the model by its files' sizes and times."""
    parts = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    prints = fingerprint(model) if model.is_dir() else str(model)
    return hashlib.sha256(json.dumps([parts, prints], sort_keys=True).encode()).hexdigest()[:16]


def wandb_run(file: Path, run: str, batch: int, start: Position, inputs: str) -> tuple[str, bool]:
    """The run's id that this batch is sent to, and whether a new run had to be opened beside an earlier one.

    ``file`` keeps the id, the mark of what was sent, and which batch began last, from which inputs.
    """
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    sent_more = before is not None and before["at"] > [start[0], 1]
    same = before is not None and (not sent_more or [before["batch"], before["inputs"]] == [batch, inputs])
    notes = before if before is not None and same else {"id": f"{run}-{uuid.uuid4().hex[:8]}", "at": [start[0], 1]}
    write_json(file, {**notes, "batch": batch, "inputs": inputs})
    return str(notes["id"]), before is not None and not same


def wandb_environment(folder: Path, run: str, run_id: str, environment: Mapping[str, str]) -> dict[str, str]:
    """For the stage's process only; what the user has set stands, but for the run, which is this folder's."""
    ours = {"WANDB_NAME": run, "WANDB_DIR": str(folder), "WANDB_PROJECT": PROJECT}
    kept = {name: environment[name] for name in ours if environment.get(name)}
    return {**ours, **kept, "WANDB_RUN_ID": run_id, "WANDB_RESUME": "allow"}


def end_wandb(exit_code: int) -> None:
    """A process that was forked from the warm server runs no exit handlers: what is on its way is waited for here."""
    import wandb

    if wandb.run is not None:
        wandb.finish(exit_code=exit_code)


# -- all of them --------------------------------------------------------------------------------------


@contextmanager
def reporting(
    names: Sequence[str],
    job: Mapping[str, Any],
    knows: Callable[[], Mapping[str, float]],
    at_end: Callable[[], Mapping[str, float]],
    emit: Emit,
) -> Iterator[list[Any]]:
    """The callbacks that a batch's trainer is to call; when the block ends well, the batch's end is noted.

    ``job`` is a training stage's, with ``tracker``: ``folder``, ``run`` (its name) and ``batch``. ``knows`` and
    ``at_end`` give what is logged beside the trainer's own numbers, at each step and after the last. Of several
    processes only the first reports.
    """
    if not names or not first_process():
        yield []
        return
    if problems := missing(names):
        raise ValueError("; ".join(problems))
    from transformers.integrations import get_reporting_integration_callbacks

    folder, run, batch = Path(job["tracker"]["folder"]), job["tracker"]["run"], job["tracker"]["batch"]
    folder.mkdir(parents=True, exist_ok=True)
    start = begins_at(folder, batch)
    trackers = []
    for name, make in zip(names, get_reporting_integration_callbacks(list(names)), strict=True):
        if name == "tensorboard":
            trackers.append(make(tb_writer=event_writer(folder / "tensorboard", batch, start)))
        elif name == "wandb":
            inputs = inputs_of([Path(job[file]) for file in ("train_yaml", "rsft_yaml", "facts")], Path(job["model"]))
            run_id, opened = wandb_run(folder / "wandb.json", run, batch, start, inputs)
            if opened:
                emit({"event": "say", "text": f"Weights & Biases: a new run, {run_id}, for what is done again"})
            os.environ.update(wandb_environment(folder, run, run_id, os.environ))
            trackers.append(Unrepeated(make(), folder / "wandb.json"))
        else:
            trackers.append(make())
    one = OneRun(trackers, start, knows, at_end)
    end = end_wandb if "wandb" in names else lambda exit_code: None
    try:
        yield [one]
    except BaseException:
        end(1)
        raise
    note_end(folder, batch, start, one.position)
    end(0)
