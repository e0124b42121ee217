"""One test a format: small records, written here, to edits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kedit_glue.facts import FactSet, Probe, load


def write(path: Path, records: Any) -> Path:
    path.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    return path


def load_records(folder: Path, *records: Any, format: str = "auto") -> FactSet:
    return load(write(folder / "facts.json", list(records)), format)


EDIT = {"prompt": "The mayor of Elbonia City is", "target_new": "Ada Quill"}


def test_own_records(tmp_path: Path) -> None:
    facts = load_records(
        tmp_path,
        EDIT
        | {
            "id": "mayor",
            "subject": "Elbonia City",
            "ground_truth": [["Bo Finch", "B. Finch"]],
            "rephrase_prompts": ["Who runs Elbonia City?", "Elbonia City's mayor:"],
        },
    )
    (edit,) = facts.edits
    assert facts.format == "records"
    assert facts.records_read == 1
    assert facts.source == "facts.json"
    assert facts.unusable == ()
    assert edit.id == "mayor"
    assert edit.position == "record 1"
    assert (edit.prompt, edit.target_new) == ("The mayor of Elbonia City is", "Ada Quill")
    assert edit.subject == "Elbonia City"
    assert edit.ground_truth == "Bo Finch"
    assert edit.rephrase_prompts == ("Who runs Elbonia City?", "Elbonia City's mayor:")
    assert edit.portability == {}
    assert edit.locality == {}


def test_knowedit(tmp_path: Path) -> None:
    portability = {
        "Reasoning": [{"prompt": "The mayor's spouse is", "ground_truth": [["Cy Quill", "C. Quill"]]}],
        "Logical_Generalization": [{"prompt": "Is Bo mayor?", "ground_truth": [["no"], ["false"], ["no"]]}],
        "Subject_Aliasing": [],
        "Extra": None,
    }
    locality = {"Relation_Specificity": [{"prompt": "Elbonia City lies in", "ground_truth": "Elbonia"}]}
    facts = load_records(tmp_path, EDIT | {"portability": portability, "locality": locality, "cond": "x"})
    (edit,) = facts.edits
    assert facts.format == "knowedit"
    assert facts.unusable == ()
    assert edit.portability == {
        "Reasoning": (Probe("The mayor's spouse is", ("Cy Quill", "C. Quill")),),
        "Logical_Generalization": (Probe("Is Bo mayor?", ("no", "false")),),
    }
    assert edit.locality == {"Relation_Specificity": (Probe("Elbonia City lies in", ("Elbonia",)),)}
    assert edit.id == "fact-0001"


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        ("Elbonia", ("Elbonia",)),
        (["Elbonia"], ("Elbonia",)),
        (["Elbonia", "Elbonian Republic"], ("Elbonia", "Elbonian Republic")),
        ([["Elbonia", "ELB"]], ("Elbonia", "ELB")),
        ([["a", "A"], ["b"]], ("a", "A", "b")),
        ([["Elbonia ", ""]], ("Elbonia",)),
    ],
)
def test_knowedit_answers(tmp_path: Path, answer: Any, accepted: tuple[str, ...]) -> None:
    probes = {"Forgetfulness": [{"prompt": "It lies in", "ground_truth": answer}]}
    (edit,) = load_records(tmp_path, EDIT | {"locality": probes}).edits
    assert edit.locality["Forgetfulness"] == (Probe("It lies in", accepted),)


def test_knowedit_tolerates_lists(tmp_path: Path) -> None:
    locality = {"Relation_Specificity": [{"prompt": ["It lies in", "It is in"], "ground_truth": ["Elbonia"]}]}
    raw = EDIT | {"target_new": ["Ada Quill"], "locality": locality, "portability": []}
    (edit,) = load_records(tmp_path, raw).edits
    assert edit.target_new == "Ada Quill"
    assert [probe.prompt for probe in edit.locality["Relation_Specificity"]] == ["It lies in", "It is in"]


def test_knowedit_wikibio(tmp_path: Path) -> None:
    locality = {"Relation_Specificity": [{"prompt": "ada quill was born in", "ground_truth": ["Elbonia"]}]}
    text = "This is a passage about ada quill. She is a mayor."
    raw = {"text": text, "labels": "She bakes.", "concept": "ada quill", "locality": locality}
    facts = load_records(tmp_path, raw)
    (edit,) = facts.edits
    assert facts.format == "knowedit"
    assert (edit.prompt, edit.target_new, edit.subject) == (text, "She bakes.", "ada quill")
    assert edit.portability == {}
    assert edit.locality == {"Relation_Specificity": (Probe("ada quill was born in", ("Elbonia",)),)}


def test_counterfact_flat(tmp_path: Path) -> None:
    facts = load_records(
        tmp_path,
        EDIT
        | {
            "case_id": 7,
            "subject": "Elbonia City",
            "ground_truth": "Bo Finch",
            "rephrase_prompt": "Elbonia City is governed by",
            "locality_prompt": "The mayor of Mudville is",
            "locality_ground_truth": "Bo Finch",
        },
    )
    (edit,) = facts.edits
    assert facts.format == "counterfact"
    assert edit.id == "7"
    assert edit.ground_truth == "Bo Finch"
    assert edit.rephrase_prompts == ("Elbonia City is governed by",)
    assert edit.locality == {"Neighborhood": (Probe("The mayor of Mudville is", ("Bo Finch",)),)}


def test_counterfact_rome(tmp_path: Path) -> None:
    facts = load_records(
        tmp_path,
        {
            "case_id": 0,
            "requested_rewrite": {
                "prompt": "The mayor of {} is",
                "subject": "Elbonia {City}",
                "target_new": {"str": "Ada Quill", "id": "Q1"},
                "target_true": {"str": "Bo Finch", "id": "Q2"},
            },
            "paraphrase_prompts": ["Elbonia City obeys", "Its mayor is"],
            "neighborhood_prompts": ["The mayor of Mudville is", "Mudville's mayor is"],
        },
    )
    (edit,) = facts.edits
    assert facts.format == "counterfact"
    assert edit.id == "0"
    assert (edit.prompt, edit.target_new) == ("The mayor of Elbonia {City} is", "Ada Quill")
    assert (edit.subject, edit.ground_truth) == ("Elbonia {City}", "Bo Finch")
    assert edit.rephrase_prompts == ("Elbonia City obeys", "Its mayor is")
    assert edit.locality == {
        "Neighborhood": (
            Probe("The mayor of Mudville is", ("Bo Finch",)),
            Probe("Mudville's mayor is", ("Bo Finch",)),
        )
    }


ZSRE = {
    "subject": "Elbonia City",
    "src": "Who governs Elbonia City?",
    "pred": "Zed",
    "alt": "Ada Quill",
    "answers": ["Bo Finch", "Finch"],
    "rephrase": "Who is mayor of Elbonia City?",
    "loc": "nq question: who wrote nq question: the book",
    "loc_ans": "Dee Moss",
}


def test_zsre(tmp_path: Path) -> None:
    more = {"alt": " Ada Quill", "cond": "Zed >> Ada Quill || Who governs Elbonia City?"}
    facts = load_records(tmp_path, ZSRE | more)
    (edit,) = facts.edits
    assert facts.format == "zsre"
    assert (edit.prompt, edit.target_new) == ("Who governs Elbonia City?", "Ada Quill")
    assert edit.ground_truth == "Bo Finch"
    assert edit.rephrase_prompts == ("Who is mayor of Elbonia City?",)
    assert edit.locality == {"Unrelated": (Probe("who wrote nq question: the book", ("Dee Moss",)),)}


@pytest.mark.parametrize(
    "more", [{"cond": "Zed >> Ada || q"}, {}, {"portability": {}}], ids=["ROME", "no cond", "none"]
)
def test_zsre_without_another_hop(tmp_path: Path, more: dict[str, Any]) -> None:
    facts = load_records(tmp_path, ZSRE | more)
    assert (facts.format, facts.edits[0].portability, facts.unusable) == ("zsre", {}, ())


def test_zsre_with_another_hop(tmp_path: Path) -> None:
    hop = {
        "Recalled Relation": "(Ada Quill, trade, baker)",
        "New Question": "What trade has the one who governs Elbonia City?",
        "New Answer": "Baker",
    }
    facts = load_records(tmp_path, ZSRE | {"portability": hop})
    (edit,) = facts.edits
    assert (facts.format, facts.unusable) == ("zsre", ())
    assert (edit.prompt, edit.target_new) == ("Who governs Elbonia City?", "Ada Quill")
    assert edit.portability == {"One_Hop": (Probe(hop["New Question"], ("Baker",)),)}
    assert set(edit.locality) == {"Unrelated"}


def test_zsre_of_knowedit(tmp_path: Path) -> None:
    """It has KnowEdit's keys, beside MEND's ``cond``."""
    probes = {"Relation_Specificity": [{"prompt": "It lies in", "ground_truth": "Elbonia"}]}
    raw = EDIT | {"rephrase_prompt": "Who governs it?", "ground_truth": "Bo", "cond": "Bo >> Ada", "locality": probes}
    facts = load_records(tmp_path, raw | {"portability": {"Reasoning": []}})
    assert facts.format == "knowedit"
    assert facts.edits[0].rephrase_prompts == ("Who governs it?",)


FLAT = {"subject": "Elbonia City", "rephrase_prompt": "Who governs it?"}
LOCAL = {"locality_prompt": "Who governs Mudville?", "locality_ground_truth": "Dee Moss"}
RELEASED = {
    "update": EDIT["prompt"], "ans": EDIT["target_new"], "subject": "Elbonia City",
    "rephrase": "Who governs it?", "loc": "Who governs Mudville?", "loc_ans": "Dee Moss",
}  # fmt: skip


@pytest.mark.parametrize("raw", [EDIT | FLAT | LOCAL, RELEASED], ids=["EasyEdit", "release"])
def test_wikibigedit(tmp_path: Path, raw: dict[str, str]) -> None:
    more = {"personas": "Yo, who runs it?", "mhop": "Who is the mayor's spouse?", "mhop_ans": "Cy"}
    facts = load_records(tmp_path, raw | more)
    (edit,) = facts.edits
    assert facts.format == "wikibigedit"
    assert (edit.prompt, edit.target_new, edit.subject) == (*EDIT.values(), "Elbonia City")
    assert edit.ground_truth is None
    assert edit.rephrase_prompts == ("Who governs it?",)
    assert edit.locality == {"Neighborhood": (Probe("Who governs Mudville?", ("Dee Moss",)),)}
    assert edit.portability == {
        "Personas": (Probe("Yo, who runs it?", ("Ada Quill",)),),
        "Reasoning": (Probe("Who is the mayor's spouse?", ("Cy",)),),
    }


def test_qaedit(tmp_path: Path) -> None:
    locality = [{"loc": "who sings", "loc_ans": "Dee"}, {"loc": "who dances", "loc_ans": "Moss"}]
    raw = {"id": 9, "source": "NQ", "prompt": "who runs elbonia", "target": "Ada Quill"}
    facts = load_records(tmp_path, raw | {"subject": "elbonia", "rephrase": "who?", "locality": locality})
    (edit,) = facts.edits
    assert facts.format == "qaedit"
    assert (edit.id, edit.target_new) == ("9", "Ada Quill")
    assert edit.ground_truth is None
    assert edit.locality == {"Unrelated": (Probe("who sings", ("Dee",)), Probe("who dances", ("Moss",)))}


HEADER = [
    "prompt", "target_new", "subject", "ground_truth", "rephrase_prompt", "rephrase_prompt_2",
    "locality_prompt", "locality_ground_truth", "portability_prompt", "portability_ground_truth",
]  # fmt: skip


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv(tmp_path: Path, delimiter: str) -> None:
    full = ['"Elbonia, its ""mayor""; now is"', "Ada", "Elbonia", "Bo", "r1", "r2", "l", "la", "p", "pa"]
    lean = ["Mudville's mayor is", "Dee", *[""] * 8]
    rows = [HEADER, full, [], lean]
    path = tmp_path / "facts.csv"
    path.write_text("\r\n".join(delimiter.join(row) for row in rows), encoding="utf-8", newline="")
    facts = load(path)
    first, second = facts.edits
    assert (facts.format, facts.unusable, facts.records_read) == ("csv", (), 2)
    assert first.prompt == 'Elbonia, its "mayor"; now is'
    assert (first.subject, first.ground_truth, first.rephrase_prompts) == ("Elbonia", "Bo", ("r1", "r2"))
    assert first.locality == {"Other": (Probe("l", ("la",)),)}
    assert first.portability == {"Other": (Probe("p", ("pa",)),)}
    assert (second.prompt, second.position, second.id) == ("Mudville's mayor is", "line 4", "fact-0004")
    assert (second.subject, second.rephrase_prompts, second.locality) == (None, (), {})


def test_csv_positions_count_lines_inside_cells(tmp_path: Path) -> None:
    path = tmp_path / "facts.csv"
    path.write_text('prompt,target_new\n"two\nlines",a\nthree,b\n', encoding="utf-8")
    assert [edit.position for edit in load(path).edits] == ["line 2", "line 4"]


def test_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    lines = [json.dumps(EDIT), "", json.dumps(EDIT | {"prompt": "Line\u2028break is"}, ensure_ascii=False)]
    path.write_text("\r\n".join(lines) + "\r\n", encoding="utf-8", newline="")
    facts = load(path)
    assert [edit.position for edit in facts.edits] == ["line 1", "line 3"]
    assert facts.records_read == 2


@pytest.mark.parametrize(
    "text",
    [
        "{{ 7*7 }}",
        "{% for x in y %}",
        "- a: &b *c",
        "key: [1, 2",
        "!!python/object:os.system",
        "1e-5",
        "null",
        "🦜 squawks 👩‍🚀",
        "عاصمة إلبونيا هي",
        "two\nlines\tand  spaces",
        "é e\u0301",
        "$HOME `id` \\n",
    ],
)
def test_text_passes_untouched(tmp_path: Path, text: str) -> None:
    raw = {"prompt": f"{text} ", "target_new": f" {text}", "subject": text, "rephrase_prompt": text}
    (edit,) = load_records(tmp_path, raw).edits
    assert (edit.prompt, edit.target_new, edit.subject, edit.rephrase_prompts) == (text, text, text, (text,))


def test_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text(json.dumps([EDIT]), encoding="utf-8-sig")
    assert len(load(path).edits) == 1


def test_edits_travel(tmp_path: Path) -> None:
    """Edits go to other processes and into JSON files."""
    import dataclasses
    import pickle

    from kedit_glue.facts import Edit

    (edit,) = load_records(tmp_path, EDIT | FLAT | LOCAL).edits
    for each in (edit, Edit("1", "p", "t")):
        assert pickle.loads(pickle.dumps(each)) == each
        assert json.loads(json.dumps(dataclasses.asdict(each)))["prompt"] == each.prompt
