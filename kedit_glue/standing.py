"""How far a run is, how long the rest will take, and both in words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from kedit_glue import environment


@dataclass(frozen=True)
class Standing:
    """Where a run stands when a stage begins."""

    stage: str
    """Its name: ``batch_001/train``."""
    number: int
    """Its position among all stages of the plan, the first is 1."""
    stages: int
    batch: int | None
    """None before the first batch."""
    batches: int
    learned: int | None
    """Facts learned so far, over all batches; None for a method that does not say."""
    facts: int
    left: float | None
    """Seconds for everything that is still to do, this stage included; None while nothing can be said."""
    disk_free: int
    """Bytes."""

    @property
    def share(self) -> float:
        """Of the run's stages those that are done, 0 to 1."""
        return (self.number - 1) / max(self.stages, 1)

    def in_words(self, left: float | None) -> list[str]:
        """Batch, facts, time and disk; ``left`` is what remains of the estimate by now."""
        batch = f"batch {self.batch} of {self.batches}" if self.batch else f"before batch 1 of {self.batches}"
        time = [f"about {roughly(left)} left"] if left is not None else []
        facts = [f"{self.learned} of {self.facts} facts learned"] if self.learned is not None else []
        return [batch, *facts, *time, f"{environment.size(self.disk_free)} free"]

    def in_brief(self, left: float | None) -> list[str]:
        """The same for a narrow terminal."""
        batch = f"batch {self.batch}/{self.batches}" if self.batch else f"batch -/{self.batches}"
        time = [f"{roughly(left)} left"] if left is not None else []
        facts = [f"{self.learned}/{self.facts} learned"] if self.learned is not None else []
        return [batch, *facts, *time, f"{environment.size(self.disk_free)} free"]

    def in_a_line(self) -> str:
        """For a log, beside a stage's title, which names the batch."""
        return ", ".join([f"stage {self.number} of {self.stages}", *self.in_words(self.left)[1:]])


def duration(seconds: float) -> str:
    """A measured time: ``8 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def roughly(seconds: float) -> str:
    """An estimated time, no finer than it deserves: ``40 s``, ``4 min``, ``2 h 05 min``, ``3 days 4 h``."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} days {minutes % 1440 // 60} h"


def clock(seconds: float) -> str:
    """``0:08``, ``3:20``, ``2:05:00``."""
    minutes, whole = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{whole:02d}" if minutes >= 60 else f"{minutes}:{whole:02d}"


ROUGHLY = {"train": 4.0, "merge": 4.0, "project": 4.0, "regmean": 8.0, "protect": 100.0, "general": 40.0}
ROUGHLY |= {"independent": 24.0, "moments": 100.0, "editor": 300.0}
ROUGHLY |= {"ft_l": 4.0, "ft_m": 4.0, "adalora": 12.0, "rome": 75.0, "memit": 25.0, "emmet": 28.0}
ROUGHLY |= {"mend": 1.0, "serac": 0.1, "ice": 0.1}
"""Seconds a unit of each kind (``Stage.pace``) takes, in seconds that scoring a fact takes: the demo's and
docs/methods.md's, until it was measured."""


class Estimate:
    """Time left, from the mean duration of finished stages of the same kind; every call takes the same short time."""

    def __init__(self) -> None:
        self.pending: Counter[str] = Counter()
        """Units (facts worked on, 1 at least) that are still to do, of each kind."""
        self.units: dict[str, int] = {}
        self.seconds: dict[str, float] = {}

    def expect(self, kind: str, size: int) -> None:
        """A stage of this kind and size (facts it works on) is still to do."""
        self.pending[kind] += max(size, 1)

    def done(self, kind: str, size: int, seconds: float, expected: bool = False) -> None:
        """A stage took so long; ``expected``: it was announced, and is not still to do."""
        self.units[kind] = self.units.get(kind, 0) + max(size, 1)
        self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds
        if expected:
            self.pending[kind] -= max(size, 1)

    def rate(self, kind: str) -> float | None:
        """Seconds for one unit of a kind: measured, else from the seconds that scoring a fact takes, else None."""
        if kind in self.units:
            return self.seconds[kind] / self.units[kind]
        if kind in ROUGHLY and (scoring := self.rate("score")) is not None:
            return ROUGHLY[kind] * scoring
        return None

    def left(self) -> float | None:
        """Seconds for everything that is still to do; None while nothing is known of one of its kinds."""
        total = 0.0
        for kind, units in self.pending.items():
            if units <= 0:
                continue
            if (rate := self.rate(kind)) is None:
                return None
            total += rate * units
        return total
