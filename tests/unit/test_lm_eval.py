"""lm-eval's results to general.json, and how lm-eval is called; lm-eval itself is stood in for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kedit_glue.tools import lm_eval as tool

FILTERS = {"filter_list": [{"name": "strict", "filter": [{"function": "regex"}, {"function": "take_first"}]}]}


def generated(doc: int, response: str, answer: object, right: float, chosen: str = "strict") -> dict[str, Any]:
    """A sample as lm-eval 0.4.13 logs it for a task that generates."""
    return {
        "doc_id": doc,
        "target": "B",
        "resps": [[response]],
        "filtered_resps": [answer],
        "filter": chosen,
        "metrics": ["exact_match"],
        "exact_match": right,
    }


def likelihoods(doc: int, acc: float) -> dict[str, Any]:
    return {
        "doc_id": doc,
        "target": 0,
        "resps": [[(-1.0, False)], [(-2.0, False)]],
        "filtered_resps": [(-1.0, False), (-2.0, False)],
        "filter": "none",
        "metrics": ["acc"],
        "acc": acc,
    }


def results(tasks: dict[str, Any], samples: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"results": tasks, "samples": samples, "higher_is_better": {}, "configs": {}, **more}


# -- answers that could not be extracted ----------------------------------------------------------


def test_the_share_of_answers_not_extracted_is_kept_for_each_filter() -> None:
    samples = [
        generated(2, "I think so", "[invalid]", 0.0),
        generated(0, "the answer is (B)", "B", 1.0),
        generated(1, "the answer is (A)", "A", 0.0),
        generated(3, "", "[invalid]", 0.0),
        *(generated(doc, "(B)", "B", 1.0, "loose") for doc in range(4)),
    ]
    found = tool.summarized(
        results(
            {"t": {"alias": "t", "sample_len": 4, "exact_match,strict": 0.25, "exact_match_stderr,strict": "N/A"}},
            {"t": samples},
            configs={"t": FILTERS},
        )
    )["t"]
    assert found["not_extracted"] == {"strict": 0.5, "loose": 0.0}
    assert found["metrics"] == {"exact_match,strict": 0.25}
    strict = [item for item in found["items"] if item["filter"] == "strict"]
    assert [item["doc_id"] for item in strict] == [0, 1, 2, 3]
    assert strict[2] == {
        "doc_id": 2,
        "filter": "strict",
        "exact_match": 0.0,
        "response": "I think so",
        "extracted": "[invalid]",
        "target": "B",
        "not_extracted": True,
    }


def test_likelihood_tasks_have_no_answers_to_extract() -> None:
    found = tool.summarized(results({"t": {"acc,none": 0.5}}, {"t": [likelihoods(0, 1.0), likelihoods(1, 0.0)]}))["t"]
    assert found["metrics"] == {"acc": 0.5}
    assert found["not_extracted"] == {}
    assert found["items"][1] == {"doc_id": 1, "filter": "none", "acc": 0.0}


@pytest.mark.parametrize(
    ("answer", "missed"),
    [
        ("B", False),
        ("[invalid]", True),
        ("", True),
        (" \n", True),
        (["[invalid]"], True),
        (["[invalid]", "B"], False),
        (["none found"], True),
    ],
)
def test_what_counts_as_no_answer(answer: object, missed: bool) -> None:
    own = {"filter_list": [{"name": "strict", "filter": [{"function": "regex", "fallback": "none found"}]}]}
    items = tool.items_of([generated(0, "text", answer, 0.0)], tool.fallbacks(own))
    assert items[0]["not_extracted"] is missed


def test_fallbacks_of_a_list_and_of_no_filters() -> None:
    own = {"filter_list": [{"name": "pos", "filter": [{"function": "regex_pos", "fallback": ["invalid"]}]}]}
    assert tool.fallbacks(own) == {"pos": {"[invalid]", "invalid"}}
    assert tool.fallbacks({}) == {}


def test_a_long_response_keeps_its_beginning_and_its_end() -> None:
    text = "a" * 1000 + "b" * 1000
    assert tool.shortened(text) == "a" * 200 + " … " + "b" * 200
    assert tool.shortened("a" * 400) == "a" * 400


# -- groups ---------------------------------------------------------------------------------------


def grouped(value: float) -> dict[str, Any]:
    tasks = {"law": {"acc,none": 1.0}, "math": {"acc,none": 0.0}, "all": {"acc,none": value, "acc_stderr,none": 0.1}}
    samples = {"law": [likelihoods(0, 1.0), likelihoods(1, 1.0)], "math": [likelihoods(0, 0.0)]}
    members = {"all": ["sub", "math"], "sub": ["law"]}
    found: dict[str, Any] = tool.summarized(results(tasks, samples, group_subtasks=members))["all"]
    return found


def test_a_group_has_the_items_of_its_tasks() -> None:
    found = grouped(2 / 3)
    assert [(item["doc_id"], item["acc"]) for item in found["items"]] == [("law/0", 1.0), ("law/1", 1.0), ("math/0", 0)]


def test_a_group_that_is_no_mean_over_items_has_none() -> None:
    assert grouped(0.5)["items"] == []  # the mean of the two tasks' values


def test_a_group_shares_what_could_not_be_extracted() -> None:
    tasks = {t: {"exact_match,strict": v} for t, v in (("law", 1.0), ("math", 0.0), ("all", 0.5))}
    samples = {"law": [generated(0, "(B)", "B", 1.0)], "math": [generated(0, "?", "[invalid]", 0.0)]}
    found = tool.summarized(results(tasks, samples, group_subtasks={"all": ["law", "math"]}))["all"]
    assert found["not_extracted"] == {"strict": 0.5}


# -- task files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ("{test: a.jsonl}", {"test": "/a.jsonl"}),
        ("{test: [a.jsonl, ../b.jsonl]}", {"test": ["/a.jsonl", "/../b.jsonl"]}),
        ("a.jsonl", "/a.jsonl"),
        ("[a.jsonl]", ["/a.jsonl"]),
        ("{test: 'https://example.org/a.jsonl'}", {"test": "https://example.org/a.jsonl"}),
    ],
)
def test_data_files_are_meant_from_the_task_file(files: str, expected: object, tmp_path: Path) -> None:
    folder = tmp_path / "in" / "here"
    folder.mkdir(parents=True)
    (folder / "t.yaml").write_text(f"task: t\ndataset_path: json\ndataset_kwargs: {{data_files: {files}}}\n")

    def placed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: placed(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [placed(inner) for inner in value]
        return value if "://" in value else str(Path(f"{folder}{value}").resolve())

    assert tool.local_tasks(str(tmp_path))["t"]["dataset_kwargs"]["data_files"] == placed(expected)


def test_files_that_are_no_plain_task_are_left_to_lm_eval(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("task: a\ndoc_to_text: !function utils.text\n")
    (tmp_path / "b.yaml").write_text("group: b\ntask: [c, d]\n")
    (tmp_path / "c.yaml").write_text("- 1\n")
    (tmp_path / "d.yaml").write_text("task: d\ninclude: a.yaml\n")
    assert tool.local_tasks(str(tmp_path)) == {}
    assert tool.local_tasks(None) == {}


# -- the call -------------------------------------------------------------------------------------

CACHES = ("use_cache", "cache_requests", "rewrite_requests_cache", "delete_requests_cache", "evaluation_tracker")


class Called:
    """Stands in for lm-eval: keeps what it is called with, gives what the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
        self.arguments: dict[str, Any] = {}
        self.model: dict[str, Any] = {}
        package, models, huggingface, tasks = map(
            ModuleType, ("lm_eval", "lm_eval.models", "lm_eval.models.huggingface", "lm_eval.tasks")
        )

        def simple_evaluate(**arguments: Any) -> Any:
            self.arguments = arguments
            return answer

        def hflm(**arguments: Any) -> str:
            self.model = arguments
            return f"model {arguments['pretrained']}"

        package.simple_evaluate = simple_evaluate  # type: ignore[attr-defined]
        huggingface.HFLM = hflm  # type: ignore[attr-defined]
        tasks.TaskManager = lambda **arguments: arguments  # type: ignore[attr-defined]
        for module in (package, models, huggingface, tasks):
            monkeypatch.setitem(sys.modules, module.__name__, module)


