"""``python -m kedit_glue.study STUDY``: one recipe run with several settings, and a table of what they do.

Each cell of a study is a run like any other, in ``<output>/<study>/<cell>/``. Stages that two cells
share are done once: the second takes them from the first (``Ledger.adopt``).
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kedit_glue import job, page, result, study_report, study_text
from kedit_glue.atomic import write_json, write_text
from kedit_glue.execute import DISK_FULL, NoRoom, OutputMissing
from kedit_glue.job import Options
from kedit_glue.locks import held
from kedit_glue.problems import CannotStart, did_you_mean
from kedit_glue.progress import Display
from kedit_glue.result import ResultError
from kedit_glue.run import USER_ERRORS, again, any_terminal, guarded
from kedit_glue.runner import StageFailed
from kedit_glue.study_before import Documents, before
from kedit_glue.study_check import check_cells
from kedit_glue.study_dry_run import show_cells
from kedit_glue.study_file import Loaded, Planned, load_cells
from kedit_glue.study_grid import said
from kedit_glue.study_report import About, Result

EXAMPLES = """a study file:
  name: weights
  recipe: ../smollm2_seq.yaml            # the run that is varied
  set: {edits.limit: 20}                 # changed in every cell
  axes:                                  # a cell for each combination
    merge.parameters.weight: [0.6, 0.8, 1.0]
    train.epochs: [5, 30]
    data:                                # or settings with names
      mine: {edits.source: my_facts.csv}
      other: {edits.source: other.csv, edits.limit: 50}
  without:                               # combinations that are left out
    - {merge.parameters.weight: [0.6, 0.8], train.epochs: 5}
  seeds: [0, 1, 2]                       # each cell so often; the tables show means over them
  collect: [paraphrase.likelihood.score] # metrics in the tables beside the usual ones
  cells:                                 # and, or instead, cells by name
    - {name: no-merge, set: {merge.method: passthrough, merge.parameters: {}}}
  baseline: no-merge                     # what the others are compared with; left out: the first cell

