"""FT-M: fine-tuning one matrix on all tokens of the new answer, which EasyEdit's package lacks.

FT-L's loop (``easyeditor/models/ft/ft_main.py``) with the loss of EasyEdit's main for ``objective_optimization:
target_new``: cross-entropy of the answer's tokens behind the prompt (Zhang et al., A Comprehensive Study of Knowledge
Editing for Large Language Models, arXiv 2401.01286, which calls it FT-M).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kedit_glue.tools import Emit

STOP = 1e-2
"""Nats for each token: training ends under it, and a mini-batch under it is left alone (ft_main.py)."""
IGNORED = -100


def edit(model: Any, tokenizer: Any, requests: Sequence[Mapping[str, Any]], hparams: Any, emit: Emit) -> Any:
    """``model`` with the facts in the matrices that ``hparams.rewrite_module_tmp`` and ``layers`` name."""
    import torch

    ends = tuple(hparams.rewrite_module_tmp.format(layer) for layer in hparams.layers)
    trained = {name: weight for name, weight in model.named_parameters() if name in ends}
    for name, weight in model.named_parameters():
        weight.requires_grad = name in trained
    starts = {name: weight.detach().clone() for name, weight in trained.items()}
    optimizer = torch.optim.Adam(list(trained.values()), lr=hparams.lr, weight_decay=hparams.weight_decay)
    size = hparams.batch_size
    batches = [rows(tokenizer, requests[i : i + size], model.device) for i in range(0, len(requests), size)]
    for step in range(hparams.num_steps):
        total = 0.0
        for batch in batches:
            of_batch = mean_loss(model, batch)
            total += of_batch.item() * len(batch["labels"])
            if of_batch.item() >= STOP:
                optimizer.zero_grad()
                of_batch.backward()
                optimizer.step()
            if hparams.norm_constraint:
                with torch.no_grad():
                    for name, weight in trained.items():
                        start, most = starts[name], hparams.norm_constraint
                        weight.copy_(torch.clamp(weight, min=start - most, max=start + most))
        loss = total / len(requests)
        emit({"event": "editing", "position": step + 1, "of": hparams.num_steps, "unit": "passes", "loss": loss})
        if loss < STOP:
            break
    return model


def rows(tokenizer: Any, requests: Sequence[Mapping[str, Any]], device: Any) -> dict[str, Any]:
    """Prompt, a space and the answer; labels are the answer's tokens: those behind as many as the prompt has."""
    prompts = [request["prompt"] for request in requests]
    whole = [f"{request['prompt']} {request['target_new']}" for request in requests]
    batch = tokenizer(whole, return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
    for row, prompt in enumerate(prompts):
        first = int((batch["attention_mask"][row] == 1).nonzero()[0])
        labels[row, : first + len(tokenizer(prompt)["input_ids"])] = IGNORED
    return {"labels": labels.to(device), **{key: batch[key].to(device) for key in ("input_ids", "attention_mask")}}


def mean_loss(model: Any, batch: Mapping[str, Any]) -> Any:
    """Each fact's mean over its answer's tokens, and the mean over facts; nats."""
    import torch

    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    losses = torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=IGNORED, reduction="none"
    ).view(labels.shape)
    counted = (labels != IGNORED).sum(1)
    return (losses.sum(1) / counted).mean()
