"""A loaded model's layers as a list that can be laid out anew, and what its lower ones give, remembered."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch

LAYER = re.compile(r"^(.*?)\.(\d+)\.")
"""``model.layers.3.mlp.up_proj.weight``: the list's name and the layer's number."""


class NoLayers(ValueError):
    """Tensors that do not lie in one list of layers."""


class Stack:
    """The layers of ``model``."""

    def __init__(self, model: Any, names: Iterable[str]):
        """``names``: of the tensors that may change; all lie in layers, else NoLayers is raised."""
        found = {name: LAYER.match(name) for name in names}
        if outside := next((name for name, at in found.items() if at is None), None):
            raise NoLayers(f"{outside}, which training touches, is in no layer")
        self.prefix = next(at[1] for at in found.values() if at)
        self.first = min(int(at[2]) for at in found.values() if at)
        """The lowest layer that may change."""
        self.model = model
        self.own: list[Any] = list(model.get_submodule(self.prefix))
        """The model's layers as they were."""

    def of(self, other: Any) -> list[Any]:
        """The layers of another model of the same kind."""
        return list(other.get_submodule(self.prefix))

    def lay(self, layers: Sequence[Any]) -> None:
        """The model goes through these from now on."""
        holder, _, name = self.prefix.rpartition(".")
        setattr(self.model.get_submodule(holder), name, torch.nn.ModuleList(layers))
        self.model.config.num_hidden_layers = len(layers)


class Remembered(torch.nn.Module):
    """A layer that answers for itself and all below it, once it was asked about a group of prompts."""

    def __init__(self, layer: Any):
        super().__init__()
        self.layer = layer
        self.group: int | None = None
        """Which prompts come next."""
        self.given: dict[int, Any] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        assert self.group is not None, "a group is named before it is asked about"
        if self.group not in self.given:
            self.given[self.group] = self.layer(*args, **kwargs)
        return self.given[self.group]

    def __getattr__(self, name: str) -> Any:
        """A model may ask a layer for its attention's kind."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)
