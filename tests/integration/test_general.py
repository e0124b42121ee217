"""Local files become tasks that lm-eval runs, with the prompts of its own tasks of that name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import tasks
from kedit_glue.tools import lm_eval as tool

pytestmark = pytest.mark.integration

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

# records in the form that the hub's data sets have, which lm-eval's own tasks read
OPTIONS = ["4", "6", " 7", "8", "9", "10"]
HUB: dict[str, list[dict[str, Any]]] = {
    "rte": [
        {"premise": "It rains on Bern. ", "hypothesis": "Bern is wet.", "label": 0, "idx": 0},
        {"premise": "'It rains', said Ann.", "hypothesis": "Ann's dry.", "label": 1, "idx": 1},
    ],
    "cb": [
        {"premise": "It may rain.", "hypothesis": "it rains", "label": 2, "idx": 0},
        {"premise": "It never rains.", "hypothesis": "it rains", "label": 1, "idx": 1},
    ],
    "copa": [
        {
            "premise": "The street was wet.",
            "choice1": "It had rained.",
            "choice2": "The sun's out.",
            "question": "cause",
            "idx": 0,
            "label": 0,
        },
        {
            "premise": "It rained. ",
            "choice1": "Dust flew.",
            "choice2": "The street got wet.",
            "question": "effect",
            "idx": 1,
            "label": 1,
        },
    ],
    "boolq": [
        {"question": "is rain wet", "passage": "Rain is water.\nIt falls.", "idx": 0, "label": 1},
        {"question": "is sand wet", "passage": "Sand -- dry.", "idx": 1, "label": 0},
    ],
    "wic": [
        {
            "word": "bank",
            "sentence1": "The banks of the river.",
            "sentence2": "A bank lends.",
            "start1": 4,
            "start2": 2,
            "end1": 9,
            "end2": 6,
            "idx": 0,
            "label": 0,
        }
    ],
    "wsc": [
        {
            "text": "Ann told Eve that she ca n't come , ( she is ill ) .",
            "span1_index": 2,
            "span2_index": 4,
            "span1_text": "Eve",
            "span2_text": "she",
            "idx": 0,
            "label": 0,
        },
        {
            "text": 'Ann said " he is ill " of Ben .',
            "span1_index": 8,
            "span2_index": 3,
            "span1_text": "Ben",
            "span2_text": "he",
            "idx": 1,
            "label": 1,
        },
    ],
    "record": [
        {
            "passage": "Ann met Eve in Bern.\n@highlight\nThey talked\n@highlight\nIt rained",
            "query": "@placeholder is a town, said Ann.",
            "entities": ["Eve", "Ann", "Bern", "Ann"],
            "answers": ["Bern"],
            "idx": {"passage": 0, "query": 0},
        }
    ],
    "mmlu": [
        {"question": " What is wet? ", "choices": ["sand", "water ", "air", "fire"], "answer": 1, "subject": "anatomy"}
    ],
    "multirc": [
        {
            "paragraph": "Ann has a cat.",
            "question": "Who has a cat?",
            "answer": name,
            "idx": {"paragraph": 0, "question": 0, "answer": n},
            "label": label,
        }
        for n, (name, label) in enumerate([("Ann", 1), ("Eve", 0)])
    ],
    "mmlu_pro": [
        {
            "question_id": n,
            "question": f"Which is a prime, question {n}?",
            "options": OPTIONS[:count],
            "answer": "C",
            "answer_index": 2,
            "cot_content": "A: Let's think step by step. Seven has no divisors. The answer is (C).",
            "category": "math",
            "src": "here",
        }
        for n, count in enumerate([6, 4, 3, 5])
    ],
}
ITS_OWN = {
    "mmlu": "mmlu/default/mmlu_anatomy.yaml",
    "mmlu_pro": "mmlu_pro/mmlu_pro_math.yaml",
    "mmlu_pro_loglikelihood": "leaderboard/mmlu_pro/mmlu_pro.yaml",
}
PLAIN: dict[str, list[dict[str, Any]]] = {
    "choices": [{"query": "42", "choices": ["warm", "cold", "loud"], "label": n} for n in range(3)],
    "generate": [
        {"question": "Who is the mayor of Alba?", "answer": "Ada Moss"},
        {"question": "Who is the mayor of Elm?", "answer": "Eva"},
    ],
    "text": [{"text": "The quick brown fox."}, {"text": "[1, 2] over the lazy dog"}],
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Path]:
    """``made("rte", records, "--few-shot", "1")``: writes the task ``rte`` and its data to a folder."""

    def make(name: str, records: list[dict[str, Any]], *arguments: str) -> Path:
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(records), encoding="utf-8")
        folder = tmp_path / "my tasks"
        assert tasks.main([str(file), "--to", str(folder), *arguments]) == 0
        return folder

    return make


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """``run(model, folder, "rte")``: what general.json holds."""

    def evaluate(model: Path, folder: Path, *names: str) -> dict[str, Any]:
        output = tmp_path / "general.json"
        tool.evaluate(
            {
                "model": str(model),
                "tasks": list(names),
                "include_path": str(folder),
                "limit": None,
                "batch_size": 2,
                "seed": 0,
                "device": "cpu",
                "trust_remote_code": False,
                "output": str(output),
            },
            lambda event: None,
        )
        found: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
        return found

    return evaluate


def requests(config: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What a task asks a model: context and continuation, or context and how to generate."""
    from lm_eval.api.task import ConfigurableTask

    task = ConfigurableTask(config=dict(config))
    task.set_fewshot_seed(0)
    task.build_all_requests()
    return [instance.args for instance in task.instances]


