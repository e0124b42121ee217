"""Which roles the original and the tuned model play in a merge method's YAML. Pure functions.

mergekit's methods differ in what they call the original: a *base* that task vectors are taken
from, or simply one more input beside the tuned model. Each method's own contract says which
(``mergekit/merge_methods/base.py``, InputContract), so a method that the next release registers
works without a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MODEL_KEYS = ("model", "base_model")
"""The keys of a merge YAML that name a model."""


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


@dataclass(frozen=True)
class Tuned:
    """What a batch's training left: a model's folder, or an adapter's beside the model it belongs to."""

    model: str
    adapter: str | None = None

    @property
    def name(self) -> str:
        """As mergekit's YAML says it (its ``model+lora`` form)."""
        return f"{self.model}+{self.adapter}" if self.adapter else self.model


class MergeRefused(ValueError):
    """The method cannot merge these models."""


def merge_inputs(
    method: MergeMethod, settings: Mapping[str, Any], original: str, tuned: Sequence[Tuned]
) -> MergeInputs:
    """Roles and parameters for one original and one or more tuned models.

    ``weight`` is each tuned model's where their differences from the original are added; where the
    original is an input like any other, it gets ``1 - weight`` and the tuned models share ``weight``.
    ``normalize`` is written even when the recipe is silent: methods that default to true divide by
    the one weight there is, which then does nothing.
    """
    check_count(method, len(tuned))
    shared = {k: v for k, v in settings.items() if method.parameters.get(k, "shared") == "shared"}
    own = {k: v for k, v in settings.items() if k not in shared}
    if "normalize" in method.parameters:
        shared.setdefault("normalize", False)
    if "normalize_weights" in method.parameters:
        shared.setdefault("normalize_weights", True)
    if method.base == "required" or method.max_inputs == 1:
        models = tuple({"path": t.name, "parameters": own} for t in tuned)
        return MergeInputs(original if method.base == "required" else None, models, shared)
    rest, each = own, own
    if "weight" in own:
        rest = {**own, "weight": each_number(own["weight"], lambda w: round(1.0 - w, 12))}
        if len(tuned) > 1:
            each = {**own, "weight": each_number(own["weight"], lambda w: w / len(tuned))}
    models = tuple({"path": t.name, "parameters": each} for t in tuned)
    return MergeInputs(None, ({"path": original, "parameters": rest}, *models), shared)


def check_paths(paths: Iterable[str | None]) -> None:
    """MergeRefused for a path that mergekit takes apart: '@' begins a revision, '+' an adapter (common.py:68, 196)."""
    for path in filter(None, paths):
        if taken := [sign for sign in "@+" if sign in path]:
            raise MergeRefused(
                f"mergekit reads '{taken[0]}' in a model's path as the beginning of "
                f"{'a revision' if taken[0] == '@' else 'an adapter'}: {path}; "
                "move or rename the folder: of runs with 'output', of the model with 'model'"
            )


def check_count(method: MergeMethod, tuned: int) -> None:
    """MergeRefused where the method takes more or fewer models than there are."""
    count = tuned + (method.max_inputs != 1)
    there = f"{tuned} tuned and the original" if count > tuned else f"{tuned} tuned"
    if method.min_inputs > count:
        raise MergeRefused(
            f"merge.method {method.name} needs {method.min_inputs} models, here are {count} ({there}): with "
            "train.from: base and merge.when: end the models of all batches are merged together"
        )
    if method.max_inputs is not None and count > method.max_inputs:
        raise MergeRefused(
            f"merge.method {method.name} takes at most {method.max_inputs}, here are {count} models ({there}): "
            "merge after each batch (merge.when: each), or use a method for several models"
        )


def each_number(setting: Any, change: Callable[[float], float]) -> Any:
    """``change`` applied to each number in any of mergekit's forms: a number, a gradient, a list of filters."""
    if isinstance(setting, (bool, str)):
        raise MergeRefused(f"merge.parameters.weight is {setting!r}; a number, a gradient or filters are allowed")
    if isinstance(setting, (int, float)):
        return change(setting)
    if isinstance(setting, Mapping):
        return {**setting, "value": each_number(setting["value"], change)}
    return [each_number(item, change) for item in setting]


def fill_in(content: Mapping[str, Any], names: Mapping[str, str], tuned: Sequence[Tuned]) -> dict[str, Any]:
    """A merge YAML of the user's with the run's models in place of ``original``, ``previous`` and ``tuned``.

    In a list of models an entry of ``tuned`` stands once for each tuned model.
    """
    if "tuned" not in models_named(content):
        raise MergeRefused("merge.file names no model 'tuned': nothing that was trained would be merged")

    def walk(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: named(v) if k in MODEL_KEYS else walk(v) for k, v in value.items()}
        if isinstance(value, list):
            return [each for item in value for each in repeated(item)]
        return value

    def repeated(item: Any) -> list[Any]:
        if isinstance(item, Mapping) and item.get("model") == "tuned":
            return [{**walk({k: v for k, v in item.items() if k != "model"}), "model": t.name} for t in tuned]
        return [walk(item)]

    def named(value: Any) -> Any:
        if value == "tuned":
            return tuned[-1].name
        return names.get(value, value) if isinstance(value, str) else walk(value)

    filled: dict[str, Any] = walk(content)
    return filled


def renamed(content: Any, names: Mapping[str, str]) -> Any:
    """A merge YAML's content with other names for some of its models."""
    if isinstance(content, Mapping):
        return {k: names.get(v, v) if k in MODEL_KEYS and isinstance(v, str) else renamed(v, names)
                for k, v in content.items()}  # fmt: skip
    return [renamed(item, names) for item in content] if isinstance(content, list) else content


def models_named(content: Any) -> set[str]:
    """The models that a merge YAML names, each as it names it."""
    if isinstance(content, Mapping):
        own = {v for k, v in content.items() if k in MODEL_KEYS and isinstance(v, str)}
        return own.union(*map(models_named, content.values()))
    return set().union(*map(models_named, content)) if isinstance(content, list) else set()


def merge_formats(dtype: str | None, precision: str, extra: Mapping[str, Any]) -> dict[str, str | None]:
    """``dtype`` and ``out_dtype`` of the merge: bf16 models are merged in float32 and written in bfloat16.

    LLaMA-Factory keeps what it trains in float32 (llamafactory 0.9.5, model/adapter.py:140), so the tuned
    model's formats are mixed.
    """
    if dtype is not None or precision != "bf16":
        return {"dtype": dtype, "out_dtype": None}
    return {"dtype": "float32", "out_dtype": None if "out_dtype" in extra else "bfloat16"}
