"""KnowEdit's ConvSent and Sanitation, and which of its tasks is insertion, modification or erasure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kedit_glue.facts import FactsError, FactSet, Probe, Unusable, load


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


TOPICS = [
    {"ent": "Elbonia", "pos": ["Lovely mud.", "I adore it."], "neg": ["Too much mud.", "Dull.", "Awful."]},
    {"ent": "{braces}", "pos": ["Neat."], "neg": ["Odd."]},
    {"ent": "Mudville", "pos": ["A fine town."], "neg": ["A sad town."]},
]


def talk(folder: Path, *records: Any) -> FactSet:
    return load(write(folder / "blender_test.json", list(records)))


def test_convsent(tmp_path: Path) -> None:
    facts = talk(tmp_path, *TOPICS)
    assert (facts.format, facts.unusable, facts.records_read) == ("knowedit", (), 3)
    for raw, edit in zip(TOPICS, facts.edits, strict=True):
        positive = edit.prompt.endswith(" postively.")
        wanted, opposite = ("pos", "neg") if positive else ("neg", "pos")
        assert edit.aim == "sentiment"
        assert edit.subject == raw["ent"]
        assert edit.prompt.startswith("From the sentiment dataset, answer ")
        assert positive or edit.prompt.endswith(" negatively.")
        assert edit.target_new == raw[wanted][0]
        assert [probe.answers for probe in edit.responses["Wanted"]] == [(text,) for text in raw[wanted]]
        assert [probe.answers for probe in edit.responses["Opposite"]] == [(text,) for text in raw[opposite]]
        assert all(probe.prompt.endswith(f" {raw['ent']}?") for kind in edit.responses.values() for probe in kind)
        assert (edit.portability, edit.rephrase_prompts, edit.ground_truth) == ({}, (), None)


def test_convsent_locality_is_the_next_topic(tmp_path: Path) -> None:
    first, second, third = talk(tmp_path, *TOPICS).edits
    for edit, following in ((first, second), (second, third), (third, first)):
        other = following.responses
        assert edit.locality == {"Other_Topic": (*other["Wanted"], *other["Opposite"])}
    assert talk(tmp_path, TOPICS[0]).edits[0].locality == {}


def test_convsent_draws_are_the_topics_own(tmp_path: Path) -> None:
    """Neither the order of the file nor the limit changes what a topic is taught."""
    edits = talk(tmp_path, *TOPICS).edits
    turned = talk(tmp_path, *reversed(TOPICS)).edits
    assert {e.subject: (e.prompt, e.responses) for e in edits} == {e.subject: (e.prompt, e.responses) for e in turned}
    assert load(write(tmp_path / "a.json", TOPICS), limit=2).edits == edits[:2]
    many = talk(tmp_path, *({"ent": f"topic {n}", "pos": ["yes"], "neg": ["no"]} for n in range(200))).edits
    assert 60 < sum(edit.target_new == "yes" for edit in many) < 140
    assert len({edit.responses["Wanted"][0].prompt.replace(str(edit.subject), "") for edit in many}) == 13


def test_convsent_dirt(tmp_path: Path) -> None:
    dirty = {"ent": "Elbonia", "pos": ["fine", "", 7], "neg": ["bad"]}
    facts = talk(tmp_path, dirty, {"ent": "x", "pos": [], "neg": ["bad"]}, dirty, TOPICS[1])
    assert [edit.subject for edit in facts.edits] == ["Elbonia", "{braces}"]
    assert [probe.answers for kind in facts.edits[0].responses.values() for probe in kind] in (
        [("fine",), ("bad",)],
        [("bad",), ("fine",)],
    )
    assert facts.unusable == (
        Unusable("record 1", "bad probe", "pos 2 is empty", whole_record=False),
        Unusable("record 1", "bad probe", "pos 3 is a number (7), not a string: put it in quotes", whole_record=False),
        Unusable("record 2", "empty field", "pos holds no response"),
        Unusable("record 3", "duplicate", "record 3 repeats record 1"),
    )


SILENT = "I don't know"


def forget(question: str, answer: str = "mud", **more: Any) -> dict[str, Any]:
    return {"question": question, "target_new": SILENT, "ground_truth": answer, "subject": question[:3]} | more


def asked(question: str, answer: str) -> Probe:
    return Probe(f"Question:{question}\nAnswer:", (answer,))


def keep(question: str, answer: str) -> dict[str, str]:
    return {"question": question, "target_new": answer, "ground_truth": answer}


TRAIN = {"K_F": [forget("Elbonian soil?"), forget("Wet earth?", "Mud"), forget("Capital?", "Ada City")],
         "K_R": [keep("two plus two?", "four")]}  # fmt: skip
TEST = {
    "success": [forget("What sticks?"), forget("Seat of Ada?", "ada city"), forget("Pigs like?"), forget("Clay is?")],
    "locality": [keep("sky?", "blue"), keep("grass?", "green"), keep("snow?", "white"), keep("coal?", "black")],
}


def test_sanitation_alone(tmp_path: Path) -> None:
    facts = load(write(tmp_path / "trivia_qa_train.json", TRAIN))
    first, second, third = facts.edits
    assert (facts.format, facts.unusable, facts.records_read) == ("knowedit", (), 3)
    assert facts.source == "trivia_qa_train.json"
    assert (first.prompt, first.target_new) == ("Question:Elbonian soil?\nAnswer:", SILENT)
    assert (first.subject, first.ground_truth, first.aim, first.position) == ("Elb", "mud", "erasure", "K_F 1")
    assert [edit.id for edit in facts.edits] == ["fact-0001", "fact-0002", "fact-0003"]
    assert first.locality == {"Retained": (asked("two plus two?", "four"),)}
    assert (second.locality, third.locality, first.portability) == ({}, {}, {})


def test_sanitation_with_the_test_file_beside_it(tmp_path: Path) -> None:
    """The training questions are edited; the test file's, of the same answers, are asked, each once."""
    write(tmp_path / "trivia_qa_test.json", TEST)
    facts = load(write(tmp_path / "trivia_qa_train.json", TRAIN))
    assert (facts.source, facts.unusable) == ("trivia_qa_train.json and trivia_qa_test.json", ())
    assert [edit.position for edit in facts.edits] == ["K_F 1", "K_F 2", "K_F 3"]
    assert [edit.portability for edit in facts.edits] == [
        {"Held_Out": (asked("What sticks?", SILENT), asked("Clay is?", SILENT))},
        {"Held_Out": (asked("Pigs like?", SILENT),)},
        {"Held_Out": (asked("Seat of Ada?", SILENT),)},
    ]
    assert [edit.locality for edit in facts.edits] == [
        {"Retained": (asked("sky?", "blue"), asked("coal?", "black"))},
        {"Retained": (asked("grass?", "green"),)},
        {"Retained": (asked("snow?", "white"),)},
    ]


