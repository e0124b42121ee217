"""Who chooses the next candidates: pycma, Optuna's NSGA-II, chance, or a grid. Shares of ranges, 0 to 1.

All are asked for a generation and told all of its values, in the same order: with the same seed and the same values
they choose the same candidates again, which is how a search goes on that was cut off.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

Vector = list[float]
DIAGONAL = 200
"""With more numbers CMA-ES learns a scale for each instead of the whole covariance (pycma, ``CMA_diagonal``)."""


class Optimizer(Protocol):
    """Asked and told in turns."""

    def ask(self, count: int) -> list[Vector]:
        """At most ``count`` candidates of the next generation; none: there is nothing left to try."""

    def tell(self, values: Sequence[tuple[float, ...] | None]) -> None:
        """Their objectives, higher is better; None for one that failed."""


def population(dimensions: int, asked: int | None) -> int:
    """Candidates of a generation: pycma's default, 4 + 3 ln(dimensions), where nothing is asked."""
    return asked or 4 + int(3 * math.log(max(dimensions, 1)))


def optimizer(by: str, begin: Vector, sigma: float, size: int, evaluations: int, seed: int, goals: int) -> Optimizer:
    """``begin``: the first candidate's shares; ``goals``: how many objectives there are."""
    if by == "cma_es":
        return CmaEs(begin, sigma, size, seed)
    if by == "nsga2":
        return Nsga2(begin, size, seed, goals)
    if by == "random":
        return Chance(begin, size, seed)
    return Grid(len(begin), size, evaluations)


class CmaEs:
    """Hansen's own implementation; the first candidate of all is the beginning itself.

    It draws from NumPy's global generator, which mergekit seeds anew for each merge: it gets a state of its own.
    """

    def __init__(self, begin: Vector, sigma: float, size: int, seed: int):
        import cma

        options: dict[str, Any] = {"bounds": [0, 1], "seed": seed % 2**31 + 1, "popsize": size, "verbose": -9}
        if len(begin) > DIAGONAL:
            options["CMA_diagonal"] = True
        self.drawn: Any = None
        with self._own_numbers():
            self.strategy = cma.CMAEvolutionStrategy(begin, sigma, options)
        self.strategy.inject([begin], force=True)
        self.first: Vector | None = begin
        self.asked: list[Any] = []

    @contextmanager
    def _own_numbers(self) -> Iterator[None]:
        import numpy

        others = numpy.random.get_state()
        if self.drawn is not None:
            numpy.random.set_state(self.drawn)
        try:
            yield
        finally:
            self.drawn = numpy.random.get_state()
            numpy.random.set_state(others)

    def ask(self, count: int) -> list[Vector]:
        with self._own_numbers():
            self.asked = self.strategy.ask()
        found = [[float(share) for share in vector] for vector in self.asked[:count]]
        if self.first is not None:  # pycma moves what lies near a bound
            found[0], self.first = list(self.first), None
        return found

    def tell(self, values: Sequence[tuple[float, ...] | None]) -> None:
        if len(values) < len(self.asked):
            return  # the budget's last generation is not whole
        worst = min((value[0] for value in values if value), default=0.0)
        with self._own_numbers():
            self.strategy.tell(self.asked, [-(value[0] if value else worst - 1.0) for value in values])


class Nsga2:
    """Optuna's sampler; several objectives, each candidate told by itself."""

    def __init__(self, begin: Vector, size: int, seed: int, goals: int):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.NSGAIISampler(population_size=size, seed=seed)
        self.study = optuna.create_study(directions=["maximize"] * goals, sampler=sampler)
        self.names = [f"x{at:05d}" for at in range(len(begin))]
        self.study.enqueue_trial(dict(zip(self.names, begin, strict=True)))
        self.size = size
        self.asked: list[Any] = []

    def ask(self, count: int) -> list[Vector]:
        self.asked = [self.study.ask() for _ in range(min(count, self.size))]
        return [[float(trial.suggest_float(name, 0.0, 1.0)) for name in self.names] for trial in self.asked]

    def tell(self, values: Sequence[tuple[float, ...] | None]) -> None:
        from optuna.trial import TrialState

        for trial, value in zip(self.asked, values, strict=True):
            if value is None:
                self.study.tell(trial, state=TrialState.FAIL)
            else:
                self.study.tell(trial, list(value))


class Chance:
    """Uniform over all ranges, after the beginning."""

    def __init__(self, begin: Vector, size: int, seed: int):
        self.first: Vector | None = begin
        self.length, self.size = len(begin), size
        self.random = random.Random(seed)

    def ask(self, count: int) -> list[Vector]:
        found = [[self.random.random() for _ in range(self.length)] for _ in range(min(count, self.size))]
        if self.first is not None:
            found[0], self.first = list(self.first), None
        return found

    def tell(self, values: Sequence[tuple[float, ...] | None]) -> None:
        """Chance does not learn."""


class Grid:
    """As many even steps of each number as the evaluations allow, their ends included."""

    def __init__(self, length: int, size: int, evaluations: int):
        steps = max(int(evaluations ** (1 / length) + 1e-9), 1)
        shares = [at / (steps - 1) for at in range(steps)] if steps > 1 else [0.5]
        self.left = itertools.product(shares, repeat=length)
        self.size = size

    def ask(self, count: int) -> list[Vector]:
        return [list(vector) for vector in itertools.islice(self.left, min(count, self.size))]

    def tell(self, values: Sequence[tuple[float, ...] | None]) -> None:
        """A grid does not learn."""
