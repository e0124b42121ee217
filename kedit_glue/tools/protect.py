"""Input directions that general text uses, to be kept free of change while facts are learned.

For each trained matrix W the second moment C = sum x x^T of its inputs over a corpus; its leading
eigenvectors V span what ordinary text feeds into W. R-SFT then keeps (W - W0) V = 0, so ordinary
inputs meet the matrix they knew. Kin to null-space editing (AlphaEdit, arXiv 2410.02355).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kedit_glue.corpus import read_texts

Emit = Callable[[Mapping[str, Any]], None]
BATCH = 16
MAX_TOKENS = 96  # of each text


def directions(job: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """Write ``job['output']``: a safetensors file, parameter name -> V [inputs, k], orthonormal columns.

    ``job``: ``model`` (folder), ``corpus`` (file), ``trainable`` (regular expression), ``directions``
    (k), ``device``, ``trust_remote_code``. Returns the number of tokens and the mean share of the
    inputs' energy (trace of C) that the k directions hold.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = read_texts(Path(job["corpus"]))
    tokenizer = AutoTokenizer.from_pretrained(job["model"], trust_remote_code=job["trust_remote_code"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    model = AutoModelForCausalLM.from_pretrained(
        job["model"], trust_remote_code=job["trust_remote_code"], dtype=torch.float32
    ).to(job["device"])
    pattern = re.compile(job["trainable"])
    names = [name for name, p in model.named_parameters() if pattern.search(name) and p.ndim == 2]
    sums, tokens = second_moments(model.eval(), tokenizer, texts, names, emit)
    found, shares = {}, []
    known: dict[int, Any] = {}  # matrices that read the same input share one moment
    for position, (name, moment) in enumerate(sums.items(), 1):
        if id(moment) not in known:
            known[id(moment)] = leading(moment, job["directions"])
        vectors, share = known[id(moment)]
        found[name] = vectors.clone()
        shares.append(share)
        emit({"event": "directions", "position": position, "of": len(sums)})
    save_file(found, job["output"])
    return {"tokens": tokens, "matrices": len(found), "energy": sum(shares) / len(shares)}


def second_moments(
    model: Any, tokenizer: Any, texts: Sequence[str], names: Sequence[str], emit: Emit
) -> tuple[dict[str, Any], int]:
    """C [inputs, inputs] (float32) of each named parameter's module, and how many tokens it sums over.

    Modules that read the same tensor (``gate_proj``, ``up_proj``) share one C.
    """
    import torch

    modules = dict(model.named_modules())
    sums: dict[str, Any] = {}
    real = torch.zeros(0, dtype=torch.bool)  # which positions of the current batch are no padding
    latest: dict[str, Any] = {"input": None, "name": ""}
    same: dict[str, str] = {}  # name -> the module before it that reads the same tensor

    def watch(name: str) -> Any:
        def hook(module: Any, arguments: tuple[Any, ...]) -> None:
            inputs = arguments[0]
            if inputs is latest["input"]:
                same[name] = latest["name"]
                return
            latest["input"], latest["name"] = inputs, name
            rows = inputs[real].float()
            sums[name] = sums[name].addmm_(rows.T, rows) if name in sums else rows.T @ rows

        return hook

    handles = []
    for name in names:
        module = modules[name.rpartition(".")[0]]
        if not isinstance(module, torch.nn.Linear):
            raise ValueError(f"train.protect works on linear layers; {name} belongs to a {type(module).__name__}")
        handles.append(module.register_forward_pre_hook(watch(name)))
    tokens = 0
    try:
        with torch.no_grad():
            for start in range(0, len(texts), BATCH):
                batch = tokenizer(
                    list(texts[start : start + BATCH]),
                    return_tensors="pt",
                    padding=True,
                    truncation=True,
                    max_length=MAX_TOKENS,
                ).to(model.device)
                real = batch["attention_mask"].bool()
                tokens += int(real.sum())
                model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
                emit({"event": "corpus", "position": min(start + BATCH, len(texts)), "of": len(texts)})
    finally:
        for handle in handles:
            handle.remove()
    return {name: sums[same.get(name, name)] for name in names}, tokens


def leading(moment: Any, count: int) -> tuple[Any, float]:
    """The ``count`` eigenvectors of largest eigenvalue as columns [inputs, count], and their share of the trace."""
    import numpy
    import scipy.linalg
    import torch

    size = moment.shape[0]
    if count >= size:
        raise ValueError(f"train.protect.directions is {count}, a matrix has only {size} inputs: nothing could change")
    values, vectors = scipy.linalg.eigh(
        moment.double().cpu().numpy(), subset_by_index=[size - count, size - 1], driver="evr", overwrite_a=True
    )
    share = float(values.sum() / max(float(torch.trace(moment)), 1e-30))
    return torch.from_numpy(numpy.ascontiguousarray(vectors)).float(), share