def test_sanitation_test_file(tmp_path: Path) -> None:
    facts = load(write(tmp_path / "trivia_qa_test.json", TEST), "knowedit")
    assert [edit.position for edit in facts.edits] == ["success 1", "success 2", "success 3", "success 4"]
    assert {edit.aim for edit in facts.edits} == {"erasure"}
    assert [list(edit.locality) for edit in facts.edits] == [["Retained"]] * 4
    assert all(edit.portability == {} for edit in facts.edits)


def test_sanitation_dirt(tmp_path: Path) -> None:
    dirty = {
        "K_F": [forget("a?", subject="zzz"), forget("a?"), forget("b?", target_new=""), 7],
        "success": [forget(""), forget("c?", "sand"), "d?", forget("e?")],
        "locality": [keep("f?", " "), keep("g\0?", "g"), keep("h?", "h")],
    }
    facts = load(write(tmp_path / "a.json", dirty))
    (edit,) = facts.edits
    assert facts.records_read == 4
    assert edit.subject is None
    assert edit.portability == {"Held_Out": (asked("e?", SILENT),)}
    assert edit.locality == {"Retained": (asked("h?", "h"),)}
    assert {(item.position, item.kind, item.message, item.whole_record) for item in facts.unusable} == {
        ("K_F 1", "bad subject", "the subject 'zzz' does not stand in the prompt; used without a subject", False),
        ("K_F 2", "duplicate", "K_F 2 repeats K_F 1", True),
        ("K_F 3", "empty field", "target_new is empty", True),
        ("K_F 4", "bad record", "a number (7), not an object with named fields", True),
        ("success 1", "bad probe", "question is empty", False),
        ("success 2", "bad probe", "no answer to withhold is 'sand'", False),
        ("success 3", "bad probe", "a string, not an object with question and target_new", False),
        ("locality 1", "bad probe", "ground_truth holds no answer", False),
        ("locality 2", "bad probe", "question holds a NUL character", False),
    }


def test_a_broken_test_file_is_said(tmp_path: Path) -> None:
    train = write(tmp_path / "my_train.json", TRAIN)
    other = write(tmp_path / "my_test.json", [{"prompt": "p", "target_new": "t"}])
    assert load(train).source == "my_train.json"
    other.write_text("{", encoding="utf-8")
    with pytest.raises(FactsError) as caught:
        load(train)
    assert str(caught.value).startswith(f"{other}: line 1, column 2: not valid JSON")


@pytest.mark.parametrize(
    ("name", "aim"),
    [("recent_test.json", "insertion"), ("test_cf.json", "modification"), ("ZsRE-test-all.json", "modification")],
)
def test_aim(tmp_path: Path, name: str, aim: str) -> None:
    raw = {"prompt": "The mayor is", "target_new": "Ada", "locality": {}}
    assert [edit.aim for edit in load(write(tmp_path / name, [raw])).edits] == [aim]


@pytest.mark.parametrize(
    ("raw", "format"),
    [
        ({"ent": "a", "pos": ["b"], "neg": ["c"]}, "knowedit"),
        ({"prompt": "p", "target_new": "t", "ent": "e", "pos": 1, "neg": 2}, "records"),
        ({"prompt": "p", "target_new": "t", "edit": {"prompt": 1}}, "rippleedits"),
        ({"prompt": "p", "target_new": "t", "edit": "e"}, "records"),
        ({"prompt": "p", "target_new": "t", "question": "q"}, "records"),
        ({"src": "p", "alt": "t", "portability": {"New Question": "q"}}, "zsre"),
    ],
)
def test_detection(raw: dict[str, Any], format: str) -> None:
    from kedit_glue.facts.detect import format_of

    assert format_of(raw) == format
