"""mergekit merges the tuned model with the original, from its YAML."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kedit_glue import merge_record, weights
from kedit_glue.atomic import write_json, write_text
from kedit_glue.merge_record import MergeError as MergeError
from kedit_glue.merging import MergeMethod
from kedit_glue.models import layer_count
from kedit_glue.tools import Emit

ALONE = frozenset(
    [
        *("linear", "task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties", "slerp", "nuslerp", "multislerp"),
        *("nearswap", "passthrough", "karcher", "model_stock", "sce", "ram", "ramplus_tl", "arcee_fusion"),
    ]
)
"""Methods that make a tensor of that tensor's inputs and nothing else, so that others need not be merged."""
DRAWS = {"dare_linear": 0, "dare_ties": 0, "della": 0, "della_linear": 0, "arcee_fusion": 1_000_000}
"""Methods that draw random numbers, one tensor after another, for tensors of more entries than this
(mergekit 0.1.5, sparsify.py:130 and 171, merge_methods/arcee_fusion.py:19): the draws of a tensor depend on
all that were merged before it."""
SHARD = 10**9
"""Bytes of a touched shard; mergekit holds one in memory (io/tensor_writer.py, TensorWriter)."""
FORMATS = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""mergekit's name of a number format -> safetensors'."""


def preload() -> None:
    """The imports a merging stage needs; paid once by the warm server."""
    import mergekit.merge
    import mergekit.merge_methods.registry  # noqa: F401


# -- what mergekit knows ------------------------------------------------------------------------


def methods(cache: Path) -> dict[str, MergeMethod]:
    """Every registered merge method, from mergekit's own registry.

    Reading the registry costs mergekit's imports (about 13 s), so the answer is kept under the
    version's number.
    """
    kept = cache / f"mergekit-{importlib.metadata.version('mergekit')}-methods-2.json"
    if not kept.is_file():
        found = subprocess.run(
            [sys.executable, "-m", "kedit_glue.tools.mergekit"], capture_output=True, text=True, check=False
        )
        if found.returncode != 0:
            raise MergeError(f"mergekit cannot list its methods: {found.stderr.strip()[-2000:]}")
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_text(kept, found.stdout.splitlines()[-1], suffix=f".{os.getpid()}")
    return {m["name"]: MergeMethod(**m) for m in json.loads(kept.read_text(encoding="utf-8"))}


def list_methods() -> list[dict[str, Any]]:
    """The registry itself (``mergekit/merge_methods/registry.py``), as MergeMethod's fields."""
    from mergekit.merge_methods.registry import registered_methods

    found = []
    for method in registered_methods():
        contract = method.spec.contract
        with_base = int(contract.base.value == "required")  # elsewhere kedit_glue names no base model
        most = [contract.max_inputs, None if contract.max_non_base is None else contract.max_non_base + with_base]
        found.append(
            {
                "name": method.spec.name,
                "base": contract.base.value,
                "min_inputs": max(contract.min_inputs, (contract.min_non_base or 0) + with_base),
                "max_inputs": min((m for m in most if m is not None), default=None),
                "parameters": {p.name: p.scope.value for p in method.spec.parameters},
            }
        )
    return found


def dropped_keys(config: Mapping[str, Any]) -> list[str]:
    """Keys of a merge YAML that mergekit would drop in silence (its models ignore unknown ones)."""
    from mergekit.config import InputModelDefinition, MergeConfiguration

    unknown = [key for key in config if key not in MergeConfiguration.model_fields]
    for number, model in enumerate(config.get("models") or []):
        unknown += [f"models[{number}].{key}" for key in model if key not in InputModelDefinition.model_fields]
    return unknown


