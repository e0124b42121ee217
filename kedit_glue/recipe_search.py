"""What a recipe says about searching a merge instead of guessing it (``merge.search``)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from kedit_glue.recipe_keys import CORPUS, WORKING_FOLDERS, Section, Texts, key, number, switch, text, whole
from kedit_glue.recipe_values import no_repeats


class Fitness(Section):
    """What a candidate is worth; each part is from 0 to 1, and its weight 0 leaves it out."""

    paraphrases: float = number(
        1.0, "The weight of edit success on rephrasings, teacher-forced", "a number, 0 or more", ge=0
    )
    locality: float = number(
        1.0, "The weight of what unrelated prompts keep of their most likely tokens", "a number, 0 or more", ge=0
    )
    perplexity: float = number(
        1.0,
        "The weight of perplexity on general text, the original's divided by the candidate's, at most 1",
        "a number, 0 or more",
        ge=0,
    )
    general: float = number(
        0.0, "The weight of lm-eval's tasks, the share kept of the original's value", "a number, 0 or more", ge=0
    )
    facts: int | None = whole(
        None,
        "On how many facts, drawn by the seed all over the run, candidates are judged; scores are of the others",
        1,
        null="half of them, at most 40",
    )
    corpus: str | None = text(
        None,
        "The general text that perplexity is measured on (.jsonl, .json, .txt or a data set of the hub)",
        CORPUS,
    )
    texts: int = whole(8, "How many texts of it are used, from its beginning", 1, 100000)
    text_tokens: int = whole(64, "How many tokens of each text, from its beginning", 8, 4096)
    tasks: Annotated[Texts, BeforeValidator(no_repeats)] = key(
        (), "lm-eval's tasks that the weight general is about", "a list of task names"
    )
    include_path: str | None = text(
        None, "A folder with lm-eval tasks of your own", f"a folder that exists, {WORKING_FOLDERS}, or null"
    )
    limit: int | None = whole(50, "How many items of each task are used", 1)
    benchmarks_known: bool = switch(
        False, "Whether you know that common benchmarks among the tasks say nothing any more once they were searched on"
    )


class Search(Section):
    """Akiba et al. 2024, 'Evolutionary Optimization of Model Merging Recipes' (arXiv 2403.13187)."""

    space: Literal["ps", "dfs", "both"] | None = key(
        None,
        "What is searched, the merge's numbers (parameter space), which layer of which model comes next (data-flow "
        "space), or the first and then, with its best as one more model, the second",
        "one of ps, dfs, both, or null for no search",
    )
    by: Literal["cma_es", "nsga2", "random", "grid"] = key(
        "cma_es",
        "How candidates are chosen; nsga2 takes the fitness's parts as objectives of their own and ends with the "
        "knee of their Pareto front",
        "one of cma_es, nsga2, random, grid",
    )
    evaluations: int = whole(100, "How many candidates are merged and judged, in each space", 1, 10**6)
    population: int | None = whole(
        None, "How many candidates make a generation", 2, 10000, null="4 + 3 ln(numbers searched)"
    )
    sigma: float = number(
        0.2,
        "How far CMA-ES's first generation spreads, as a share of each range",
        "a number above 0 up to 1",
        gt=0,
        le=1,
    )
    layer_granularity: int = whole(
        0, "How many layers share their numbers, a divisor of the model's layers (0: all of them)", 0, 1000
    )
    filters: Annotated[Texts, BeforeValidator(no_repeats)] = key(
        (),
        "Parts of tensor names, such as gate_proj, that get numbers of their own; all others share one set",
        "a list of texts, each at most once",
    )
    ranges: dict[str, tuple[float, float]] = key(
        {},
        "mergekit's parameters that are searched, with their two ends; named here are those that "
        "have no range of their own (weight, density, t, and scale of the data flow) or should have another",
        "a mapping of names to [low, high]",
    )
    repetitions: int = whole(1, "How often all models' layers are laid out one after another (data flow)", 1, 16)
    scaling: bool = switch(True, "Whether the data flow's layers' inputs are scaled, each pair of layers by a number")
    most_layers: int | None = whole(
        None, "A data flow with more layers is no candidate", 1, null="half as many again as the model has"
    )
    precision: Literal["own", "bf16"] = key(
        "own",
        "The number format that candidates are judged in; bf16 takes half the time on CPUs that compute in it, and on "
        "GPUs (they are merged in the model's own)",
        "one of own, bf16",
    )
    workers: int = whole(1, "How many candidates are judged at once, each by a Ray worker of its own", 1, 1024)
    fitness: Fitness = Field(default_factory=Fitness, description="What a candidate is worth, and on what data.")
