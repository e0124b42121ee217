"""What a trace's first line depends on: a search goes on from it only where nothing of that changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kedit_glue.search import trace
from kedit_glue.tools.search import head

Change = Callable[[Path, dict[str, Any], list[str]], object]


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    model, tasks = tmp_path / "model", tmp_path / "tasks"
    for folder in (model, tasks):
        folder.mkdir()
    (model / "config.json").write_text("{}", encoding="utf-8")
    (tasks / "a.yaml").write_text("task: a", encoding="utf-8")
    (tmp_path / "facts.json").write_text("[]", encoding="utf-8")
    search = {"by": "cma_es", "fitness": {"include_path": str(tasks), "texts": 2}}
    models = {"before": str(model), "tuned": [], "models": []}
    places = {"facts": str(tmp_path / "facts.json"), "trace": "t", "output": "o", "reuse": None, "evolve": None}
    return {"space": "ps", "search": search, **models, **places}


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda folder, job, texts: None, True),
        (lambda folder, job, texts: job.update(output="elsewhere", trace="there"), True),
        (lambda folder, job, texts: job.update(seed=1), False),
        (lambda folder, job, texts: texts.append("one more"), False),
        (lambda folder, job, texts: texts.__setitem__(0, "another"), False),
        (lambda folder, job, texts: (folder / "tasks" / "a.yaml").write_text("task: b", encoding="utf-8"), False),
        (lambda folder, job, texts: (folder / "facts.json").write_text("[1]", encoding="utf-8"), False),
        (lambda folder, job, texts: (folder / "model" / "config.json").write_text("{ }", encoding="utf-8"), False),
    ],
)  # fmt: skip
def test_a_search_goes_on_where_nothing_changed(
    tmp_path: Path, job: dict[str, Any], change: Change, same: bool
) -> None:
    file, texts = tmp_path / "merge.trace.jsonl", ["a text"]
    assert trace.begin(file, head(job, texts, 3, ["perplexity"])) == []
    trace.add(file, {"number": 1, "fitness": 0.5})
    change(tmp_path, job, texts)
    known = trace.begin(file, json.loads(json.dumps(head(job, texts, 3, ["perplexity"]))))
    assert known == ([{"number": 1, "fitness": 0.5}] if same else [])
