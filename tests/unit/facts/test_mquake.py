"""MQuAKE: several rewrites to a case, and questions that hold once all of them are made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kedit_glue.facts import FactsError, FactSet, Probe, Unusable, load


def rewrite(subject: str, target: str, relation: str = "mayor", **more: Any) -> dict[str, Any]:
    return {
        "prompt": f"The {relation} of {{}} is",
        "relation_id": "P6",
        "target_new": {"str": target, "id": "Q1"},
        "target_true": {"str": "Zed", "id": "Q2"},
        "subject": subject,
        "question": f"Who is the {relation} of {subject}?",
    } | more


def case(number: int, *rewrites: Any, **more: Any) -> dict[str, Any]:
    return {
        "case_id": number,
        "requested_rewrite": list(rewrites),
        "questions": [f"Question {number}a?", f"Question {number}b?"],
        "answer": "Zed",
        "answer_alias": [],
        "new_answer": f"Answer {number}",
        "new_answer_alias": [f"A. {number}"],
        "single_hops": [{"question": "old?", "cloze": "old", "answer": "Zed", "answer_alias": []}],
        "new_single_hops": [{"question": f"Hop {number}?", "cloze": "c", "answer": "Ada", "answer_alias": ["A."]}],
        "orig": {"triples": []},
    } | more


def load_cases(folder: Path, *records: Any, limit: int | None = None) -> FactSet:
    path = folder / "MQuAKE-T.json"
    path.write_text(json.dumps(list(records)), encoding="utf-8")
    return load(path, limit=limit)


def multi_hop(number: int, record: int) -> tuple[Probe, ...]:
    accepted = (f"Answer {number}", f"A. {number}")
    return tuple(Probe(f"Question {number}{letter}?", accepted, test=f"record {record}") for letter in "ab")


def single_hop(number: int, record: int) -> tuple[Probe, ...]:
    return (Probe(f"Hop {number}?", ("Ada", "A."), test=f"record {record}"),)


def hung(facts: FactSet) -> list[dict[str, tuple[Probe, ...]]]:
    return [dict(edit.portability) for edit in facts.edits]


def test_questions_are_asked_where_all_of_their_rewrites_are_made(tmp_path: Path) -> None:
    both = case(7, rewrite("Elbonia", "Ada"), rewrite("Ada", "Cy", "spouse"))
    load_cases(tmp_path, case(6, rewrite("Utopia", "Bea")), both, case(8, rewrite("Atlantis", "Dot")))
    facts = load(tmp_path / "MQuAKE-T.json", skip=2)
    assert [edit.subject for edit in facts.edits] == ["Ada", "Atlantis"]
    assert [set(kinds) for kinds in hung(facts)] == [set(), {"Multi_Hop", "Single_Hop"}]
    assert [(item.position, item.message) for item in facts.unusable] == [
        ("record 2", "its questions are not asked: rewrite 1 is not among the edits")
    ], "of a case that is passed over as a whole nothing is said"


def test_rewrites_become_edits(tmp_path: Path) -> None:
    facts = load_cases(tmp_path, case(7, rewrite("Elbonia", "Ada"), rewrite("Ada", "Cy", "spouse")))
    first, second = facts.edits
    assert (facts.format, facts.records_read, facts.unusable) == ("mquake", 1, ())
    assert (first.id, first.position) == ("7-1", "record 1, rewrite 1")
    assert (second.id, second.position) == ("7-2", "record 1, rewrite 2")
    assert (first.prompt, first.target_new) == ("The mayor of Elbonia is", "Ada")
    assert (first.subject, first.ground_truth) == ("Elbonia", "Zed")
    assert first.rephrase_prompts == ("Who is the mayor of Elbonia?",)
    assert (first.aim, first.locality) == ("modification", {})


def test_questions_hang_on_the_last_rewrite(tmp_path: Path) -> None:
    facts = load_cases(tmp_path, case(7, rewrite("Elbonia", "Ada"), rewrite("Ada", "Cy", "spouse")))
    assert hung(facts) == [{}, {"Multi_Hop": multi_hop(7, 1), "Single_Hop": single_hop(7, 1)}]


def test_a_rewrite_that_recurs_is_made_once(tmp_path: Path) -> None:
    """Both cases' questions are asked, each once, where the last of their rewrites is made."""
    ada, cy = rewrite("Elbonia", "Ada"), rewrite("Ada", "Cy", "spouse")
    facts = load_cases(tmp_path, case(1, ada), case(2, cy, ada), case(3, ada), case(4, ada, cy))
    assert [edit.id for edit in facts.edits] == ["1-1", "2-1"]
    assert hung(facts) == [
        {
            "Multi_Hop": (*multi_hop(1, 1), *multi_hop(3, 3)),
            "Single_Hop": (*single_hop(1, 1), *single_hop(3, 3)),
        },
        {
            "Multi_Hop": (*multi_hop(2, 2), *multi_hop(4, 4)),
            "Single_Hop": (*single_hop(2, 2), *single_hop(4, 4)),
        },
    ]
    assert [(item.kind, item.message) for item in facts.unusable] == [
        ("duplicate", "record 2, rewrite 2 repeats record 1, rewrite 1"),
        ("duplicate", "record 3, rewrite 1 repeats record 1, rewrite 1"),
        ("duplicate", "record 4, rewrite 1 repeats record 1, rewrite 1"),
        ("duplicate", "record 4, rewrite 2 repeats record 2, rewrite 1"),
    ]
    assert load_cases(tmp_path, case(1, ada), case(2, cy, ada), case(3, ada), limit=1).edits == facts.edits[:1]