def job(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {
        "model": "folder",
        "tasks": ["t"],
        "include_path": None,
        "limit": None,
        "batch_size": 1,
        "seed": 3,
        "device": "cpu",
        "trust_remote_code": False,
        "output": str(tmp_path / "general.json"),
        **more,
    }


class Number:
    """NumPy's, as far as JSON goes."""

    def tolist(self) -> int:
        return 2


def test_no_cache_is_ever_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = Called(monkeypatch, results({"t": {"acc,none": 1.0}}, {"t": [likelihoods(0, 1.0)]}))
    tool.evaluate(job(tmp_path), lambda event: None)
    assert called.arguments["model"] == "model folder"
    assert not [name for name in CACHES if called.arguments.get(name)]
    assert not [name for name in called.model if "cache" in name]
    assert {
        called.arguments[f"{part}_seed"] for part in ("random", "numpy_random", "torch_random", "fewshot_random")
    } == {3}


@pytest.mark.parametrize(("asked", "defaults"), [(["own"], False), (["own", "rte"], True), (["rte"], True)])
def test_lm_evals_own_tasks_are_looked_through_only_where_one_is_asked_for(
    asked: list[str], defaults: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.yaml").write_text("task: own\ndataset_path: json\n")
    called = Called(monkeypatch, results({"own": {"acc,none": 1.0}}, {"own": [likelihoods(0, 1.0)]}))
    tool.evaluate(job(tmp_path, tasks=asked, include_path=str(tmp_path)), lambda event: None)
    assert called.arguments["task_manager"] == {"include_path": str(tmp_path), "include_defaults": defaults}
    own = {"task": "own", "dataset_path": "json"}
    assert called.arguments["tasks"] == [own if name == "own" else name for name in asked]


def test_metrics_with_numpy_values_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F1 of a multiple-choice task (SuperGLUE's CB) keeps pairs with NumPy's integers."""
    sample = likelihoods(0, 1.0) | {"metrics": ["acc", "f1"], "f1": (0, Number())}
    Called(monkeypatch, results({"t": {"acc,none": 1.0}}, {"t": [sample]}))
    assert tool.evaluate(job(tmp_path), lambda event: None) == {"tasks": {"t": 1}}
    written = json.loads((tmp_path / "general.json").read_text())
    assert written["t"]["items"] == [{"doc_id": 0, "filter": "none", "acc": 1.0, "f1": [0, 2]}]


def test_a_value_that_json_lacks_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"object cannot be written to general\.json"):
        tool.plain(object())


@pytest.mark.parametrize("answer", [None, {}, {"results": {}}])
def test_no_results_are_an_error(answer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Called(monkeypatch, answer)
    with pytest.raises(RuntimeError, match="lm-eval returned no results for t"):
        tool.evaluate(job(tmp_path), lambda event: None)
    assert not (tmp_path / "general.json").exists()
