"""One pass over a corpus for the second moments C = sum x xᵀ of modules' inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kedit_glue import moments
from kedit_glue.moments import BATCH, MAX_TOKENS, Place
from kedit_glue.tools import Emit


def ensure(
    model: Path,
    modules: Sequence[str],
    texts: Sequence[str],
    place: Place,
    emit: Emit,
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> bool:
    """Compute and keep the moments that ``place`` lacks; says whether there was anything to compute.

    Without that no weight is loaded. ``modules``: names as in ``model.named_modules()``.
    """
    missing = [module for module in modules if not place.file(module).is_file()]
    if not missing:
        return False
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=trust_remote_code)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    loaded = AutoModelForCausalLM.from_pretrained(
        model, trust_remote_code=trust_remote_code, dtype=torch.float32 if device == "cpu" else "auto"
    )
    sums, same, tokens = second_moments(loaded.to(device).eval(), tokenizer, texts, missing, emit)
    for module, moment in sums.items():
        moments.write(place, module, tokens, moment.cpu().numpy())
    for module, source in same.items():
        moments.share(place, module, source)
    return True


def second_moments(
    model: Any, tokenizer: Any, texts: Sequence[str], modules: Sequence[str], emit: Emit
) -> tuple[dict[str, Any], dict[str, str], int]:
    """C [inputs, inputs] (float32) of each module; which modules read the input of which; the number of tokens.

    Modules that read the same tensor (``gate_proj``, ``up_proj``) have one C, under the first one's name.
    """
    import torch

    known = dict(model.named_modules())
    inner = model.base_model  # without the head, whose logits over the vocabulary nobody reads
    reader = inner if {known[name] for name in modules} <= set(inner.modules()) else model
    sums: dict[str, Any] = {}
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
                    f"{list(real.shape)} tokens: experts that see some tokens only cannot be protected"
                )
            latest["input"], latest["name"] = inputs, name
            rows = inputs[real].float()
            sums[name] = sums[name].addmm_(rows.T, rows) if name in sums else rows.T @ rows

        return hook

    handles = [known[name].register_forward_pre_hook(watch(name)) for name in modules]
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
                reader(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
                emit({"event": "corpus", "position": min(start + BATCH, len(texts)), "of": len(texts)})
    finally:
        for handle in handles:
            handle.remove()
    if unused := [name for name in modules if name not in sums and name not in same]:
        raise ValueError(f"{unused[0]} was not used while the texts were read: it cannot be protected")
    return sums, same, tokens