@functools.cache
def benchmarks() -> tuple[str, ...]:
    """How tasks begin that mergekit-evolve refuses to optimize (mergekit 0.1.5, evo/config.py, NAUGHTY_PREFIXES).

    Read, not imported: the module imports torch.
    """
    spec = importlib.util.find_spec("mergekit")
    assert spec is not None and spec.submodule_search_locations, "mergekit is a package that must be installed"
    source = (Path(spec.submodule_search_locations[0]) / "evo" / "config.py").read_text(encoding="utf-8")
    for line in ast.parse(source).body:
        if isinstance(line, ast.Assign) and getattr(line.targets[0], "id", "") == "NAUGHTY_PREFIXES":
            return tuple(ast.literal_eval(line.value))
    raise MergeError("mergekit's evo/config.py has no NAUGHTY_PREFIXES: this version of mergekit is not known")


def common_benchmark(task: str) -> bool:
    """Whether mergekit-evolve would refuse the task; of a benchmark's training half it does not."""
    return task.startswith(benchmarks()) and not task.endswith("_train")


# -- the stage ----------------------------------------------------------------------------------


def merge(job: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """Run ``merge.yaml`` of a batch folder, check what it made and record it.

    ``job``: ``merge_yaml``; ``output`` (folder to write); ``before`` (the model merged onto: what
    changed is told from it); ``original``; ``tuned`` (list of ``{"model", "adapter"}``, adapter None
    or a PEFT adapter's folder); ``trainable`` (regular expression); ``earlier`` (the models before and
    after the previous batch, or None; passed over where one is no longer there); ``stats`` (JSON to
    write); ``cache`` (folder for what later merges share); ``seed``, ``device``, ``trust_remote_code``.

    Returns what the merge did to the trained tensors. Raises MergeError for a result that no merge of
    these models should have.
    """
    from mergekit.config import MergeConfiguration

    source = Path(job["merge_yaml"]).read_text(encoding="utf-8")
    raw = yaml.safe_load(source)
    if unknown := dropped_keys(raw):
        raise MergeError(f"{job['merge_yaml']}: mergekit knows no key {', '.join(unknown)}")
    config = MergeConfiguration.model_validate(raw)
    output, before = Path(job["output"]), Path(job["before"])
    way = choose_way(config, job)
    with adapters_aside(output) as aside:
        emit({"event": "merging"})
        asked = run_mergekit(config, source, job, way, aside)
        for name in ("generation_config.json", "chat_template.jinja"):
            if (before / name).is_file() and not (output / name).exists():
                shutil.copy(before / name, output)
        emit({"event": "checking"})  # benchmarks/overhead.py counts what follows as ours, not mergekit's
        changes = {} if rearranged(config, before) else measure(job, aside)
        written = sum(file.stat().st_size for file in aside.rglob("*.safetensors"))
    write_json(Path(job["stats"]), merge_record.statistics(changes))
    merge_record.check_something_left(merge_record.added(changes.values()))
    if len(job["tuned"]) == 1:
        merge_record.check_not_the_tuned(config.merge_method, changes, asked)
    if way.whole:
        written += sum(file.stat().st_size for file in weights.shards(output))
    else:
        rest, new = weights.rest_shards(before, job["trainable"], Path(job["cache"]))
        written += new + weights.lay_out(output, rest, weights.stored(before))
    return {**norms(changes), "way": way.said, "bytes_written": written}


def norms(changes: Mapping[str, merge_record.Change]) -> dict[str, Any]:
    """All changes together, as a batch's record has them."""
    total = merge_record.added(changes.values()).record()
    return {
        "tensors": len(changes),
        "task_vector_norm_tuned": total["norm_tuned"],
        "task_vector_norm_merged": total["norm_merged"],
        "density": total["density"],
        "sign_agreement": total["sign_agreement"],
    }


@dataclass(frozen=True)
class Way:
    """How much of the model a merge reads and writes."""

    whole: bool
    """Write every tensor as mergekit gives it, not only the touched ones."""
    draws: bool
    """Merge every tensor, because the touched ones' random numbers depend on those before them."""
    reason: str = ""

    @property
    def said(self) -> str:
        what = "whole model" if self.whole else "touched tensors, whole model read" if self.draws else "touched tensors"
        return f"{what}: {self.reason}" if self.reason else what


def choose_way(config: Any, job: Mapping[str, Any]) -> Way:
    """Touched tensors alone where mergekit would give back the others as ``before`` has them."""
    before = Path(job["before"])
    for key in ("slices", "modules", "tokenizer_source", "tokenizer"):
        if getattr(config, key) and (key != "slices" or rearranged(config, before)):
            return Way(True, False, f"merge.yaml has {key}")
    own = {identity(job["original"]), identity(before)}
    own |= {identity(t["model"]) for t in job["tuned"]} | {identity(t["model"], t["adapter"]) for t in job["tuned"]}
    named = [identity(ref.model.path, ref.lora and ref.lora.path) for ref in config.referenced_models()]
    if foreign := sorted(model for model, adapter in named if (model, adapter) not in own):
        return Way(True, False, f"merge.yaml names {foreign[0]}, which is not of this batch")
    pattern = re.compile(job["trainable"])
    held = weights.stored(before)
    touched = [at for name, at in held.items() if pattern.search(name)]
    if not touched:
        raise MergeError(f"{before} holds no tensor that {job['trainable']!r} finds: there is nothing to merge")
    if asked := (config.out_dtype or config.dtype or "").removeprefix("torch."):
        kept = FORMATS.get(asked, asked)
        if other := [name for name, at in held.items() if at.dtype != kept and not pattern.search(name)]:
            return Way(True, False, f"merge.yaml writes {asked}, and {other[0]} was {held[other[0]].dtype}")
    for model, adapter in named:
        if adapter and (strayed := weights.adapter_strays(Path(adapter), job["trainable"])):
            return Way(True, False, f"{adapter} changes {strayed}, which {job['trainable']!r} does not find")
        if name := weights.differs_at_ends(before, Path(model), job["trainable"]):
            return Way(True, False, f"{name}, which training does not touch, is another in {model}")
    method = config.merge_method
    if max(at.entries for at in touched) > DRAWS.get(method, float("inf")):
        return Way(False, True, f"{method} draws random numbers, tensor after tensor")
    if method not in ALONE:
        return Way(False, True, f"{method} is not known to merge each tensor by itself")
    return Way(False, False)


def rearranged(config: Any, before: Path) -> bool:
    """Whether a layer of the result is no layer of ``before``: there is nothing to compare it with."""
    return bool(config.slices) and not in_order(config.slices, layer_count(before))


def in_order(slices: Sequence[Any], layers: int | None) -> bool:
    """Whether the slices give each of a model's layers its own place, as a search does for groups of layers."""
    end = 0
    for one in slices:
        ranges = {tuple(source.layer_range) for source in one.sources}
        if len(ranges) != 1 or (of := ranges.pop())[0] != end:
            return False
        end = of[1]
    return end == layers


def identity(model: str | Path, adapter: str | None = None) -> tuple[str, str | None]:
    """A model's name by which two spellings of one folder are the same."""
    return str(Path(model).resolve()), str(Path(adapter).resolve()) if adapter else None


@contextmanager
def adapters_aside(output: Path) -> Iterator[Path]:
    """The folder in which mergekit puts models that it has merged with their adapters; gone afterwards."""
    aside = output.with_name(output.name + ".adapters")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def run_mergekit(
    config: Any, source: str, job: Mapping[str, Any], way: Way, aside: Path, tokenizer: bool = True
) -> dict[str, Mapping[str, Any]]:
    """mergekit's own ``run_merge``, told to save only what ``way`` wants, with the model's tokenizer or without.

    Returns, for each touched tensor, the parameters that mergekit resolved for the first tuned model.
    """
    from mergekit import merge as upstream
    from mergekit.io.tasks import FinalizeModel, LoaderCache, SaveTensor
    from mergekit.plan import MergePlanner

    pattern = re.compile(job["trainable"])
    tuned = identity(job["tuned"][0]["model"], job["tuned"][0]["adapter"])
    asked: dict[str, Mapping[str, Any]] = {}

    class Planner(MergePlanner):
        """Plans as mergekit does, then drops what is not wanted."""

        def plan_to_disk(self, out_path: str) -> list[Any]:
            tasks: list[Any] = super().plan_to_disk(out_path)
            saves = [t for t in tasks if isinstance(t, SaveTensor)]
            kept = [t for t in saves if pattern.search(t.tensor_name)]
            asked.update({t.tensor_name: resolved(t.tensor_task, tuned) for t in kept})
            if way.whole:
                return tasks
            others = [t.tensor_task for t in saves if not pattern.search(t.tensor_name)] if way.draws else []
            writer = saves[0].writer_task
            return [*others, *kept, FinalizeModel(tensor_save_tasks=tuple(kept), writer_task=writer)]

    planner = upstream.MergePlanner
    upstream.MergePlanner = Planner  # run_merge takes no list of tensors (mergekit 0.1.5, merge.py:68)
    try:
        upstream.run_merge(config, job["output"], options(job, str(aside), tokenizer), config_source=source)
    finally:
        upstream.MergePlanner = planner
        LoaderCache.loaders.clear()  # shared by all merges of a process, and by path alone (io/tasks.py:22)
    return asked


def options(job: Mapping[str, Any], aside: str, tokenizer: bool = True) -> Any:
    """mergekit's own, for a merge on ``device`` with ``seed``; ``aside``: where models with adapters are put."""
    from mergekit.options import MergeOptions

    return MergeOptions(
        random_seed=job["seed"],
        write_model_card=False,  # the card asks the hub about local paths
        copy_tokenizer=tokenizer,
        trust_remote_code=job["trust_remote_code"],
        device=job["device"],
        quiet=True,
        out_shard_size=SHARD,
        lora_merge_cache=aside or None,
    )


def resolved(task: Any, tuned: tuple[str, str | None]) -> dict[str, Any]:
    """The parameters of a planned tensor: those of the whole merge, and the tuned model's own."""
    found = dict(task.parameters.items())
    for reference, own in task.input_parameters.items():
        if identity(reference.model.path, reference.lora and reference.lora.path) == tuned:
            found |= dict(own.items())
    return found


# -- what came out ------------------------------------------------------------------------------


def measure(job: Mapping[str, Any], aside: Path) -> dict[str, merge_record.Change]:
    """What the merge did to each tensor that training touches, read back from disk."""
    from mergekit.common import ModelReference

    pattern = re.compile(job["trainable"])
    out, old = weights.Weights(Path(job["output"])), weights.Weights(Path(job["before"]))
    tuned = []
    for one in job["tuned"]:
        reference = ModelReference.parse("+".join(filter(None, (one["model"], one["adapter"]))))
        merged = reference.merged(cache_dir=str(aside), trust_remote_code=job["trust_remote_code"])
        tuned.append(weights.Weights(Path(merged.model.path)))
    pair = [Path(folder) for folder in job["earlier"] or ()]
    # one of the pair is usually the model merged onto: its tensors are read once
    same = {Path(job["before"]): old}
    earlier = [same.get(folder) or weights.Weights(folder) for folder in pair if all(f.is_dir() for f in pair)]
    changes = {}
    for name in old.names():
        if not pattern.search(name) or not comparable(name, [old, out, *tuned]):
            continue
        base = old[name]
        past = [base if e is old else e[name] for e in earlier] if comparable(name, [old, *earlier]) else []
        changes[name] = merge_record.measure(base, [t[name] for t in tuned], out[name], past)
        merge_record.check_finite(name, changes[name])
    return changes


def comparable(name: str, models: Sequence[weights.Weights]) -> bool:
    """Whether all hold the tensor, in one shape (slices and other vocabularies give other shapes)."""
    shapes = {model.stored[name].shape if name in model else None for model in models}
    return len(shapes) == 1 and None not in shapes


if __name__ == "__main__":
    print(json.dumps(list_methods()))
