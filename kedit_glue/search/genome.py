"""Parameter space: numbers between 0 and 1 to mergekit's YAML, and back. Pure.

The genome is mergekit-evolve's (mergekit 0.1.5, evo/genome.py): groups of ``layer_granularity`` layers, one set of
numbers for each filter and one for everything else, one row for each tuned model. The YAML is its form as well: one
slice for each group of layers, in the model's own order.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kedit_glue.merging import MergeMethod, MergeRefused, each_number

RANGES: Mapping[str, tuple[float, float]] = {"weight": (0.0, 1.5), "density": (0.05, 1.0), "t": (0.0, 1.0)}
"""Of the parameters that mergekit-evolve's genome knows; ``scale`` is the data flow's."""
KNOWN = {
    "linear": ("weight",),
    "task_arithmetic": ("weight",),
    "ties": ("weight", "density"),
    "dare_ties": ("weight", "density"),
    "slerp": ("t",),
}
"""Methods of mergekit-evolve's genome and the parameters that it searches (mergekit 0.1.5, evo/genome.py:15)."""


@dataclass(frozen=True)
class Gene:
    """One number that is searched."""

    name: str
    """``layers 0-4, tuned 1, gate_proj: weight``."""
    low: float
    high: float
    start: float
    """Where the search begins, between ``low`` and ``high``."""

    def value(self, share: float) -> float:
        """The parameter's value for a share of its range, 0 to 1."""
        return self.low + (self.high - self.low) * min(max(share, 0.0), 1.0)

    @property
    def begin(self) -> float:
        """The start as a share of the range."""
        return (self.start - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Genome:
    """What is searched of a merge of tuned models with an original."""

    method: MergeMethod
    original: str
    tuned: tuple[str, ...]
    layers: int
    granularity: int
    """Layers of a group; 0: all in one."""
    filters: tuple[str, ...]
    ranges: Mapping[str, tuple[float, float]]
    settings: Mapping[str, Any]
    """``merge.parameters``: where searched numbers begin, and those that stay as they are."""

    def __post_init__(self) -> None:
        if self.granularity and self.layers % self.granularity:
            fitting = ", ".join(str(n) for n in range(1, self.layers + 1) if self.layers % n == 0)
            raise MergeRefused(
                f"merge.search.layer_granularity is {self.granularity}, and the model has {self.layers} layers; "
                f"allowed: 0, {fitting}"
            )
        if not self.names:
            raise MergeRefused(
                f"merge.search finds no number to search in merge.method {self.method.name}: its parameters are "
                f"{', '.join(sorted(self.method.parameters)) or 'none'}; give the range of one in merge.search.ranges"
            )

    # -- what is searched -----------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """The searched parameters, weight first: mergekit-evolve's of the method, those that the recipe gives a range,
        and of another method's those with a range of their own, density only where ``merge.parameters`` has it.
        """
        own = KNOWN.get(self.method.name) or [name for name in RANGES if name != "density" or name in self.settings]
        return tuple(name for name in dict.fromkeys([*own, *self.ranges]) if name in self.method.parameters)

    @property
    def own(self) -> tuple[str, ...]:
        """Those of which each tuned model has one."""
        return tuple(name for name in self.names if self.method.parameters[name] != "shared")

    @property
    def shared(self) -> tuple[str, ...]:
        """Those of which a merge has one."""
        return tuple(name for name in self.names if self.method.parameters[name] == "shared")

    @property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """First layer and the one behind the last."""
        step = self.granularity or self.layers
        return tuple((first, first + step) for first in range(0, self.layers, step))

    @property
    def sets(self) -> tuple[str | None, ...]:
        """The filters, and None for everything else."""
        return (*self.filters, None)

    def genes(self) -> list[Gene]:
        """All numbers: groups, tuned models, sets, parameters, the last changing fastest; shared ones at the end."""
        found = []
        for (first, end), model, part, name in itertools.product(
            self.groups, range(1, len(self.tuned) + 1), self.sets, self.own
        ):
            where = [f"layers {first}-{end - 1}", f"tuned {model}" if len(self.tuned) > 1 else "", part or ""]
            found.append(self._gene(f"{', '.join(filter(None, where))}: {name}", name))
        for (first, end), part, name in itertools.product(self.groups, self.sets, self.shared):
            where = [f"layers {first}-{end - 1}", part or ""]
            found.append(self._gene(f"{', '.join(filter(None, where))}: {name}", name))
        return found

    def _gene(self, title: str, name: str) -> Gene:
        low, high = self.ranges.get(name) or RANGES[name]
        start = self.settings.get(name, 1.0 if name == "density" else (low + high) / 2)
        if name == "weight" and name in self.settings and self.method.base != "required":
            start = each_number(start, lambda weight: weight / len(self.tuned))  # as in a plain merge
        if isinstance(start, bool) or not isinstance(start, (int, float)):
            raise MergeRefused(
                f"merge.parameters.{name} is {start!r}: where merge.search searches {name}, it begins at one number"
            )
        if not low <= start <= high:
            if name in self.ranges:
                raise MergeRefused(
                    f"merge.parameters.{name} is {start:g}, where the search begins, and merge.search.ranges.{name} is "
                    f"[{low:g}, {high:g}]; allowed: a range that holds it"
                )
            low, high = min(low, start), max(high, start)
        return Gene(title, float(low), float(high), float(start))

    # -- as mergekit's YAML ---------------------------------------------------------------------

    def config(self, shares: Sequence[float]) -> dict[str, Any]:
        """``merge_method``, ``base_model``, ``slices`` and ``parameters``; ``shares``: one for each gene, 0 to 1."""
        values = iter([gene.value(share) for gene, share in zip(self.genes(), shares, strict=True)])
        own = [[self._sets(values, self.own) for _ in self.tuned] for _ in self.groups]
        shared = [self._sets(values, self.shared) for _ in self.groups]
        slices = [
            self._slice(layers, models, common) for layers, models, common in zip(self.groups, own, shared, strict=True)
        ]
        fixed = {name: value for name, value in self.settings.items() if name not in self.names}
        if "normalize" in self.method.parameters:
            fixed.setdefault("normalize", False)
        content: dict[str, Any] = {"merge_method": self.method.name, "slices": slices, "parameters": fixed}
        if self.method.base == "required":
            content["base_model"] = self.original
        return content

    def _sets(self, values: Any, names: Sequence[str]) -> dict[str, list[tuple[str | None, float]]]:
        """Parameter -> for each set its filter and its value, taken from ``values`` in the genes' order."""
        found: dict[str, list[tuple[str | None, float]]] = {name: [] for name in names}
        for part, name in itertools.product(self.sets, names):
            found[name].append((part, next(values)))
        return found

    def _slice(
        self, layers: tuple[int, int], models: Sequence[Mapping[str, Any]], shared: Mapping[str, Any]
    ) -> dict[str, Any]:
        original: dict[str, Any] = {"model": self.original, "layer_range": list(layers)}
        if self.method.base != "required" and "weight" in self.own:
            rest = [(part, 1.0 - sum(model["weight"][at][1] for model in models)) for at, part in enumerate(self.sets)]
            original["parameters"] = {"weight": conditional(rest)}
        tuned = [
            {
                "model": name,
                "layer_range": list(layers),
                "parameters": {key: conditional(value) for key, value in own.items()},
            }
            for name, own in zip(self.tuned, models, strict=True)
        ]
        found: dict[str, Any] = {"sources": [original, *tuned]}
        if shared:
            found["parameters"] = {key: conditional(value) for key, value in shared.items()}
        return found

    # -- as mergekit-evolve's genotype ----------------------------------------------------------

    def genotype(self, shares: Sequence[float]) -> list[Any]:
        """The parameters' values, [groups, tuned models, sets, parameters], as mergekit-evolve orders them."""
        values = iter([gene.value(share) for gene, share in zip(self.genes(), shares, strict=True)])
        return [[[[next(values) for _ in self.own] for _ in self.sets] for _ in self.tuned] for _ in self.groups]


def conditional(values: Sequence[tuple[str | None, float]]) -> Any:
    """mergekit's filters in their order, the one that fits everything last; a number where there is only that."""
    if len(values) == 1:
        return values[0][1]
    return [{"filter": part, "value": value} if part else {"value": value} for part, value in values]
