"""mergekit sorts a task vector for every merge that drops its smallest entries; a search merges the same one again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MOST = 2 * 10**9
"""Bytes of orders that are kept."""


class Orders:
    """The orders of the tensors that were sorted, by their content."""

    def __init__(self) -> None:
        self.known: dict[Any, Any] = {}
        self.bytes = 0

    def argsort(self, tensor: Any, **options: Any) -> Any:
        """``torch.argsort``; of a tensor on the CPU that was sorted before, the order found then."""
        import torch
        import xxhash

        if tensor.device.type != "cpu":
            return torch.argsort(tensor, **options)
        key = (
            xxhash.xxh3_128_digest(tensor.contiguous().view(torch.uint8).numpy()),
            tensor.shape,
            *sorted(options.items()),
        )
        if key not in self.known:
            order = torch.argsort(tensor, **options).to(torch.int32)
            if self.bytes + order.nbytes > MOST:
                return order.long()
            self.known[key] = order
            self.bytes += int(order.nbytes)
        return self.known[key].long()


class _Torch:
    """torch, but for ``argsort``."""

    def __init__(self, orders: Orders):
        self.argsort = orders.argsort

    def __getattr__(self, name: str) -> Any:
        import torch

        return getattr(torch, name)


@contextmanager
def sorted_once(orders: Orders) -> Iterator[None]:
    """Inside, mergekit asks ``orders`` (mergekit 0.1.5, sparsify.py:74 and 164: ``torch.argsort``)."""
    from mergekit import sparsify

    own = sparsify.torch
    sparsify.torch = _Torch(orders)
    try:
        yield
    finally:
        sparsify.torch = own
