"""lm-eval measures general ability: the same tasks, the same items, for the base and the edited model.

``general.json``: a task's (and a group's) name ->
    metrics           name -> value, as lm-eval aggregates it; ``,filter`` behind the name of a filtered one
    higher_is_better  metric -> true or false
    not_extracted     filter -> share of the items, 0 to 1, in whose generated text the filter found no answer;
                      empty for tasks that compare likelihoods
    items             one record an item and filter: ``doc_id``, ``filter``, each metric's value (pairs for
                      perplexities, and ``text``, the text's SHA-256); of generated text also ``response`` (shortened),
                      ``extracted``, ``target`` and ``not_extracted``. A group's are its tasks', with their names in
                      front of ``doc_id``
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kedit_glue.tools import Emit

FALLBACK = "[invalid]"
"""What lm-eval's regex filters give where nothing matches (filters/extraction.py)."""
WHOLE_TEXT = frozenset(["word_perplexity", "byte_perplexity", "bits_per_byte"])
"""Metrics of a text's own likelihood."""
SHORT = 400
"""Characters of a response that are kept: its beginning and its end, where answers stand."""


def preload() -> None:
    """The imports a general-ability stage needs; paid once by the warm server."""
    import lm_eval
    import lm_eval.models.huggingface  # noqa: F401


