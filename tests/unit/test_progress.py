"""What a person sees while a run works."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kedit_glue import progress
from kedit_glue.progress import ROUGHLY, Display, Estimate, duration, sentence, share

SENTENCES: list[tuple[Mapping[str, Any], str | None]] = [
    (
        {"event": "trainable", "parameters": 1234567, "of": 9000000, "tensors": 3, "first": "model.layers.4.mlp.x"},
        "training 1,234,567 of 9,000,000 parameters (3 tensors, the first is model.layers.4.mlp.x)",
    ),
    (
        {"event": "step", "epoch": 2, "epochs": 20, "steps": 17, "loss": 0.12345},
        "epoch 2 of at most 20, 17 steps, loss 0.123",
    ),
    (
        {"event": "trained", "learned": 9, "of": 10, "steps": 55, "epochs": 6},
        "9 of 10 facts learned in 55 steps, 6 epochs",
    ),
    ({"event": "asked", "position": 32, "of": 100}, "asked 32 of 100 prompts"),
    ({"event": "generating", "of": 8}, "generating text for 8 facts (fluency)"),
    ({"event": "general", "tasks": ["arc", "text"]}, "lm-eval: arc, text"),
    ({"event": "say", "text": "downloading"}, "downloading"),
    ({"event": "merging"}, "merging"),
    ({"event": "checking"}, "comparing tensors"),
    ({"event": "started", "pid": 7}, None),
    ({"event": "new in a later version"}, None),
    ({}, None),
]


@pytest.mark.parametrize(("event", "expected"), SENTENCES, ids=[str(e.get("event")) for e, _ in SENTENCES])
def test_an_event_in_words(event: Mapping[str, Any], expected: str | None) -> None:
    assert sentence(event) == expected


def test_a_loss_that_is_not_finite_is_said() -> None:
    event = {"event": "step", "epoch": 1, "epochs": 2, "steps": 1, "loss": float("nan")}
    assert str(sentence(event)).endswith("loss nan")


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"position": 25, "of": 100}, 0.25),
        ({"position": 120, "of": 100}, 1.0),
        ({"position": 0, "of": 100}, 0.0),
        ({"position": 1, "of": 0}, None),
        ({"of": 8}, None),
    ],
)
def test_share_of_a_stage(event: Mapping[str, Any], expected: float | None) -> None:
    assert share(event) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"), (8.4, "8 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3599, "59 min 59 s"),
        (3599.7, "1 h 00 min"), (7500, "2 h 05 min"), (90000, "25 h 00 min"),
    ],
)  # fmt: skip
def test_duration(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


# -- time left ----------------------------------------------------------------------------------


def test_nothing_is_promised_while_a_kind_is_unknown() -> None:
    estimate = Estimate()
    assert estimate.left([("train", 10)]) is None
    estimate.done("train", 10, 30.0)
    assert estimate.left([("train", 10), ("score", 10)]) is None
    estimate.done("score", 10, 5.0)
    assert estimate.left([("train", 10), ("score", 10)]) == pytest.approx(35.0)
    assert estimate.left([]) == 0.0


def test_time_left_grows_with_the_size() -> None:
    estimate = Estimate()
    estimate.done("score", 10, 5.0)
    assert estimate.left([("score", 40)]) == pytest.approx(20.0)
    assert estimate.left([("score", 10), ("score", 20)]) == pytest.approx(15.0)
    estimate.done("score", 30, 35.0)  # 40 facts took 40 s
    assert estimate.left([("score", 7)]) == pytest.approx(7.0)


def test_a_stage_without_a_size_counts_as_one() -> None:
    estimate = Estimate()
    estimate.done("merge", 0, 4.0)
    assert estimate.left([("merge", 0), ("merge", 1)]) == pytest.approx(8.0)


# -- the display --------------------------------------------------------------------------------


class Clock:
    """``time.monotonic`` that the test moves."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress.time, "monotonic", made.monotonic)
    return made


@pytest.fixture
def plain(tmp_path: Path) -> Display:
    return Display(tmp_path / "log.txt", Console(file=io.StringIO(), width=200))


def shown(display: Display) -> list[str]:
    text: str = display.console.file.getvalue()  # type: ignore[attr-defined]
    return text.splitlines()


STEP = {"event": "step", "epoch": 1, "epochs": 2, "steps": 3, "loss": 0.5}


def test_plain_lines_where_there_is_no_terminal(plain: Display, clock: Clock) -> None:
    plain.begin("batch 1 of 4: train", 130.0)
    plain.event({"event": "started"})
    plain.event({"event": "trained", "learned": 2, "of": 2, "steps": 3, "epochs": 1})
    plain.end("done in 3 s")
    assert shown(plain) == [
        "batch 1 of 4: train … (about 2 min 10 s left)",
        "  2 of 2 facts learned in 3 steps, 1 epochs",
        "batch 1 of 4: train: done in 3 s",
    ]


def test_steps_are_shown_once_in_a_while(plain: Display, clock: Clock) -> None:
    plain.begin("train", None)
    for _ in range(25):
        clock.now += 1.0
        plain.event(STEP)
    assert shown(plain) == ["train …"] + ["  epoch 1 of at most 2, 3 steps, loss 0.500"] * 2


def test_the_log_has_every_lasting_line_with_its_time(plain: Display, clock: Clock) -> None:
    plain.begin("train", None)
    plain.event(STEP)
    plain.event({"event": "say", "text": "two\nlines"})
    plain.end("done")
    assert plain.log is not None
    lines = plain.log.read_text(encoding="utf-8").splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    assert [line[20:] for line in lines] == ["train …", "  two", "lines", "train: done"]


def test_a_log_is_added_to(plain: Display, tmp_path: Path) -> None:
    plain.say("first")
    Display(tmp_path / "log.txt", Console(file=io.StringIO())).say("second")
    assert [line[20:] for line in (tmp_path / "log.txt").read_text().splitlines()] == ["first", "second"]


def test_without_a_log_nothing_is_written(tmp_path: Path) -> None:
    Display(None, Console(file=io.StringIO())).say("hello")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["[/b] no markup", "[red]x[/red]", "train.py:100: warning", "Łódź 日本 😀", ""])
def test_text_is_shown_as_it_is(plain: Display, text: str) -> None:
    plain.say(text)
    assert shown(plain) == [text]


def test_a_terminal_shows_any_text_and_is_left_clean(tmp_path: Path) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100, highlight=False)
    display = Display(tmp_path / "log.txt", terminal)
    display.begin("batch [1/2] of [/b]", 10.0)
    display.event({"event": "asked", "position": 1, "of": 2})
    display.event({"event": "say", "text": "[/c] {braces} :heart:"})
    assert display.live is not None
    display.live.refresh()
    display.end("done [/d]")
    assert display.live is None
    text = "\n".join(shown(display))
    assert "[/c] {braces}" in text
    assert "batch [1/2] of [/b]: done [/d]" in text
    assert "about 10 s left" in text
    display.end()  # a second end, as after an interruption, says nothing
    assert "\n".join(shown(display)) == text
    assert "[/c] {braces} :heart:" in (tmp_path / "log.txt").read_text()


def test_a_kind_not_measured_yet_is_estimated_from_scoring() -> None:
    estimate = Estimate()
    estimate.done("score", 10, 5.0)  # half a second a fact
    assert estimate.left([("train", 10)]) == pytest.approx(ROUGHLY["train"] * 0.5 * 10)
    estimate.done("train", 10, 7.0)
    assert estimate.left([("train", 10)]) == pytest.approx(7.0), "what was measured counts"
