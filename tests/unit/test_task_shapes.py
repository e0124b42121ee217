"""From records of each shape to items, and why a record cannot be one; the task of every shape."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from kedit_glue.facts.errors import BadRecord
from kedit_glue.task_shapes import BY_NAME, SHAPES, shape_of
from kedit_glue.task_yaml import FORMS, tasks_of

MMLU_PRO = {
    "question": "Which is a prime?",
    "options": ["4", "6", "7 "],
    "answer": "C",
    "answer_index": 2,
    "category": "math",
    "cot_content": "A: Let's think step by step. 4 and 6 are even. The answer is (C).",
}
MMLU = {"question": "What is wet?", "choices": ["sand", "water", "air", "fire"], "answer": 1, "subject": "high_school"}
RTE = {"premise": "It rains on Bern.", "hypothesis": "Bern is wet.", "label": "entailment"}
CB = {"premise": "It may rain.", "hypothesis": "it rains", "label": "neutral"}
COPA = {
    "premise": "The street was wet.",
    "choice1": "It had rained.",
    "choice2": "The sun shone.",
    "question": "cause",
    "label": 0,
}
BOOLQ = {"question": "is rain wet", "passage": "Rain is water that falls.", "answer": True}
WIC = {
    "word": "bank",
    "sentence1": "The bank of the river.",
    "sentence2": "A bank lends.",
    "start1": 4,
    "end1": 8,
    "label": False,
}
WSC = {
    "text": "Ann told Eve that she ca n't come .",
    "target": {"span1_text": "Eve", "span2_text": "she", "span1_index": 2, "span2_index": 4},
    "label": True,
}
MULTIRC = {
    "passage": {
        "text": "Ann has a cat.",
        "questions": [
            {"question": "Who has a cat?", "answers": [{"text": "Ann", "label": 1}, {"text": "Eve", "label": 0}]}
        ],
    }
}
RECORD = {
    "passage": {
        "text": "Ann met Eve in Bern.\n@highlight\nThey talked",
        "entities": [{"start": 0, "end": 2}, {"start": 8, "end": 10}, {"start": 15, "end": 18}],
    },
    "qas": [{"query": "@placeholder is a town.", "answers": [{"text": "Bern", "start": 15, "end": 18}]}],
}
CHOICES = {"query": "Ice is", "choices": ["warm", "cold", "loud"], "label": "cold"}
GENERATE = {"question": "What is the capital of France?", "answer": "Paris"}
TEXT = {"Corpus": "x", "Text": "Some words."}


@pytest.mark.parametrize(
    ("record", "shape", "items"),
    [
        (
            MMLU_PRO,
            "mmlu_pro",
            [
                {
                    "question": "Which is a prime?",
                    "options": ["4", "6", "7 "],
                    "letters": ["A", "B", "C"],
                    "answer": "C",
                    "answer_index": 2,
                    "category": "math",
                    "reasoning": "4 and 6 are even. The answer is (C).",
                }
            ],
        ),
        (
            MMLU,
            "mmlu",
            [
                {
                    "question": "What is wet?",
                    "choices": ["sand", "water", "air", "fire"],
                    "answer": 1,
                    "subject": "high school",
                }
            ],
        ),
        (RTE, "rte", [{"premise": "It rains on Bern.", "hypothesis": "Bern is wet.", "label": 0}]),
        (
            {"sentence1": "It rains.", "sentence2": "It is dry.", "label": 1, "idx": 4},
            "rte",
            [{"premise": "It rains.", "hypothesis": "It is dry.", "label": 1}],
        ),
        (CB, "cb", [{"premise": "It may rain.", "hypothesis": "it rains", "label": 2}]),
        (
            COPA,
            "copa",
            [
                {
                    "premise": "The street was wet.",
                    "question": "cause",
                    "choices": [" it had rained.", " the sun shone."],
                    "label": 0,
                }
            ],
        ),
        (
            BOOLQ,
            "boolq",
            [{"passage": "Rain is water that falls.", "question": "is rain wet", "label": 1}],
        ),
        (
            WIC,
            "wic",
            [
                {
                    "sentence1": "The bank of the river.",
                    "sentence2": "A bank lends.",
                    "phrase": "bank",
                    "label": 0,
                }
            ],
        ),
        (
            WSC,
            "wsc",
            [{"passage": "Ann told Eve that *she* can't come.", "noun": "Eve", "pronoun": "she", "label": 1}],
        ),
        (
            MULTIRC,
            "multirc",
            [
                {
                    "paragraph": "Ann has a cat.",
                    "question": "Who has a cat?",
                    "choices": [
                        "Ann\nIs the answer correct? no",
                        "Ann\nIs the answer correct? yes",
                    ],
                    "label": 1,
                },
                {
                    "paragraph": "Ann has a cat.",
                    "question": "Who has a cat?",
                    "choices": [
                        "Eve\nIs the answer correct? no",
                        "Eve\nIs the answer correct? yes",
                    ],
                    "label": 0,
                },
            ],
        ),
        (
            RECORD,
            "record",
            [
                {
                    "passage": "Ann met Eve in Bern.\n\n  - They talked.\n",
                    "choices": ["  - Ann is a town.", "  - Bern is a town.", "  - Eve is a town."],
                    "label": [1],
                }
            ],
        ),
        (CHOICES, "choices", [{"query": "Ice is", "choices": ["warm", "cold", "loud"], "label": 1}]),
        (
            GENERATE,
            "generate",
            [{"prompt": "Question: What is the capital of France?\nAnswer:", "answers": ["Paris"]}],
        ),
        (
            {"prompt": "The capital of France is", "answers": ["Paris", "Lutetia"]},
            "generate",
            [{"prompt": "The capital of France is", "answers": ["Paris", "Lutetia"]}],
        ),
        (TEXT, "text", [{"text": "Some words."}]),
    ],
)
def test_shape_is_found_by_its_keys(record: dict[str, Any], shape: str, items: list[dict[str, Any]]) -> None:
    found = shape_of([record])
    assert found is not None
    assert found.name == shape
    assert found.items(record) == items


@pytest.mark.parametrize(
    ("answer", "right"),
    [(1, 1), ("B", 1), ("water", 1), (" water ", 1), ("3", 3)],
)
def test_an_answer_may_be_a_number_a_letter_or_the_text(answer: object, right: int) -> None:
    assert BY_NAME["mmlu"].items(MMLU | {"answer": answer})[0]["answer"] == right


@pytest.mark.parametrize(("label", "number"), [(True, 1), ("false", 0), ("yes", 1), (0, 0)])
def test_yes_and_no_in_each_spelling(label: object, number: int) -> None:
    assert BY_NAME["boolq"].items(BOOLQ | {"answer": label})[0]["label"] == number


def test_text_is_kept_as_it_stands_where_offsets_count_in_it() -> None:
    found = BY_NAME["wic"].items(WIC | {"sentence1": " The bank.", "start1": 5, "end1": 9})
    assert (found[0]["sentence1"], found[0]["phrase"]) == (" The bank.", "bank")


@pytest.mark.parametrize(
    ("shape", "record", "change", "kind", "message"),
    [
        ("rte", RTE, {"label": -1}, "hidden label", "label is -1: a test set whose answers are not published"),
        ("rte", RTE, {"label": 2}, "bad label", "label is '2', not one of entailment, not_entailment or 0 to 1"),
        ("rte", RTE, {"label": True}, "bad label", "label is 'True', not one of entailment, not_entailment or 0 to 1"),
        ("rte", RTE, {"premise": " "}, "empty field", "premise holds only white space"),
        ("cb", CB, {"label": None}, "bad label", "label is 'None', not one of entailment, contradiction, neutral or "
         "0 to 2"),
        ("copa", COPA, {"question": "why"}, "bad record", "question is 'why', neither cause nor effect"),
        ("boolq", BOOLQ, {"answer": "perhaps"}, "bad label", "answer is 'perhaps', not one of no, yes or 0 to 1"),
        ("wic", WIC, {"start1": 40, "end1": 44}, "bad record", "start1 40 and end1 44 mark no word of sentence1"),
        ("wic", WIC, {"start1": "4"}, "bad record", "start1 is a string, not a whole number"),
        ("wsc", WSC, {"text": "Ann told Eve that they ca n't come ."}, "bad record",
         "span2_text 'she' is not word 4 (from 0) of the text"),
        ("mmlu", MMLU, {"choices": ["a", "b", "c"]}, "bad record",
         "3 choices, where MMLU has 4 (--as choices takes any number)"),
        ("mmlu", MMLU, {"answer": 4}, "bad label",
         "answer is '4', not a number from 0 to 3, a letter from A to D or one of the 4 texts"),
        ("mmlu", MMLU, {"choices": ["1", "2", "3", "4"], "answer": "2"}, "bad label",
         "answer '2' may mean option 2 or 3: give its number, from 0"),
        ("mmlu_pro", MMLU_PRO, {"options": ["4"]}, "bad record", "options has 1 text: nothing to choose"),
        ("mmlu_pro", MMLU_PRO, {"options": "4, 6"}, "bad record", "options is a string, not a list of texts"),
        ("mmlu_pro", MMLU_PRO, {"options": [str(n) for n in range(11)]}, "bad record",
         "11 options, where MMLU-Pro has at most 10 (A to J)"),
        ("mmlu_pro", MMLU_PRO, {"answer": "A"}, "bad label", "answer is 'A', but answer_index 2, which is C"),
        ("multirc", MULTIRC, {"passage": {"text": "Ann."}}, "missing field", "a passage without questions and answers"),
        ("record", RECORD, {"qas": [{"query": "Bern is", "answers": [{"text": "Bern"}]}]}, "bad record",
         "the query 'Bern is' has no @placeholder"),
        ("record", RECORD, {"qas": [{"query": "@placeholder", "answers": []}]}, "hidden label",
         "none of the entities is among the answers"),
        ("record", RECORD, {"qas": []}, "missing field", "a passage without queries (qas)"),
        ("choices", CHOICES, {"choices": ["warm", 3]}, "bad record",
         "choices 2 is a number (3), not a string: put it in quotes"),
        ("generate", GENERATE, {"answer": None}, "empty field", "answer is null"),
        ("generate", GENERATE, {"answers": []}, "missing field", "an empty list of answers"),
        ("text", TEXT, {"Text": ""}, "empty field", "Text is empty"),
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_used_says_why(
    shape: str, record: dict[str, Any], change: dict[str, Any], kind: str, message: str
) -> None:
    with pytest.raises(BadRecord) as caught:
        BY_NAME[shape].items(record | change)
    assert (caught.value.kind, caught.value.message) == (kind, message)


def test_three_numbered_labels_are_not_guessed() -> None:
    records = [RTE | {"label": n} for n in (0, 1, 2)]
    with pytest.raises(BadRecord, match="which data sets number differently: give --as cb"):
        shape_of(records)


def test_a_broken_record_does_not_hide_the_shape() -> None:
    found = shape_of([{"text": "?"}, COPA, COPA])
    assert found is not None
    assert found.name == "copa"
    assert shape_of([{"x": 1}]) is None


def test_every_shape_has_a_task_and_names_what_it_follows() -> None:
    assert set(FORMS) == {shape.name for shape in SHAPES}
    for shape in FORMS:
        for task in tasks_of(shape, "t", {}, 0, None, "2 items of x.json"):
            again = yaml.safe_load(task.text)
            assert again == dict(task.keys)
            assert again["dataset_kwargs"] == {"data_files": {"test": "t.jsonl"}}
            assert task.text.startswith(
                "# 2 items of x.json; written by python -m kedit_glue.tasks, yours to edit.\n# "
            )
            assert "!function" not in task.text  # local_tasks leaves such files to lm-eval
