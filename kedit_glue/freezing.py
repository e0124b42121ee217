"""Which parameters of a model are trained."""

from __future__ import annotations

import re

import torch


def freeze_all_but(model: torch.nn.Module, trainable: str, matrices: bool = False) -> tuple[int, list[str]]:
    """Narrow ``requires_grad`` to the parameters the expression finds; returns their count and names.

    ``matrices``: leave biases and norms alone as well; a change of theirs reaches every input, protected or not.

    A parameter that LLaMA-Factory made ready for training (float32: 0.9.5, model/adapter.py:140) and that is
    not trained after all gets its number format back.
    """
    pattern = re.compile(trainable)
    stored = next((p.dtype for p in model.parameters() if not p.requires_grad), next(model.parameters()).dtype)
    names = []
    count = 0
    for name, parameter in model.named_parameters():
        if not pattern.search(name) or (matrices and parameter.ndim < 2):
            if parameter.requires_grad:
                parameter.data = parameter.data.to(stored)
            parameter.requires_grad_(False)
        elif parameter.requires_grad:
            names.append(name)
            count += parameter.numel()
    if not names:
        raise ValueError(
            f"no parameter that LLaMA-Factory left trainable matches {trainable!r}: "
            "check train.modules and train.layers against the model's parameter names"
        )
    return count, names
