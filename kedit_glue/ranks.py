"""Processes that train together: which of them this is, and what the others have to say."""

from __future__ import annotations

from typing import Any

import torch


def processes() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def process_number() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def gathered(own: Any) -> list[Any]:
    """What each process has to say, in their order."""
    if processes() == 1:
        return [own]
    everyone: list[Any] = [None] * processes()
    torch.distributed.all_gather_object(everyone, own)
    return everyone


def said_by_first(own: Any) -> Any:
    """What the first process has to say, to everybody."""
    if processes() == 1:
        return own
    said = [own]
    torch.distributed.broadcast_object_list(said, src=0)
    return said[0]


def active_wrapper() -> Any:
    """The DistributedDataParallel whose forward pass this is, None in a single process.

    The trainer hands callbacks the bare model only (transformers 5.6.0, trainer.py); torch's own compiler asks the
    same way (torch 2.11, nn/parallel/distributed.py, _get_active_ddp_module).
    """
    if processes() == 1:
        return None
    return torch.nn.parallel.DistributedDataParallel._get_active_ddp_module()
