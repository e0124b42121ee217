"""Recipe and facts to files and stages. Pure: nothing is read, written or started here."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kedit_glue import modules
from kedit_glue.merging import MergeMethod, merge_formats, merge_inputs
from kedit_glue.recipe import Recipe
from kedit_glue.runner import Job

Fact = Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a run happens and what it stands on."""

    folder: Path
    """The run's folder, absolute."""
    model: str
    """Folder (absolute) or hub id of the original model."""
    model_print: str
    """Fingerprint of the original model's files."""
    device: str
    """``cpu`` or ``cuda:0``."""
    n_layers: int | None
    """None where the model's configuration is not at hand (dry runs of hub models)."""
    method: MergeMethod
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Rendered:
    """A file to render from a template."""

    path: Path
    template: str
    values: Mapping[str, Any]
    must_say: Mapping[str, Any]
    """Keys of the rendered YAML whose value and type must be these."""


@dataclass(frozen=True)
class Stage:
    """One thing to do, in a process of its own."""

    name: str
    """``base/edits``, ``batch_000/train`` … unique in the run."""
    batch: int | None
    job: Job
    reads: tuple[Path, ...]
    """Files whose content decides whether the stage is stale."""
    after: tuple[str, ...]
    """Stages whose output it reads."""
    output: Path
    """What it makes; the job writes ``working`` and the run renames it when it is whole."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Other values that decide whether it is stale."""
    size: int = 1
    """How many facts it works on, for the estimate of time; 1 where that does not matter."""
    beside: tuple[Path, ...] = ()
    """Further files that it leaves, which the report reads."""
    stock_command: str = ""
    """The upstream tool's own command line on the same files, where there is one."""

    @property
    def working(self) -> Path:
        return partial(self.output)


@dataclass(frozen=True)
class Plan:
    """Everything a run will do, in order."""

    batches: tuple[tuple[Fact, ...], ...]
    files: tuple[Rendered, ...]
    data: Mapping[Path, Any]
    """JSON files to write."""
    stages: tuple[Stage, ...]
    final_model: Path


def partial(path: Path) -> Path:
    """Where a stage writes ``path`` until it is whole."""
    return path.with_name(path.name + ".partial")


def split(facts: Sequence[Fact], size: int) -> tuple[tuple[Fact, ...], ...]:
    """Edit batches of ``size`` facts in their order; the last may be smaller."""
    return tuple(tuple(facts[i : i + size]) for i in range(0, len(facts), size))


