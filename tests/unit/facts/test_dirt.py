"""Records that are not sound: left out, and named with their place and reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kedit_glue.facts import Edit, FactsError, FactSet, Unusable, load, summary

GOOD = {"prompt": "The mayor of Elbonia is", "target_new": "Ada"}


def load_records(folder: Path, *records: Any, format: str = "auto", **more: Any) -> FactSet:
    path = folder / "facts.json"
    path.write_text(json.dumps(list(records)), encoding="utf-8")
    return load(path, format, **more)


def bad(**values: Any) -> dict[str, Any]:
    return {"prompt": "Mudville's mayor is", "target_new": "Dee"} | values


@pytest.mark.parametrize(
    ("raw", "kind", "message"),
    [
        (bad(target_new=""), "empty field", "target_new is empty"),
        (bad(target_new=" \n\u00a0"), "empty field", "target_new holds only white space"),
        (bad(prompt=None), "empty field", "prompt is null"),
        (
            bad(target_new=1994),
            "bad record",
            "target_new is a number (1994), not a string: put it in quotes",
        ),
        (
            bad(target_new=True),
            "bad record",
            "target_new is a boolean (true), not a string: put it in quotes",
        ),
        (bad(target_new=["a", "b"]), "bad record", "target_new is a list of 2, not a string"),
        (bad(target_new={"str": "a"}), "bad record", "target_new is an object, not a string"),
        (bad(subject=5), "bad record", "subject is a number (5), not a string: put it in quotes"),
        (bad(ground_truth={"a": 1}), "bad record", "ground_truth holds an object, not a string"),
        ({"prompt": "p"}, "missing field", "no target_new (found: 'prompt')"),
        (
            {"prompt": "p", "target_nwe": "a"},
            "missing field",
            "no target_new (found: 'prompt', 'target_nwe'; did you mean 'target_new' where it says 'target_nwe'?)",
        ),
        ({}, "missing field", "no prompt (found: none)"),
        ("text", "bad record", "a string, not an object with named fields"),
        (None, "bad record", "null, not an object with named fields"),
        (bad(prompt="a\0b"), "bad record", "prompt holds a NUL character"),
        (bad(locality={"Kind": [{"prompt": "a\0"}]}), "bad record", "locality holds a NUL character"),
        (
            bad(target_new="\ud83d"),
            "bad record",
            "target_new holds half a surrogate pair, which is no character",
        ),
        (bad(**{"a\0": 1}), "bad record", "a key holds a NUL character"),
    ],
)
def test_unusable_record(tmp_path: Path, raw: Any, kind: str, message: str) -> None:
    facts = load_records(tmp_path, GOOD, raw, format="records")
    assert [edit.position for edit in facts.edits] == ["record 1"]
    assert facts.unusable == (Unusable("record 2", kind, message),)
    assert facts.records_read == 2


@pytest.mark.parametrize(
    ("format", "raw", "kind", "message"),
    [
        ("zsre", {"src": "q"}, "missing field", "no alt (found: 'src')"),
        ("qaedit", {"prompt": "q", "target": " "}, "empty field", "target holds only white space"),
        ("wikibigedit", {"update": "q", "ans": ""}, "empty field", "ans is empty"),
        ("knowedit", {"text": "q", "labels": []}, "bad record", "labels is a list of 0, not a string"),
        ("knowedit", {"ent": "", "pos": ["a"], "neg": ["b"]}, "empty field", "ent is empty"),
        ("knowedit", {"ent": "e", "pos": ["a"], "neg": [" "]}, "empty field", "neg holds no response"),
        ("knowedit", {"ent": "e", "pos": "a", "neg": ["b"]}, "empty field", "pos holds no response"),
        ("knowedit", {"question": "q"}, "missing field", "no target_new (found: 'question')"),
        ("mquake", {"requested_rewrite": []}, "bad record", "requested_rewrite is a list of 0, not a list of objects"),
        ("mquake", {}, "bad record", "requested_rewrite is null, not a list of objects"),
        ("rippleedits", {"edit": "X is Y."}, "bad record", "edit is a string, not an object with prompt"),
        ("rippleedits", {"edit": {}}, "missing field", "no prompt (found: none)"),
        (
            "rippleedits",
            {"edit": {"prompt": "Bo wed Cy."}},
            "bad record",
            "where the target begins in 'Bo wed Cy.' cannot be told",
        ),
        (
            "rippleedits",
            {"edit": {"prompt": "The pet of Bo is "}},
            "bad record",
            "where the target begins in 'The pet of Bo is' cannot be told",
        ),
        (
            "counterfact",
            {"requested_rewrite": []},
            "bad record",
            "requested_rewrite is a list of 0, not an object",
        ),
        (
            "counterfact",
            {"requested_rewrite": {"prompt": "no place", "subject": "s", "target_new": {"str": "t"}}},
            "bad record",
            "the prompt 'no place' has 0 places {} for the subject, not one",
        ),
        (
            "counterfact",
            {"requested_rewrite": {"prompt": "{}", "subject": "s"}},
            "missing field",
            "requested_rewrite has no target_new",
        ),
        (
            "counterfact",
            {"requested_rewrite": {"prompt": "{}", "subject": "s", "target_new": {"str": ""}}},
            "empty field",
            "target_new.str is empty",
        ),
    ],
)
def test_unusable_record_of_a_format(tmp_path: Path, format: str, raw: dict[str, Any], kind: str, message: str) -> None:
    sound: dict[str, Any] = {
        "prompt": "p", "target_new": "t", "target": "t", "src": "p", "alt": "t", "edit": {"prompt": "The pet is Rex."},
    }  # fmt: skip
    if format == "mquake":
        sound = {"requested_rewrite": [{"prompt": "{} is", "subject": "s", "target_new": "t"}]}
    facts = load_records(tmp_path, sound, raw, format=format)
    assert [item for item in facts.unusable if item.whole_record] == [Unusable("record 2", kind, message)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rephrase_prompt": ""}, "rephrase_prompt is empty"),
        ({"rephrase_prompts": ["fine", " "]}, "rephrase_prompts 2 holds only white space"),
        (
            {"portability": {"Reasoning": [{"prompt": "", "ground_truth": "x"}]}},
            "portability Reasoning 1: prompt is empty",
        ),
        (
            {"locality": {"R": [{"prompt": "p", "ground_truth": [[""]]}]}},
            "locality R 1: ground_truth holds no answer",
        ),
        ({"locality": {"R": [{"prompt": "p"}]}}, "locality R 1: ground_truth holds no answer"),
        (
            {"locality": {"R": [{"prompt": "p", "ground_truth": [[1]]}]}},
            "locality R 1: ground_truth holds a number (1), not a string",
        ),
        (
            {"locality": {"R": ["p"]}},
            "locality R 1 is a string, not an object with prompt and ground_truth",
        ),
        ({"locality": {"R": "p"}}, "locality R is a string, not a list of {prompt, ground_truth}"),
        (
            {"locality": {"R\x1b[31m": "p"}},
            "locality 'R\\x1b[31m' is a string, not a list of {prompt, ground_truth}",
        ),
        ({"portability": ["p"]}, "portability is a list of 1, not an object {kind: [probes]}"),
        ({"locality_prompt": "p"}, "locality_ground_truth holds no answer"),
        ({"portabilty": {}}, "'portabilty' was not read; did you mean 'portability'?"),
    ],
)
def test_bad_probe_leaves_the_record(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    facts = load_records(tmp_path, GOOD | values, format="records")
    assert len(facts.edits) == 1
    assert facts.unusable == (Unusable("record 1", "bad probe", message, whole_record=False),)


def test_missing_and_empty_probes_are_no_dirt(tmp_path: Path) -> None:
    nothing: dict[str, Any] = {
        "portability": {"Reasoning": [], "X": None},
        "locality": {},
        "rephrase_prompt": None,
    }
    nothing |= {"ground_truth": "", "subject": ""}
    facts = load_records(tmp_path, GOOD | nothing)
    (edit,) = facts.edits
    assert facts.unusable == ()
    assert (edit.ground_truth, edit.subject, edit.portability, edit.locality) == (None, None, {}, {})


def test_subject_outside_the_prompt(tmp_path: Path) -> None:
    facts = load_records(tmp_path, GOOD | {"subject": "Mudville"})
    message = "the subject 'Mudville' does not stand in the prompt; used without a subject"
    assert facts.edits[0].subject is None
    assert facts.unusable == (Unusable("record 1", "bad subject", message, whole_record=False),)


def test_repeats(tmp_path: Path) -> None:
    other = {"prompt": "The mayor  of\nElbonia is ", "target_new": "Bo"}
    again = {"prompt": "The mayor of Elbonia is", "target_new": "Ada ", "rephrase_prompt": ""}
    facts = load_records(tmp_path, bad(), GOOD, other, again)
    assert [edit.position for edit in facts.edits] == ["record 1", "record 2"]
    assert facts.unusable == (
        Unusable(
            "record 3",
            "contradiction",
            "record 3 says 'Bo' where record 2 says 'Ada' for 'The mayor of Elbonia is' (the first is kept)",
        ),
        Unusable("record 4", "duplicate", "record 4 repeats record 2"),
    )


def test_a_broken_record_is_no_first(tmp_path: Path) -> None:
    facts = load_records(tmp_path, GOOD | {"target_new": ""}, GOOD)
    assert [edit.position for edit in facts.edits] == ["record 2"]
    assert [item.kind for item in facts.unusable] == ["empty field"]


def test_limit_counts_sound_edits(tmp_path: Path) -> None:
    records = [GOOD, bad(prompt=""), GOOD, *(bad(prompt=f"p{n}") for n in range(5))]
    facts = load_records(tmp_path, *records, limit=3)
    assert [edit.position for edit in facts.edits] == ["record 1", "record 4", "record 5"]
    assert facts.records_read == 8
    assert len(load_records(tmp_path, *records, limit=100).edits) == 6


def test_skip_counts_sound_edits(tmp_path: Path) -> None:
    records = [GOOD, bad(prompt=""), GOOD, *(bad(prompt=f"p{n}") for n in range(5))]
    facts = load_records(tmp_path, *records, skip=1, limit=2)
    assert [edit.position for edit in facts.edits] == ["record 4", "record 5"]
    assert [edit.position for edit in load_records(tmp_path, *records, skip=5).edits] == ["record 8"]


@pytest.mark.parametrize(
    ("portability", "message"),
    [
        ([], "portability is a list of 0, not an object with New Question and New Answer"),
        (
            {"Recalled Relation": "(a, b, c)"},
            "portability is an object, not an object with New Question and New Answer",
        ),
        ({"New Question": "q"}, "New Answer holds no answer"),
        ({"New Question": " ", "New Answer": "a"}, "New Question holds only white space"),
    ],
)
def test_bad_hop_leaves_the_zsre_record(tmp_path: Path, portability: Any, message: str) -> None:
    facts = load_records(tmp_path, {"src": "q", "alt": "a", "portability": portability})
    assert (len(facts.edits), facts.edits[0].portability) == (1, {})
    assert facts.unusable == (Unusable("record 1", "bad probe", message, whole_record=False),)


@pytest.mark.parametrize(
    ("own", "ids"),
    [
        ([{"id": "a"}, {"id": 0}], ["a", "0"]),
        ([{"id": "a"}, {"id": "a"}], ["fact-0001", "fact-0002"]),
        ([{"id": "fact-0002"}, {}], ["fact-0002", "fact-0002x"]),
        ([{"id": ""}, {"id": True}], ["fact-0001", "fact-0002"]),
        ([{"id": [1]}, {"case_id": " 5 "}], ["fact-0001", "5"]),
    ],
)
def test_ids(tmp_path: Path, own: list[dict[str, Any]], ids: list[str]) -> None:
    facts = load_records(tmp_path, *(bad(prompt=f"p{n}") | more for n, more in enumerate(own)))
    assert [edit.id for edit in facts.edits] == ids


def test_broken_rows_and_lines(tmp_path: Path) -> None:
    table = tmp_path / "facts.csv"
    table.write_text("prompt,target_new\np,a\nq\nr,b,c\n,d\n", encoding="utf-8")
    quoting = '(text with a delimiter needs "…" around it)'
    assert load(table).unusable == (
        Unusable("line 3", "bad record", f"1 cell where the header has 2 {quoting}"),
        Unusable("line 4", "bad record", f"3 cells where the header has 2 {quoting}"),
        Unusable("line 5", "empty field", "prompt is empty"),
    )
    lines = tmp_path / "facts.jsonl"
    lines.write_text(f'{json.dumps(GOOD)}\n{{"prompt": "q", "tar\n7\n', encoding="utf-8")
    assert load(lines).unusable == (
        Unusable("line 2", "bad record", "not valid JSON (Unterminated string starting at, column 17)"),
        Unusable("line 3", "bad record", "a number (7), not an object with named fields"),
    )


def test_nothing_sound(tmp_path: Path) -> None:
    empty = [bad(prompt=f"p{n}", target_new="") for n in range(5)]
    with pytest.raises(FactsError) as caught:
        load_records(tmp_path, *empty, {"prompt": "p"}, format="records")
    assert str(caught.value) == (
        f"{tmp_path / 'facts.json'}: read as records, none of its 6 records can be used: 5 empty fields "
        "(record 1: target_new is empty; record 2: target_new is empty; record 3: target_new is empty; "
        "and 2 more); 1 missing field (record 6: no target_new (found: 'prompt')). Allowed: records with a "
        "prompt and a new target, both of them text. Next: correct these, or name the right format."
    )


def test_summary(tmp_path: Path) -> None:
    assert summary(load_records(tmp_path, GOOD)) == ["1 fact from facts.json (records)"]
    facts = load_records(tmp_path, GOOD, GOOD, GOOD, GOOD, bad(rephrase_prompt=""), bad(prompt=" ", target_new="x"))
    assert summary(facts, most=2) == [
        "2 facts from facts.json (records), 6 records read",
        "left out: 3 duplicates (record 2 repeats record 1; record 3 repeats record 1; and 1 more)",
        "left out: 1 empty field (record 6: prompt holds only white space)",
        "left out of records that are used: 1 bad probe (record 5: rephrase_prompt is empty)",
    ]
    by_hand = FactSet((Edit("1", "p", "t"),), (), "records", 1)
    assert summary(by_hand) == ["1 fact (records)"]


def test_facts_that_cannot_be_looked_up_are_passed_over(tmp_path: Path) -> None:
    records = [
        bad(prompt="The mayor of Alba is", subject="Alba"),
        bad(prompt="Who governs it?", subject="Alba"),
        bad(prompt="The mayor of Brunn {or so} is", subject="Brunn"),
        bad(prompt="The mayor of Corvo is", subject="Corvo"),
        bad(prompt="The mayor of Dorn is", subject="Dorn"),
    ]
    facts = load_records(tmp_path, *records, limit=2, with_subject=True)
    assert [edit.subject for edit in facts.edits] == ["Alba", "Corvo"]
    assert facts.without_subject == 2
    assert "passed over: 2 facts with no subject in the prompt (edits.with_subject)" in summary(facts)
    assert load_records(tmp_path, *records).without_subject == 0
    with pytest.raises(FactsError, match=r"none of 2 facts has a subject that stands in its prompt, without a brace"):
        load_records(tmp_path, *records[1:3], with_subject=True)
