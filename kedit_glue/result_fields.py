"""Every field of ``scores.json``: its type, its meaning, its unit and range, and when it is null. No reading here.

``result.py`` reads files, ``result_page.py`` makes ``docs/scores.md`` and ``docs/scores.schema.json`` of this. A field
that a file may lack is None in a ``Result``.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kedit_glue.result_protocol import Protocol
from kedit_glue.result_types import (
    Better,
    Cost,
    Count,
    Made,
    MergeSearch,
    MetricName,
    Name,
    Number,
    Part,
    Position,
    Score,
    Seconds,
    Text,
    Verdict,
    Width,
)

SCHEMA = 2
MOST_NAMED = 5
"""Names that a message gives of many."""


class Model(Part):
    """A model, by name and by content."""

    model: Name = Field(description="as the user named it: a folder, a hub id, or a packaged model's name")
    weights: Name | None = Field(
        description="hash of its weights, equal for equal weights wherever they lie; null where it was not computed"
    )


class FactsSource(Part):
    """The facts that were scored, so that two results can be seen to be over the same."""

    name: Name = Field(description="the file they came from, without its folder")
    facts: Count = Field(description="how many facts")
    hash: Name = Field(description="hash of their ids, prompts, targets and probes")


class Metric(Part):
    """What a metric is: enough to read its numbers without this program."""

    title: Name = Field(description="in a few words, as table heads show it")
    definition: Text = Field(description="the formula")
    denominator: Text = Field(description="what the mean is over")
    range: Text = Field(description="lowest and highest value, and the unit where it has one")
    better: Better = Field(description="higher, lower, or 'as before': as the original model's")
    source: Text = Field(description="the paper and file it comes from")


class Summary(Part):
    """A metric over several facts, each counting once."""

    mean: Number | None = Field(description="in the metric's range; null where no fact has such a prompt")
    facts: Count = Field(description="facts that the mean is over")
    half_width_95: Width | None = Field(
        default=None,
        description="half the width of the mean's 95 % interval over facts (normal approximation), in the metric's "
        "unit; 0 for one fact; absent or null where there are no values by fact",
    )
    by_kind: dict[Text, Number | None] | None = Field(
        default=None,
        description="kind of probe -> mean over the facts that have it, null where none has a value; absent or null "
        "for metrics without kinds",
    )


class GeneralTask(Part):
    """A task of lm-eval, as lm-eval aggregates it."""

    metrics: dict[Text, Number | None] = Field(
        description="lm-eval's metric (and ',filter') -> value in lm-eval's unit, _stderr its standard error; null "
        "where lm-eval gives no finite number"
    )
    items: Count = Field(description="items that were asked, one for each filter")
    not_extracted: dict[Text, Number] | None = Field(
        default=None,
        description="filter -> share of items, 0 to 1, in whose generated text it found no answer; empty, absent or "
        "null for tasks that generate nothing",
    )


class GeneralChange(Part):
    """A task before and after, item by item."""

    metric: Name = Field(description="the one of the task's metrics that is compared")
    better: Literal["higher", "lower"] = Field(description="whether higher or lower values are better")
    before: Number | None = Field(description="the original's, in lm-eval's unit; null where it is no finite number")
    after: Number | None = Field(description="the edited model's, in lm-eval's unit; null as before")
    items: Count = Field(description="items that both models were asked")
    change: Number | None = Field(
        default=None,
        description="mean of after minus before over the items, or with change_is their ratio minus 1; absent where no "
        "item is common",
    )
    change_95: tuple[Number, Number] | None = Field(
        default=None, description="95 % interval of change, low and high; absent where change is"
    )
    noise: bool | None = Field(default=None, description="whether that interval holds 0; absent where change is")
    base_95: tuple[Number, Number] | None = Field(
        default=None, description="95 % interval of before, over items; absent where change is"
    )
    inside_base_interval: bool | None = Field(
        default=None, description="whether after lies inside base_95; absent where change is"
    )
    change_is: Text | None = Field(default=None, description="'ratio minus 1' for perplexities; else absent")
    items_better: Count | None = Field(default=None, description="items whose value got better; absent where change is")
    items_worse: Count | None = Field(default=None, description="items whose value got worse; absent where change is")
    p: Number | None = Field(
        default=None,
        description="two-sided p value, 0 to 1, of so uneven a split of the items that changed (exact sign test; for "
        "right-or-wrong items McNemar's); absent where change is",
    )
    not_extracted: tuple[Number | None, Number | None] | None = Field(
        default=None,
        description="share of items, 0 to 1, in whose generated text the metric's filter found no answer, before and "
        "after; absent where nothing is generated",
    )

    @model_validator(mode="after")
    def _whole(self) -> GeneralChange:
        for name, beside in {
            "change": ("change_95",),
            "change_95": ("change",),
            "noise": ("change", "inside_base_interval"),
            "p": ("items_better", "items_worse"),
        }.items():
            if getattr(self, name) is not None and (lacks := [n for n in beside if getattr(self, n) is None]):
                raise ValueError(f"{name} without {' and '.join(lacks)}")
        return self


Summaries = dict[MetricName, Summary]
General = dict[Text, GeneralTask]


class Before(Part):
    """The original model."""

    edits: Summaries = Field(description="metric -> Summary over all facts that were asked")
    general: General | None = Field(description="task -> lm-eval's scores; null where none were asked for")


class After(Part):
    """The edited model."""

    edits: Summaries = Field(description="metric -> Summary over all facts that were asked")
    general: General | None = Field(description="task -> lm-eval's scores; null where none were asked for")
    general_change: dict[Text, GeneralChange] = Field(
        description="task -> change from the original; empty where general is null"
    )


class Searched(Part):
    """Merges that were searched, and how the facts fared that they were searched on: no score above is of those."""

    merges: list[MergeSearch] = Field(description="each search, in order")
    facts: list[Name] = Field(description="ids of all facts that candidates were judged on")
    before: Summaries = Field(description="the original on these facts")
    after: Summaries = Field(description="the edited model on these facts, which chose it")


class FromTool(BaseModel):
    """What a stage's tool reported; other keys are its own."""

    model_config = ConfigDict(extra="allow", frozen=True)
    seconds: Seconds = Field(description="wall time of the stage, s")


