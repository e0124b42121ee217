"""What a person sees while a run works."""

from __future__ import annotations

import errno
import io
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kedit_glue import progress
from kedit_glue.progress import Display, Standing, sentence, share

SENTENCES: list[tuple[Mapping[str, Any], str | None]] = [
    (
        {"event": "trainable", "parameters": 1234567, "of": 9000000, "tensors": 3, "first": "model.layers.4.mlp.x"},
        "training 1,234,567 of 9,000,000 parameters (3 tensors, the first is model.layers.4.mlp.x)",
    ),
    (
        {"event": "step", "epoch": 2, "epochs": 20, "steps": 17, "loss": 0.12345},
        "loss 0.123, 17 steps, epoch 2 of at most 20",
    ),
    (
        {"event": "step", "epoch": 2, "epochs": 20, "steps": 17, "loss": 0.12345, "learned": 3, "facts": 10},
        "3 of 10 learned, loss 0.123, 17 steps, epoch 2 of at most 20",
    ),
    (
        {"event": "trained", "learned": 9, "of": 10, "steps": 55, "epochs": 6},
        "9 of 10 facts learned in 55 steps, 6 epochs",
    ),
    ({"event": "asked", "position": 32, "of": 100}, "asked 32 of 100 prompts"),
    ({"event": "generated", "position": 32, "of": 100}, "generated 32 of 100 answers"),
    ({"event": "judged", "position": 3, "of": 10}, "judged 3 of 10 answers"),
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
    assert str(sentence(event)).startswith("loss nan, ")


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


STANDING = Standing("batch_003/train", 12, 53, 3, 10, 12, 50, 250.0, 12_300_000_000)


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
        "batch 1 of 4: train … (about 2 min left)",
        "  2 of 2 facts learned in 3 steps, 1 epochs",
        "batch 1 of 4: train: done in 3 s",
    ]


def test_steps_are_shown_once_in_a_while(plain: Display, clock: Clock) -> None:
    plain.begin("train", None)
    for _ in range(25):
        clock.now += 1.0
        plain.event(STEP)
    assert shown(plain) == ["train …"] + ["  loss 0.500, 3 steps, epoch 1 of at most 2"] * 2


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


def test_a_stage_begins_with_where_the_run_stands(plain: Display, clock: Clock) -> None:
    plain.begin("batch 3 of 10: train", STANDING.left, STANDING)
    line = "batch 3 of 10: train … (stage 12 of 53, 12 of 50 facts learned, about 4 min left, 12.3 GB free)"
    assert shown(plain) == [line]
    assert plain.log is not None and plain.log.read_text(encoding="utf-8")[20:] == f"{line}\n"


