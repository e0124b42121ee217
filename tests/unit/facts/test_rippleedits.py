"""RippleEdits: a sentence to be divided, and tests with conditions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kedit_glue.facts import Edit, FactSet, Probe, Unusable, load


def query(prompt: str, *values: str, **more: Any) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "answers": [{"value": value, "aliases": [f"{value} alias", "x"]} for value in values],
        "query_type": "regular",
        "subject_id": "Q1",
        "relation": "MOTHER",
        "target_ids": ["Q9"] * len(values),
        "phrase": None,
    } | more


def test_case(*queries: Any, conditions: Any = (), how: str = "OR") -> dict[str, Any]:
    return {"test_queries": list(queries), "test_condition": how, "condition_queries": list(conditions)}


test_case.__test__ = False  # type: ignore[attr-defined]


def record(prompt: str = "The name of the spouse of Ada of Quill is Bo Finch.", **more: Any) -> dict[str, Any]:
    edit = {"prompt": prompt, "subject_id": "Q1", "relation": "SPOUSE", "target_id": "Q2"}
    return {"example_type": "recent", "edit": edit} | more


def load_records(folder: Path, *records: Any) -> FactSet:
    path = folder / "popular.json"
    path.write_text(json.dumps(list(records)), encoding="utf-8")
    return load(path)


def only(folder: Path, raw: Any) -> Edit:
    (edit,) = load_records(folder, raw).edits
    return edit


GENDER = query("The gender of Ada of Quill is", "female", relation="SEX_OR_GENDER")
MOTHER = query("The name of the mother of Ada of Quill is", "Cy")


def test_record(tmp_path: Path) -> None:
    before = {"prompt": "The name of the spouse of Ada of Quill is Zed.", "target_id": "Q3"}
    raw = record(
        example_type="popular",
        Relation_Specificity=[test_case(MOTHER, conditions=[MOTHER]), test_case(GENDER, conditions=[GENDER])],
        Logical_Generalization=[test_case(query("The spouse of Bo is", "Ada", subject_id="Q2"))],
        Subject_Aliasing=[],
        Compositionality_I=[test_case(query("The home of the spouse of Ada of Quill is", "Elbonia", phrase="p"))],
        Compositionality_II=None,
        Forgetfulness=[test_case(query("The spouse of Ada of Quill, which is not Bo Finch, is", "Zed", phrase="p"))],
    )
    raw["edit"]["original_fact"] = before
    facts = load_records(tmp_path, raw)
    (edit,) = facts.edits
    assert (facts.format, facts.unusable) == ("rippleedits", ())
    assert (edit.prompt, edit.target_new) == ("The name of the spouse of Ada of Quill is", "Bo Finch")
    assert (edit.subject, edit.ground_truth, edit.aim) == ("Ada of Quill", "Zed", "modification")
    assert list(edit.portability) == ["Logical_Generalization", "Compositionality_I"]
    assert list(edit.locality) == ["Relation_Specificity", "Forgetfulness"]
    known = Probe(MOTHER["prompt"], ("Cy", "Cy alias"))
    asked = Probe(MOTHER["prompt"], ("Cy", "Cy alias"), conditions=(known,))
    assert edit.locality["Relation_Specificity"][0] == asked


def test_insertion(tmp_path: Path) -> None:
    edit = only(tmp_path, record())
    assert (edit.aim, edit.ground_truth) == ("insertion", None)


@pytest.mark.parametrize(
    ("sentence", "before", "name", "prompt", "target"),
    [
        ("The pet of Bo is Rex.", None, None, "The pet of Bo is", "Rex"),
        ("The pet of Bo is Rex.", "The pet of Bo is Rover.", None, "The pet of Bo is", "Rex"),
        ("The home of Bo is United Elbonia.", "The home of Bo is United Mud.", None, "The home of Bo is",
         "United Elbonia"),
        ("The anthem of Bo is Mud is Good.", "The anthem of Bo is Ode.", None, "The anthem of Bo is", "Mud is Good"),
        ("The anthem of Bo is Mud is Good.", None, "Mud is Good", "The anthem of Bo is", "Mud is Good"),
        ("The team which Bo is a member of is FC Mud.", None, None, "The team which Bo is a member of is", "FC Mud"),
        ("The names of the siblings of Bo are Cy.", None, None, "The names of the siblings of Bo are", "Cy"),
        ("The employer of Bo is Mud Inc..", None, None, "The employer of Bo is", "Mud Inc."),
        ("Book Two follows Book One.", None, "Book One", "Book Two follows", "Book One"),
        ("Book One is followed by Book Two.", None, None, "Book One is followed by", "Book Two"),
    ],
)  # fmt: skip
def test_division(
    tmp_path: Path, sentence: str, before: str | None, name: str | None, prompt: str, target: str
) -> None:
    raw = record(sentence)
    if before:
        raw["edit"]["original_fact"] = {"prompt": before}
    if name:
        raw["Subject_Aliasing"] = [test_case(query("An alias is", name, target_ids=["Q2"]))]
    edit = only(tmp_path, raw)
    assert (edit.prompt, edit.target_new) == (prompt, target)


@pytest.mark.parametrize(
    ("queries", "subject"),
    [
        ([MOTHER, GENDER], "Ada of Quill"),
        ([MOTHER], None),
        ([], None),
        ([MOTHER, GENDER, query("Born in Mud was", "Ada", relation="BIRTH")], None),
        ([query("The child of Cy is", "Quill", subject_id="Q5", target_ids=["Q1"])], "Quill"),
        ([query("The child of Cy is", "Dee", subject_id="Q5", target_ids=["Q1"])], None),
    ],
)
def test_subject(tmp_path: Path, queries: list[Any], subject: str | None) -> None:
    raw = record(Relation_Specifity=[test_case(each) for each in queries])
    facts = load_records(tmp_path, raw)
    assert facts.edits[0].subject == subject
    message = "which part of the prompt is the subject cannot be told from the queries; used without a subject"
    missing = Unusable("record 1", "bad subject", message, whole_record=False)
    assert facts.unusable == (() if subject else (missing,))


def test_all_answers_and_any_query(tmp_path: Path) -> None:
    several = query("The siblings of Ada are", "Bo", "7", "Cy")
    raw = record(Logical_Generalization=[test_case(several), test_case(MOTHER, GENDER, conditions=[several])])
    probes = only(tmp_path, raw).portability["Logical_Generalization"]
    known = Probe(several["prompt"], ("Bo", "Bo alias"), (("7", "7 alias"), ("Cy", "Cy alias")))
    name = "record 1, Logical_Generalization 2"
    assert probes == (
        known,
        Probe(MOTHER["prompt"], ("Cy", "Cy alias"), (), name, (known,)),
        Probe(GENDER["prompt"], ("female", "female alias"), (), name, (known,)),
    )


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ("p", "Forgetfulness is a string, not a list of tests"),
        ([5], "Forgetfulness 1: a number (5), not an object with test_queries"),
        ([{}], "Forgetfulness 1: test_queries is null, not a list of queries"),
        ([test_case()], "Forgetfulness 1: test_queries is a list of 0, not a list of queries"),
        ([test_case("p")], "Forgetfulness 1: a query is a string, not an object with prompt and answers"),
        (
            [test_case(MOTHER, MOTHER, how="AND")],
            "Forgetfulness 1: all of 2 queries would have to be answered; only OR is known",
        ),
        (
            [test_case(MOTHER) | {"condition_queries": 5}],
            "Forgetfulness 1: condition_queries is a number (5), not a list of queries",
        ),
        ([test_case(query(" ", "a", subject_id="Q5"))], "Forgetfulness 1: prompt holds only white space"),
        ([test_case(query("p", subject_id="Q5"))], "Forgetfulness 1: answers holds no answer"),
        (
            [test_case(query("p", subject_id="Q5") | {"answers": [{"value": "y"}]})],
            "Forgetfulness 1: answers 1 holds no answer",
        ),
        (
            [test_case(query("p", subject_id="Q5") | {"answers": ["y"]})],
            "Forgetfulness 1: answers 1 is a string, not an object with value and aliases",
        ),
    ],
)
def test_bad_test_leaves_the_record(tmp_path: Path, tests: Any, message: str) -> None:
    facts = load_records(tmp_path, record(Forgetfulness=tests, Relation_Specificity=[test_case(MOTHER, GENDER)]))
    assert [item.message for item in facts.unusable] == [message]
    assert {item.kind for item in facts.unusable} == {"bad probe"}
    assert list(facts.edits[0].locality) == ["Relation_Specificity"]
