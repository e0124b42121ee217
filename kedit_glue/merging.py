"""Which roles the original and the tuned model play in a merge method's YAML. Pure functions.

mergekit's methods differ in what they call the original: a *base* that task vectors are taken
from, or simply one more input beside the tuned model. Each method's own contract says which
(``mergekit/merge_methods/base.py``, InputContract), so a method that the next release registers
works without a line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MergeMethod:
    """A registered merge method: its contract and its parameters' scopes."""

    name: str
    base: str
    """``required``, ``optional``, ``forbidden`` or ``ignored``."""
    min_inputs: int
    max_inputs: int | None
    parameters: Mapping[str, str]
    """Parameter name -> ``shared`` (one value for the merge), ``input`` or ``non_base`` (one a model)."""


@dataclass(frozen=True)
class MergeInputs:
    """What merge.yaml says of models and parameters."""

    base_model: str | None
    models: tuple[dict[str, Any], ...]
    parameters: dict[str, Any]


class MergeRefused(ValueError):
    """The method cannot merge one tuned model with one original."""


def merge_inputs(method: MergeMethod, settings: Mapping[str, Any], original: str, tuned: str) -> MergeInputs:
    """Roles and parameters for one original and one tuned model (absolute paths).

    ``weight`` is always the tuned model's; where the original is an input like any other it gets
    the rest, ``1 - weight``. ``normalize`` is written even when the recipe is silent: methods that
    default to true divide by the one weight there is, which then does nothing.
    """
    if method.min_inputs > 2:
        raise MergeRefused(
            f"merge.method {method.name} needs {method.min_inputs} models; an edit batch gives two, "
            "the original and the tuned one"
        )
    shared = {k: v for k, v in settings.items() if method.parameters.get(k, "shared") == "shared"}
    own = {k: v for k, v in settings.items() if k not in shared}
    if "normalize" in method.parameters:
        shared.setdefault("normalize", False)
    if "normalize_weights" in method.parameters:
        shared.setdefault("normalize_weights", True)
    one = {"path": tuned, "parameters": own}
    if method.base == "required":
        return MergeInputs(original, (one,), shared)
    if method.max_inputs == 1:
        return MergeInputs(None, (one,), shared)
    rest = {**own, "weight": complement(own["weight"])} if "weight" in own else own
    return MergeInputs(None, ({"path": original, "parameters": rest}, one), shared)


def complement(weight: Any) -> Any:
    """``1 - weight`` in each of mergekit's forms: a number, a gradient, or a list of filters."""
    if isinstance(weight, (bool, str)):
        raise MergeRefused(f"merge.parameters.weight is {weight!r}; a number, a gradient or filters are allowed")
    if isinstance(weight, (int, float)):
        return round(1.0 - weight, 12)
    if isinstance(weight, Mapping):
        return {**weight, "value": complement(weight["value"])}
    return [complement(w) for w in weight]


def merge_formats(dtype: str | None, precision: str, extra: Mapping[str, Any]) -> dict[str, str | None]:
    """``dtype`` and ``out_dtype`` of the merge: bf16 models are merged in float32 and written in bfloat16.

    LLaMA-Factory keeps what it trains in float32 (llamafactory 0.9.5, model/adapter.py:140), so the tuned
    model's formats are mixed.
    """
    if dtype is not None or precision != "bf16":
        return {"dtype": dtype, "out_dtype": None}
    return {"dtype": "float32", "out_dtype": None if "out_dtype" in extra else "bfloat16"}