@pytest.mark.parametrize(
    ("spoilt", "why"),
    [
        (rewrite("Elbonia", "Bo"), "rewrite 2 contradicts record 1, rewrite 1"),
        (rewrite("Mudville", ""), "rewrite 2 cannot be used"),
        (5, "rewrite 2 cannot be used"),
    ],
)
def test_questions_that_do_not_hold_are_not_asked(tmp_path: Path, spoilt: Any, why: str) -> None:
    facts = load_cases(tmp_path, case(1, rewrite("Elbonia", "Ada")), case(2, rewrite("Ada", "Cy", "spouse"), spoilt))
    assert [edit.id for edit in facts.edits] == ["1-1", "2-1"]
    assert hung(facts)[1] == {}
    message = f"its questions are not asked: {why}"
    assert Unusable("record 2", "bad probe", message, whole_record=False) in facts.unusable
    assert [item.position for item in facts.unusable if item.whole_record] == ["record 2, rewrite 2"]


def test_dirt(tmp_path: Path) -> None:
    ada = rewrite("Elbonia", "Ada", question=" ")
    more = {"questions": ["", "Sound?"], "new_answer_alias": None, "new_single_hops": [{"question": "q"}, 5]}
    facts = load_cases(tmp_path, case(1, ada, **more), 5, case(2, rewrite("\0", "x")))
    (edit,) = facts.edits
    assert edit.rephrase_prompts == ()
    assert edit.portability == {"Multi_Hop": (Probe("Sound?", ("Answer 1",), test="record 1"),)}
    assert [(item.position, item.kind, item.message) for item in facts.unusable] == [
        ("record 1, rewrite 1", "bad probe", "question holds only white space"),
        ("record 1", "bad probe", "questions 1: question is empty"),
        ("record 1", "bad probe", "new_single_hops 1: answer holds no answer"),
        ("record 1", "bad probe", "new_single_hops 2: question is a number (5), not a string: put it in quotes"),
        ("record 2", "bad record", "a number (5), not an object with named fields"),
        ("record 3", "bad record", "requested_rewrite holds a NUL character"),
    ]


def test_without_questions_and_ids(tmp_path: Path) -> None:
    lean = {"requested_rewrite": [rewrite("Elbonia", "Ada"), rewrite("Ada", "Cy", "spouse")]}
    facts = load_cases(tmp_path, lean)
    assert ([edit.id for edit in facts.edits], hung(facts)) == (["fact-0001-1", "fact-0001-2"], [{}, {}])
    assert facts.unusable == ()


def test_nothing_sound(tmp_path: Path) -> None:
    with pytest.raises(FactsError) as caught:
        load_cases(tmp_path, case(1, rewrite("Elbonia", "")))
    assert str(caught.value).startswith(
        f"{tmp_path / 'MQuAKE-T.json'}: read as mquake, none of its 1 records can be used: "
        "1 empty field (record 1, rewrite 1: target_new.str is empty)."
    )
