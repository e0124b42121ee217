"""The command line that makes lm-eval tasks of local files: what is written, what is said; shipped recipes, samples."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kedit_glue import tasks
from kedit_glue.recipe import load_recipe
from kedit_glue.task_shapes import SHAPES

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"

MMLU_PRO = {
    "question": "Which is a prime?",
    "options": ["4", "6", "7 "],
    "answer": "C",
    "answer_index": 2,
    "category": "math",
    "cot_content": "A: Let's think step by step. 4 and 6 are even. The answer is (C).",
}
RTE = {"premise": "It rains on Bern.", "hypothesis": "Bern is wet.", "label": "entailment"}
COPA = {
    "premise": "The street was wet.",
    "choice1": "It had rained.",
    "choice2": "The sun shone.",
    "question": "cause",
    "label": 0,
}
TEXT = {"Corpus": "x", "Text": "Some words."}


# -- the command line ---------------------------------------------------------------------------

Make = Callable[..., tuple[int, str, str]]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Make:
    """``make(records, "--limit", "2")``: exit code, and what it prints on both outputs; writes to ``out``."""
    monkeypatch.chdir(tmp_path)

    def run(content: object, *arguments: str, name: str = "data.json") -> tuple[int, str, str]:
        text = content if isinstance(content, str) else json.dumps(content)
        Path(name).write_text(text, encoding="utf-8")
        code = tasks.main([name, "--to", "out", *arguments])
        return code, *capsys.readouterr()

    return run


def items(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("out", name).read_text(encoding="utf-8").splitlines()]


def test_a_task_is_written_and_the_recipe_lines_are_said(make: Make) -> None:
    code, said, _ = make([COPA, COPA | {"label": 1}, COPA | {"label": 7}, "x"])
    assert code == 0
    assert said.splitlines() == [
        "2 items from data.json (copa); 4 records read",
        "left out: 1 bad label (record 3: label is '7', not one of choice1, choice2 or 0 to 1)",
        "left out: 1 bad record (record 4: a string, not an object with named fields)",
        "out/data.yaml  Follows super_glue/copa/default.yaml and utils.py, the two blanks in front of each choice "
        "included.",
        "in a recipe:",
        "  score:",
        "    general:",
        "      tasks: [data]",
        '      include_path: "out"',
    ]
    assert sorted(path.name for path in Path("out").iterdir()) == ["data.jsonl", "data.yaml"]
    assert [item["label"] for item in items("data.jsonl")] == [0, 1]
    used = yaml.safe_load(said[said.index("  score:") :])
    assert used == {"score": {"general": {"tasks": ["data"], "include_path": "out"}}}


def test_mmlu_pro_becomes_two_tasks_over_the_same_items(make: Make) -> None:
    code, said, _ = make([MMLU_PRO | {"question": f"Question {n}?"} for n in range(8)], "--max-tokens", "64")
    assert code == 0
    assert "3 items from data.json (mmlu_pro), 5 examples from its beginning; 8 records read" in said
    assert "tasks: [data, data_loglikelihood]" in said
    assert [item["question"] for item in items("data.examples.jsonl")] == [f"Question {n}?" for n in range(5)]
    assert [item["question"] for item in items("data.jsonl")] == [f"Question {n}?" for n in range(5, 8)]
    generated = yaml.safe_load(Path("out/data.yaml").read_text())
    likely = yaml.safe_load(Path("out/data_loglikelihood.yaml").read_text())
    assert generated["dataset_kwargs"] == likely["dataset_kwargs"]
    assert (generated["num_fewshot"], generated["fewshot_split"]) == (5, "examples")
    assert generated["generation_kwargs"]["max_gen_toks"] == 64
    assert "about {{category}}." in generated["description"]
    assert likely["output_type"] == "multiple_choice"


def test_a_missing_category_is_not_named_in_the_description(make: Make) -> None:
    records = [MMLU_PRO | {"category": c} for c in ("math", "")]
    make(records, "--few-shot", "0")
    assert yaml.safe_load(Path("out/data.yaml").read_text())["description"].startswith(
        "The following are multiple choice questions (with answers). Think step by step"
    )


def test_examples_may_come_from_another_file(make: Make) -> None:
    Path("validation.jsonl").write_text(json.dumps(RTE) + "\n" + json.dumps(RTE | {"label": 1}) + "\n")
    code, said, _ = make([RTE], "--few-shot", "2", "--examples", "validation.jsonl")
    assert code == 0
    assert "1 item from data.json (rte), 2 examples from validation.jsonl; 1 record read" in said
    assert [item["label"] for item in items("data.examples.jsonl")] == [0, 1]


def test_limit_draws_the_same_items_each_time_not_the_first(make: Make) -> None:
    records = [TEXT | {"Text": f"text {n}"} for n in range(50)]
    make(records, "--limit", "10", "--name", "a")
    make(records, "--limit", "10", "--name", "b")
    drawn = [item["text"] for item in items("a.jsonl")]
    assert drawn == [item["text"] for item in items("b.jsonl")]
    assert len(set(drawn)) == 10
    numbers = [int(text.split()[1]) for text in drawn]
    assert numbers == sorted(numbers)
    assert max(numbers) > 20


def test_text_that_breaks_lines_elsewhere_stays_one_item(make: Make) -> None:
    make([TEXT | {"Text": "a\u2028b\x85c\nd ü"}])
    assert items("data.jsonl") == [{"text": "a\u2028b\x85c\nd ü"}]


def test_jsonl_is_read_line_by_line(make: Make) -> None:
    code, said, _ = make(f"{json.dumps(RTE)}\n{{broken\n", name="rte.jsonl")
    assert code == 0
    assert "left out: 1 bad record (line 2: not valid JSON" in said


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ([{"x": 1}], [], "data.json: no known shape has these keys: 'x'; rename them, or give --as; known:\n"),
        ([RTE | {"label": -1}], [], "data.json: read as rte, none of its 1 records can be used: 1 hidden label "
         "(record 1: label is -1: a test set whose answers are not published)\n"),
        ([RTE | {"label": n} for n in range(3)], [], "data.json: premise and hypothesis with the labels 0, 1 and 2, "),
        ([RTE], ["--few-shot", "1"], "data.json: 1 item, of which 1 would become examples: give --few-shot 0, or "
         "--examples and another file\n"),
        ([RTE], ["--examples", "data.json"], "--examples without examples: give --few-shot and their number as well\n"),
        ([RTE], ["--few-shot", "2", "--examples", "data.json"], "data.json: 1 item where --few-shot asks for 2\n"),
        ([TEXT], ["--few-shot", "1"], "--few-shot: a text is scored by itself, it takes no examples\n"),
        ([], [], "data.json: an empty list. Allowed: a list of records. Next: put at least one record into it.\n"),
        ("{", [], "data.json: line 1, column 2: not valid JSON"),
        ([TEXT], ["--as", "rte"], "data.json: read as rte, none of its 1 records can be used: 1 missing field "),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_ends_with_2(
    make: Make, content: object, arguments: list[str], message: str
) -> None:
    code, said, error = make(content, *arguments)
    assert (code, said) == (2, "")
    assert error.startswith(message)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.json", "none.json: no such file; give a .json or .jsonl file\n"),
        (".", ".: a folder; give a .json or .jsonl file\n"),
        ("a.csv", "a.csv: a table; a task is made from a .json or .jsonl file\n"),
    ],
)
def test_what_is_no_json_file_ends_with_2(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("a,b\n1,2\n")
    assert tasks.main([name, "--to", "out"]) == 2
    assert capsys.readouterr().err == message


def test_a_task_is_not_replaced_unasked(make: Make) -> None:
    make([RTE])
    before = Path("out/data.yaml").read_text()
    code, _, error = make([RTE, RTE])
    assert code == 2
    assert error == "out/data.jsonl is there already: give --name, another folder, or --overwrite\n"
    assert Path("out/data.yaml").read_text() == before
    assert make([RTE, RTE], "--overwrite")[0] == 0
    assert len(items("data.jsonl")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit", "0"], "'0' is no whole number, 1 or more"),
        (["--few-shot", "-1"], "'-1' is no whole number, 0 or more"),
        (["--name", "a b"], "'a b' is no name for a task: letters, digits, '.', '_' and '-'"),
        (["--as", "sst"], "invalid choice: 'sst'"),
    ],
)
def test_arguments_that_mean_nothing(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        tasks.main(["x.json", "--to", "out", *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_file_name_becomes_a_task_name(make: Make) -> None:
    make([RTE], name="_my data (v2).json")
    assert Path("out/my_data_v2_.yaml").is_file()


def test_the_help_names_every_shape(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tasks.main(["--help"])
    shown = capsys.readouterr().out
    for shape in SHAPES:
        assert f"\n  {shape.name} " in shown


# -- what comes with the project ------------------------------------------------------------------


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes" / "general").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_load(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    head = recipe.read_text(encoding="utf-8")
    assert f"recipes/general/{recipe.name}" in head
    assert load_recipe(recipe).score.general.tasks


@pytest.mark.parametrize(
    ("file", "shape", "sound", "unusable"),
    [
        ("mmlu_pro_1k.json", "mmlu_pro", 998, 2),
        ("mmlu_500.json", "mmlu", 500, 0),
        ("rte_validation.json", "rte", 262, 0),
        ("copa_dev.json", "copa", 500, 0),
        ("text_corpus_1k.json", "text", 1000, 0),
    ],
)
def test_samples_of_the_data_folder(file: str, shape: str, sound: int, unusable: int) -> None:
    if not (DATA / file).is_file():
        pytest.skip(f"no shared/data/{file} beside the project")
    found = tasks.read(DATA / file, None)
    assert (found.shape.name, len(found.items), len(found.unusable)) == (shape, sound, unusable)
