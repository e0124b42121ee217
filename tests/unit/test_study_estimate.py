"""What a study's cells will take, by hand."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pytest

from kedit_glue.disk_use import DiskUse, Use
from kedit_glue.recipe import Recipe
from kedit_glue.study_estimate import Expected, Measured, added, expected, measured
from kedit_glue.study_shared import ASKED, FIRST, GENERAL, ONCE, kind_of, shared

ROME = Measured("rome", 10, 700.0, 2, 1000, 400, {})
OURS = Measured("rsft_merge", 10, 60.0, 1, 4000, 1000, {})
MORE = Measured("rsft_merge", 40, 120.0, 4, 4000, 1000, {})


def test_a_run_is_measured_by_its_scores() -> None:
    batches: list[object] = [{}, {}]
    document = {"method": "rome", "facts": [{}] * 10, "seconds": {"edit": 600.0, "all": 700.0}, "batches": batches}
    use = DiskUse(
        {"": Use(100), "base": Use(200), "batch_001": Use(300), "batch_002": Use(100), "model": Use(300)}, 1000, 0
    )
    assert measured(document, use, {}) == ROME
    del document["method"]
    assert measured(document, use, {}).method == ""
    assert measured(document | {"seconds": {"edit": 600.0, "score": 100.0}}, use, {}).seconds == 700.0


@pytest.mark.parametrize(
    ("method", "facts", "wanted"),
    [
        ("rome", 100, Expected(7000.0, 600 + 20 * 200)),
        ("rsft_merge", 12, Expected(72.0, 3000 + 3 * 1000)),  # the nearest number of facts; three batches
        ("rsft_merge", 80, Expected(240.0, 3000 + 16 * 250)),
        ("memit", 40, None),  # another method takes another time
        ("rome", None, None),  # nobody knows how many
    ],
)
def test_in_proportion_by_the_same_method(method: str, facts: int | None, wanted: Expected | None) -> None:
    assert expected(method, facts, 5, [OURS, ROME, MORE]) == wanted


@pytest.mark.parametrize("facts", [16, 64, 1024])
def test_a_batch_of_any_size_leaves_one_model(facts: int) -> None:
    guess = expected("rsft_merge", facts, facts, [OURS])
    assert guess is not None and guess.size == OURS.size


def test_runs_that_are_as_near_count_alike() -> None:
    slow, other = replace(OURS, seconds=100.0, size=2000), replace(OURS, facts=14, seconds=280.0, size=1400)
    assert expected("rsft_merge", 10, 10, [OURS, slow, MORE, ROME]) == Expected(80.0, 3000)
    assert expected("rsft_merge", 12, 12, [slow, other]) == Expected((120.0 + 240.0) / 2, (2000 + 1400) // 2)


@pytest.mark.parametrize(
    ("made", "seconds"),
    [((), 2 * (10 + 20 + 30) + 5), ({ASKED, GENERAL, FIRST}, 2 * 10), ({GENERAL}, 2 * (10 + 20 + 30))],
)
def test_what_another_cell_does_is_not_counted_again(made: Collection[str], seconds: float) -> None:
    one = replace(OURS, seconds=65.0, shared={ASKED: 20.0, GENERAL: 5.0, FIRST: 30.0})
    guess = expected("rsft_merge", 20, 10, [one], made)
    assert guess is not None and guess.seconds == seconds


def test_a_sum() -> None:
    assert added([Expected(1.0, 2), Expected(3.0, 4)]) == Expected(4.0, 6)


# -- what cells have in common ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "kind"),
    [
        ("base/edits", ASKED),
        ("base/general", GENERAL),
        ("base/protect", ONCE),
        ("batch_001/train", FIRST),
        ("batch_001/edit", FIRST),
        ("batch_001/merge", None),
        ("batch_002/train", None),
    ],
)
def test_kinds_of_stages(stage: str, kind: str | None) -> None:
    assert kind_of(stage) == kind


BASE = {
    "name": "a",
    "model": "smollm2-135m",
    "edits": {"source": "/facts.json"},
    "keep": "all",
    "score": {"general": {"tasks": ["arc_easy"]}},
}
PROTECTED = {"train": {"protect": {"directions": 4}}}


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        ({}, {"name": "b", "output": "/b", "merge": {"parameters": {"weight": 0.1}}}, {ASKED, GENERAL, FIRST}),
        ({}, {"train": {"epochs": 3}}, {ASKED, GENERAL}),
        ({}, {"edits": {"source": "/facts.json", "batch_size": 3}}, {ASKED, GENERAL}),
        ({}, {"edits": {"source": "/other.json"}}, {GENERAL}),
        ({}, {"seed": 1}, set()),
        ({}, {"keep": "last"}, {ASKED, GENERAL}),
        ({}, {"score": {"general": {"tasks": ["arc_easy"], "limit": 3}}}, {ASKED, FIRST}),
        (PROTECTED, {"train": {"epochs": 3, **PROTECTED["train"]}}, {ASKED, GENERAL, ONCE}),
        (PROTECTED, {"train": {"protect": {"directions": 5}}}, {ASKED, GENERAL}),
    ],
)
def test_what_two_cells_have_in_common(one: dict[str, object], other: dict[str, object], common: set[str]) -> None:
    first, second = (shared(Recipe.model_validate(BASE | changed)) for changed in (one, other))
    assert {kind for kind in first if first[kind] == second.get(kind)} == common
