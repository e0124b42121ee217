"""A run whose merges become regression means: what is said of it, counted, kept and done again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from kedit_glue import report, result
from kedit_glue.report_notes import reshaping_note

NOTE = (
    "each merge became a regression mean (merge.regmean): of its change the taught facts meet 95 %, general text 25 %"
)


@pytest.fixture
def regressed(workplace: Any) -> Any:
    workplace.values["merge"]["regmean"] = {"tokens": 100}
    workplace.write()
    return workplace


def test_it_is_a_batchs_model_and_can_be_brought_back(regressed: Any) -> None:
    regressed.go()
    kept = sorted(
        path.name for path in regressed.run_folder.glob("batch_*/*") if path.name in ("changed", "regmean", "merged")
    )
    assert kept == ["changed", "changed", "regmean"]
    expected = regressed.state()
    regressed.go(from_batch=2)
    assert regressed.lines("brought") == ["brought back batch_001/regmean from its changed tensors"]
    assert regressed.state() == expected


def test_another_number_of_tokens_trains_and_merges_nothing_in_the_first_batch(regressed: Any) -> None:
    regressed.values["keep"] = "all"
    regressed.write()
    regressed.go()
    regressed.values["merge"]["regmean"]["tokens"] = 30
    regressed.write()
    again = regressed.go()
    assert again[0] == "batch_001/regmean" and "base/moments" not in again


def test_it_is_said_and_counted(regressed: Any) -> None:
    regressed.go()
    said = [line for line in regressed.lines("batch") if "regression mean: done" in line]
    assert len(said) == 3
    assert said[0].endswith("change's norm 1.40 -> 2.80; of the merge's change the facts meet 95%, general text 25%")
    document = json.loads((regressed.run_folder / "scores.json").read_text())
    result.check(document)
    for batch in document["batches"]:
        assert batch["reshaping"]["text_meets_after"] == 1.0 and batch["reshaping"]["seconds"] > 0
    spent = sum(batch[key]["seconds"] for batch in document["batches"] for key in ("training", "merge", "reshaping"))
    facts = sum(batch["facts"] for batch in document["batches"])
    assert document["cost"]["seconds_a_fact"] == pytest.approx(spent / facts, abs=2e-3)
    assert NOTE in report.markdown(document)


def test_without_it_nothing_is_said(scored: Callable[..., dict[str, Any]]) -> None:
    document = scored()
    assert reshaping_note(document) == ""
    document["batches"][0]["reshaping"] = {"change_before": 1.0, "seconds": 1.0}
    assert reshaping_note(document) == "", "merge.protect says other things"
