"""The stages that search a merge (``merge.search``): on which facts, between which models, into which file. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from kedit_glue.batch_files import batch_name
from kedit_glue.merging import MergeRefused, Tuned, check_count, merge_formats
from kedit_glue.modules import Trained
from kedit_glue.recipe_schema import Recipe
from kedit_glue.recipe_search import Search
from kedit_glue.runner import Job
from kedit_glue.search import evolve
from kedit_glue.search.genome import Genome
from kedit_glue.search.paths import writers
from kedit_glue.search.task import task_of
from kedit_glue.stages import Fact, Place, Prepared, partial

SEARCHED = 40
"""So many facts at most candidates are judged on where the recipe does not say how many."""


def judged_on(recipe: Recipe, batches: Sequence[Sequence[Fact]]) -> list[str]:
    """Ids of the facts that candidates are judged on, and no score is reported of; in the facts' order.

    Raises MergeRefused where the search, or the report, would have none.
    """
    search = recipe.merge.search
    if search.space is None or recipe.method != "rsft_merge":
        return []
    ids = [fact["id"] for batch in batches for fact in batch]
    wanted = search.fitness.facts or min(SEARCHED, len(ids) // 2)
    if not 0 < wanted < len(ids):
        raise MergeRefused(
            f"merge.search would be judged on {wanted} of the run's {len(ids)} facts, and scores are reported of the "
            "others: edit more facts, or set merge.search.fitness.facts to fewer"
        )
    chosen = drawn(ids, wanted, recipe.seed)
    taken = set(chosen)
    for number, batch in enumerate(batches, 1):
        here = {fact["id"] for fact in batch}
        if here <= taken or (recipe.merge.when == "each" and number == 1 and not here & taken):
            lack = "no other fact to report" if here <= taken else "none of them"
            or_end = ", or set merge.when: end" if recipe.merge.when == "each" else ""
            raise MergeRefused(
                f"of {len(ids)} facts {wanted}, drawn all over the run, are for merge.search, and batch {number} has "
                f"{lack}: change merge.search.fitness.facts or edits.batch_size{or_end}"
            )
    return chosen


def drawn(ids: Sequence[str], count: int, seed: int) -> list[str]:
    """``count`` ids, one by chance from each of as many even parts of the list, in order."""
    draw = random.Random(f"search {seed}")
    ends = [at * len(ids) // count for at in range(count + 1)]
    return [ids[draw.randrange(first, end)] for first, end in pairwise(ends)]


def check_grid(search: Search, numbers: int) -> None:
    """MergeRefused where a grid would have one step of a number."""
    if search.by == "grid" and (least := 2**numbers) > search.evaluations:
        raise MergeRefused(
            f"merge.search.by is grid, and two steps of each of {numbers} numbers take {least} evaluations; "
            f"merge.search.evaluations is {search.evaluations}: raise it, search fewer numbers (layer_granularity, "
            "filters), or set by: cma_es"
        )


def spaces(recipe: Recipe, batches: int) -> tuple[str, ...]:
    """The searches of a merge, in order. Raises MergeRefused for a data flow that later batches would begin with."""
    space = recipe.merge.search.space
    if space in ("dfs", "both") and recipe.merge.when == "each" and batches > 1:
        raise MergeRefused(
            f"merge.search.space is {space}, which changes how many layers the model has, and later batches would be "
            "trained from it; allowed: ps, or merge.when: end"
        )
    return {"both": ("ps", "dfs"), None: ()}.get(space, (str(space),))


@dataclass(frozen=True)
class Asked:
    """One search of a batch's merge."""

    number: int
    """The batch's."""
    title: str
    space: str
    name: str
    """Of the YAML that it writes."""
    onto: str
    """The model that ``tuned`` are merged with."""
    tuned: tuple[Tuned, ...]
    best: str | None
    """The merge that a search of numbers found before, one more model for the data flow."""
    ids: tuple[str, ...]
    """The facts that candidates are judged on."""
    mark: str
    """A hash of the facts that the run has edited by then."""


def searched(recipe: Recipe, place: Place, asked: Asked, facts: Path, trained: Trained) -> Prepared:
    """The stage that writes ``<name>.yaml`` in the batch's folder; MergeRefused for what cannot be searched."""
    onto, tuned, best, name = asked.onto, asked.tuned, asked.best, asked.name
    merge, search = recipe.merge, recipe.merge.search
    folder = place.folder / batch_name(asked.number)
    layers = place.n_layers or search.layer_granularity or 1  # a dry run may not know
    models = [onto, *(one.model for one in tuned), *([best] if best else [])] if asked.space == "dfs" else []
    output = folder / f"{name}.yaml"
    if asked.space == "ps":
        check_count(place.method, len(tuned))
    formats = {k: v for k, v in merge_formats(merge.dtype, recipe.train.precision, merge.extra).items() if v}
    trace = folder / f"{name}.trace.jsonl"
    reuse = folder / "merge_file.yaml" if name == "merge" and len(tuned) == 1 and not best else None
    settings = {
        "space": asked.space,
        "search": search.model_dump(),
        "layers": layers,
        "most_layers": search.most_layers or layers + layers // 2,
        "writers": list(writers(place.tensors or {})),
        "start": len(models) - 1,
        "method": asdict(place.method),
        "settings": dict(merge.parameters),
        "formats": {**formats, **merge.extra},
        "trainable": trained.pattern,
        "ids": list(asked.ids),
        "tasks": list(search.fitness.tasks or recipe.score.general.tasks),
    }
    files = {
        "original": place.model,
        "before": onto,
        "tuned": [{"model": one.model, "adapter": None} for one in tuned],
        "models": models,
        "facts": str(facts),
        "trace": str(trace),
        "output": str(partial(output)),
        "reuse": str(reuse) if reuse else None,
        "roles": {onto: "original" if onto == place.model else "previous", tuned[0].model: "tuned"},
    }
    common = {"seed": recipe.seed, "device": place.device, "trust_remote_code": recipe.trust_remote_code}
    asks = {**settings, **files, **common}
    task, evolves = task_of(asks), None
    if isinstance(task, Genome):
        check_grid(search, len(task.genes()))  # genes() raises where a number cannot begin
        evolves = folder / "evolve.yaml" if evolve.configuration(task, (), search.fitness.limit) else None
    what = "numbers" if asked.space == "ps" else "layers"
    job = Job(
        f"{asked.title}: search the merge's {what}",
        "search",
        {**asks, "evolve": str(evolves) if evolves else None},
        folder,
        name if name != "merge" else "search",
        f"read the log; correct merge.search in the recipe and run the same command again: candidates that were judged "
        f"stand in {trace.name}, training is not repeated",
    )
    fitness = search.fitness
    texts = [Path(file) for file in (fitness.corpus, fitness.include_path) if file and Path(file).is_absolute()]
    beside = tuple(path for path in (trace, reuse, evolves) if path)
    return Prepared(job, output, {**settings, "facts": asked.mark}, tuple(texts), beside=beside)