def upstream(file: str, data: Path, few_shot: int) -> dict[str, Any]:
    """lm-eval's own task file, over local data."""
    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(Path(lm_eval.tasks.__file__).parent / file, resolve_func=True)
    splits = dict.fromkeys(("train", "validation", "test", "dev"), str(data))
    return {
        **{key: value for key, value in config.items() if key not in ("tag", "dataset_name", "include", "task_alias")},
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": splits},
        "num_fewshot": few_shot,
    }


@pytest.mark.parametrize("name", [name for name in [*HUB, "mmlu_pro_loglikelihood"] if name != "multirc"])
def test_prompts_are_those_of_lm_evals_own_task(name: str, made: Callable[..., Path], tmp_path: Path) -> None:
    shape = name.removesuffix("_loglikelihood")
    few_shot = 2 if shape == "mmlu_pro" else 0
    records = HUB[shape]
    data = tmp_path / "hub.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    examples = ["--examples", str(data), "--few-shot", "2"] if few_shot else []
    folder = made(shape, records, "--as", shape, *examples)

    theirs = requests(upstream(ITS_OWN.get(name, f"super_glue/{name}/default.yaml"), data, few_shot))
    ours = requests(tool.local_tasks(str(folder))[name])
    assert len(ours) >= len(records)
    assert ours == theirs


def test_yes_and_no_of_multirc_are_the_right_way_round(made: Callable[..., Path], tmp_path: Path) -> None:
    """lm-eval's file has them the wrong way round; where it is mended, take our note (task_yaml, docs) away."""
    from lm_eval.api.task import ConfigurableTask

    data = tmp_path / "hub.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in HUB["multirc"]), encoding="utf-8")
    folder = made("multirc", HUB["multirc"])
    configs = [tool.local_tasks(str(folder))["multirc"], upstream("super_glue/multirc/default.yaml", data, 0)]
    assert sorted(requests(dict(configs[0]))) == sorted(requests(dict(configs[1])))
    right = []
    for config in configs:
        task = ConfigurableTask(config=config)
        docs = list(task.eval_docs)
        right.append([task.doc_to_choice(doc)[task.doc_to_target(doc)].split()[-1] for doc in docs])
    assert right == [["yes", "no"], ["no", "yes"]]


