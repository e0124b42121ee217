"""How the models were asked, as ``scores.json`` says it: a part of ``result_fields.py``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kedit_glue.result_types import Count, Name, Part, Position


class TeacherForced(Part):
    """Each token of the answer is asked with the right tokens before it."""

    scorer: Literal["batched", "easyedit"] = Field(
        description="easyedit: EasyEdit's own functions, a prompt at a time; batched: ours, many prompts in one pass"
    )


class Likelihood(Part):
    """Which of two answers is more probable; it has no settings."""


class Generated(Part):
    """Greedy generation, ended by the model's end-of-sequence token or by ``most_tokens``."""

    template: Name = Field(
        description="how a prompt is put to the model: bare (as it stands), chat (its own template), …"
    )
    most_tokens: Position = Field(description="most tokens of a generated answer")
    facts: Count | None = Field(description="facts that were asked so, or the most that were to be; null for all")
    judge: Name | None = Field(default=None, description="the model that judged the answers; null where none did")


class Sampled(Part):
    """Sampled continuations of edit prompts."""

    facts: Count = Field(description="facts whose prompts were continued")
    seed: Count | None = Field(default=None, description="of the random numbers; null where it is not known")


class Protocol(Part):
    """How the models were asked. Results are comparable where these are equal."""

    teacher_forced: TeacherForced | None = Field(default=None, description="settings; absent where it was not used")
    likelihood: Likelihood | None = Field(default=None, description="an empty mapping; absent where it was not used")
    generated: Generated | None = Field(default=None, description="settings; absent where it was not used")
    sampled: Sampled | None = Field(default=None, description="settings; absent where it was not used")