def spread(ids: Sequence[str], count: int) -> list[str]:
    """``count`` ids spread evenly over the whole list, in order."""
    count = min(count, len(ids))
    return [ids[(2 * i + 1) * len(ids) // (2 * count)] for i in range(count)]


def make_plan(recipe: Recipe, facts: Sequence[Fact], place: Place) -> Plan:
    """The files and stages of a run over ``facts`` (each with ``id``, ``prompt``, ``target_new``, ``response``,
    and ``also_trained``: rephrasings with their responses).
    """
    batches = split(facts, recipe.edits.batch_size)
    builder = _Builder(recipe, place, [f["id"] for f in facts], batches)
    builder.base()
    builder.protect()
    for number in range(len(batches)):
        builder.batch(number)
    builder.end()
    return Plan(batches, tuple(builder.files), builder.data, tuple(builder.stages), Path(builder.current))


class _Builder:
    """Collects a plan; ``current`` is the model that the next batch is trained from."""

    def __init__(self, recipe: Recipe, place: Place, ids: Sequence[str], batches: Sequence[Sequence[Fact]]):
        self.recipe = recipe
        self.place = place
        self.ids = ids
        self.batches = batches
        self.files: list[Rendered] = []
        self.data: dict[Path, Any] = {}
        self.stages: list[Stage] = []
        self.current = place.model
        self.made_by = ""
        self.facts_file = place.folder / "facts.json"
        self.examples = spread(ids, recipe.score.examples)
        self.fluent = spread(ids, recipe.score.edits.fluency_facts)
        self.layers = modules.layer_numbers(recipe.train.layers, place.n_layers)
        self.trainable = modules.trainable_pattern(recipe.train.modules, self.layers)
        self.protected: Path | None = None

    def _common(self) -> dict[str, Any]:
        return {"device": self.place.device, "trust_remote_code": self.recipe.trust_remote_code}

    def _stage(self, name: str, batch: int | None, job: Job, reads: Sequence[Path], output: Path, **more: Any) -> None:
        settings = {"model": self.place.model_print, "seed": self.recipe.seed, **more.pop("settings", {})}
        after = tuple(more.pop("after", (self.made_by,) if self.made_by else ()))
        self.stages.append(Stage(name, batch, job, tuple(reads), after, output, settings, **more))

    # -- before and after all batches -----------------------------------------------------------

    def base(self) -> None:
        self._score("base", None, self.ids, last=True, title="original model: score edits")
        if self._general_at("ends"):
            self._general("base", None, title="original model: general ability")

    def protect(self) -> None:
        """Once for a model, corpus and set of matrices: the directions that training keeps unchanged."""
        protect = self.recipe.train.protect
        if not protect.directions or protect.corpus is None:
            return
        folder = self.place.folder / "base"
        output = folder / "protect.safetensors"
        settings = {"directions": protect.directions, "trainable": self.trainable}
        job = Job(
            "original model: directions of general text",
            "protect",
            {
                "model": self.place.model,
                "corpus": protect.corpus,
                "output": str(partial(output)),
                **settings,
                **self._common(),
            },
            folder,
            "protect",
            "lower train.protect.directions, or give a larger train.protect.corpus",
        )
        self._stage("base/protect", None, job, [Path(protect.corpus)], output, settings=settings)
        self.protected = output

    def end(self) -> None:
        if self._general_at("ends") and not self._general_at("each"):
            last = len(self.batches) - 1
            self._general(batch_name(last), last, title="edited model: general ability")

    def _general_at(self, when: str) -> bool:
        general = self.recipe.score.general
        return bool(general.tasks) and general.when in ({"ends", "each"} if when == "ends" else {when})

    # -- one batch ------------------------------------------------------------------------------

    def batch(self, number: int) -> None:
        folder = self.place.folder / batch_name(number)
        title = f"batch {number + 1} of {len(self.batches)}"
        last = number == len(self.batches) - 1
        before, before_stage = self.current, self.made_by
        self._train(number, folder, title)
        if self.recipe.merge.when == "each":
            self._merge(number, folder, title, before, before_stage)
        elif last:
            self._merge(number, folder, title, self.place.model, "")
        if last or self.recipe.score.edits.when == "each":
            so_far = [f["id"] for batch in self.batches[: number + 1] for f in batch]
            self._score(batch_name(number), number, so_far, last, title=f"{title}: score")
        if self._general_at("each"):
            self._general(batch_name(number), number, title=f"{title}: general ability")

    def _train(self, number: int, folder: Path, title: str) -> None:
        recipe, train = self.recipe, self.recipe.train
        samples = [
            {
                "id": f["id"],
                "prompt": s["prompt"],
                "target_new": f["target_new"],
                "instruction": s["prompt"],
                "output": s["response"],
            }
            for f in self.batches[number]
            for s in (f, *f.get("also_trained", ()))
        ]
        self.data[folder / "edits.json"] = samples
        self.data[folder / "dataset_info.json"] = {
            "edits": {"file_name": "edits.json", "columns": {"prompt": "instruction", "response": "output"}}
        }
        protect = {"protect": str(self.protected)} if self.protected else {}
        common = {"run": recipe.name, "batch": number, "train": train}
        train_yaml = Rendered(
            folder / "train.yaml",
            "train.yaml",
            {
                **common,
                "facts": len(self.batches[number]),
                "here": shlex.quote(str(folder / "train.yaml")),
                "model": self.current,
                "trust_remote_code": recipe.trust_remote_code,
                "freeze_modules": modules.freeze_modules(train.modules),
                "freeze_layers": modules.freeze_layers(self.layers),
                "dataset_dir": str(folder),
                "output_dir": str(folder / "tuned"),
                "cpu": self.place.device == "cpu",
                "seed": recipe.seed,
            },
            {
                "model_name_or_path": self.current,
                "learning_rate": train.learning_rate,
                "num_train_epochs": train.epochs,
                "per_device_train_batch_size": train.mini_batch,
                "output_dir": str(folder / "tuned"),
                "seed": recipe.seed,
            },
        )
        rsft_yaml = Rendered(
            folder / "rsft.yaml",
            "rsft.yaml",
            {**common, "trainable": self.trainable, "protect": None, **protect},
            {
                "inner_steps": train.inner_steps,
                "loss_threshold": train.loss_threshold,
                "trainable": self.trainable,
                **protect,  # a template of the user's must not drop it in silence
            },
        )
        self.files += [train_yaml, rsft_yaml]
        output = folder / "tuned"
        job = Job(
            f"{title}: train",
            "train",
            {
                "train_yaml": str(train_yaml.path),
                "rsft_yaml": str(rsft_yaml.path),
                "facts": str(folder / "edits.json"),
                "output": str(partial(output)),
                "trace": str(folder / "trace.jsonl"),
            },
            folder,
            "train",
            "read the log; lower train.learning_rate if the loss is not finite, train.mini_batch if memory "
            "ran out; then run the same command again: finished stages are kept",
        )
        self._stage(
            f"{batch_name(number)}/train",
            number,
            job,
            [train_yaml.path, rsft_yaml.path, folder / "edits.json"],
            output,
            after=[s for s in (self.made_by, "base/protect" if self.protected else "") if s],
            beside=(folder / "trace.jsonl",),
            size=len(self.batches[number]),
            stock_command=shlex.join(["llamafactory-cli", "train", str(train_yaml.path)]),
        )
        self.current, self.made_by = str(output), f"{batch_name(number)}/train"

    def _merge(self, number: int, folder: Path, title: str, before: str, before_stage: str) -> None:
        recipe, merge = self.recipe, self.recipe.merge
        onto = before if merge.onto == "previous" else self.place.model
        tuned = self.current
        roles = merge_inputs(self.place.method, merge.parameters, onto, tuned)
        merge_yaml = Rendered(
            folder / "merge.yaml",
            "merge.yaml",
            {
                "run": recipe.name,
                "batch": number,
                "here": shlex.quote(str(folder / "merge.yaml")),
                "method": merge.method,
                "onto": "the model before this batch" if merge.onto == "previous" else "the original",
                "base_model": roles.base_model,
                "models": roles.models,
                "parameters": roles.parameters,
                **merge_formats(merge.dtype, recipe.train.precision, merge.extra),
                "extra": merge.extra,
            },
            {"merge_method": merge.method} | ({"base_model": roles.base_model} if roles.base_model else {}),
        )
        self.files.append(merge_yaml)
        output = folder / "merged"
        job = Job(
            f"{title}: merge",
            "merge",
            {
                "merge_yaml": str(merge_yaml.path),
                "output": str(partial(output)),
                "before": onto,
                "tuned": tuned,
                "trainable": self.trainable,
                "seed": recipe.seed,
                **self._common(),
            },
            folder,
            "merge",
            f"read the log and {merge_yaml.path}; correct merge: in the recipe (or that file) and run the same "
            "command again: training is not repeated",
        )
        self._stage(
            f"{batch_name(number)}/merge",
            number,
            job,
            [merge_yaml.path],
            output,
            after=[s for s in (self.made_by, before_stage if merge.onto == "previous" else "") if s],
            stock_command=f"mergekit-yaml {shlex.quote(str(merge_yaml.path))} OUT --copy-tokenizer "
            f"--no-write-model-card --random-seed {recipe.seed}",
        )
        self.current, self.made_by = str(output), f"{batch_name(number)}/merge"

    # -- scores ---------------------------------------------------------------------------------

    def _score(self, where: str, batch: int | None, ids: Sequence[str], last: bool, title: str) -> None:
        folder = self.place.folder / where
        output = folder / "answers.json"
        settings = {
            "metrics": list(self.recipe.score.edits.metrics),
            "ids": list(ids),
            "fluency_ids": self.fluent if last else [],
            "example_ids": self.examples if last else [],
            "seed": self.recipe.seed,
        }
        job = Job(
            title,
            "score",
            {
                "model": self.current,
                "facts": str(self.facts_file),
                "output": str(partial(output)),
                **settings,
                **self._common(),
            },
            folder,
            "score",
            "read the log; then run the same command again: training and merging are not repeated",
        )
        self._stage(f"{where}/edits", batch, job, [self.facts_file], output, settings=settings, size=len(ids))

    def _general(self, where: str, batch: int | None, title: str) -> None:
        general = self.recipe.score.general
        folder = self.place.folder / where
        output = folder / "general.json"
        settings = {
            "tasks": list(general.tasks),
            "include_path": general.include_path,
            "limit": general.limit,
            "batch_size": general.batch_size,
            "seed": self.recipe.seed,
        }
        job = Job(
            title,
            "general",
            {"model": self.current, "output": str(partial(output)), **settings, **self._common()},
            folder,
            "general",
            "check score.general.tasks and include_path against `lm_eval --tasks list`; then run the same "
            "command again",
        )
        reads = [Path(general.include_path)] if general.include_path else []
        self._stage(f"{where}/general", batch, job, reads, output, settings=settings)


def batch_name(number: int) -> str:
    return f"batch_{number:03d}"
