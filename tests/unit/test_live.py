"""The two live lines, the standing in words, and the time left."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from kedit_glue import live
from kedit_glue.live import Lines
from kedit_glue.standing import ROUGHLY, Estimate, Standing, clock, duration, roughly

STANDING = Standing("batch_003/train", 12, 53, 3, 10, 12, 50, 250.0, 12_300_000_000)
STEP = "5 of 10 learned, loss 0.123, 17 steps, epoch 2 of at most 20"


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock_at(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(live.time, "monotonic", made.monotonic)
    return made


def drawn(lines: Lines, width: int, encoding: str = "utf-8") -> list[str]:
    """What a terminal of that width shows."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace", newline="")
    console = Console(file=file, force_terminal=True, color_system=None, legacy_windows=False, width=width)
    console.print(lines)
    file.flush()
    return file.buffer.getvalue().decode(encoding).splitlines()  # type: ignore[attr-defined]


def lines_of(
    title: str = "batch 3 of 10: train",
    note: str = STEP,
    done: float | None = 0.4,
    left: float | None = 250.0,
    standing: Standing | None = STANDING,
) -> Lines:
    made = Lines(title, left, standing)
    made.note, made.done = note, done
    return made


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (
            120,
            [
                "━━━━                 batch 3 of 10 · 12 of 50 facts learned · about 3 min left · 12.3 GB free",
                "━━━━━━━━             train: 5 of 10 learned, loss 0.123, 17 steps, epoch 2 of at most 20 · 1:12",
            ],
        ),
        (
            80,
            [
                "━━           batch 3/10 · 12/50 learned · 3 min left · 12.3 GB free",
                "━━━━╸        train: 5 of 10 learned, loss 0.123, 17 steps, epoch 2 of a… · 1:12",
            ],
        ),
        (
            60,
            [
                "╸    batch 3/10 · 12/50 learned · 3 min left · 12.3 GB free",
                "━╸   train: 5 of 10 learned, loss 0.123, 17 steps, … · 1:12",
            ],
        ),
        (30, ["batch 3/10 · 3 min left", "train: 5 of 10 learne… · 1:12"]),
    ],
)
def test_two_lines_at_every_width(clock_at: Clock, width: int, expected: list[str]) -> None:
    lines = lines_of()
    clock_at.now += 72
    assert drawn(lines, width) == expected


@pytest.mark.parametrize("width", [1, 2, 8, 20, 47, 48, 60, 71, 72, 80, 99, 100, 120, 300])
@pytest.mark.parametrize(
    "note", ["", STEP, "x" * 2000, "日本" * 300, "two\nlines\tand \x1b[31mred\x1b[0m\r\x00", "[/b] :heart: {{ 7*7 }}"]
)
@pytest.mark.parametrize("standing", [STANDING, replace(STANDING, batch=None), None])
def test_no_line_is_wrapped(clock_at: Clock, width: int, note: str, standing: Standing | None) -> None:
    lines = lines_of(title="batch 3 of 10: train " + "long " * 50, note=note, done=None, standing=standing)
    found = drawn(lines, width)
    assert len(found) == (1 if standing is None else 2)
    assert all(cell_len(line) <= width for line in found)
    assert "\x1b" not in "".join(found)


def test_large_numbers_leave_the_disk_out_first(clock_at: Clock) -> None:
    large = replace(STANDING, batch=312, batches=1000, learned=3110, facts=10000, disk_free=812 * 10**9)
    assert drawn(lines_of(standing=large, left=97000.0), 80)[0].endswith(
        "batch 312/1000 · 3110/10000 learned · 26 h 57 min left"
    )


def test_before_the_first_batch_and_before_anything_is_known(clock_at: Clock) -> None:
    early = replace(STANDING, number=1, batch=None, learned=0, left=None)
    found = drawn(lines_of("original model: score edits", note="", standing=early, left=None), 100)
    assert found[0].strip() == "before batch 1 of 10 · 0 of 50 facts learned · 12.3 GB free"
    assert found[1].endswith("original model: score edits · 0:00")


def test_a_stage_without_a_standing_has_a_line_of_its_own(clock_at: Clock) -> None:
    [line] = drawn(lines_of("facts: tokenizer", note="", standing=None, left=None), 60)
    assert line.endswith("facts: tokenizer · 0:00")
    [line] = drawn(lines_of("facts: tokenizer", note="", standing=None, left=100.0), 60)
    assert line.endswith("facts: tokenizer · 0:00 · about 2 min left")


def test_the_time_left_counts_down_and_goes_when_it_is_used_up(clock_at: Clock) -> None:
    lines = lines_of(left=100.0)
    assert " about 2 min left " in drawn(lines, 120)[0]
    clock_at.now += 40
    assert " about 60 s left " in drawn(lines, 120)[0]
    clock_at.now += 61
    assert "left" not in drawn(lines, 120)[0]
    assert drawn(lines, 120)[1].endswith("1:41")


