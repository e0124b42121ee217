"""How a recipe's keys are written down: type, range, default, and one sentence that ``--explain`` and errors show."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

WORKING_FOLDERS = "relative to the current folder or to the recipe's"
CORPUS = (
    f"a file that exists, {WORKING_FOLDERS}, a data set of the hub (owner/name, owner/name:split or "
    "owner/name:configuration:split), or null for the text that is shipped"
)

Texts = tuple[Annotated[str, Field(strict=True, min_length=1)], ...]


def key(default: Any, about: str, allowed: str, example: Any = None, **rules: Any) -> Any:
    """A key with its one-sentence description; ``allowed`` is also what an error message names."""
    extra = {"allowed": allowed, "example": example}
    return Field(default, description=f"{about}: {allowed}.", json_schema_extra=extra, **rules)


def whole(default: int | None, about: str, low: int, high: int | None = None, null: str = "all of them") -> Any:
    allowed = f"a whole number from {low} to {high}" if high is not None else f"a whole number, {low} or more"
    allowed += f", or null for {null}" if default is None else ""
    return key(default, about, allowed, strict=True, ge=low, le=high)


def number(default: float | None, about: str, allowed: str, **rules: Any) -> Any:
    return key(default, about, allowed, strict=True, allow_inf_nan=False, **rules)


def switch(default: bool, about: str) -> Any:
    return key(default, about, "true or false", strict=True)


def text(default: Any, about: str, allowed: str, example: Any = None, **rules: Any) -> Any:
    return key(default, about, allowed, example, **{"strict": True, "min_length": 1, **rules})


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