def test_every_shape_runs(tiny_model: Path, made: Callable[..., Path], run: Callable[..., dict[str, Any]]) -> None:
    records = HUB | PLAIN
    names = [*records, "mmlu_pro_loglikelihood"]
    for name, given in records.items():
        few_shot = "1" if name == "mmlu_pro" else "0"
        folder = made(name, given, "--as", name, "--few-shot", few_shot, "--max-tokens", "8")
    found = run(tiny_model, folder, *names)
    assert set(found) == set(names)
    for name, result in found.items():
        given = records[name.removesuffix("_loglikelihood")]
        assert len(result["items"]) == len(given) - ("mmlu_pro" in name), name
        assert [item["doc_id"] for item in result["items"]] == list(range(len(result["items"])))
        assert all(isinstance(value, float) for value in result["metrics"].values())
        filters = {"mmlu_pro": ["custom-extract"], "generate": ["remove_whitespace"]}.get(name, [])
        assert list(result["not_extracted"]) == filters
        assert ("response" in result["items"][0]) == bool(filters)
    assert found["text"]["metrics"]["word_perplexity"] > 1
    assert found["choices"]["metrics"]["acc"] == pytest.approx(1 / 3)  # one of three labels, the same prompt
    assert set(found["choices"]["items"][0]) == {"doc_id", "filter", "acc", "acc_norm"}


def test_answers_that_are_not_there_are_told_from_wrong_ones(
    tiny_model: Path,
    made: Callable[..., Path],
    run: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lm_eval.models.huggingface import HFLM

    said = ["Seven. The answer is (C).", "the answer is A", f"{'Well, ' * 100}who knows", ""]
    monkeypatch.setattr(HFLM, "generate_until", lambda self, asked, **more: said[: len(asked)])
    records = [HUB["mmlu_pro"][0] | {"question": f"Question {n}?"} for n in range(4)]
    found = run(tiny_model, made("pro", records, "--few-shot", "0"), "pro")["pro"]
    assert found["metrics"]["exact_match,custom-extract"] == 0.25
    assert found["not_extracted"] == {"custom-extract": 0.5}
    items = found["items"]
    assert [item["not_extracted"] for item in items] == [False, False, True, True]
    assert [item["extracted"] for item in items] == ["C", "A", "[invalid]", "[invalid]"]
    assert [item["target"] for item in items] == ["C"] * 4
    assert items[0]["response"] == said[0]
    assert items[2]["response"].endswith("who knows")
    assert len(items[2]["response"]) < len(said[2])


def test_two_models_share_no_answers(
    tiny_model: Path, made: Callable[..., Path], run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    weights = load_file(other / "model.safetensors")
    save_file({name: value * 1.1 for name, value in weights.items()}, other / "model.safetensors", {"format": "pt"})
    folder = made("text", PLAIN["text"])
    before, after, again = (run(model, folder, "text")["text"]["items"] for model in (tiny_model, other, tiny_model))
    assert before == again
    assert all(b["word_perplexity"] != a["word_perplexity"] for b, a in zip(before, after, strict=True))


SAMPLES = {
    "copa_dev": "acc",
    "rte_validation": "acc",
    "mmlu_500": "acc",
    "mmlu_pro_1k_loglikelihood": "acc",
    "mmlu_pro_1k": "exact_match,custom-extract",
    "text_corpus_1k": "word_perplexity",
}


def test_samples_of_the_data_folder(tiny_model: Path, run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    files = [DATA / f"{name}.json" for name in SAMPLES if not name.endswith("_loglikelihood")]
    if lacking := [file.name for file in files if not file.is_file()]:
        pytest.skip(f"not in shared/data beside the project: {', '.join(lacking)}")
    folder = tmp_path / "tasks"
    for file in files:
        few_shot = ["--few-shot", "1"] if "pro" in file.name else []
        assert tasks.main([str(file), "--to", str(folder), "--limit", "3", "--max-tokens", "8", *few_shot]) == 0
    found = run(tiny_model, folder, *SAMPLES)
    for name, metric in SAMPLES.items():
        assert metric in found[name]["metrics"]
        assert len(found[name]["items"]) == 3


def test_the_shipped_tasks_run(tiny_model: Path, run: Callable[..., dict[str, Any]]) -> None:
    found = run(
        tiny_model, Path(__file__).resolve().parents[2] / "recipes" / "tasks", "everyday_choices", "general_text"
    )
    assert {name: len(result["items"]) for name, result in found.items()} == {
        "everyday_choices": 120,
        "general_text": 100,
    }
