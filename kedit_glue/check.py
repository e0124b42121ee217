"""A look before anything long starts: versions, model, data, disk, memory."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedit_glue import environment, keeping
from kedit_glue.models import ModelError, check_numbers, read_config, tensor_shapes
from kedit_glue.plan import Plan
from kedit_glue.problems import CannotStart
from kedit_glue.recipe import Recipe
from kedit_glue.records import fingerprint
from kedit_glue.tools import trackers
from kedit_glue.tools.judge import JudgeError, endpoint_of

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


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


def must_be_installed(found: Mapping[str, str]) -> None:
    """Raise CannotStart where a tool is not there at all."""
    missing = [f"{finding.what}: {finding.detail}" for finding in check_versions(found) if finding.level == "fail"]
    if missing:
        raise CannotStart("\n  ".join(["tools are missing; nothing was started", *missing]))


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
                f"its architecture is {architectures}: only causal language models can be edited; name another",
            )
        )
    if flaw := weights_flaw(folder):
        findings.append(Finding("fail", "model", flaw))
    if not any((folder / name).is_file() for name in TOKENIZERS):
        names = ", ".join(TOKENIZERS)
        findings.append(Finding("fail", "model", f"{folder} holds no tokenizer ({names}); fetch it as well"))
    return findings


def weights_flaw(folder: Path) -> str | None:
    """What is wrong with a model folder's safetensors files, None where nothing is; their headers are read."""
    index = folder / "model.safetensors.index.json"
    places: dict[str, str] = {}
    if index.is_file():
        try:
            places = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"].items())
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{index} cannot be read: fetch the model again"
        if missing := sorted(name for name in set(places.values()) if not (folder / name).is_file()):
            return f"its index names shards that are not there: {', '.join(missing)}; fetch the model again"
    try:
        held = tensor_shapes(folder)
    except ModelError as error:
        return str(error)
    if held is None:
        return f"{folder} holds no .safetensors; load and save it once with transformers"
    if lost := next((name for name in places if name not in held), None):
        return f"its index says that {places[lost]} holds {lost}, and it does not: fetch the model again"
    return None


def must_be_usable(folder: Path) -> None:
    """Raise ModelError for a model folder that no stage could use."""
    if failed := [finding.detail for finding in check_model(folder) if finding.level == "fail"]:
        raise ModelError("\n  ".join([f"the model in {folder} cannot be used; nothing was started", *failed]))
    check_numbers(folder, json.dumps(fingerprint(folder)))


def check_trackers(names: Sequence[str], settings: Mapping[str, str]) -> list[Finding]:
    """``train.report_to``: whether what training reports to is installed; ``settings`` are the environment's."""
    missing = [Finding("fail", "trackers", message) for message in trackers.missing(names)]
    login = trackers.no_login(names, settings)
    return missing + ([Finding("warn", "trackers", login)] if login else [])


def check_deepspeed(file: str | None) -> list[Finding]:
    """``launch.deepspeed``: whether DeepSpeed is installed where it is asked for."""
    if file is None or importlib.util.find_spec("deepspeed"):
        return []
    install = (
        "launch.deepspeed asks for it and it is not installed; uv sync --extra deepspeed, or pip install deepspeed"
    )
    return [Finding("fail", "deepspeed", install)]


def check_judge(judge: Mapping[str, Any], settings: Mapping[str, str]) -> list[Finding]:
    """``score.edits.judge``: whether its address and key are there, or its folder; ``settings``: the environment's."""
    if not judge["model"]:
        return []
    if judge["endpoint"] is None:
        there = (Path(judge["model"]) / "config.json").is_file()
        missing = f"{judge['model']} is no model folder here: name one, or score.edits.judge.endpoint"
        return [] if there else [Finding("fail", "judge", missing)]
    try:
        endpoint_of(judge, settings)
    except JudgeError as error:
        return [Finding("fail", "judge", str(error))]
    return []


def model_bytes(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.glob("*.safetensors"))


def check_room(recipe: Recipe, plan: Plan, model: Path, run_folder: Path, device: str) -> list[Finding]:
    """Disk for the models that will be kept, memory for training, by rules of thumb that are stated."""
    size = model_bytes(model)
    every = sum(stage.job.function in keeping.MODELS for stage in plan.stages)
    few = 4
    whole = every if recipe.keep == "all" else min(every, few)
    trained = plan.trained
    share = trained.count / trained.of if trained.count and trained.of else 2 / 3
    changes = size * share * (len(plan.batches) - 1) if recipe.keep == "deltas" and every else 0.0
    need = size * (whole + 1) + changes
    of_changes = f" and {environment.size(changes)} of changed tensors" if changes else ""
    found = [f.stat() for f in run_folder.rglob("*.safetensors")] if run_folder.exists() else []
    already = sum({(f.st_dev, f.st_ino): f.st_size for f in found}.values())  # models share files
    free = environment.disk_free(run_folder) + already
    less = whole > few or changes > size
    remedy = "; keep: last needs less" if less else "; make room, or set output: to a folder on another disk"
    findings = [
        Finding(
            "ok" if free > need else "fail",
            "disk",
            f"about {environment.size(need)} for {whole} models of {environment.size(size)}{of_changes} "
            f"in {run_folder}, {environment.size(free)} free" + (remedy if free <= need else ""),
        )
    ]
    available = environment.memory_available()
    if device != "cpu":
        findings.append(Finding("skipped", "memory", "the GPU's memory was not asked"))
    elif available is None:
        findings.append(Finding("skipped", "memory", "this system does not tell what is available"))
    else:
        # weights, gradients and two AdamW moments of what is trained, 2 GB of libraries
        share = 0.0 if recipe.train.lora.rank else share
        want = int(size * (1 + 3 * share)) + 2 * 10**9
        findings.append(
            Finding(
                "ok" if available > want else "warn",
                "memory",
                f"training wants up to {environment.size(want)}, {environment.size(available)} available",
            )
        )
    return findings