exit codes: 0 done, 1 a cell failed (run again to go on), 2 the study or a recipe cannot be used,
130 interrupted, 143 terminated (run again to go on)
"""


def run_study(arguments: argparse.Namespace, display: Display) -> int:
    """Do what the command line asks; returns the exit code."""
    known = {name: frozenset(method.parameters) for name, method in job.merge_methods().items()}
    loaded, planned = load_cells(arguments.study, arguments.set, known)
    folder = planned[0].folder.parent
    if (folder / "resolved.yaml").is_file() or folder.is_file():
        raise CannotStart(f"{folder} holds a run or is a file: give the study another name")
    chosen = select(planned, arguments.only)
    if not arguments.table:
        check_cells(loaded, planned, chosen, display)
    anew = {each.cell.name for each in chosen} if arguments.fresh else set()
    stand = [each for each in planned if each.cell.name not in anew]
    documents, causes = before(stand, folder, loaded.study.set)
    if arguments.dry_run:
        show_cells(loaded, planned, chosen, documents, display)
        return 0
    study = Cells(loaded, planned, folder, documents, causes, arguments.set)
    if arguments.table:
        if documents or causes:
            study.write()
        study.show(display)
        return 0
    with held(folder, display.say, "run cells beside each other with --on ray"):
        if arguments.on == "ray":
            study.run_on_ray(chosen, arguments.address, display)
        else:
            study.run(chosen, arguments.fresh, display)
    study.show(display)
    failed = [each for each in chosen if each.cell.name in study.causes]
    if failed:
        display.say(f"\n{len(failed)} of {len(chosen)} cells failed")
        display.say(f"  what was finished stays; to go on: {go_on(arguments)}")
    return 1 if failed else 0


def go_on(given: argparse.Namespace) -> str:
    """The command that goes on where this one stopped."""
    more = [word for name in given.only for word in ("--only", name)]
    more += ["--on", given.on, "--address", given.address] if given.on != "here" else []
    return " ".join([again("kedit_glue.study", given.study, given.set), *map(shlex.quote, more)])


def select(planned: Sequence[Planned], names: Sequence[str]) -> list[Planned]:
    """The cells of these names, with or without their seeds; all of them without names. Raises CannotStart."""
    known = [name for each in planned for name in dict.fromkeys((each.cell.name, each.cell.group))]
    for name in names:
        if name not in known:
            raise CannotStart(f"--only {name}: there is no such cell; {did_you_mean(name, known) or 'see --dry-run'}")
    return [each for each in planned if not names or {each.cell.name, each.cell.group} & set(names)]


@dataclass
class Cells:
    """What is known of a study's cells so far."""

    loaded: Loaded
    planned: Sequence[Planned]
    folder: Path
    documents: Documents
    causes: dict[str, str] = field(default_factory=dict)
    values: Sequence[str] = ()
    """``--set`` of the command line."""

    def run(self, chosen: Sequence[Planned], fresh: bool, display: Display) -> None:
        """Run these cells; one that fails is noted, and the next one begins."""
        online = any(job.needs_hub(each.recipe) for each in self.planned)
        done: list[Path] = []
        for number, each in enumerate(chosen, 1):
            name = each.cell.name
            display.log, display.events = self.folder / "log.txt", None
            display.say(f"\ncell {number} of {len(chosen)}: {name} ({said(each.cell.settings)})", style="bold")
            beside = done if fresh else [other.folder for other in self.planned if other is not each]
            options = Options(self.loaded.recipe, each.overrides, fresh=fresh, elsewhere=tuple(beside), online=online)
            self.documents.pop(name, None)
            self.causes.pop(name, None)
            try:
                document = job.run(options, display)
                assert document is not None, "only dry runs and checks end without scores"
                self.documents[name] = document
            except Exception as error:
                self._failed(name, error, display)
            done.append(each.folder)
            self.write()
        display.log, display.events = self.folder / "log.txt", None

    def _failed(self, name: str, error: Exception, display: Display) -> None:
        """Note why a cell has no result; raises the error again where no other cell could do better: a full disk."""
        expected = isinstance(error, (*USER_ERRORS, StageFailed, OutputMissing, NoRoom))
        said = str(error) if expected else f"{type(error).__name__}: {error}"
        self.causes[name] = said.partition("\n")[0]
        if isinstance(error, NoRoom) or (isinstance(error, OSError) and error.errno in DISK_FULL):
            with contextlib.suppress(OSError):
                self.write()
            raise error
        if not expected:
            display.log, display.events = self.folder / "log.txt", None  # the cell's own may be what cannot be written
            traceback.print_exception(error)
        display.say(f"\ncell {name} failed: {said}")

    def run_on_ray(self, chosen: Sequence[Planned], address: str, display: Display) -> None:
        """Run these cells on a cluster; one that is done takes its time to look whether that stands."""
        from kedit_glue.study_ray import run_cells

        runs = run_cells(self.loaded.recipe, chosen, [each.folder for each in self.planned], address, display)
        for each, run in zip(chosen, runs, strict=True):
            name = each.cell.name
            self.documents.pop(name, None)
            self.causes[name] = run.outcome.said if run.outcome else study_report.NOT_YET
            if run.outcome and run.outcome.done:
                try:
                    self.documents[name] = result.plain(result.load(each.folder))
                    del self.causes[name]
                except ResultError as error:
                    self.causes[name] = str(error)
        self.write()

    def about(self) -> tuple[About, list[Result]]:
        """The study, and its cells with what they gave."""
        study = self.loaded.study
        results = [
            Result(name, each.cell.settings, self.documents.get(name), self._cause(name), each.cell.at, each.cell.group)
            for each in self.planned
            for name in [each.cell.name]
        ]
        axes = tuple(study.axes)
        return About(study.name, study.recipe, self.loaded.baseline, study.set, axes, study.collect), results

    def table(self) -> dict[str, Any]:
        return study_report.table(*self.about())

    def _cause(self, name: str) -> str:
        return self.causes.get(name, "" if name in self.documents else study_report.NOT_YET)

    def write(self) -> None:
        """``study.json``, ``study.md`` with its picture, and ``report.html``."""
        about, results = self.about()
        document = study_report.table(about, results)
        place = {"study": str(self.loaded.file.resolve()), "set": list(self.values), "cwd": str(Path.cwd())}
        write_json(self.folder / "study.json", {**document, "place": place})
        drawn = study_report.draw(self.folder / "study.svg", document["cells"])
        write_text(self.folder / "study.md", study_text.markdown(document, "study.svg" if drawn else ""))
        if self.documents:
            page.write_study(self.folder, about, results)

    def show(self, display: Display) -> None:
        for part in study_text.terminal(self.table()):
            display.console.print(part, markup=False, emoji=False)
        if (self.folder / "study.md").is_file():
            display.say(f"tables: {self.folder / 'study.md'}")
        if (self.folder / "report.html").is_file():
            display.say(f"report: {self.folder / 'report.html'}")


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
        "--only",
        action="append",
        default=[],
        metavar="CELL",
        help="run this cell alone, by its name or that without the seed; repeatable",
    )
    made.add_argument("--on", choices=("here", "ray"), default="here", help="where the cells run (docs/clusters.md)")
    made.add_argument(
        "--address",
        default="auto",
        help="of the Ray cluster: auto (the default: RAY_ADDRESS, or the one this machine is in), HOST:PORT or local",
    )
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
    if given.fresh and given.on == "ray":
        parser().error("--fresh does not go with --on ray: delete the cells' folders")
    display = Display(None)
    return guarded(lambda: run_study(given, display), display, go_on(given))


if __name__ == "__main__":
    sys.exit(main())
