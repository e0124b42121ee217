"""A mini-batch's samples one by one: each one's own loss, and a part of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

IGNORED = -100


def sample_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood per target token of each sample.

    ``logits`` [batch, tokens, vocabulary], ``labels`` [batch, tokens] with -100 where no loss is
    taken; returns float32 [batch] in nats, 0 for a row without targets.
    """
    shifted = labels[:, 1:]
    wanted = shifted != IGNORED
    token_loss = torch.nn.functional.cross_entropy(logits[:, :-1][wanted].float(), shifted[wanted], reduction="none")
    rows = wanted.nonzero()[:, 0]
    total = torch.zeros(labels.shape[0], device=labels.device).index_add_(0, rows, token_loss)
    return total / wanted.sum(dim=1).clamp(min=1)


def texts_of(batch: Mapping[str, torch.Tensor]) -> list[tuple[int, ...]]:
    """Each sample's token ids, padding left out: what tells the samples of a data set apart."""
    pairs = zip(batch["input_ids"].tolist(), batch["attention_mask"].tolist(), strict=True)
    return [tuple(i for i, kept in zip(row, real, strict=True) if kept) for row, real in pairs]


def prompt_of(tokenizer: Any, ids: Sequence[int], labels: Sequence[int], prompt: str) -> tuple[str, str] | None:
    """What training puts before and behind a sample's prompt; None where the prompt is not what its tokens say."""
    said = [i for i, label in zip(ids, labels, strict=True) if label == IGNORED]
    before, found, behind = tokenizer.decode(said, clean_up_tokenization_spaces=False).rpartition(prompt)
    return (before, behind) if found else None


def some_of(batch: Mapping[str, Any], places: Sequence[int]) -> dict[str, Any]:
    """These samples of a mini-batch (tensors [batch, tokens], ``attention_mask`` among them), less what pads all."""
    shape = batch["attention_mask"].shape
    filled = batch["attention_mask"][list(places)].any(dim=0)
    return {
        name: value[list(places)][:, filled] if torch.is_tensor(value) and value.shape == shape else value
        for name, value in batch.items()
    }
