"""Which parameters a recipe's ``train.modules`` and ``train.layers`` mean. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kedit_glue.recipe_values import resolve_layers

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


def layer_numbers(layers: str | Sequence[int | str], n_layers: int | None) -> tuple[int, ...] | None:
    """The layers that ``train.layers`` means, None for all; ``n_layers`` None where the model is not at hand.

    Raises ValueError where the model has no such layer, or where its end has to be known and is not.
    """
    if layers == "all":
        return None
    if n_layers is not None:
        return resolve_layers(layers, n_layers)
    asked = [layers] if isinstance(layers, str) else list(layers)
    if from_end := [part for part in asked if isinstance(part, str) and part.startswith("last")]:
        raise ValueError(
            f"train.layers: {from_end[0]!r} needs the model's number of layers, and its config.json "
            "is not here; name the layers themselves"
        )
    return None if "all" in asked else resolve_layers(asked, 10_000)
