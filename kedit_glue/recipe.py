"""The recipe: one YAML file that says what a run edits, trains, merges and scores.

The models below are the only list of keys: checks, ``--explain`` and the schema come from them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from kedit_glue import recipe_checks, recipe_errors, strict_yaml
from kedit_glue.models import PACKAGED
from kedit_glue.problems import RecipeError
from kedit_glue.recipe_values import check_layers, check_modules, check_parameters, no_repeats, resolve_layers

__all__ = ["Recipe", "describe", "load_recipe", "normalized", "resolve_layers"]

Metric = Literal["edit_success", "generalization", "portability", "locality", "fluency"]
METRICS: tuple[Metric, ...] = ("edit_success", "generalization", "portability", "locality", "fluency")
MAX_SEED = 2**32 - 1
"""NumPy, which every tool seeds, takes no larger one."""
NAME = "letters, digits, '.', '_' and '-', at most 64 of them, a letter or digit first"
LAYERS = "'all', a range such as '4-8', 'first 4', 'last 4', or a list of layer numbers from 0 and such ranges"
PARAMETERS = "a mapping; each value a scalar, a list (a gradient over the layers) or a list of {filter, value}"
WORKING_FOLDERS = "relative to the current folder or to the recipe's"

Texts = tuple[Annotated[str, Field(strict=True, min_length=1)], ...]


def _key(default: Any, about: str, allowed: str, example: Any = None, **rules: Any) -> Any:
    """A key with its one-sentence description; ``allowed`` is also what an error message names."""
    extra = {"allowed": allowed, "example": example}
    return Field(default, description=f"{about}: {allowed}.", json_schema_extra=extra, **rules)


def _whole(default: int | None, about: str, low: int, high: int | None = None, null: str = "all of them") -> Any:
    allowed = f"a whole number from {low} to {high}" if high is not None else f"a whole number, {low} or more"
    allowed += f", or null for {null}" if default is None else ""
    return _key(default, about, allowed, strict=True, ge=low, le=high)


def _number(default: float, about: str, allowed: str, **rules: Any) -> Any:
    return _key(default, about, allowed, strict=True, allow_inf_nan=False, **rules)


def _switch(default: bool, about: str) -> Any:
    return _key(default, about, "true or false", strict=True)


def _text(default: Any, about: str, allowed: str, example: Any = None, **rules: Any) -> Any:
    return _key(default, about, allowed, example, **{"strict": True, "min_length": 1, **rules})


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Edits(Section):
    source: str = _text(
        ..., "The file that holds the facts", f"a path that exists, {WORKING_FOLDERS}", "data/facts.json"
    )
    format: Literal["auto", "knowedit", "counterfact", "zsre", "wikibigedit", "qaedit", "records", "csv"] = _key(
        "auto",
        "The form the facts are in; auto looks at the file",
        "one of auto, knowedit, counterfact, zsre, wikibigedit, qaedit, records, csv",
    )
    limit: int | None = _whole(None, "How many facts of the file are used, from its beginning", 1)
    batch_size: int = _whole(10, "How many facts are edited together, with one training and one merge", 1)


class Protect(Section):
    directions: int = _whole(
        0,
        "How many input directions, the ones general text uses most, each trained matrix keeps unchanged (0: none)",
        0,
        100000,
    )
    corpus: str | None = _text(
        None,
        "The general text that the directions come from (.jsonl, .json or .txt)",
        f"a file that exists, {WORKING_FOLDERS}, or null",
    )


class Train(Section):
    modules: Annotated[tuple[str, ...], BeforeValidator(check_modules)] = _key(
        ("mlp",),
        "Which feed-forward modules or matrices are trained, such as mlp, down_proj, gate_proj or c_fc",
        "one name or a list of names of letters, digits and '_'",
    )
    layers: Annotated[str | tuple[int | str, ...], BeforeValidator(check_layers)] = _key(
        "all", "Which layers are trained", LAYERS
    )
    epochs: int = _whole(20, "How many times at most training goes over an edit batch, in epochs", 1, 1000)
    mini_batch: int = _whole(1, "How many facts one optimizer step takes", 1, 1024)
    inner_steps: int = _whole(1, "At most so many optimizer steps in a row on one sample or mini-batch", 1, 1000)
    loss_threshold: float = _number(
        0.05,
        "A fact whose loss, in nats per target token, is under this gets no update (0: none is left alone)",
        "a number, 0 or more",
        ge=0,
    )
    learning_rate: float = _number(
        1e-4, "The optimizer's step size, without unit", "a number above 0 up to 1", gt=0, le=1
    )
    weight_decay: float = _number(
        0.0,
        "AdamW's weight decay per step, relative to the learning rate",
        "a number from 0 to 1",
        ge=0,
        le=1,
    )
    max_grad_norm: float = _number(
        1.0,
        "Gradients with a larger Euclidean norm are scaled down to it (0: never)",
        "a number, 0 or more",
        ge=0,
    )
    precision: Literal["fp32", "bf16"] = _key("fp32", "The number format of training", "one of fp32, bf16")
    template: str = _text("empty", "LLaMA-Factory's chat template around each fact (empty: none)", "its name, as text")
    cutoff_len: int = _whole(256, "The longest prompt with its target, in tokens", 16, 131072)
    rephrasings: int = _whole(
        0, "How many of a fact's rephrasings are trained on as well; scoring asks only the others", 0, 1000
    )
    shuffle: bool = _switch(True, "Whether each epoch takes the facts in a new order")
    protect: Protect = Field(
        default_factory=Protect, description="What training leaves as it is, to keep what the model knows."
    )
    extra: dict[str, Any] = _key(
        {}, "LLaMA-Factory's own further keys, passed on verbatim", "a mapping of keys that no key here sets"
    )


class Merge(Section):
    method: str = _text("task_arithmetic", "mergekit's merge method", "the name of a method of mergekit")
    onto: Literal["base", "previous"] = _key(
        "base",
        "What each tuned model is merged with, the unedited model or the previous batch's result",
        "one of base, previous",
    )
    when: Literal["each", "end"] = _key(
        "each", "Whether a merge follows each batch or only the last", "one of each, end"
    )
    parameters: Annotated[dict[str, Any], BeforeValidator(check_parameters)] = _key(
        {"weight": 0.7}, "mergekit's parameters of the method, by its names", PARAMETERS
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = _key(
        None,
        "The number format of the merged model",
        "one of float32, bfloat16, float16, or null for the model's own",
    )
    extra: dict[str, Any] = _key(
        {}, "mergekit's own further keys, passed on verbatim", "a mapping of keys that no key here sets"
    )


class ScoreEdits(Section):
    metrics: Annotated[tuple[Metric, ...], BeforeValidator(no_repeats)] = _key(
        METRICS, "What is measured of the edits", f"a list of {', '.join(METRICS)}, each at most once"
    )
    when: Literal["each", "end"] = _key(
        "each", "Whether edits are scored after each batch or only after the last", "one of each, end"
    )
    fluency_facts: int = _whole(10, "For how many facts text is generated to measure fluency", 0, 100000)


class ScoreGeneral(Section):
    tasks: Annotated[Texts, BeforeValidator(no_repeats)] = _key(
        (), "lm-eval's tasks that measure what the model knows besides the edits", "a list of task names"
    )
    include_path: str | None = _text(
        None, "A folder with lm-eval tasks of your own", f"a folder that exists, {WORKING_FOLDERS}, or null"
    )
    limit: int | None = _whole(None, "How many items of each task are used", 1)
    batch_size: int = _whole(8, "How many items lm-eval hands to the model at once", 1)
    when: Literal["ends", "each", "never"] = _key(
        "ends",
        "Whether the tasks run before the first batch and after the last, also after each, or never",
        "one of ends, each, never",
    )


class Score(Section):
    edits: ScoreEdits = Field(default_factory=ScoreEdits, description="How the edits are scored (EasyEdit).")
    general: ScoreGeneral = Field(
        default_factory=ScoreGeneral, description="How the model's other abilities are scored (lm-eval)."
    )
    examples: int = _whole(5, "How many answers before and after the edits the report shows", 0, 100)


class Recipe(Section):
    """One run; ``load_recipe`` makes it, with paths made absolute."""

    name: str = _text(
        ...,
        "The run's name, also of its folder",
        NAME,
        "my-run",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
    )
    model: str = _text(
        ...,
        "The model to edit",
        f"a packaged model ({', '.join(PACKAGED)}), an existing folder, or a hub id owner/name",
        next(iter(PACKAGED)),
    )
    trust_remote_code: bool = _switch(False, "Whether Python code that comes with the model may run")
    edits: Edits = Field(description="The facts to edit.")
    train: Train = Field(default_factory=Train, description="How a batch is trained (LLaMA-Factory with R-SFT).")
    merge: Merge = Field(default_factory=Merge, description="How the tuned model is merged (mergekit).")
    score: Score = Field(default_factory=Score, description="What is measured, and when.")
    keep: Literal["all", "last"] = _key(
        "all", "Whether every batch's merged model is kept or only the last", "one of all, last"
    )
    seed: int = _whole(0, "The random seed of training, merging and scoring", 0, MAX_SEED)
    output: str = _text("runs", "The folder that run folders are made in", "a path, relative to the current folder")
    templates: str | None = _text(
        None,
        "A folder with templates of your own for the tools' YAML",
        f"a folder that exists, {WORKING_FOLDERS}, or null",
    )
    device: Literal["auto", "cpu", "cuda"] = _key("auto", "What computes", "one of auto, cpu, cuda")
    threads: int | None = _whole(None, "How many CPU threads the tools use", 1, null="their own choice")
    runner: Literal["auto", "warm", "spawn", "command"] = _key(
        "auto",
        "How tools are run, in a server that stays warm, in a new process each, or by their own command",
        "one of auto, warm, spawn, command",
    )

    @staticmethod
    def describe() -> str:
        """As the module's ``describe``."""
        return describe()


