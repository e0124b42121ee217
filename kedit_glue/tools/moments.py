"""One pass over a corpus for the second moments C = sum x xᵀ of modules' inputs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
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
    started = time.monotonic()
    sums, same, tokens = second_moments(loaded.to(device).eval(), tokenizer, texts, missing, emit)
    seconds = (time.monotonic() - started) / len(sums)
    for module, moment in sums.items():
        moments.write(place, module, tokens, moment.cpu().numpy(), seconds)
    for module, source in same.items():
        moments.share(place, module, source)
    return True


def second_moments(
    model: Any, tokenizer: Any, texts: Sequence[str], modules: Sequence[str], emit: Emit
) -> tuple[dict[str, Any], dict[str, str], int]:
    """C [inputs, inputs] (float32) of each module; which modules read the input of which; the number of tokens.

    Modules that read the same tensor (``gate_proj``, ``up_proj``) have one C, under the first one's name.
    """
    from kedit_glue.module_inputs import watch_inputs

    known = dict(model.named_modules())
    inner = model.base_model  # without the head, whose logits over the vocabulary nobody reads
    owners = {name: known[name] for name in modules}
    reader = inner if set(owners.values()) <= set(inner.modules()) else model
    sums: dict[str, Any] = {}
    tokens = 0

    def add(name: str, rows: Any) -> None:
        rows = rows.float()
        sums[name] = sums[name].addmm_(rows.T, rows) if name in sums else rows.T @ rows

    def batches() -> Iterator[Any]:
        nonlocal tokens
        for start in range(0, len(texts), BATCH):
            batch = tokenizer(
                list(texts[start : start + BATCH]),
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=MAX_TOKENS,
            ).to(model.device)
            tokens += int(batch["attention_mask"].sum())
            yield batch
            emit({"event": "corpus", "position": min(start + BATCH, len(texts)), "of": len(texts)})

    same = watch_inputs(reader, owners, batches(), add)
    if unused := [name for name in modules if name not in sums and name not in same]:
        raise ValueError(f"{unused[0]} was not used while the texts were read: it has no moments")
    return sums, same, tokens
