"""What modules read while a model reads texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch


def watch_inputs(
    model: torch.nn.Module,
    owners: Mapping[str, torch.nn.Module],
    batches: Iterable[Mapping[str, torch.Tensor]],
    take: Callable[[str, torch.Tensor], None],
) -> dict[str, str]:
    """``take(name, rows)`` for each batch and each of ``owners``: its inputs [tokens, inputs], padding left out.

    ``batches``: ``input_ids`` and ``attention_mask`` on the model's device, and ``counted`` where not all tokens that
    are read are to be taken. Modules that read the same tensor
    (``gate_proj``, ``up_proj``) are taken once; returned is who reads the input of whom. Raises ValueError for modules
    that see some of the tokens only.
    """
    same: dict[str, str] = {}
    real = torch.zeros(0, dtype=torch.bool)  # which positions of the current batch are no padding
    latest: dict[str, Any] = {"input": None, "name": ""}

    def watch(name: str) -> Any:
        def hook(module: Any, arguments: tuple[Any, ...]) -> None:
            inputs = arguments[0]
            if inputs is latest["input"]:
                same[name] = latest["name"]
                return
            if inputs.shape[:2] != real.shape:
                raise ValueError(
                    f"{name} reads a tensor of shape {list(inputs.shape)} where the batch has "
                    f"{list(real.shape)} tokens: experts that see some tokens only have no moments"
                )
            latest["input"], latest["name"] = inputs, name
            take(name, inputs[real])

        return hook

    handles = [module.register_forward_pre_hook(watch(name)) for name, module in owners.items()]
    try:
        with torch.no_grad():
            for batch in batches:
                real = batch.get("counted", batch["attention_mask"]).bool()
                model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    finally:
        for handle in handles:
            handle.remove()
    return same