def load_recipe(
    path: Path, overrides: Sequence[str] = (), merge_methods: Mapping[str, frozenset[str]] | None = None
) -> Recipe:
    """Read and check a recipe; RecipeError lists everything that is wrong with it.

    ``overrides`` are ``train.epochs=3``, as after ``--set``. ``merge_methods`` holds each mergekit
    method with its parameters' names; without it methods and parameters are not checked by name.
    Paths of the recipe that must exist (and a model that is a folder) come back absolute.
    """
    path = Path(path)
    data, positions = strict_yaml.load(path)
    draft = recipe_errors.Draft(str(path), data, dict(positions), Recipe)
    for override in overrides:
        draft.override(override)
    draft.fill_empty_sections()
    recipe_checks.find_paths(draft, path.parent)
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(draft.data)
    except ValidationError as error:
        draft.add_pydantic(error)
        # what is sound is checked further, beside stand-ins for what is not
        try:
            recipe = Recipe.model_validate(draft.without_bad())
        except ValidationError as again:  # pragma: no cover - a stand-in that the schema refuses
            draft.add_pydantic(again)
    if recipe is not None:
        recipe_checks.cross_check(recipe, draft, merge_methods)
    if recipe is None or draft.problems:
        raise RecipeError(draft.problems, str(path))
    return recipe


def normalized(recipe: Recipe) -> dict[str, Any]:
    """The recipe with every key spelled out, as plain data in the schema's order (``resolved.yaml``)."""
    plain: dict[str, Any] = _plain(recipe.model_dump(mode="python"))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def describe() -> str:
    """Every key as YAML, with its meaning, its range and its default; itself a recipe in form."""
    head = ["# A recipe of kedit_glue: every key with its default; the ones marked 'required' have none."]
    return "\n".join([*head, *_describe(Recipe, 0)]) + "\n"


def _describe(section: type[BaseModel], depth: int) -> list[str]:
    lines: list[str] = []
    indent = "  " * depth
    for name, field in section.model_fields.items():
        about = field.description or ""
        lines += [""] if depth == 0 else []
        lines += textwrap.wrap(about, 100, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            lines += [f"{indent}{name}:", *_describe(field.annotation, depth + 1)]
            continue
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        value = extra.get("example") if field.is_required() else _plain(field.default)
        shown = strict_yaml.dump(value, flow=True)
        lines.append(f"{indent}{name}: {shown}{'  # required' if field.is_required() else ''}")
    return lines
