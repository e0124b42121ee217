"""What fields of ``scores.json`` are made of, and its parts that tell of the run and not of the answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _metric_name(name: str) -> str:
    if len(parts := name.split(".")) != 3 or not all(parts):
        raise ValueError(f"{name!r} is no metric's name: aspect.protocol.measure")
    return name


Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=0)]
Position = Annotated[int, Field(strict=True, ge=1)]
Width = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Seconds = Width
Text = Annotated[str, Field(strict=True)]
Name = Annotated[str, Field(strict=True, min_length=1)]
MetricName = Annotated[str, Field(strict=True), AfterValidator(_metric_name)]
Better = Literal["higher", "lower", "as before"]
Score = Number | dict[Text, Number | None] | None
"""Of one fact: a number, or one for each kind of its probes."""


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Cost(Part):
    """What editing took, without scoring."""

    seconds_a_fact: Seconds = Field(
        description="wall time of the stages that edit, a search of the merge included, s for each fact"
    )
    seconds_once: Seconds | None = Field(
        default=None,
        description="wall time of what was prepared on the original model for all edits together, s: directions of "
        "general text, second moments, an editor's training; what an earlier run left in the cache counts with what it "
        "took then; null in files of earlier versions",
    )
    peak_memory_bytes: Count | None = Field(description="most memory that one of them held; null where none says")
    bytes_changed: Count | None = Field(
        description="size of the weights that a batch may change; 0 where facts are remembered beside the model, null "
        "where the model's tensors are unknown"
    )
    bytes_at_inference: Count = Field(
        description="what the edited model needs beside the original's weights when it is asked: remembered facts, and "
        "the models that find and answer them"
    )


class Candidate(Part):
    """A merge that a search judged."""

    fitness: Number | None = Field(default=None, description="0 to 1, higher is better; null where it failed")
    parts: dict[Text, Number] | None = Field(
        default=None, description="paraphrases, locality, perplexity, general: each 0 to 1; null where it failed"
    )
    cause: Text | None = Field(default=None, description="why it failed; null where it did not")


class Chosen(Part):
    """One of a search's candidates, by its number."""

    number: Position = Field(description="its place in candidates, from 1")
    fitness: Number | None = Field(description="as in candidates; null where it failed")
    parts: dict[Text, Number] | None = Field(description="as in candidates; null where it failed")


class MergeSearch(Part):
    """A search of a merge (the recipe's merge.search)."""

    batch: Position = Field(description="the batch whose merge it was")
    space: Literal["ps", "dfs"] = Field(description="ps: the merge's numbers; dfs: which layer comes next")
    by: Name = Field(description="how candidates were chosen: cma_es, nsga2, random, grid")
    numbers: Count = Field(description="how many numbers a candidate has")
    evaluations: Count = Field(description="how many candidates were judged")
    failed: Count = Field(description="how many of them could not be")
    best: Chosen = Field(description="the one that was merged, unless a hand changed its YAML")
    first: Chosen = Field(
        description="where the search began: the merge of the recipe's own numbers; of dfs the last model as it is"
    )
    front: list[Chosen] = Field(
        description="candidates that no other beats in one part without losing in another; empty for a single part"
    )
    candidates: list[Candidate] = Field(description="all of them, in order")
    seconds: Seconds = Field(description="wall time of the search, s")
    seconds_a_candidate: Seconds = Field(description="mean time of one merge and its judging, s")
    facts: list[Name] = Field(description="ids of the facts that candidates were judged on")
    texts: list[Text] = Field(description="SHA-256 of the general texts that they were judged on")
    peak_memory_bytes: Count | None = Field(
        default=None, description="most memory that the search held; null where nothing says"
    )


class Reason(Part):
    """One threshold, and whether it is reached."""

    met: bool | None = Field(description="null where it cannot be told: not measured, or within the noise")
    says: Text = Field(description="in words")


class Verdict(Part):
    """Whether the edited model may ship, by the recipe's thresholds."""

    answer: Literal["ship", "do not ship", "cannot tell"] = Field(
        description="ship: every threshold is reached; do not ship: one is missed; cannot tell: neither"
    )
    reasons: list[Reason] = Field(description="in the order of the thresholds")
    thresholds: dict[Text, Number | None] = Field(
        description="the recipe's verdict section, or its defaults; null: nothing was asked"
    )


class Made(Part):
    """What made the file."""

    kedit_glue: Name = Field(description="version of this program")
    tools: dict[Text, Text] = Field(description="tool -> version")
    at: Name = Field(description="when, ISO 8601 with the offset from UTC")
