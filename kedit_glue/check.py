"""A look before anything long starts: versions, model, data, disk, memory. Pure but for file sizes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kedit_glue import environment
from kedit_glue.models import ModelError, read_config
from kedit_glue.plan import Plan
from kedit_glue.recipe import Recipe


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``fail`` stops a run; ``skipped`` says honestly: not looked at."""

    level: str
    """``ok``, ``warn``, ``fail`` or ``skipped``."""
    what: str
    detail: str

    def __str__(self) -> str:
        return f"{self.level:7} {self.what}: {self.detail}"


def check_versions(found: Mapping[str, str]) -> list[Finding]:
    """Installed tools against the versions that were seen to work together."""
    findings = []
    for tool, tested in environment.TESTED.items():
        have = found.get(tool, "missing")
        if have == "missing":
            findings.append(
                Finding("fail", tool, f"not installed; install it with: uv sync, or: pip install {tool}=={tested}")
            )
        elif have != tested:
            findings.append(Finding("warn", tool, f"{have} is installed; {tested} is what was tested here"))
        else:
            findings.append(Finding("ok", tool, have))
    return findings


def check_model(folder: Path) -> list[Finding]:
    """Configuration, weights and tokenizer of a model folder."""
    try:
        config = read_config(folder)
    except ModelError as error:
        return [Finding("fail", "model", str(error))]
    findings = [Finding("ok", "model", f"{config.get('model_type', '?')} in {folder}")]
    found = config.get("architectures")
    architectures = found if isinstance(found, list) else []
    if not any("CausalLM" in str(a) or "LMHead" in str(a) for a in architectures):
        findings.append(
            Finding(
                "fail",
                "model",
                f"its architecture is {architectures}: only causal language models can be edited",
            )
        )
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            return [*findings, Finding("fail", "model", f"{index} cannot be read: fetch the model again")]
        if missing := sorted(n for n in named if not (folder / n).is_file()):
            findings.append(
                Finding("fail", "model", f"its index names shards that are not there: {', '.join(missing)}")
            )
    elif not list(folder.glob("*.safetensors")):
        findings.append(
            Finding("fail", "model", f"{folder} holds no .safetensors; load and save it once with transformers")
        )
    if not any((folder / n).is_file() for n in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        findings.append(Finding("fail", "model", f"{folder} holds no tokenizer (tokenizer.json or tokenizer.model)"))
    return findings


def model_bytes(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.glob("*.safetensors"))


def check_room(recipe: Recipe, plan: Plan, model: Path, run_folder: Path, device: str) -> list[Finding]:
    """Disk for the models that will be kept, memory for training, by rules of thumb that are stated."""
    size = model_bytes(model)
    every = sum(stage.job.function in ("train", "merge", "project") for stage in plan.stages)
    few = 4
    kept = every if recipe.keep == "all" else min(every, few)
    need = size * (kept + 1)
    found = [f.stat() for f in run_folder.rglob("*.safetensors")] if run_folder.exists() else []
    already = sum({(f.st_dev, f.st_ino): f.st_size for f in found}.values())  # models share files
    free = environment.disk_free(run_folder) + already
    remedy = "; keep: last needs less" if kept > few else "; make room, or set output: to a folder on another disk"
    findings = [
        Finding(
            "ok" if free > need else "fail",
            "disk",
            f"about {gigabytes(need)} for {kept} models of {gigabytes(size)} in {run_folder}, {gigabytes(free)} free"
            + (remedy if free <= need else ""),
        )
    ]
    available = environment.memory_available()
    if device != "cpu":
        findings.append(Finding("skipped", "memory", "the GPU's memory was not asked"))
    elif available is None:
        findings.append(Finding("skipped", "memory", "this system does not tell what is available"))
    else:
        # weights, gradients and two AdamW moments of what is trained, 2 GB of libraries
        trained = plan.trained
        share = trained.count / trained.of if trained.count and trained.of else 2 / 3
        share = 0.0 if recipe.train.lora.rank else share
        want = int(size * (1 + 3 * share)) + 2 * 10**9
        findings.append(
            Finding(
                "ok" if available > want else "warn",
                "memory",
                f"training wants up to {gigabytes(want)}, {gigabytes(available)} available",
            )
        )
    return findings


def gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
