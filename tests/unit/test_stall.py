"""Signs of life of a stage's process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kedit_glue.stall import LOOK_SECONDS, Watch


class Lab:
    """A watch over files, with a clock and a processor that the test moves."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.now = self.used = 0.0
        self.log = folder / "log"
        patch.setattr(Watch, "processor_seconds", lambda _: self.used)
        self.watch = Watch(7, [folder / "events", self.log], lambda: self.now)

    def minutes(self, count: int, work: float = 0.0) -> list[str]:
        """What is said in so many minutes, of each of which the process works ``work`` seconds."""
        said = []
        for _ in range(int(count * 60 / LOOK_SECONDS)):
            self.now += LOOK_SECONDS
            self.used += work * LOOK_SECONDS / 60
            said.append(self.watch.look())
        return [text for text in said if text]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(tmp_path, monkeypatch)


def test_silence_is_said_when_it_has_doubled(lab: Lab) -> None:
    assert lab.minutes(9) == []
    (text,) = lab.minutes(2)
    assert text == (
        "no sign of life for 10 min: process 7 reports nothing, logs nothing and takes no processor time; if it hangs, "
        "stop it with Ctrl-C: what was finished stays"
    )
    assert [text.partition(":")[0] for text in lab.minutes(70)] == [
        "no sign of life for 20 min",
        "no sign of life for 40 min",
        "no sign of life for 80 min",
    ]


def test_a_line_in_the_log_is_a_sign_of_life(lab: Lab) -> None:
    for line in range(5):
        assert lab.minutes(9) == []
        with lab.log.open("a") as log:
            log.write(f"line {line}\n")
    assert len(lab.minutes(11)) == 1
    lab.log.write_text("another file")
    assert lab.minutes(9) == [] and len(lab.minutes(2)) == 1


def test_work_is_a_sign_of_life_and_waiting_is_none(lab: Lab) -> None:
    assert lab.minutes(60, work=3) == []
    assert len(lab.minutes(15, work=0.5)) == 1


def test_it_looks_every_ten_seconds(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watch, "bytes_written", lambda _: pytest.fail("looked"))
    for _ in range(100):
        lab.now += 0.09
        assert lab.watch.look() is None


def test_processor_time_of_children_counts() -> None:
    work = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True)\ninput()"
    both = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}])"
    child = subprocess.Popen([sys.executable, "-c", both], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        watch = Watch(child.pid, [])
        assert watch.processor_seconds() >= 0.2
    finally:
        child.communicate(b"\n")
    assert watch.processor_seconds() == 0.0
    assert Watch(os.getpid(), []).processor_seconds() > 0
