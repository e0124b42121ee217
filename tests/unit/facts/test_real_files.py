"""The public samples beside the checkout: what they really hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from kedit_glue.facts import FactsError, Unusable, counts, load

DATA = Path(__file__).parents[4] / "shared" / "data"


def sample(name: str) -> Path:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{name} is not here: the public samples lie in ../shared/data beside the checkout")
    return path


@pytest.mark.parametrize(
    ("name", "format", "read", "sound", "kind", "probes"),
    [
        ("counterfact_edit_2k.json", "counterfact", 2000, 1998, "Neighborhood", 1),
        ("zsre_1k.json", "zsre", 1000, 1000, "Unrelated", 1),
        ("wikibigedit_500.json", "wikibigedit", 500, 500, "Neighborhood", 1),
        ("qaedit_200.json", "qaedit", 200, 200, "Unrelated", 5),
    ],
)
def test_sample(name: str, format: str, read: int, sound: int, kind: str, probes: int) -> None:
    path = sample(name)
    facts = load(path)
    assert (facts.format, facts.records_read, len(facts.edits)) == (format, read, sound)
    assert facts == load(path, format)
    assert load(path, limit=40).edits == facts.edits[:40]
    assert len({edit.id for edit in facts.edits}) == sound
    found = counts(facts)
    assert (found.facts, found.rephrasings, found.portability) == (sound, sound, {})
    assert (found.locality, found.aims) == ({kind: probes * sound}, {"modification": sound})
    for edit in facts.edits:
        assert edit.prompt and edit.prompt == edit.prompt.strip()
        assert edit.target_new and edit.target_new == edit.target_new.strip()
        assert edit.subject and edit.subject in edit.prompt
        assert len(edit.rephrase_prompts) == 1
        assert {kind: len(found) for kind, found in edit.locality.items()} == {kind: probes}
        assert not any(probe.prompt.startswith("nq question") for probe in edit.locality[kind])


def test_contradictions_in_counterfact() -> None:
    first = "(the first is kept)"
    assert load(sample("counterfact_edit_2k.json")).unusable == (
        Unusable(
            "record 1092",
            "contradiction",
            "record 1092 says 'Hamburg' where record 453 says 'Shanghai' for 'The twin city of Tirana is' " + first,
        ),
        Unusable(
            "record 1852",
            "contradiction",
            "record 1852 says 'Kiev' where record 831 says 'Cairo' for "
            f"'What is the twin city of Vienna? It is' {first}",
        ),
    )


@pytest.mark.parametrize("name", ["zsre_1k.json", "wikibigedit_500.json", "qaedit_200.json"])
def test_nothing_is_left_out_of_the_others(name: str) -> None:
    unusable = load(sample(name)).unusable
    assert {each.kind for each in unusable} <= {"trimmed text"}  # a blank behind a target is taken off, and said
    assert not any(each.whole_record for each in unusable)


def test_ids_that_two_records_share() -> None:
    """Two ids stand twice in QAEdit's sample: these four records are named by their position."""
    ids = [edit.id for edit in load(sample("qaedit_200.json")).edits]
    assert sum(each.startswith("fact-") for each in ids) == 4


@pytest.mark.parametrize("name", ["copa_dev.json", "mmlu_500.json", "rte_validation.json"])
def test_other_data_is_refused(name: str) -> None:
    with pytest.raises(FactsError, match="no known format has these keys"):
        load(sample(name))
