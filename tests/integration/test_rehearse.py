"""Earlier facts that training shows again: those that are still known cost no step, those that are not are taught."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration
LONG = ("--set", "train.epochs=400", "--set", "train.loss_threshold=0.1")  # the tiny model gets no further
SUCCESS = "edit_success.teacher_forced.token_accuracy"


def trace(run: Path, batch: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / f"batch_00{batch}" / "trace.jsonl").read_text().splitlines()]


def first_batch(run: Path) -> list[float]:
    """Edit success of the first batch's facts after the last."""
    scores = json.loads((run / "scores.json").read_text())
    return [fact["after"][SUCCESS] for fact in scores["facts"][:3]]


def test_what_the_second_batch_undoes_is_taught_again(run_method: Callable[..., Path]) -> None:
    plain = run_method("rsft", "", *LONG, name="plain")
    again = run_method("rsft", "", *LONG, "--set", "train.rehearse=10", "--set", "train.mini_batch=5", name="again")

    assert (plain / "batch_001" / "trace.jsonl").read_text() == (again / "batch_001" / "trace.jsonl").read_text()
    lines = trace(again, 2)
    assert [(line["id"], line["rehearsed"]) for line in lines] == [
        ("f3", False),
        ("f4", False),
        ("f0", True),
        ("f1", True),
        ("f2", True),
    ]
    assert all(line["learned"] for line in lines), "all were asked when training was about to end"
    taught = [line for line in lines if line["rehearsed"] and line["steps"]]
    result = json.loads((again / "batch_002" / "train.record.json").read_text())["result"]
    assert result["rehearsed"] == {"shown": 3, "taught": len(taught)} and taught, "the second batch undid some"
    assert (result["learned"], result["facts"], result["samples"]) == (2, 2, 5)

    scores = json.loads((again / "scores.json").read_text())
    own = {line["id"]: line["steps"] for number in (1, 2) for line in trace(again, number) if not line["rehearsed"]}
    assert {fact["id"]: fact["steps"] for fact in scores["facts"]} == own, "a fact's own training, not its rehearsals"
    assert min(first_batch(plain)) < 1, "else there was nothing to teach again"
    assert first_batch(again) == [1, 1, 1]


def test_depth_first_an_earlier_fact_may_be_learned_between_inner_steps(run_method: Callable[..., Path]) -> None:
    """It was forgotten, takes part in a step, and is known again while the mini-batch's other samples go on."""
    depth = (
        "train.order=depth",
        "train.inner_steps=2",
        "train.learning_rate=1.0e-3",
        "train.rehearse=10",
        "train.mini_batch=5",
    )
    run = run_method("rsft", "", *LONG, *(word for value in depth for word in ("--set", value)), name="depth")
    lines = trace(run, 2)
    assert [line["rehearsed"] for line in lines] == [False, False, True, True, True]
    assert all(line["learned"] for line in lines)
    steps = [line["steps"] for line in lines]
    assert min(steps) < max(steps), "some were left alone while others learned"
