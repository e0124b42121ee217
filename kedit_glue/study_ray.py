"""A study's cells on a Ray cluster, each a task of its own (``on_ray``): cells share what the first one has made."""

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


def run_cells(
    recipe: Path, cells: Sequence[Planned], beside: Sequence[Path], address: str, display: Display
) -> list[Run]:
    """Run the cells, as many at once as the cluster has room for; returns them with their outcomes.

    ``beside``: folders of other cells, whose finished stages are taken over. The first cell's stages on the original
    model are waited for, so that the others find them.
    """
    runs = runs_of(recipe, cells, beside)
    ray = on_ray.connect(address)
    try:
        with terminated_as_interrupted():
            on_ray.follow(ray, runs, display, lambda run: run is runs[0] or ahead(runs[0]))
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


def ahead(run: Run) -> bool:
    """Whether a run has done what it does with the original model alone, or has ended."""
    if run.outcome is not None:
        return True
    try:
        lines = (Path(run.order.folder) / "events.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(event.get("event") == "stage_started" and event.get("batch") for event in map(read, lines))


def read(line: str) -> dict[str, object]:
    """An event; empty for a line that is being written."""
    try:
        found: dict[str, object] = json.loads(line)
    except ValueError:
        return {}
    return found