class Training(FromTool):
    """What training a batch reported; further keys are explained in the batch's own records."""

    optimizer_steps: Count | None = Field(default=None, description="updates of the weights; absent where not counted")
    learned: Count | None = Field(
        default=None, description="facts under the loss threshold at the end; absent where not counted"
    )
    rehearsed: dict[str, Count] | None = Field(
        default=None,
        description="earlier facts: how many were shown again (shown), how many of them were forgotten and took part "
        "in a step (taught); absent where that was not counted",
    )
    neighbours: dict[str, float] | None = Field(
        default=None,
        description="the facts' prompts about other subjects (train.protect.neighbours): how many were read (prompts), "
        "their tokens, and how many directions a matrix they added (directions, a mean); absent without them",
    )
    at_subject: dict[str, Count] | None = Field(
        default=None,
        description="learning at the tokens that name the subject (train.tokens: subject; absent elsewhere): texts "
        "trained on (texts), and in how many the subject was found (named; the others were learned at all tokens)",
    )


EDITING = ("training", "merge", "reshaping", "editing")
"""Of a batch what was done to edit it, in order; each has its ``seconds``."""


class Batch(Part):
    """One batch of edits, and the model after it."""

    batch: Position = Field(description="its number, from 1")
    facts: Count = Field(description="facts in it")
    training: Training | None = Field(default=None, description="of its training; absent where there is no record")
    merge: FromTool | None = Field(
        default=None, description="of its merge (norms, density, …); absent where nothing was merged"
    )
    reshaping: FromTool | None = Field(
        default=None,
        description="of what followed the merge, merge.protect or merge.regmean: the change's norm before and after, "
        "what facts and general text meet of it; absent where nothing did",
    )
    editing: FromTool | None = Field(
        default=None, description="of its edit by a method that neither trains nor merges; absent elsewhere"
    )
    edited_before: Summaries | None = Field(
        default=None, description="the original on this batch's facts; absent where it was not scored after this batch"
    )
    edited: Summaries | None = Field(
        default=None, description="the model after this batch on its facts; absent as edited_before"
    )
    all_so_far_before: Summaries | None = Field(
        default=None, description="the original on the facts of all_so_far; absent as edited_before"
    )
    all_so_far: Summaries | None = Field(
        default=None,
        description="the model after this batch on every fact until then, or on this batch's and a sample of the "
        "earlier ones; absent as edited_before",
    )
    asked_so_far: Count | None = Field(
        default=None, description="facts that all_so_far is over; absent as edited_before, and in files of schema 1"
    )
    general: General | None = Field(
        default=None, description="task -> scores of the model after this batch; absent where not asked for"
    )


class Point(Part):
    """Answers about facts that were taught so many batches ago."""

    age: Count = Field(description="batches since: 0 for facts of the batch just edited")
    mean: Number = Field(description="over these answers, in the metric's range")
    half_width_95: Width = Field(description="half the width of its 95 % interval over the answers; 0 for one")
    answers: Count = Field(description="answers: a fact has one for each model of that age that was asked")


class Retention(Part):
    """How much of a batch is left after later ones."""

    metric: MetricName = Field(description="what the numbers are of")
    after: list[Position] = Field(description="the batches, from 1, after which facts were asked; the matrix' rows")
    matrix: list[list[Number | None]] | None = Field(
        description="row: after that batch; column: mean over the facts of batch 1, 2, …, null where none of them was "
        "asked; null for runs of so many batches that it would be larger than the rest of the file"
    )
    curve: list[Point] = Field(description="the same by age, youngest first")
    sampled: bool = Field(description="whether some of the earlier facts were not asked")

    @model_validator(mode="after")
    def _rows(self) -> Retention:
        if self.matrix is not None and len(self.matrix) != len(self.after):
            raise ValueError(f"{len(self.matrix)} rows in matrix, {len(self.after)} batches in after")
        if self.matrix is not None and len({len(row) for row in self.matrix}) > 1:
            raise ValueError("rows of different lengths in matrix")
        return self


