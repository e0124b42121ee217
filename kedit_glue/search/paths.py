"""Data-flow space: which layer of which model comes next, and how its input is scaled. Pure.

Akiba et al. 2024, section 3.2: all models' layers are laid out one after another, r times; an indicator array of
T = M r numbers (M: layers of all models) says which of them a token goes through, and W, [M, M], scales what layer j is
given by layer i.

A weight file cannot scale a layer's input, but what the layer adds: with pre-norm layers, which see their input's
direction only (RMSNorm but for its epsilon), scaling the input of every layer up to here by w1, w2, ... wk is the same
as dividing what the layer adds by their product. So ``scale`` stands at the matrices that write into the residual
stream, and stock mergekit does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kedit_glue.merging import MergeRefused
from kedit_glue.search.genome import Gene

SCALES = (0.95, 1.05)
"""The range of W's entries, searched by their logarithms; 1 in the middle."""
WRITERS = ("o_proj", "down_proj", "c_proj", "dense_4h_to_h", "attention.dense", "fc2", "out_proj")
"""Matrices that write into the residual stream, by the names that models give them."""
AFTER_NORMS = ("post_feedforward_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm")
"""Norms between such a matrix and the stream: they undo its scale."""


class NoPath(ValueError):
    """These numbers say no data flow that can be run."""


@dataclass(frozen=True)
class Step:
    """One layer that tokens go through."""

    model: int
    """Its model's place in ``Layout.models``."""
    layer: int
    scale: float = 1.0
    """Of what the layer adds to the residual stream."""


@dataclass(frozen=True)
class Layout:
    """What is searched of the way through the layers of several models."""

    models: tuple[str, ...]
    layers: int
    """Of each model."""
    repetitions: int
    scaling: bool
    writers: tuple[str, ...]
    """Filters of the matrices that write into the residual stream."""
    most_layers: int
    start: int
    """The model whose layers, in their order, are the first candidate."""
    scales: tuple[float, float] = SCALES

    def __post_init__(self) -> None:
        if self.scales[0] <= 0:
            raise MergeRefused(f"merge.search.ranges.scale begins at {self.scales[0]}; allowed: a number above 0")

    @property
    def each(self) -> int:
        """M: the layers of all models."""
        return len(self.models) * self.layers

    def genes(self) -> list[Gene]:
        """The indicator array, T numbers, above a half where a layer is included; then W by rows, [M, M]."""
        found = []
        for time in range(self.repetitions):
            for model in range(len(self.models)):
                inside = time == 0 and model == self.start
                found += [
                    Gene(
                        f"time {time + 1}, model {model + 1}, layer {layer}: included", 0.0, 1.0, 0.9 if inside else 0.1
                    )
                    for layer in range(self.layers)
                ]
        if self.scaling:
            low, high = map(math.log, self.scales)
            begin = min(max(0.0, low), high)
            found += [
                Gene(f"input of {self._name(j)} behind {self._name(i)}: log scale", low, high, begin)
                for i in range(self.each)
                for j in range(self.each)
            ]
        return found

    def _name(self, at: int) -> str:
        return f"model {at // self.layers + 1}, layer {at % self.layers}"

    def path(self, shares: Sequence[float]) -> list[Step]:
        """The layers in their order; ``shares``: one for each gene, 0 to 1. Raises NoPath."""
        count = self.each * self.repetitions
        chosen = [at % self.each for at in range(count) if shares[at] > 0.5]
        if not chosen:
            raise NoPath("it goes through no layer")
        if len(chosen) > self.most_layers:
            raise NoPath(f"it goes through {len(chosen)} layers; merge.search.most_layers is {self.most_layers}")
        low, high = map(math.log, self.scales)
        steps, product = [], 0.0
        for place, at in enumerate(chosen):
            if self.scaling and place:
                share = min(max(shares[count + chosen[place - 1] * self.each + at], 0.0), 1.0)
                product += low + (high - low) * share
            steps.append(Step(at // self.layers, at % self.layers, round(math.exp(-product), 9)))
        return steps

    def config(self, shares: Sequence[float]) -> dict[str, Any]:
        """mergekit's ``passthrough`` with a slice for each run of layers that follow each other. Raises NoPath."""
        return {"merge_method": "passthrough", "slices": [self._slice(run) for run in runs(self.path(shares))]}

    def _slice(self, run: Sequence[Step]) -> dict[str, Any]:
        first = run[0]
        source: dict[str, Any] = {
            "model": self.models[first.model],
            "layer_range": [first.layer, first.layer + len(run)],
        }
        if first.scale != 1.0:
            source["parameters"] = {"scale": [{"filter": name, "value": first.scale} for name in self.writers]}
        return {"sources": [source]}


def runs(steps: Sequence[Step]) -> list[list[Step]]:
    """The steps parted where the next is not the same model's next layer with the same scale."""
    found: list[list[Step]] = []
    for step in steps:
        last = found[-1][-1] if found else None
        if last and (last.model, last.layer + 1, last.scale) == (step.model, step.layer, step.scale):
            found[-1].append(step)
        else:
            found.append([step])
    return found


def writers(shapes: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of WRITERS that a model has; empty where a norm behind them would undo their scale."""
    if any(norm in name for name in shapes for norm in AFTER_NORMS):
        return ()
    return tuple(part for part in WRITERS if any(f".{part}." in name for name in shapes))
