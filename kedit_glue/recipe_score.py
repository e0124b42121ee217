"""What a recipe says about scores."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from kedit_glue.recipe_keys import WORKING_FOLDERS, Section, Texts, key, switch, text, whole
from kedit_glue.recipe_values import no_repeats

Metric = Literal["edit_success", "generalization", "portability", "locality", "fluency", "perplexity"]
METRICS: tuple[Metric, ...] = ("edit_success", "generalization", "portability", "locality", "fluency")
Protocol = Literal["teacher_forced", "likelihood", "generated"]
PROTOCOLS: tuple[Protocol, ...] = ("teacher_forced", "likelihood", "generated")


class Judge(Section):
    model: str | None = text(
        None,
        "A language model that calls generated answers right or wrong: its name at the endpoint, or its folder",
        "a text, or null for no judge",
    )
    endpoint: str | None = text(
        None,
        "Where an OpenAI-compatible service answers",
        "an address such as http://localhost:8000/v1, or null for a model that lies on this machine",
        pattern=r"^https?://",
    )
    key_variable: str = text(
        "OPENAI_API_KEY",
        "The environment variable that holds the endpoint's key; the key itself is never written down",
        "a variable's name",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
    )
    at_once: int = whole(4, "How many answers the endpoint is asked about at once", 1, 256)


class Generated(Section):
    facts: int = whole(20, "Of how many facts, spread over all, answers are generated and compared", 0, 10**9)
    template: Literal["as_trained", "bare", "chat"] = key(
        "as_trained",
        "How questions are put: bare prompts, the model's own chat template, or as train.template has it",
        "one of as_trained, bare, chat",
    )
    most_tokens: int = whole(
        64, "An answer ends with the end-of-sequence token; one that does not is ended after so many tokens", 1, 32768
    )


class ScoreEdits(Section):
    metrics: Annotated[tuple[Metric, ...], BeforeValidator(no_repeats)] = key(
        METRICS, "What is measured of the edits", f"a list of {', '.join(METRICS)}, perplexity, each at most once"
    )
    protocols: Annotated[tuple[Protocol, ...], BeforeValidator(no_repeats)] = key(
        PROTOCOLS,
        "How it is measured: the right tokens given (EasyEdit), which of two answers is more probable (ROME), or by "
        "what the model says by itself (the original and the last model)",
        f"a list of {', '.join(PROTOCOLS)}, each at most once",
    )
    generated: Generated = Field(default_factory=Generated, description="How answers are generated.")
    judge: Judge = Field(default_factory=Judge, description="Who judges generated answers; nobody by default.")
    scorer: Literal["batched", "easyedit"] = key(
        "batched",
        "Whose code counts teacher-forced tokens: ours, many prompts at once, or EasyEdit's, one at a time",
        "one of batched, easyedit",
    )
    easyedit: str | None = text(
        None,
        "A git checkout of EasyEdit whose evaluation is used instead of the package's",
        f"a folder that exists, {WORKING_FOLDERS}, or null",
    )
    when: Literal["each", "end"] = key(
        "each", "Whether edits are scored after each batch or only after the last", "one of each, end"
    )
    old_facts: int | None = whole(
        None, "Of how many facts of earlier batches, drawn anew each time, scoring asks again; after the last of all", 0
    )
    fluency_facts: int = whole(10, "For how many facts text is generated to measure fluency", 0, 100000)


class ScoreGeneral(Section):
    tasks: Annotated[Texts, BeforeValidator(no_repeats)] = key(
        (), "lm-eval's tasks that measure what the model knows besides the edits", "a list of task names"
    )
    include_path: str | None = text(
        None, "A folder with lm-eval tasks of your own", f"a folder that exists, {WORKING_FOLDERS}, or null"
    )
    limit: int | None = whole(None, "How many items of each task are used", 1)
    batch_size: int = whole(8, "How many items lm-eval hands to the model at once", 1)
    when: Literal["ends", "each", "never"] = key(
        "ends",
        "Whether the tasks run before the first batch and after the last, also after each, or never",
        "one of ends, each, never",
    )


class Score(Section):
    edits: ScoreEdits = Field(default_factory=ScoreEdits, description="How the edits are scored.")
    general: ScoreGeneral = Field(
        default_factory=ScoreGeneral, description="How the model's other abilities are scored (lm-eval)."
    )
    tuned: bool = switch(
        False, "Whether the model before its last merge is scored, too: report.html's radar shows all three"
    )
    examples: int = whole(5, "How many answers before and after the edits the report shows", 0, 100)
