"""``python -m kedit_glue.study STUDY``: one recipe run with several settings, and a table of what they do.

Each cell of a study is a run like any other, in ``<output>/<study>/<cell>/``. Stages that two cells
share are done once: the second takes them from the first (``Ledger.adopt``).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kedit_glue import job, strict_yaml, study_report, study_text
from kedit_glue.atomic import write_json, write_text
from kedit_glue.execute import OutputMissing
from kedit_glue.job import Options
from kedit_glue.locks import held
from kedit_glue.problems import CannotStart
from kedit_glue.progress import Display
from kedit_glue.recipe import normalized
from kedit_glue.run import USER_ERRORS, again, any_terminal, guarded
from kedit_glue.runner import StageFailed
from kedit_glue.study_file import Loaded, Planned, load_study, plan_cells
from kedit_glue.study_grid import said
from kedit_glue.study_report import About, Result

EXAMPLES = """a study file:
  name: weights
  recipe: ../smollm2_seq.yaml            # the run that is varied
  set: {edits.limit: 20}                 # changed in every cell
  axes:                                  # a cell for each combination
    merge.parameters.weight: [0.6, 0.8, 1.0]
    train.epochs: [5, 30]
  cells:                                 # and, or instead, cells by name
    - {name: no-merge, set: {merge.method: passthrough, merge.parameters: {}}}
  baseline: no-merge                     # what the others are compared with; left out: the first cell

exit codes: 0 done, 1 a cell failed (run again to go on), 2 the study or a recipe cannot be used,
130 interrupted, 143 terminated (run again to go on)
"""
NOT_YET = "not run yet"


def run_study(arguments: argparse.Namespace, display: Display) -> int:
    """Do what the command line asks; returns the exit code."""
    loaded = load_study(arguments.study)
    known = {name: frozenset(method.parameters) for name, method in job.merge_methods().items()}
    planned = plan_cells(loaded, arguments.set, known)
    folder = planned[0].folder.parent
    if (folder / "resolved.yaml").is_file() or folder.is_file():
        raise CannotStart(f"{folder} holds a run or is a file: give the study another name")
    documents = {} if arguments.fresh else {p.cell.name: d for p in planned if (d := finished(p)) is not None}
    if arguments.dry_run:
        show_cells(loaded, planned, documents, display)
        return 0
    study = Cells(loaded, planned, folder, documents)
    if arguments.table:
        if documents:
            study.write()
        study.show(display)
        return 0
    with held(folder, display.say):
        study.run(arguments.fresh, display)
    study.show(display)
    if study.causes:
        display.say(f"\n{len(study.causes)} of {len(planned)} cells failed")
        command = again("kedit_glue.study", loaded.file, arguments.set)
        display.say(f"  what was finished stays; to go on: {command}")
    return 1 if study.causes else 0


def finished(planned: Planned) -> dict[str, Any] | None:
    """``scores.json`` of a cell that was run to its end with the settings it has now."""
    made = planned.folder / "model" / "provenance"  # written whole, and last
    try:
        if (made / "resolved.yaml").read_text(encoding="utf-8") != strict_yaml.dump(normalized(planned.recipe)):
            return None
        document: dict[str, Any] = json.loads((made / "scores.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document


def show_cells(loaded: Loaded, planned: Sequence[Planned], done: Mapping[str, Any], display: Display) -> None:
    """``--dry-run``: each cell, what it changes, its folder."""
    display.say(f"{loaded.study.name}: {len(planned)} cells of {loaded.recipe}, their recipes checked, nothing started")
    display.say(f"in every cell: {said(loaded.study.set)}")
    for number, each in enumerate(planned, 1):
        marks = "  (baseline)" * (each.cell.group == loaded.baseline) + "  (done)" * (each.cell.name in done)
        display.say(f"{number:3}. {each.cell.name}{marks}")
        display.say(f"       sets:   {said(each.cell.settings)}")
        display.say(f"       writes: {each.folder}")


@dataclass
class Cells:
    """What is known of a study's cells so far."""

    loaded: Loaded
    planned: Sequence[Planned]
    folder: Path
    documents: dict[str, dict[str, Any]]
    causes: dict[str, str] = field(default_factory=dict)

    def run(self, fresh: bool, display: Display) -> None:
        """Run every cell; one that fails is noted, and the next one begins."""
        online = any(job.needs_hub(each.recipe) for each in self.planned)
        done: list[Path] = []
        for number, each in enumerate(self.planned, 1):
            name = each.cell.name
            display.log, display.events = self.folder / "log.txt", None
            display.say(f"\ncell {number} of {len(self.planned)}: {name} ({said(each.cell.settings)})", style="bold")
            beside = done if fresh else [other.folder for other in self.planned if other is not each]
            options = Options(self.loaded.recipe, each.overrides, fresh=fresh, elsewhere=tuple(beside), online=online)
            self.documents.pop(name, None)
            try:
                document = job.run(options, display)
                assert document is not None, "only dry runs and checks end without scores"
                self.documents[name] = document
            except (*USER_ERRORS, StageFailed, OutputMissing) as error:
                display.say(f"\ncell {name} failed: {error}")
                self.causes[name] = str(error).partition("\n")[0]
            done.append(each.folder)
            self.write()
        display.log, display.events = self.folder / "log.txt", None

    def table(self) -> dict[str, Any]:
        study = self.loaded.study
        results = [
            Result(name, each.cell.settings, self.documents.get(name), self._cause(name), each.cell.at, each.cell.group)
            for each in self.planned
            for name in [each.cell.name]
        ]
        about = About(study.name, study.recipe, self.loaded.baseline, study.set, tuple(study.axes), study.collect)
        return study_report.table(about, results)

    def _cause(self, name: str) -> str:
        return self.causes.get(name, "" if name in self.documents else NOT_YET)

    def write(self) -> None:
        """``study.json``, ``study.md`` and the picture."""
        document = self.table()
        write_json(self.folder / "study.json", document)
        drawn = study_report.draw(self.folder / "study.svg", document["cells"])
        write_text(self.folder / "study.md", study_text.markdown(document, "study.svg" if drawn else ""))

    def show(self, display: Display) -> None:
        for part in study_text.terminal(self.table()):
            display.console.print(part, markup=False, emoji=False)
        if (self.folder / "study.md").is_file():
            display.say(f"tables: {self.folder / 'study.md'}")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m kedit_glue.study",
        description="Run one recipe with several settings, and compare what was learned and what it cost.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("study", type=Path, help="the study, a YAML file")
    one = made.add_mutually_exclusive_group()
    one.add_argument("--dry-run", action="store_true", help="list the cells, check their recipes, start nothing")
    one.add_argument("--table", action="store_true", help="only write the tables again, from the cells that are done")
    one.add_argument("--fresh", action="store_true", help="forget what the cells' runs did before")
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a recipe value for every cell, e.g. edits.limit=5; repeatable",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    any_terminal()
    given = parser().parse_args(arguments)
    display = Display(None)
    return guarded(lambda: run_study(given, display), display, again("kedit_glue.study", given.study, given.set))


if __name__ == "__main__":
    sys.exit(main())
