"""Reads a run's or study's folder and writes its report, and its figures for papers."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kedit_glue import result
from kedit_glue.atomic import write_text
from kedit_glue.page import facts, grid_page, run_page
from kedit_glue.page.content import Page
from kedit_glue.page.figure import Figure
from kedit_glue.page.html import html
from kedit_glue.page.run_page import Beside
from kedit_glue.problems import CannotStart
from kedit_glue.study_grid import texts
from kedit_glue.study_report import About, Result

FILE = "report.html"
STUDY = "study.json"


def write_run(folder: Path, to: Path | None = None) -> Path:
    """The report of the result in ``folder``, there or at ``to``; returns where it is."""
    return put(run(folder), to or result.find(folder).parent / FILE)


def write_study(folder: Path, about: About, results: Sequence[Result], to: Path | None = None) -> Path:
    """The report of a study; returns where it is."""
    return put(study_page(folder, about, results), to or folder / FILE)


def study_page(folder: Path, about: About, results: Sequence[Result]) -> Page:
    """With all answers that its cells' folders still have."""
    probes = {one.cell: facts.answered(folder / one.cell, one.document) for one in results if one.document is not None}
    return grid_page.page(about, results, started(folder, about, results), probes)


def put(page: Page, to: Path) -> Path:
    write_text(to, html(page))
    return to


def page_of(path: Path) -> tuple[Page, Path]:
    """The page of a run, a scoring or a study, and where its report belongs. Raises CannotStart for what is none."""
    if (path / STUDY).is_file() or path.name == STUDY:
        folder = path if path.is_dir() else path.parent
        about, results = study(folder)
        return study_page(folder, about, results), folder / FILE
    return run(path), result.find(path).parent / FILE


def run(path: Path) -> Page:
    file = result.find(path)
    document = result.plain(result.load(file))
    return run_page.page(document, beside(file.parent, document))


def beside(folder: Path, document: Mapping[str, Any]) -> Beside:
    """What the folder of a ``scores.json`` says besides."""
    recipe = folder / "recipe.yaml"
    place, environment = (_mapping(folder / name) for name in (Path("setup", "place.json"), Path("environment.json")))
    text = recipe.read_text(encoding="utf-8") if recipe.is_file() else ""
    answers = facts.answered(folder, document)
    return Beside(text, command(place), environment, answers)


def command(place: Mapping[str, Any], what: str = "recipe", module: str = "kedit_glue.run") -> str:
    """How ``what`` was started, with paths as seen from where that was; empty where it is not known."""
    if not {what, "set", "cwd"} <= place.keys():
        return ""
    file = Path(place[what])
    near = file.is_relative_to(place["cwd"])
    words = ["uv", "run", "python", "-m", module, os.path.relpath(file, place["cwd"]) if near else str(file)]
    return shlex.join([*words, *(word for value in place["set"] for word in ("--set", value))])


def started(folder: Path, about: About, results: Sequence[Result]) -> str:
    """How a study was: ``place`` of its ``study.json`` (``study``: its file, ``set``, ``cwd``), else what a cell's
    ``place.json`` adds to the settings that are the study's own, of a file whose name is not known."""
    if recorded := _mapping(folder / STUDY).get("place"):
        return command(recorded, "study", "kedit_glue.study")
    given: list[str] = []
    for one in results:
        if values := _mapping(folder / one.cell / "setup" / "place.json").get("set"):
            own = {"keep=all", *texts(about.set), *texts(one.settings), *texts({"name": one.cell})}
            given = [value for value in values[:-1] if value not in own]  # the last is the cell's folder
            break
    return command({"study": grid_page.FILE, "set": given, "cwd": "."}, "study", "kedit_glue.study")


def study(folder: Path) -> tuple[About, list[Result]]:
    """A study's cells with their results, as ``study.json`` names them."""
    table = _mapping(folder / STUDY)
    if not {"study", "recipe", "baseline", "cells"} <= table.keys():
        raise CannotStart(f"{folder / STUDY} is no study's table; run the study again: python -m kedit_glue.study")
    about = About(
        table["study"],
        table["recipe"],
        table["baseline"],
        table.get("set", {}),
        tuple(table.get("axes", ())),
        tuple(table.get("metrics", ())),
    )
    return about, [result for row in table["cells"] for result in cells(folder, row)]


def cells(folder: Path, row: dict[str, Any]) -> list[Result]:
    """A cell of a study's table; one for each seed where it has several."""
    name, settings, at = row["cell"], row["settings"], row.get("at", {})
    lacking = row.get("lacking", {})
    seeds = row.get("runs") or ({} if lacking else {name: None})
    found = [Result(run, {**settings, "seed": of["seed"]}, None, of["cause"], at, name) for run, of in lacking.items()]
    for run, seed in seeds.items():
        own = settings if seed is None else {**settings, "seed": seed}
        group = name if seed is not None else ""
        if "metrics" not in row or not (folder / run / result.FILE).is_file():
            found.append(Result(run, own, None, row["cause"] or "its scores.json is gone", at, group))
            continue
        document = result.plain(result.load(folder / run))
        found.append(Result(run, own, document, "", at, group))
    return found


def write_figures(page: Page, folder: Path) -> list[Path]:
    """Every figure as PDF, PNG and CSV, and the tables as LaTeX; returns the files."""
    from kedit_glue.page import latex, paper

    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for figure in page.figures:
        if isinstance(figure, Figure):
            for ending, content in paper.drawn(figure).items():
                made.append(folder / f"{figure.id}.{ending}")
                made[-1].write_bytes(content)
            made.append(folder / f"{figure.id}.csv")
            write_text(made[-1], figure.csv())
    for name, text in latex.tables(page).items():
        made.append(folder / f"{name}.tex")
        write_text(made[-1], text)
    return made


def _mapping(file: Path) -> dict[str, Any]:
    """A JSON file's content; empty where there is none."""
    if not file.is_file():
        return {}
    found = facts.read_json(file)
    if not isinstance(found, dict):
        raise CannotStart(f"{file} holds a {type(found).__name__}, not a mapping")
    return found
