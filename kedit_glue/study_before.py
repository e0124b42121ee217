"""What is known of a study's cells before it runs: results that stand, and why a cell has none."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kedit_glue import result, strict_yaml, verdict
from kedit_glue.execute import PROVENANCE
from kedit_glue.problems import RecipeError
from kedit_glue.recipe import normalized
from kedit_glue.result import ResultError
from kedit_glue.same_numbers import content_of, same_numbers
from kedit_glue.study_file import Planned
from kedit_glue.study_report import NOT_YET

Documents = dict[str, dict[str, Any]]
"""Cell -> its ``scores.json``."""


def finished(planned: Planned) -> dict[str, Any] | None:
    """``scores.json`` of a cell that was run to its end, where its numbers are those of the settings it has now.

    Raises ResultError for one that cannot be used.
    """
    recipe = planned.recipe
    made = planned.folder / ("" if recipe.edits.mode == "independent" else "model") / PROVENANCE  # whole, and last
    try:
        text = (made / "resolved.yaml").read_text(encoding="utf-8")
        if text != strict_yaml.dump(normalized(recipe)):
            ran, _ = strict_yaml.parse(text, str(made / "resolved.yaml"))
            if not same_numbers(ran, recipe, content_of(planned.folder, made / result.FILE, recipe)):
                return None
    except (OSError, ValueError, RecipeError):
        return None
    document = result.plain(result.load(made / result.FILE))
    wanted = recipe.verdict.model_dump()
    if (document.get("verdict") or {}).get("thresholds") != wanted:
        document["verdict"] = verdict.judged(document, wanted)
    return document


def before(planned: Iterable[Planned], folder: Path, common: Mapping[str, Any]) -> tuple[Documents, dict[str, str]]:
    """Of these cells of the study in ``folder``: results, and causes of those that have none.

    ``common``: what the study sets in every cell.
    """
    documents: Documents = {}
    causes: dict[str, str] = {}
    noted = noted_causes(folder / "study.json", common)
    for each in planned:
        name, settings = each.cell.name, dict(each.cell.settings)
        try:
            document = finished(each)
        except ResultError as error:
            causes[name] = str(error)
            continue
        if document is not None:
            documents[name] = document
        elif cause := next((why for group, of, why in noted if (group, of) == (each.cell.group, settings)), None):
            causes[name] = cause
    return documents, causes


def noted_causes(file: Path, common: Mapping[str, Any]) -> list[tuple[str, dict[str, Any], str]]:
    """Group, settings and cause of each cell that failed, as a study's table has them; none of a table that cannot be
    read, or of a study that set something else in every cell.
    """
    try:
        table = json.loads(file.read_bytes())
        rows = table["cells"] if table["set"] == dict(common) else []
        seeds = [
            (row["cell"], {**row["settings"], "seed": of["seed"]}, of["cause"])
            for row in rows
            for of in row.get("lacking", {}).values()
        ]
        alone = [
            (row["cell"], row["settings"], row["cause"]) for row in rows if not {"lacking", "metrics"} & row.keys()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return [one for one in (*seeds, *alone) if one[2] != NOT_YET]
