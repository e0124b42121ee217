"""A study's cells on a Ray cluster, each a task of its own (``on_ray``): cells share what one of them has made."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from pathlib import Path

from kedit_glue import on_ray
from kedit_glue.on_ray import Run
from kedit_glue.problems import CannotStart
from kedit_glue.progress import Display
from kedit_glue.ray_task import Order
from kedit_glue.run import terminated_as_interrupted
from kedit_glue.study_file import Planned
from kedit_glue.study_shared import FIRST, kind_of, shared


def run_cells(
    recipe: Path, cells: Sequence[Planned], beside: Sequence[Path], address: str, display: Display
) -> list[Run]:
    """Run the cells, as many at once as the cluster has room for; returns them with their outcomes.

    ``beside``: folders of other cells, whose finished stages are taken over. What several cells would do alike (stages
    on the original model, the first batch's training) is waited for in one of them, so that the others find it.
    """
    runs = runs_of(recipe, cells, beside)
    ray = on_ray.connect(address)
    try:
        with terminated_as_interrupted():
            on_ray.follow(ray, runs, display, Turns(runs).ready)
    finally:
        ray.shutdown()
    display.console.print(on_ray.table(runs))
    return runs


def runs_of(recipe: Path, cells: Sequence[Planned], beside: Sequence[Path]) -> list[Run]:
    """Raises CannotStart for cells that no task could run."""
    wrong = [
        f"cell {c.cell.name}: {problem}; nothing was started" for c in cells for problem in on_ray.cannot_ask(c.recipe)
    ]
    if wrong:
        raise CannotStart("\n".join(wrong))
    return [
        Run(
            Order(
                each.cell.name,
                str(recipe),
                str(Path.cwd()),
                str(each.folder),
                each.overrides,
                each.recipe.launch.ray.gpus,
                uuid.uuid4().hex,
                tuple(str(folder) for folder in beside if folder != each.folder),
            ),
            each.recipe,
        )
        for each in cells
    ]


class Turns:
    """Which cells may begin: of those that have work in common (``study_shared``) one goes ahead."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.work = {run.order.name: set(shared(run.recipe).items()) for run in runs}
        self.begun: dict[str, int] = {}
        """Cell that was handed out -> bytes that its events had then."""
        self.passed: set[tuple[str, str]] = set()
        """Cell and kind of work that it has behind it."""

    def ready(self, run: Run) -> bool:
        """Whether a run may begin; one that may is taken to begin now."""
        if not all(self._free(work, run) for work in self.work[run.order.name]):
            return False
        events = events_of(run)
        self.begun[run.order.name] = events.stat().st_size if events.is_file() else 0
        return True

    def _free(self, work: tuple[str, str], run: Run) -> bool:
        """Whether a cell has done this, or it is this run's turn to do it."""
        those = [other for other in self.runs if work in self.work[other.order.name]]
        ahead = any(self.ahead(other, work[0]) for other in those)
        return ahead or run is next(each for each in those if each.outcome is None)

    def ahead(self, run: Run, kind: str) -> bool:
        """Whether a run has work of this kind behind it."""
        name = run.order.name
        if (name, kind) not in self.passed and name in self.begun:
            done = run.outcome is not None and run.outcome.done
            if done or is_behind(kind, stages_begun(events_of(run), self.begun[name])):
                self.passed.add((name, kind))
        return (name, kind) in self.passed


def is_behind(kind: str, begun: Sequence[str]) -> bool:
    """Whether stages of batches were begun (their names) that come after work of this kind."""
    return any(kind != FIRST or kind_of(stage) != FIRST for stage in begun)


def events_of(run: Run) -> Path:
    return Path(run.order.folder) / "events.jsonl"


def stages_begun(events: Path, position: int) -> list[str]:
    """Names of the stages of batches that were started, by the events from this byte on."""
    try:
        with events.open("rb") as file:
            file.seek(position)
            lines = file.read().splitlines()
    except OSError:
        return []
    started = (event for event in map(read, lines) if event.get("event") == "stage_started" and event.get("batch"))
    return [str(event.get("stage")) for event in started]


def read(line: bytes) -> dict[str, object]:
    """An event; empty for a line that is being written."""
    try:
        found: dict[str, object] = json.loads(line)
    except ValueError:
        return {}
    return found
