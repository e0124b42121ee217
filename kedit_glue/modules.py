"""Which parameters a recipe's ``train.modules`` and ``train.layers`` mean. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from kedit_glue.recipe_schema import Train
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


LLAMA = [*(f"mlp.{m}_proj" for m in ("gate", "up", "down")), *(f"self_attn.{m}_proj" for m in "qkvo")]
"""A layer's modules in most models: what a dry run shows where the model's tensors are not at hand."""


@dataclass(frozen=True)
class Trained:
    """What is trained, in our words and in LLaMA-Factory's."""

    pattern: str
    """Regular expression: the parameters whose name it finds."""
    freeze_modules: str
    freeze_layers: int
    freeze_extra_modules: str = ""
    """``freeze_…``: LLaMA-Factory's keys that cover at least these; R-SFT's callback narrows them."""
    lora_target: str = ""
    count: int | None = None
    """Numbers in the parameters found; None where the model's tensors are not at hand."""
    of: int | None = None
    tensors: int | None = None

    def __str__(self) -> str:
        if self.count is None or self.of is None:
            return f"what {self.pattern!r} finds"
        return f"{self.count:,} of {self.of:,} parameters ({self.count / (self.of or 1):.1%}) in {self.tensors} tensors"


def trained(train: Train, n_layers: int | None, tensors: Mapping[str, tuple[int, ...]] | None) -> Trained:
    """What ``train.modules``, ``layers`` and ``parameters`` mean in a model with these tensors (name -> shape).

    Raises ValueError where they find nothing.
    """
    layers = layer_numbers(train.layers, n_layers)
    pattern = train.parameters or trainable_pattern(train.modules, layers)
    found = sorted(name for name in tensors or () if re.search(pattern, name))
    if tensors is not None and not found:
        asked = f"train.parameters {pattern!r}" if train.parameters else f"train.modules {', '.join(train.modules)}"
        feed_forward = sorted({n.rpartition(".")[0] for n in tensors if ".0." in n})
        raise ValueError(f"{asked} finds no parameter of the model; its first layer has {', '.join(feed_forward[:12])}")
    if train.parameters:
        outside = sorted({name.split(".")[-2] for name in found if not re.search(r"\.\d+\.", name)})
        what = Trained(pattern, "all", freeze_layers(None), ",".join(outside))
    else:
        what = Trained(pattern, freeze_modules(train.modules), freeze_layers(layers))
    if tensors is None:
        usual = [f"model.layers.{n}.{module}.weight" for n in layers or [0] for module in LLAMA]
        usual = [name for name in usual if re.search(pattern, name)]
        return replace(what, lora_target=lora_target(usual, layers is None) or "all")
    return replace(
        what,
        lora_target=lora_target(found, layers is None),
        count=sum(prod(tensors[name]) for name in found),
        of=sum(map(prod, tensors.values())),
        tensors=len(found),
    )


def lora_target(names: Sequence[str], all_layers: bool) -> str:
    """LLaMA-Factory's ``lora_target``: ends of module names (peft 0.18.1, tuners/tuners_utils.py:754).

    ``4.mlp.down_proj`` for chosen layers, ``mlp.down_proj`` for all.
    """
    ends = [m for n in names if n.endswith(".weight") and (m := re.search(r"\.((\d+)\.(.+))\.weight$", n))]
    return ",".join(sorted({m[3] if all_layers else m[1] for m in ends}))


def layer_pattern(layers: Sequence[int] | None) -> str:
    """Regular expression for the numbers of these layers; None means all."""
    return r"\d+" if layers is None else "(" + "|".join(str(n) for n in layers) + ")"


def trainable_pattern(modules: Sequence[str], layers: Sequence[int] | None) -> str:
    """Regular expression over parameter names; ``layers`` None means all.

    ``model.layers.4.mlp.down_proj.weight`` is found for modules ``mlp`` and ``down_proj`` alike.
    """
    layer = layer_pattern(layers)
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
