"""lm-eval measures general ability: the same tasks, the same items, for the base and the edited model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kedit_glue.tools import Emit


def preload() -> None:
    """The imports a general-ability stage needs; paid once by the warm server."""
    import lm_eval
    import lm_eval.models.huggingface  # noqa: F401


def evaluate(job: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """Run ``job['tasks']`` on ``job['model']`` and write metrics and per-item values.

    ``job``: ``model`` (folder), ``tasks``, ``include_path`` (folder of task YAML, or None),
    ``limit``, ``batch_size``, ``seed``, ``device``, ``trust_remote_code``, ``output`` (JSON file).
    No response cache is used: lm-eval's is not keyed by the model (its issue 4063).
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    emit({"event": "general", "tasks": list(job["tasks"])})
    model = HFLM(
        pretrained=job["model"],
        device=job["device"],
        batch_size=job["batch_size"],
        trust_remote_code=job["trust_remote_code"],
    )
    local = local_tasks(job["include_path"])
    results = lm_eval.simple_evaluate(
        model=model,
        tasks=[local.get(name, name) for name in job["tasks"]],
        task_manager=TaskManager(include_path=job["include_path"]),
        limit=job["limit"],
        log_samples=True,
        bootstrap_iters=200,
        random_seed=job["seed"],
        numpy_random_seed=job["seed"],
        torch_random_seed=job["seed"],
        fewshot_random_seed=job["seed"],
        verbosity="WARNING",
    )
    if not results or not results.get("results"):
        raise RuntimeError(f"lm-eval returned no results for {', '.join(job['tasks'])}")
    found = {
        task: {
            "metrics": {
                name.removesuffix(",none"): value
                for name, value in values.items()
                if isinstance(value, (int, float)) and not isinstance(value, bool)
            },
            "higher_is_better": results.get("higher_is_better", {}).get(task, {}),
            "items": items_of(results["samples"].get(task, [])),
        }
        for task, values in results["results"].items()
    }
    Path(job["output"]).write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
    return {"tasks": {task: len(values["items"]) for task, values in found.items()}}


def local_tasks(include_path: str | None) -> dict[str, dict[str, Any]]:
    """Tasks that YAML files in ``include_path`` define, by name, with ``data_files`` made absolute.

    lm-eval hands ``data_files`` to ``datasets``, which looks from the current folder; a task file
    means the folder it stands in. Files with ``!function`` are left to lm-eval, which loads them by name.
    """
    found = {}
    for file in sorted(Path(include_path).rglob("*.yaml")) if include_path else []:
        text = file.read_text(encoding="utf-8")
        if "!function" in text:
            continue
        task = yaml.safe_load(text)
        if not isinstance(task, dict) or not isinstance(task.get("task"), str):
            continue
        kwargs = task.get("dataset_kwargs") or {}
        if files := kwargs.get("data_files"):
            absolute = {split: str((file.parent / name).resolve()) for split, name in files.items()}
            task["dataset_kwargs"] = {**kwargs, "data_files": absolute}
        found[task["task"]] = task
    return found


def items_of(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One small record per item: its number and each metric's value for it (pairs for perplexities)."""
    return [
        {"doc_id": s["doc_id"], "filter": s.get("filter", "none"), **{m: s[m] for m in s.get("metrics", []) if m in s}}
        for s in sorted(samples, key=lambda s: int(s["doc_id"]))
    ]
