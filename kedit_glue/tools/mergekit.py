"""mergekit merges the tuned model with the original, from its YAML."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from kedit_glue.atomic import write_text
from kedit_glue.merging import MergeMethod

Emit = Callable[[Mapping[str, Any]], None]


class MergeError(RuntimeError):
    """The merge ran, and its result is not what a merge of these models can be."""


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
    kept = cache / f"mergekit-{importlib.metadata.version('mergekit')}-methods.json"
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

    return [
        {
            "name": m.spec.name,
            "base": m.spec.contract.base.value,
            "min_inputs": max(m.spec.contract.min_inputs, m.spec.contract.min_non_base or 0),
            "max_inputs": m.spec.contract.max_inputs,
            "parameters": {p.name: p.scope.value for p in m.spec.parameters},
        }
        for m in registered_methods()
    ]


def dropped_keys(config: Mapping[str, Any]) -> list[str]:
    """Keys of a merge YAML that mergekit would drop in silence (its models ignore unknown ones)."""
    from mergekit.config import InputModelDefinition, MergeConfiguration

    unknown = [key for key in config if key not in MergeConfiguration.model_fields]
    for number, model in enumerate(config.get("models") or []):
        unknown += [f"models[{number}].{key}" for key in model if key not in InputModelDefinition.model_fields]
    return unknown


# -- the stage ----------------------------------------------------------------------------------


def merge(job: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """Run ``merge.yaml`` of a batch folder and check what it made.

    ``job``: ``merge_yaml``, ``output`` (folder to write), ``before`` (the model that the batch was
    trained from), ``tuned``, ``trainable`` (regular expression), ``seed``, ``device``,
    ``trust_remote_code``. Returns what the merge did to the trained tensors.
    """
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    source = Path(job["merge_yaml"]).read_text(encoding="utf-8")
    config = yaml.safe_load(source)
    if unknown := dropped_keys(config):
        raise MergeError(f"{job['merge_yaml']}: mergekit knows no key {', '.join(unknown)}")
    options = MergeOptions(
        random_seed=job["seed"],
        write_model_card=False,  # the card asks the hub about local paths
        copy_tokenizer=True,
        trust_remote_code=job["trust_remote_code"],
        device=job["device"],
        quiet=True,
    )
    emit({"event": "merging"})
    run_merge(MergeConfiguration.model_validate(config), job["output"], options, config_source=source)
    for name in ("generation_config.json", "chat_template.jinja"):
        kept = Path(job["before"]) / name
        if kept.is_file() and not (Path(job["output"]) / name).exists():
            shutil.copy(kept, job["output"])
    emit({"event": "checking"})  # benchmarks/overhead.py counts what follows as ours, not mergekit's
    restored = restore_untouched(Path(job["before"]), Path(job["tuned"]), Path(job["output"]), job["trainable"])
    return {
        "restored_tensors": restored,
        **compare(Path(job["before"]), Path(job["tuned"]), Path(job["output"]), job["trainable"]),
    }


# -- what came out ------------------------------------------------------------------------------


class Weights:
    """The tensors of a model folder, read one at a time; names across all its shards."""

    def __init__(self, folder: Path):
        from safetensors import safe_open

        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise MergeError(f"{folder} holds no safetensors file")
        self._open = {file: safe_open(file, framework="pt") for file in files}
        self.file_of = {name: file for file, handle in self._open.items() for name in handle.keys()}  # noqa: SIM118 (no dict)

    def __getitem__(self, name: str) -> Any:
        return self._open[self.file_of[name]].get_tensor(name)

    def names(self) -> Iterator[str]:
        return iter(self.file_of)


def _same_bits(one: Any, other: Any) -> bool:
    import torch

    return bool(one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other))


def restore_untouched(before: Path, tuned: Path, merged: Path, trainable: str) -> int:
    """Give back, bit for bit, what training left alone and the merge's arithmetic rounded.

    0.3 x + 0.7 x need not equal x in floating point. Where both inputs agree, every merge of them
    is their common value; returns how many tensors had to be rewritten. Raises MergeError where
    training itself changed a tensor outside ``trainable``.
    """
    import re

    from safetensors.torch import load_file, save_file

    old, new, out = Weights(before), Weights(tuned), Weights(merged)
    pattern = re.compile(trainable)
    missing = set(old.names()) ^ set(out.names())
    if missing:
        raise MergeError(f"the merged model's tensors are not the original's: {', '.join(sorted(missing)[:5])}")
    rounded: dict[Path, list[str]] = {}
    for name in old.names():
        if pattern.search(name):
            continue
        if not _same_bits(old[name], new[name]):
            raise MergeError(f"training changed {name}, which {trainable!r} does not find")
        if not _same_bits(old[name], out[name]):
            if old[name].dtype != out[name].dtype:
                raise MergeError(
                    f"{name} is {out[name].dtype} after the merge and {old[name].dtype} before: "
                    "leave merge.dtype out, or give the model's own"
                )
            rounded.setdefault(out.file_of[name], []).append(name)
    for file, names in rounded.items():
        tensors = load_file(file)
        for name in names:
            tensors[name] = old[name].clone()
        save_file(tensors, file, metadata={"format": "pt"})
    return sum(map(len, rounded.values()))


def compare(before: Path, tuned: Path, merged: Path, trainable: str) -> dict[str, Any]:
    """What is left of training's change: norms of the task vector before and after the merge.

    Raises MergeError for a merge that gave back the model it began with although training had
    changed it, or tensors that are not finite.
    """
    import re

    import torch

    old, new, out = Weights(before), Weights(tuned), Weights(merged)
    pattern = re.compile(trainable)
    tuned_square = merged_square = 0.0
    changed = total = tensors = 0
    for name in old.names():
        if not pattern.search(name):
            continue
        base = old[name].float()
        result = out[name].float()
        tuned_square += float(torch.linalg.vector_norm(new[name].float() - base)) ** 2
        delta = result - base
        length = float(torch.linalg.vector_norm(delta))
        if not math.isfinite(length):
            raise MergeError(f"{name} is not finite after the merge: training diverged; lower train.learning_rate")
        merged_square += length**2
        changed += int(torch.count_nonzero(delta))
        total += delta.numel()
        tensors += 1
    if tuned_square > 0 and merged_square == 0:
        raise MergeError(
            "the merge gave back the model it began with: nothing that training learned is left. "
            "Raise merge.parameters.weight or density (sce's select_topk: with one tuned model only 1.0 keeps anything)"
        )
    return {
        "tensors": tensors,
        "task_vector_norm_tuned": tuned_square**0.5,
        "task_vector_norm_merged": merged_square**0.5,
        "density": changed / total if total else 0.0,
    }


if __name__ == "__main__":
    print(json.dumps(list_methods()))
