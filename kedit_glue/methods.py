"""What each ``method:`` is, and what it makes of the other sections of a recipe. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from kedit_glue.modules import Trained, layer_numbers, layer_pattern, trained
from kedit_glue.recipe_schema import Lora, Recipe, Train, TrainProtect

NOTHING = "(?!)"
"""A regular expression that finds nothing."""
SECOND = ("down_proj", "c_proj", "fc_out", "dense_4h_to_h", "fc2")
"""Names of a feed-forward network's second matrix, whose inputs are keys and whose outputs are values."""
LLAMA = "model.layers.0.mlp.down_proj.weight"
"""What is taken for granted where the model's tensors are not at hand."""


@dataclass(frozen=True)
class Method:
    """One method of the field."""

    title: str
    by: str
    """Whose code edits: ``ours``, ``easyedit`` (the package), ``checkout`` (its main where given, else ours)."""
    algorithm: str = ""
    """EasyEdit's ``alg_name``."""
    moments: bool = False
    """Whether general text's second moments are always needed."""


METHODS: Mapping[str, Method] = {
    "rsft_merge": Method("R-SFT and merging", "ours"),
    "rsft": Method("R-SFT", "ours"),
    "sft": Method("SFT", "ours"),
    "locft_bf": Method("LocFT-BF", "ours"),
    "ft_l": Method("FT-L", "easyedit", "FT"),
    "ft_m": Method("FT-M", "checkout", "FT"),
    "adalora": Method("AdaLoRA", "easyedit", "LoRA"),
    "rome": Method("ROME", "easyedit", "ROME"),
    "memit": Method("MEMIT", "easyedit", "MEMIT", moments=True),
    "emmet": Method("EMMET", "checkout", "EMMET", moments=True),
    "mend": Method("MEND", "easyedit", "MEND"),
    "serac": Method("SERAC", "easyedit", "SERAC"),
    "ice": Method("ICE", "ours"),
}
REMEMBERED = ("serac", "ice")
"""Methods that leave the weights alone and remember facts beside the model."""
MEMORY = "serac"
"""Folder in the folder of a model that remembers: models of the memory's own."""
LEARNED = ("mend", "serac")
"""Methods whose editor is trained once, on other facts than the edits (``learned``)."""
FURTHER: Mapping[str, tuple[str, ...]] = {"rome": ("context_template_length_params",)}
"""What EasyEdit's editors (its package) read beyond a recipe's keys and the model's module names."""
AT_SUBJECT = ("rome", "memit", "emmet")
"""Methods that look a fact up at its subject, which has to stand in the prompt."""
TRAINED = ("rsft_merge", "rsft", "sft", "locft_bf")
"""Methods of which LLaMA-Factory does the work."""


def settings(recipe: Recipe) -> dict[str, Any]:
    """The method's own section, as plain data; empty where it has none."""
    section = getattr(recipe.methods, recipe.method, None)
    return section.model_dump() if section is not None else {}


def wants_moments(recipe: Recipe) -> bool:
    """Whether the method reads general text's second moments."""
    regresses = recipe.method == "rsft_merge" and recipe.merge.regmean.on
    return regresses or METHODS[recipe.method].moments or bool(settings(recipe).get("mom2_adjustment"))


def training(recipe: Recipe) -> Train:
    """``train`` as the method has it: the same, without the early stop, or LocFT-BF's; for editors what is left of it.

    LocFT-BF (arXiv 2509.22072): epochs over mini-batches, one matrix of one layer, a loss at which to stop.
    """
    train = recipe.train
    if recipe.method == "sft":
        return train.model_copy(update={"loss_threshold": 0.0})
    if recipe.method in ("rsft_merge", "rsft"):
        return train
    alone = {"contexts": 0, "rephrasings": 0, "rehearse": 0, "tokens": "all"}
    bare = {"from_": "previous", "lora": Lora(), "protect": TrainProtect(), **alone}
    if recipe.method != "locft_bf":
        return train.model_copy(update=bare)
    own = settings(recipe)
    own["mini_batch"] = min(own["mini_batch"], recipe.edits.batch_size)
    rest: dict[str, Any] = {"parameters": None, "order": "breadth", "inner_steps": None, "extra": {}}
    return train.model_copy(update={**bare, **own, **rest})


