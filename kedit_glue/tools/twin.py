"""Copies of a model that share its tensors: each may be trained, wrapped or hooked, and thrown away."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def twin(model: Any, own: Mapping[str, Any]) -> Any:
    """A model with modules, configuration and hooks of its own and ``model``'s parameters, but for those in ``own``.

    ``own``: name -> value, which becomes the twin's; it is brought to the parameter's device and number format. No
    other parameter may be written to: its memory is ``model``'s. Buffers are copied.
    """
    import torch

    memo: dict[int, Any] = {}
    for name, parameter in model.named_parameters():
        value = own[name].to(parameter.device, parameter.dtype) if name in own else parameter.data
        memo[id(parameter)] = torch.nn.Parameter(value, parameter.requires_grad)
    for _, buffer in model.named_buffers():
        memo[id(buffer)] = buffer.clone()
    return copy.deepcopy(model, memo)


def touched(model: Any, trainable: str) -> dict[str, Any]:
    """Name -> parameter of ``model``, of those that the regular expression ``trainable`` finds."""
    import re

    pattern = re.compile(trainable)
    return {name: parameter.data for name, parameter in model.named_parameters() if pattern.search(name)}


def clones(tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def first_difference(model: Any, folder: Path) -> str | None:
    """A parameter of ``model`` that has other bits than the tensor of its name in ``folder``; None: there is none."""
    import torch

    from kedit_glue.weights import Weights

    stored = Weights(folder)
    for name, parameter in model.named_parameters():
        if name in stored and not torch.equal(bits(parameter.data.cpu()), bits(stored[name].to(parameter.dtype))):
            return str(name)
    return None


def bits(tensor: Any) -> Any:
    """A tensor's bytes: NaN equals itself, and 0 is not -0."""
    import torch

    return tensor.contiguous().view(-1).view(torch.uint8)
