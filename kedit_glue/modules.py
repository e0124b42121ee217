"""Which parameters a recipe's ``train.modules`` and ``train.layers`` mean. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Sequence

# matrices inside a feed-forward module, by the names that Llama, Mistral, Qwen and Gemma
# (gate/up/down), GPT-2 and GPT-J (c_fc, c_proj, fc_in, fc_out), GPT-NeoX (dense_…) and Phi (fc1, fc2) use
FFN_MATRICES = frozenset(
    [
        "gate_proj",
        "up_proj",
        "down_proj",
        "gate_up_proj",
        "c_fc",
        "c_proj",
        "fc_in",
        "fc_out",
        "dense_h_to_4h",
        "dense_4h_to_h",
        "fc1",
        "fc2",
    ]
)


def trainable_pattern(modules: Sequence[str], layers: Sequence[int] | None) -> str:
    """Regular expression over parameter names; ``layers`` None means all.

    ``model.layers.4.mlp.down_proj.weight`` is found for modules ``mlp`` and ``down_proj`` alike.
    """
    layer = r"\d+" if layers is None else "(" + "|".join(str(n) for n in layers) + ")"
    matrices = [re.escape(m) for m in modules if m in FFN_MATRICES]
    others = [re.escape(m) for m in modules if m not in FFN_MATRICES]
    parts = [rf"({'|'.join(others)})\."] if others else []
    parts += [rf"mlp\.(.+\.)?({'|'.join(matrices)})\."] if matrices else []
    return rf"\.{layer}\.({'|'.join(parts)})"


def freeze_modules(modules: Sequence[str]) -> str:
    """LLaMA-Factory's ``freeze_trainable_modules`` that covers them (it cannot name one matrix)."""
    return ",".join(sorted({"mlp" if m in FFN_MATRICES else m for m in modules}))


def freeze_layers(layers: Sequence[int] | None) -> int:
    """LLaMA-Factory's ``freeze_trainable_layers`` that covers them: -N is the first N layers.

    All layers are given as the last 1000, which LLaMA-Factory cuts to what the model has.
    """
    return 1000 if layers is None else -(max(layers) + 1)
