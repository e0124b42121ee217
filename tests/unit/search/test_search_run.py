"""A whole search with judges made by hand: what stands of a trace, and where a search begins."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from kedit_glue.merging import MergeMethod
from kedit_glue.recipe_search import Search
from kedit_glue.search import trace
from kedit_glue.tools import search
from kedit_glue.tools.search_workers import Merge

GOOD = {"parts": {"paraphrases": 0.9, "locality": 0.9}, "seconds": [0.1, 0.1]}
FULL = {"cause": "OutOfMemoryError: CUDA out of memory", "seconds": [0.0, 0.0]}
WEIGHED = {"name": "task_arithmetic", "base": "required", "min_inputs": 1, "max_inputs": None,
           "parameters": {"weight": "non_base", "normalize": "shared"}}  # fmt: skip
Judged = Callable[[Merge], Mapping[str, Any]]


class Run:
    """``run(by="random")``: the search's result; ``judged`` are the merges that it asked about."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder, self.says, self.judged = folder, (lambda merge: GOOD), list[Merge]()
        for name in ("O", "T", "U"):
            (folder / name).mkdir()
            (folder / name / "config.json").write_text("{}", encoding="utf-8")
        (folder / "facts.json").write_text("[]", encoding="utf-8")
        monkeypatch.setattr(search, "workers", self.workers)

    says: Judged
    judged: list[Merge]

    @contextmanager
    def workers(self, job: Mapping[str, Any], texts: Sequence[str]) -> Iterator[Callable[..., Any]]:
        def judge(merges: Sequence[Merge]) -> list[dict[str, Any]]:
            self.judged += merges
            return [dict(self.says(merge)) for merge in merges]

        yield judge

    def __call__(
        self, method: Mapping[str, Any] = WEIGHED, settings: Mapping[str, Any] | None = None, tuned: str = "T",
        **asked: Any,
    ) -> dict[str, Any]:  # fmt: skip
        values = {"space": "ps", "by": "random", "evaluations": 6, "fitness": {"perplexity": 0}, **asked}
        self.judged.clear()
        folders = {name: str(self.folder / name) for name in "OTU"}
        job = {
            "space": "ps", "search": Search(**values).model_dump(mode="json"), "original": folders["O"],
            "before": folders["O"], "tuned": [{"model": folders[name], "adapter": None} for name in tuned],
            "models": [], "start": 0, "layers": 4, "writers": [], "most_layers": 6, "method": dict(method),
            "settings": {"weight": 0.8} if settings is None else dict(settings), "formats": {}, "trainable": "x",
            "facts": str(self.folder / "facts.json"), "ids": [], "trace": str(self.trace),
            "output": str(self.folder / "merge.yaml"), "reuse": None, "evolve": None, "tasks": [], "roles": {},
            "seed": 0, "device": "cpu", "trust_remote_code": False,
        }  # fmt: skip
        return search.search(job, lambda event: None)

    @property
    def trace(self) -> Path:
        return self.folder / "merge.trace.jsonl"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(tmp_path, monkeypatch)


def test_a_search_in_which_nothing_could_be_judged_is_begun_anew(run: Run) -> None:
    run.says = lambda merge: FULL
    with pytest.raises(search.SearchFailed, match="none of 6 candidates could be judged; the first one: OutOfMemory"):
        run()
    run.says = lambda merge: GOOD  # there is room now
    assert run()["failed"] == 0 and len(run.judged) == 6
    assert [entry["number"] for entry in trace.read(run.trace)[1]] == [1, 2, 3, 4, 5, 6]


def test_a_failed_candidate_among_others_stands(run: Run) -> None:
    run.says = lambda merge: GOOD if len(run.judged) > 4 else FULL
    run()
    whole = run.trace.read_text(encoding="utf-8")
    assert run()["evaluations"] == 6 and run.judged == []
    assert run.trace.read_text(encoding="utf-8") == whole


def test_from_the_first_other_candidate_on_a_trace_is_judged_again(run: Run) -> None:
    run()
    head, *lines = run.trace.read_text(encoding="utf-8").splitlines()
    lines[2] = json.dumps({**json.loads(lines[2]), "print": "another"})
    run.trace.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    run()
    assert len(run.judged) == 4
    assert [entry["number"] for entry in trace.read(run.trace)[1]] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("by", ["cma_es", "random", "nsga2"])
@pytest.mark.parametrize(("weight", "density"), [(0.8, 1.0), (0.0, 0.05), (1.5, 0.5)])
def test_the_first_candidate_is_the_recipes_own_merge(run: Run, by: str, weight: float, density: float) -> None:
    method = {**WEIGHED, "name": "ties", "parameters": {**WEIGHED["parameters"], "density": "non_base"}}
    run(method, {"weight": weight, "density": density}, by=by)
    own = run.judged[0].config["slices"][0]["sources"][1]["parameters"]
    assert own == pytest.approx({"weight": weight, "density": density}, abs=1e-12)


def test_several_tuned_models_share_a_weight_as_in_a_plain_merge(run: Run) -> None:
    method = {**WEIGHED, "name": "linear", "base": "forbidden"}
    run(method, {"weight": 0.8}, tuned="TU")
    original, *tuned = run.judged[0].config["slices"][0]["sources"]
    assert original["parameters"]["weight"] == pytest.approx(0.2)
    assert [one["parameters"]["weight"] for one in tuned] == pytest.approx([0.4, 0.4])


def test_a_range_of_its_own_goes_as_far_as_the_recipes_number(run: Run) -> None:
    run(settings={"weight": 2.0}, by="grid", evaluations=3)
    weights = [merge.config["slices"][0]["sources"][1]["parameters"]["weight"] for merge in run.judged]
    assert weights == [0.0, 1.0, 2.0]
    found = yaml.safe_load((run.folder / "merge.yaml").read_text(encoding="utf-8"))
    assert found["merge_method"] == MergeMethod(**WEIGHED).name