class Fact(Part):
    """One edit."""

    id: Name = Field(description="its id in the facts' file, or its place there")
    batch: Position | None = Field(description="its batch, from 1; null for a pair")
    prompt: Text = Field(description="the edit's prompt")
    target_new: Text = Field(description="the answer that it was to become")
    before: dict[MetricName, Score] = Field(
        description="metric -> the original's score, for portability and locality kind -> score; null where the fact "
        "has no such prompt"
    )
    after: dict[MetricName, Score] = Field(description="the same of the edited model; null as in before")
    steps: Count | None = Field(
        default=None, description="updates that the fact took part in; null for a pair, and where a rival edited"
    )
    loss_before: Number | None = Field(
        default=None,
        description="mean negative log-likelihood, nats per target token, before training; null for a pair",
    )
    loss_after: Number | None = Field(
        default=None, description="the same when its batch's training ended, before the merge; null for a pair"
    )
    learned: bool | None = Field(
        default=None, description="whether loss_after is under the recipe's threshold; null for a pair"
    )


class Answer(Part):
    """What both models really say: greedy, a few tokens."""

    id: Name = Field(description="the fact's")
    prompt: Text = Field(description="the edit's prompt")
    target_new: Text = Field(description="the answer that it was to become")
    before: Text = Field(description="the original's, without the prompt")
    after: Text = Field(description="the edited model's, without the prompt")


class Result(Part):
    """``scores.json``: one edited model against its original."""

    schema_: Literal[2] = Field(alias="schema", description="version of this format: 2")
    kind: Literal["run", "pair"] = Field(
        description="run: batches of edits made by this program; pair: two models that were there"
    )
    name: Name = Field(description="the run's or pair's name")
    method: Name | None = Field(
        default=None, description="how the run edited (the recipe's method); null for a pair, and in earlier files"
    )
    mode: Literal["sequential", "independent"] | None = Field(
        default=None,
        description="independent: each batch was edited into the original alone and scored at once, and no model holds "
        "all edits; null for a pair, and in earlier files, which are sequential",
    )
    base: Model = Field(description="the original model")
    edited: Model | None = Field(description="the edited model; null where mode is independent")
    facts_source: FactsSource | None = Field(
        default=None, description="the facts that were scored; null in files of schema 1"
    )
    protocol: Protocol = Field(description="how the models were asked")
    metrics: dict[MetricName, Metric] = Field(
        description="every metric that this file has a number of, named aspect.protocol.measure"
    )
    before: Before = Field(description="scores of the original")
    after: After = Field(
        description="scores of the edited model; where mode is independent each fact's are of its own batch's model"
    )
    tuned: After | None = Field(
        default=None, description="scores of the model before its last merge; null where score.tuned did not ask for it"
    )
    search: Searched | None = Field(
        default=None, description="searches of the merge; null where none was: then scores are over all facts"
    )
    batches: list[Batch] = Field(description="in order; empty for a pair")
    retention: Retention | None = Field(
        default=None,
        description="what is left of earlier batches; null for a pair, for runs that were scored at the end only, and "
        "where mode is independent",
    )
    facts: list[Fact] = Field(description="every fact, in the order of the edits")
    answers: list[Answer] = Field(description="of a few facts")
    generations: Name | None = Field(
        default=None,
        description="file beside this one with all generated texts; null where protocol.generated is absent",
    )
    cost: Cost | None = Field(default=None, description="what editing took; null for a pair, and in earlier files")
    verdict: Verdict | None = Field(
        default=None, description="whether the edited model may ship, and why; null in files of earlier versions"
    )
    seconds: dict[Text, Seconds] = Field(description="wall seconds by kind of stage, all: their sum")
    made: Made | None = Field(default=None, description="by what and when; null in files of schema 1, which do not say")

    @property
    def reported(self) -> list[Fact]:
        """The facts that scores are of: those that chose no merge (``merge.search``)."""
        seen = set(self.search.facts) if self.search else set()
        return [fact for fact in self.facts if fact.id not in seen]

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Result:
        named = {*self.before.edits, *self.after.edits}
        named.update(name for fact in self.facts for name in (*fact.before, *fact.after))
        if unknown := sorted(named - self.metrics.keys()):
            raise ValueError(f"metrics says nothing of {', '.join(unknown[:MOST_NAMED])}")
        twice = [i for i, count in Counter(fact.id for fact in self.facts).items() if count > 1]
        if twice:
            raise ValueError(f"several facts have the id {twice[0]}")
        if self.edited is None and self.mode != "independent":
            raise ValueError("edited is null, which is for independent edits only")
        if self.kind == "pair" and self.batches:
            raise ValueError("a pair has no batches")
        return self