def test_a_terminal_without_unicode_gets_plain_signs(clock_at: Clock) -> None:
    first, second = drawn(lines_of(), 120, encoding="ascii")
    assert first.endswith("batch 3 of 10 | 12 of 50 facts learned | about 4 min left | 12.3 GB free")
    assert second.startswith("--------") and "?" not in first + second


@pytest.mark.parametrize(
    ("settings", "cleared"), [({}, 2), ({"XTERM_VERSION": "1"}, 0), ({"STY": "1", "TMUX": "x"}, 2)]
)
def test_rows_that_a_narrower_terminal_folded_are_cleared(
    clock_at: Clock, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], cleared: int
) -> None:
    for name in ("TMUX", "XTERM_VERSION", "STY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    lines = lines_of()
    up_and_clear = "\x1b[1A\x1b[2K"
    assert "\x1b" not in "".join(drawn(lines, 120))  # 93 and 96 columns
    assert "".join(drawn(lines, 60)).count(up_and_clear) == cleared
    assert "\x1b" not in "".join(drawn(lines, 60)), "once"
    assert "\x1b" not in "".join(drawn(lines, 120)), "a wider terminal folds nothing"


# -- in words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("standing", "expected"),
    [
        (STANDING, "stage 12 of 53, 12 of 50 facts learned, about 4 min left, 12.3 GB free"),
        (replace(STANDING, left=None), "stage 12 of 53, 12 of 50 facts learned, 12.3 GB free"),
    ],
)
def test_a_standing_in_a_line(standing: Standing, expected: str) -> None:
    assert standing.in_a_line() == expected


def test_the_share_of_a_run_is_of_the_stages_before() -> None:
    assert replace(STANDING, number=1).share == 0.0
    assert replace(STANDING, number=27, stages=52).share == 0.5


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"), (8.4, "8 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3599, "59 min 59 s"),
        (3599.7, "1 h 00 min"), (7500, "2 h 05 min"), (90000, "25 h 00 min"),
    ],
)  # fmt: skip
def test_duration(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.2, "1 s"), (8.4, "8 s"), (89.4, "89 s"), (90, "2 min"), (200, "3 min"), (5369, "89 min"),
        (5400, "1 h 30 min"), (7500, "2 h 05 min"), (90000, "25 h 00 min"), (273600, "3 days 4 h"),
    ],
)  # fmt: skip
def test_an_estimate_is_said_roughly(seconds: float, expected: str) -> None:
    assert roughly(seconds) == expected


@pytest.mark.parametrize(("seconds", "expected"), [(8.9, "0:08"), (200, "3:20"), (7500, "2:05:00")])
def test_clock(seconds: float, expected: str) -> None:
    assert clock(seconds) == expected


# -- time left ----------------------------------------------------------------------------------


def pending(estimate: Estimate, *stages: tuple[str, int]) -> Estimate:
    for kind, size in stages:
        estimate.expect(kind, size)
    return estimate


def test_nothing_is_promised_while_a_kind_is_unknown() -> None:
    assert Estimate().left() == 0.0
    estimate = pending(Estimate(), ("train", 10))
    assert estimate.left() is None
    estimate.done("train", 10, 30.0)
    assert estimate.left() == pytest.approx(30.0)
    assert pending(estimate, ("score", 10)).left() is None
    estimate.done("score", 10, 5.0)
    assert estimate.left() == pytest.approx(35.0)


def test_what_was_announced_is_no_longer_to_do_when_it_is_done() -> None:
    estimate = pending(Estimate(), ("score", 10), ("merge", 1), ("score", 20), ("merge", 1))
    estimate.done("score", 10, 5.0, expected=True)
    assert estimate.left() == pytest.approx(10.0 + 2 * ROUGHLY["merge"] * 0.5)
    estimate.done("merge", 1, 3.0, expected=True)
    assert estimate.left() == pytest.approx(10.0 + 3.0)
    estimate.done("score", 20, 10.0, expected=True)
    estimate.done("merge", 1, 3.0, expected=True)
    assert estimate.left() == 0.0


def test_time_left_grows_with_the_size() -> None:
    estimate = pending(Estimate(), ("score", 40))
    estimate.done("score", 10, 5.0)
    assert estimate.left() == pytest.approx(20.0)
    assert pending(estimate, ("score", 20)).left() == pytest.approx(30.0)
    estimate.done("score", 30, 35.0)  # 40 facts took 40 s
    assert estimate.left() == pytest.approx(60.0)


def test_a_stage_without_a_size_counts_as_one() -> None:
    estimate = pending(Estimate(), ("merge", 0), ("merge", 1))
    estimate.done("merge", 0, 4.0)
    assert estimate.left() == pytest.approx(8.0)


def test_a_kind_not_measured_yet_is_estimated_from_scoring() -> None:
    estimate = pending(Estimate(), ("train", 10))
    estimate.done("score", 10, 5.0)  # half a second a fact
    assert estimate.left() == pytest.approx(ROUGHLY["train"] * 0.5 * 10)
    estimate.done("train", 10, 7.0)
    assert estimate.left() == pytest.approx(7.0), "what was measured counts"
