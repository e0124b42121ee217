"""What a study's recipes ask for in vain: layers that the model does not have, metrics that no cell measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kedit_glue import methods, models
from kedit_glue.metrics import METRICS
from kedit_glue.models import ModelError
from kedit_glue.problems import Problem, RecipeError, listed
from kedit_glue.progress import Display
from kedit_glue.recipe import Recipe
from kedit_glue.stages import Tensors
from kedit_glue.study_file import Loaded, Planned


def check_cells(loaded: Loaded, planned: Sequence[Planned], chosen: Sequence[Planned], display: Display) -> None:
    """Say what could not be checked of the chosen cells, and what none of all will measure; RecipeError names what the
    chosen cells' models do not have.
    """
    unfit = misfits(chosen)
    if unfit:
        hints = {what: f"in cell{'s' * (len(names) > 1)} {listed(names, 5)}" for what, names in unfit.items()}
        found = (Problem(str(loaded.file), None, None, "", what, "", hint) for what, hint in hints.items())
        raise RecipeError(found, str(loaded.file))
    for model in dict.fromkeys(each.recipe.model for each in chosen):
        if folder_of(model) is None:
            display.say(
                f"not checked: whether {model} has the layers and modules that are asked for; it is not here yet"
            )
    for line in unmeasured(loaded.study.collect, [each.recipe for each in planned]):
        display.say(line)


def misfits(planned: Sequence[Planned]) -> dict[str, list[str]]:
    """What cells' methods do not find in their models -> the cells; of models that lie on this machine."""
    found: dict[str, list[str]] = {}
    for each in planned:
        folder = folder_of(each.recipe.model)
        if folder is None:
            continue
        try:
            shape = shape_of(folder)
            methods.changed(each.recipe, shape.layers, shape.tensors)
        except (ValueError, OSError) as error:
            found.setdefault(f"{each.recipe.model}: {error}", []).append(each.cell.name)
    return found


@dataclass(frozen=True)
class Shape:
    layers: int | None
    tensors: Tensors | None


@cache
def shape_of(folder: Path) -> Shape:
    """From the model's configuration and the headers of its files; weights are not read."""
    return Shape(models.layer_count(folder), models.tensor_shapes(folder))


def folder_of(model: str) -> Path | None:
    """The model's folder where nothing has to be unpacked or fetched first."""
    kind = models.kind_of(model)
    try:
        folder = models.packaged_folder(model) if kind == "packaged" else Path(model).expanduser()
    except ModelError:  # its package is not installed
        return None
    return folder if kind != "hub" and (folder / "config.json").is_file() else None


def unmeasured(collected: Sequence[str], recipes: Sequence[Recipe]) -> list[str]:
    """A line for each collected metric that no recipe's protocols yield."""
    asked = set().union(*map(protocols, recipes))
    found = []
    for name in collected:
        protocol = METRICS[name].protocol
        if protocol not in asked:
            key = (
                "score.edits.metrics has fluency" if protocol == "sampled" else f"score.edits.protocols has {protocol}"
            )
            found.append(f"warning: collect: no cell measures {name}; in none {key}")
    return found


def protocols(recipe: Recipe) -> set[str]:
    edits = recipe.score.edits
    return {*edits.protocols, *(["sampled"] if "fluency" in edits.metrics and edits.fluency_facts else [])}
