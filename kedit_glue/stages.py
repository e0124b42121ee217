"""What a plan consists of: files to render, stages to run, and the place they happen in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kedit_glue import methods
from kedit_glue.merging import MergeMethod
from kedit_glue.modules import Trained
from kedit_glue.runner import Job

Fact = Mapping[str, Any]
Tensors = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Place:
    """Where a run happens and what it stands on."""

    folder: Path
    """The run's folder, absolute."""
    model: str
    """Folder (absolute) or hub id of the original model."""
    model_print: str
    """Fingerprint of the original model's files."""
    device: str
    """``cpu`` or ``cuda:0``."""
    n_layers: int | None
    """None where the model's configuration is not at hand (dry runs of hub models)."""
    method: MergeMethod
    versions: Mapping[str, str]
    cache: Path = Path()
    """Where what several runs can use is kept: statistics, untouched tensors."""
    tensors: Tensors | None = None
    """Name -> shape of the original model's tensors; None where they are not at hand."""
    merge_file: Mapping[str, Any] | None = None
    """Content of ``merge.file``."""
    model_bytes: int = 0
    """Size of the original model's weights; 0 where they are not at hand."""
    outside: Mapping[str, str] = field(default_factory=dict)
    """Recipe's key -> hash of what the folder that it names holds (``outside.marks``)."""

    left_out: tuple[str, ...] = ()
    """Ids of the facts that no editor is trained on (``learned.left_out``)."""

    def holding(self, section: str) -> dict[str, str]:
        """``outside`` of the keys of a section: what a stage that reads these folders depends on."""
        return {key: mark for key, mark in self.outside.items() if key.startswith(f"{section}.")}


@dataclass(frozen=True)
class Rendered:
    """A file to render from a template."""

    path: Path
    template: str
    values: Mapping[str, Any]
    must_say: Mapping[str, Any]
    """Keys of the rendered YAML whose value and type must be these."""


EDITING = ("edit", "remember", "independent")
"""Jobs that are told by which method they edit."""


@dataclass(frozen=True)
class Stage:
    """One thing to do, in a process of its own."""

    name: str
    """``base/edits``, ``batch_001/train`` … unique in the run."""
    batch: int | None
    job: Job
    reads: tuple[Path, ...]
    """Files whose content decides whether the stage is stale."""
    after: tuple[str, ...]
    """Stages whose output it reads."""
    output: Path
    """What it makes; the job writes ``working`` and the run renames it when it is whole."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Other values that decide whether it is stale."""
    size: int = 1
    """How many facts it works on, for the estimate of time; 1 where that does not matter."""
    beside: tuple[Path, ...] = ()
    """Further files that it leaves, which the report reads."""
    looks_at: tuple[str, ...] = ()
    """Stages whose output it reads where it is still there, and does without otherwise."""
    room: int = 0
    """Bytes that it is going to write, roughly; 0 where they do not matter."""
    editable: bool = False
    """Its output is one file, which a hand may change: the stage stands, and what reads the file follows."""
    stock_command: str = ""
    """The upstream tool's own command line on the same files, where there is one."""

    @property
    def working(self) -> Path:
        return partial(self.output)

    @property
    def pace(self) -> str:
        """Stages that take as long for a fact have the same, for the estimate of time: a rival's method, else the job's
        function."""
        if self.job.function not in EDITING:
            return self.job.function
        method = str(self.job.arguments["method"])
        return self.job.function if method in methods.TRAINED else method


@dataclass(frozen=True)
class Prepared:
    """A stage before it has a place in the plan: its job, the files that it reads, what decides whether it is stale."""

    job: Job
    output: Path
    settings: Mapping[str, Any]
    reads: tuple[Path, ...]
    file: Rendered | None = None
    """The one to render among those that it reads."""
    beside: tuple[Path, ...] = ()
    """As in ``Stage``."""


@dataclass(frozen=True)
class Plan:
    """Everything a run will do, in order."""

    batches: tuple[tuple[Fact, ...], ...]
    files: tuple[Rendered, ...]
    data: Mapping[Path, Any]
    """JSON files to write."""
    stages: tuple[Stage, ...]
    final_model: Path | None
    """None where each batch is edited alone: no model holds them all."""
    trained: Trained


def partial(path: Path) -> Path:
    """Where a stage writes ``path`` until it is whole."""
    return path.with_name(path.name + ".partial")