# -- live -----------------------------------------------------------------------------------------


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Display:
    for name in ("CI", "NO_COLOR", "TTY_INTERACTIVE", "TTY_COMPATIBLE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return Display(tmp_path / "log.txt", Console(file=io.StringIO(), force_terminal=True, width=100, highlight=False))


def test_a_terminal_shows_any_text_and_is_left_clean(terminal: Display, tmp_path: Path) -> None:
    terminal.begin("batch [1/2] of [/b]", 10.0)
    terminal.event({"event": "asked", "position": 1, "of": 2})
    assert terminal.live is not None
    terminal.live.refresh()
    terminal.event({"event": "say", "text": "[/c] {braces} :heart:"})
    terminal.live.refresh()
    terminal.end("done [/d]")
    assert terminal.live is None
    text = "\n".join(shown(terminal))
    assert "batch [1/2] of [/b]: asked 1 of 2 prompts · 0:00 · about 10 s left" in text
    assert "[/c] {braces} :heart:" in text
    assert "batch [1/2] of [/b]: done [/d]" in text
    assert text.endswith("batch [1/2] of [/b]: done [/d]")
    terminal.end()  # a second end, as after an interruption, says nothing
    assert "\n".join(shown(terminal)) == text
    assert "[/c] {braces} :heart:" in (tmp_path / "log.txt").read_text()


def test_a_line_that_stays_is_printed_above_the_live_ones(terminal: Display) -> None:
    terminal.begin("batch 3 of 10: train", 250.0, STANDING)
    terminal.event(STEP)
    terminal.say("stays")
    terminal.end()
    text = terminal.console.file.getvalue()  # type: ignore[attr-defined]
    before, _, after = text.partition("stays\n")
    assert "12 of 50 facts learned" in before and "loss 0.500" in after
    assert after.endswith("\x1b[1A\x1b[2K" * 2), "both lines are gone at the end"


@pytest.mark.parametrize("setting", [("CI", "true"), ("NO_COLOR", "1"), ("TERM", "dumb")])
def test_plain_lines_where_nothing_may_be_drawn_over(
    terminal: Display, monkeypatch: pytest.MonkeyPatch, setting: tuple[str, str]
) -> None:
    monkeypatch.setenv(*setting)
    display = Display(None, Console(file=io.StringIO(), force_terminal=True, width=100, highlight=False))
    display.begin("train")
    display.event({"event": "say", "text": "two"})
    display.end("done")
    assert shown(display) == ["train …", "  two", "train: done"]


# -- events.jsonl -----------------------------------------------------------------------------------


@pytest.fixture
def told(plain: Display, tmp_path: Path) -> Display:
    plain.events = tmp_path / "events.jsonl"
    return plain


def events(display: Display) -> list[dict[str, Any]]:
    """Without their times, which are asserted to be there."""
    assert display.events is not None

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    found = [json.loads(line, parse_constant=refuse) for line in display.events.read_text("utf-8").splitlines()]
    assert all(event.pop("time") > 0 for event in found)
    return found


def test_every_event_of_a_run_is_a_line(told: Display) -> None:
    told.tell("run_started", recipe=Path("try.yaml"))
    told.begin("facts: tokenizer")
    told.event({"time": 5.0, "event": "started", "pid": 7})
    told.end()
    told.begin("batch 3 of 10: train", 250.0, STANDING)
    told.event(STEP)
    told.event({"event": "new in a later version", "x": float("inf")})
    told.end("done in 3 s")
    told.tell("stage_finished", stage="batch_003/train", seconds=3.2, result={"loss": float("nan"), "learned": 2})
    told.tell("stage_adopted", stage="batch_003/merge", taken_from="other")
    told.tell("run_finished", scores={"edit_success": 0.9})
    standing = {
        "stage": "batch_003/train", "number": 12, "stages": 53, "batch": 3, "batches": 10, "learned": 12, "facts": 50,
        "left": 250.0, "disk_free": 12_300_000_000,
    }  # fmt: skip
    begun = {"title": "batch 3 of 10: train", "batch": 3, "standing": standing}
    first = {"stage": None, "title": "facts: tokenizer", "batch": None, "standing": None}
    assert events(told) == [
        {"event": "run_started", "run": told.run_id, "recipe": "try.yaml"},
        {"event": "stage_started", **first},
        {"event": "started", "stage": None, "pid": 7},
        {"event": "stage_started", "stage": "batch_003/train", **begun},
        {**STEP, "stage": "batch_003/train"},
        {"event": "new in a later version", "stage": "batch_003/train", "x": None},
        {"event": "stage_finished", "stage": "batch_003/train", "seconds": 3.2, "result": {"loss": None, "learned": 2}},
        {"event": "stage_adopted", "stage": "batch_003/merge", "taken_from": "other"},
        {"event": "run_finished", "run": told.run_id, "scores": {"edit_success": 0.9}},
    ]


@pytest.mark.parametrize("text", ["two\nlines", "日本 \U0001f600 \u2028", "half a pair \ud800", '"\\ \x00\t', ""])
def test_any_text_is_one_line(told: Display, text: str) -> None:
    told.console = Console(file=io.StringIO(), width=200)
    told.say(text)
    told.say("next")
    assert events(told) == [{"event": "said", "text": text}, {"event": "said", "text": "next"}]


def test_events_are_added_to_and_each_run_has_its_id(told: Display) -> None:
    told.tell("run_started")
    later = Display(None, Console(file=io.StringIO()))
    later.events = told.events
    later.tell("run_started")
    assert [event["run"] for event in events(told)] == [told.run_id, later.run_id]
    assert told.run_id != later.run_id


def test_a_line_that_an_earlier_run_did_not_finish_stands_alone(told: Display) -> None:
    assert told.events is not None
    told.events.write_bytes(b'{"event": "run_started"}\n{"event": "sa')
    told.say("on we go")
    first, half, last = told.events.read_text().splitlines()
    assert half == '{"event": "sa' and json.loads(first) and json.loads(last)["text"] == "on we go"


FULL = Path("/dev/full")
full_disk = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")


@full_disk
def test_a_full_disk_is_said_once_and_hides_no_other_error(told: Display) -> None:
    told.events = FULL
    with pytest.raises(OSError, match="No space left on device: '/dev/full'") as full:
        told.tell("stage_started", stage="batch_001/train")
    assert full.value.errno == errno.ENOSPC
    told.tell("stage_failed", stage="batch_001/train", error="the tool's own complaint")
    told.tell("run_interrupted")
    with pytest.raises(OSError):
        told.event(STEP)


def test_a_line_that_was_cut_off_by_a_full_disk_is_ended_by_the_next(
    told: Display, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first write takes half of the line, the second none of it, as on a disk that fills up."""
    assert told.events is not None
    told.say("before")
    usual = Path.open

    class Filling(io.FileIO):
        def write(self, data: Any) -> int:
            if self.tell() > self.began:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(bytes(data)[: len(data) // 2])

    def filling(path: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
        if mode != "ab":
            return usual(path, mode, *more, **named)
        file = Filling(path, "ab")
        file.began = path.stat().st_size
        return file

    monkeypatch.setattr(Path, "open", filling)
    with pytest.raises(OSError, match="No space left"):
        told.tell("said", text="cut off")
    monkeypatch.undo()
    told.say("after")
    first, half, last = told.events.read_text().splitlines()
    assert (json.loads(first)["text"], json.loads(last)["text"]) == ("before", "after")
    with pytest.raises(ValueError):
        json.loads(half)


def test_a_step_takes_little_room(told: Display) -> None:
    told.stage = "batch_001/train"
    told.event({"time": 1700000000.123, **STEP, "position": 3, "of": 200, "learned": 3, "facts": 10})
    assert told.events is not None and told.events.stat().st_size < 200