def evaluate(job: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """Run ``job['tasks']`` on ``job['model']`` and write metrics and per-item values (see the module's docstring).

    ``job``: ``model`` (folder), ``tasks``, ``include_path`` (folder of task YAML, or None),
    ``limit``, ``batch_size``, ``seed``, ``device``, ``trust_remote_code``, ``output`` (JSON file).
    No response cache is used: lm-eval's is not keyed by the model (its issue 4063).
    """
    from lm_eval.models.huggingface import HFLM

    emit({"event": "general", "tasks": list(job["tasks"])})
    model = HFLM(
        pretrained=job["model"],
        device=job["device"],
        batch_size=job["batch_size"],
        trust_remote_code=job["trust_remote_code"],
    )
    found = measured(model, job)
    text = json.dumps(found, ensure_ascii=False, default=plain)
    Path(job["output"]).write_text(text, encoding="utf-8")
    return {"tasks": {task: len(values["items"]) for task, values in found.items()}}


def measured(model: Any, job: Mapping[str, Any]) -> dict[str, Any]:
    """What ``general.json`` holds, of a model that lm-eval can ask; ``job`` as in ``evaluate``."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    local = local_tasks(job["include_path"])
    results = lm_eval.simple_evaluate(
        model=model,
        tasks=[local.get(name, name) for name in job["tasks"]],
        # lm-eval's own thousands of files are read only where one of them is asked for
        task_manager=TaskManager(
            include_path=job["include_path"], include_defaults=not local.keys() >= set(job["tasks"])
        ),
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
    return summarized(results)


def local_tasks(include_path: str | None) -> dict[str, dict[str, Any]]:
    """Tasks that YAML files in ``include_path`` define, by name, with ``data_files`` made absolute.

    lm-eval hands ``data_files`` to ``datasets``, which looks from the current folder; a task file means the folder it
    stands in. Files with ``!function`` or ``include`` are left to lm-eval, which loads them by name.
    """
    found = {}
    for file in sorted(Path(include_path).rglob("*.yaml")) if include_path else []:
        text = file.read_text(encoding="utf-8")
        if "!function" in text:
            continue
        task = yaml.safe_load(text)
        if not isinstance(task, dict) or not isinstance(task.get("task"), str) or "include" in task:
            continue
        kwargs = task.get("dataset_kwargs") or {}
        if files := kwargs.get("data_files"):
            task["dataset_kwargs"] = {**kwargs, "data_files": absolute(files, file.parent)}
        found[task["task"]] = task
    return found


def absolute(files: Any, folder: Path) -> Any:
    """``data_files`` in each of the forms that ``datasets`` takes: a path, a list of paths, either for each split."""
    if isinstance(files, Mapping):
        return {split: absolute(named, folder) for split, named in files.items()}
    if isinstance(files, list):
        return [absolute(named, folder) for named in files]
    return files if "://" in files else str((folder / files).resolve())


# -- from lm-eval's results to general.json -------------------------------------------------------


def summarized(results: Mapping[str, Any]) -> dict[str, Any]:
    """What ``general.json`` holds, from what ``simple_evaluate`` returns."""
    items = {
        task: items_of(samples, fallbacks(results.get("configs", {}).get(task, {})))
        for task, samples in results["samples"].items()
    }
    found = {}
    for task, values in results["results"].items():
        metrics = {
            name.removesuffix(",none"): value
            for name, value in values.items()
            # without a filter's name behind it: lm-eval's own counts and names
            if "," in name and isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        own = items[task] if task in items else pooled(task, results.get("group_subtasks", {}), items, metrics)
        found[task] = {
            "metrics": metrics,
            "higher_is_better": results.get("higher_is_better", {}).get(task, {}),
            "not_extracted": not_extracted(own),
            "items": own,
        }
    return found


def items_of(
    samples: Iterable[Mapping[str, Any]], fallback: Mapping[str, frozenset[str]] | None = None
) -> list[dict[str, Any]]:
    """One small record per item and filter, in the items' order; ``fallback`` is what ``fallbacks`` gives."""
    found = []
    for sample in sorted(samples, key=lambda s: int(s["doc_id"])):
        chosen = sample.get("filter", "none")
        item = {"doc_id": sample["doc_id"], "filter": chosen}
        item |= {metric: sample[metric] for metric in sample.get("metrics", []) if metric in sample}
        if WHOLE_TEXT & item.keys() and "target_hash" in sample:
            item["text"] = sample["target_hash"]
        responses = leaves(sample.get("resps", []))
        if responses and all(isinstance(response, str) for response in responses):  # else (log-likelihood, greedy)
            extracted = [str(answer) for answer in leaves(sample.get("filtered_resps", []))]
            nothing = (fallback or {}).get(chosen, frozenset([FALLBACK]))
            item |= {
                "response": shortened(responses[0]),
                "extracted": shortened(extracted[0] if extracted else ""),
                "target": shortened(str(sample.get("target", ""))),
                "not_extracted": all(not answer.strip() or answer in nothing for answer in extracted),
            }
        found.append(item)
    return found


def fallbacks(config: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """Filter -> what it gives where it finds no answer, from a task's configuration."""
    found = {}
    for entry in config.get("filter_list") or []:
        steps = [step for step in entry.get("filter") or [] if isinstance(step, Mapping)]
        named = [step["fallback"] for step in steps if step.get("fallback") is not None]
        found[entry["name"]] = frozenset([FALLBACK, *(str(word) for value in named for word in leaves([value]))])
    return found


def leaves(value: Any) -> list[Any]:
    """What lists in lists hold, in order; a tuple is one value."""
    return [leaf for inner in value for leaf in leaves(inner)] if isinstance(value, list) else [value]


def shortened(text: str) -> str:
    """At most SHORT characters and a mark: the beginning and the end."""
    half = SHORT // 2
    return text if len(text) <= SHORT else f"{text[:half]} … {text[-half:]}"


def not_extracted(items: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """By filter the share of items with generated text in which it found no answer."""
    flags: dict[str, list[bool]] = {}
    for item in items:
        if "not_extracted" in item:
            flags.setdefault(item["filter"], []).append(item["not_extracted"])
    return {name: sum(values) / len(values) for name, values in flags.items()}


def pooled(
    group: str,
    members: Mapping[str, Sequence[str]],
    items: Mapping[str, Sequence[Mapping[str, Any]]],
    metrics: Mapping[str, float],
) -> list[dict[str, Any]]:
    """The items of a group's tasks, subgroups' included; none where the group's value is not the mean over them."""
    found = [
        {**item, "doc_id": f"{task}/{item['doc_id']}"}
        for task in dict.fromkeys(tasks_in(group, members))
        for item in items.get(task, ())
    ]
    for name, value in metrics.items():
        metric, _, chosen = name.partition(",")
        if metric.endswith("_stderr"):
            continue
        values = [i[metric] for i in found if metric in i and (not chosen or i["filter"] == chosen)]
        if any(not isinstance(v, (int, float)) for v in values):
            return []
        if not values or not math.isclose(sum(values) / len(values), value, abs_tol=1e-6):
            return []
    return found


def tasks_in(group: str, members: Mapping[str, Sequence[str]]) -> list[str]:
    """The tasks of a group, depth first."""
    return [
        task for name in members.get(group, ()) for task in (tasks_in(name, members) if name in members else [name])
    ]


def plain(value: Any) -> Any:
    """NumPy's numbers and arrays, which metrics may hold, as JSON has them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written to general.json")
