"""How many of each kind a file of facts holds."""

from __future__ import annotations

from kedit_glue.facts import Counts, Edit, FactSet, Probe, Unusable, counts, summary

PROBE = Probe("p", ("a",))
EDITS = (
    Edit(
        "1", "p", "t", rephrase_prompts=("a", "b"), portability={"Reasoning": (PROBE, PROBE)},
        locality={"Forgetfulness": (PROBE,)},
    ),
    Edit("2", "q", "t", portability={"Reasoning": (PROBE,), "odd\nkind": (PROBE,)}, aim="insertion"),
    Edit("3", "r", "t", aim="sentiment", responses={"Wanted": (PROBE,), "Opposite": (PROBE, PROBE)}),
)  # fmt: skip
UNUSABLE = (
    Unusable("record 4", "duplicate", "record 4 repeats record 1"),
    Unusable("record 5", "duplicate", "record 5 repeats record 1"),
    Unusable("record 6", "bad record", "null, not an object with named fields"),
    Unusable("record 1", "bad probe", "prompt is empty", whole_record=False),
)
FACTS = FactSet(EDITS, UNUSABLE, "knowedit", 6, "a.json")


def test_counts() -> None:
    assert counts(FACTS) == Counts(
        facts=3,
        aims={"modification": 1, "insertion": 1, "sentiment": 1},
        rephrasings=2,
        portability={"Reasoning": 3, "odd\nkind": 1},
        locality={"Forgetfulness": 1},
        responses={"Wanted": 1, "Opposite": 2},
        unusable={"duplicate": 2, "bad record": 1},
        unusable_parts={"bad probe": 1},
    )


def test_counts_of_nothing() -> None:
    assert counts(FactSet((), (), "records", 0)) == Counts(0, {}, 0, {}, {}, {}, {}, {})


def test_counts_in_the_summary() -> None:
    assert summary(FACTS)[:2] == [
        "3 facts from a.json (knowedit: 1 modification, 1 insertion, 1 sentiment), 6 records read",
        "asked besides: 2 rephrasings; portability 3 Reasoning, 1 'odd\\nkind'; locality 1 Forgetfulness; "
        "responses 1 Wanted, 2 Opposite",
    ]
    plain = FactSet((Edit("1", "p", "t", rephrase_prompts=("a",)),), (), "records", 1)
    assert summary(plain) == ["1 fact (records)", "asked besides: 1 rephrasing"]