def changed(recipe: Recipe, n_layers: int | None, tensors: Mapping[str, tuple[int, ...]] | None) -> Trained:
    """What the method changes in a model with these tensors (name -> shape); ValueError where it finds nothing."""
    train = training(recipe)
    if recipe.method in REMEMBERED:
        return Trained(NOTHING, "", 0, count=0, of=sum(map(prod, (tensors or {}).values())), tensors=0)
    if recipe.method not in TRAINED:
        own = settings(recipe)
        if targets := own.get("target_modules"):
            layer = layer_pattern(layer_numbers(own["layers"], n_layers))
            pattern = rf"\.{layer}\.(.+\.)?({'|'.join(map(re.escape, targets))})\.weight$"
            return trained(train.model_copy(update={"parameters": pattern}), n_layers, tensors)
        names = own.get("modules") or (second_matrix(tensors)[1],)
        train = train.model_copy(update={"modules": names, "layers": own["layers"], "parameters": None})
    return trained(train, n_layers, tensors)


def second_matrix(tensors: Mapping[str, tuple[int, ...]] | None) -> tuple[str, str]:
    """Of a model's layers the path of their second feed-forward matrix with ``{}`` for the number, and its own name.

    Raises ValueError where there is none.
    """
    for name in tensors or {LLAMA: ()}:
        if found := re.fullmatch(rf"(.+?\.)\d+(\.mlp[^.]*\.({'|'.join(SECOND)}))\.weight", name):
            return f"{found[1]}{{}}{found[2]}", found[3]
    raise ValueError(f"the model has no matrix called {', '.join(SECOND)} in its layers' mlp: this method edits such")


def hparams(recipe: Recipe, model: str, n_layers: int | None, tensors: Any, cache: str) -> dict[str, Any]:
    """EasyEdit's hparams for an editor, as its ``from_hparams`` reads them; ``tensors``: name -> shape, or None."""
    own = settings(recipe)
    numbers = layer_numbers(own.pop("layers"), n_layers)
    extra = own.pop("extra")
    rewrite, _ = second_matrix(tensors)
    layer = rewrite[: rewrite.index("{}") + 2]
    found: dict[str, Any] = {"alg_name": METHODS[recipe.method].algorithm, "model_name": model, "device": 0}
    # of adapters an empty list is all layers, of the others no layer
    every = [] if recipe.method == "adalora" else range(n_layers or 32)
    found["layers"] = list(every if numbers is None else numbers)
    names = list(tensors or {})
    known = {
        "layer_module_tmp": layer,
        "mlp_module_tmp": rewrite.rpartition(".")[0],
        "attn_module_tmp": layer + (".self_attn" if any(".self_attn." in n for n in names) or not names else ".attn"),
        "ln_f_module": _final_norm(tensors, layer),
        "lm_head_module": _head(names),
    }
    if recipe.method in ("ft_l", "ft_m"):
        own["norm_constraint"] = own["norm_constraint"] or False
        own["kl_factor"] = 0
        objective = "prompt_last" if recipe.method == "ft_l" else "target_new"
        checkout = {"objective_optimization": objective} if recipe.method == "ft_m" else {}
        return {**found, **own, **checkout, "rewrite_module_tmp": f"{rewrite}.weight", **known, **extra}
    if recipe.method == "adalora":
        return {**found, **own, "target_modules": list(own["target_modules"]), **_UNUSED_OF_LORA, **extra}
    last = (n_layers or 32) - 1
    own["v_loss_layer"] = last if own["v_loss_layer"] is None else own["v_loss_layer"]
    for key in ("moments", "moments_texts", "moments_ridge"):
        own.pop(key)
    statistics = {
        "stats_dir": f"{cache}/stats",
        "mom2_dataset": "general",
        "mom2_n_samples": 0,
        "mom2_dtype": "float32",
    }
    if recipe.method == "rome":
        own["context_template_length_params"] = [[5, 10], [10, 10]]
    else:
        own |= {"layer_selection": "all", "mom2_adjustment": True, "batch_size": recipe.edits.batch_size}
    return {**found, **own, "rewrite_module_tmp": rewrite, **known, **statistics, **extra}


_UNUSED_OF_LORA = {"kl_factor": 0, "norm_constraint": False}


def _final_norm(tensors: Any, layer: str) -> str:
    """The norm behind all layers: outside of them, and one-dimensional."""
    inside = layer.partition("{}")[0]
    found = [n for n, shape in (tensors or {}).items() if len(shape) == 1 and not n.startswith(inside)]
    norms = [n.removesuffix(".weight") for n in found if n.endswith(".weight")]
    return norms[-1] if norms else "model.norm"


def _head(names: list[str]) -> str:
    """The output matrix; of models that tie it to their embedding, the embedding."""
    if not names or "lm_head.weight" in names:
        return "lm_head"
    inputs = ("model.embed_tokens", "transformer.wte", "gpt_neox.embed_in")
    return next((name for name in inputs if f"{name}.weight" in names), "lm_head")
