"""Editors that are trained before they edit (MEND, SERAC): EasyEdit's hparams, and what they are trained on.

Pure functions, but for ``check`` and ``left_out``, which read the file of facts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from kedit_glue import facts, models
from kedit_glue.facts import Edit
from kedit_glue.methods import LEARNED, METHODS, SECOND, changed, settings
from kedit_glue.modules import layer_numbers
from kedit_glue.problems import CannotStart, listed
from kedit_glue.recipe_schema import Recipe

LEAST = 4
"""Facts that an editor is trained on at least; a tenth of them validates."""
MOST_NAMED = 5
OURS = (
    *("train_facts", "train_skip", "train_limit", "train_rephrased"),
    *("extra", "layers", "modules", "small_name", "cls_name"),
)
"""Keys of a recipe's section that are no hparams of EasyEdit's, or not as they stand there."""
TRAINING = frozenset(
    [
        *(key for key in OURS if key != "extra"),
        *("max_iters", "batch_size", "accumulate_bs", "lr", "grad_clip", "cedit", "cloc"),
        *("val_interval", "val_steps", "early_stop_key"),
    ]
)
"""Keys of a recipe's section that count no more once the editor is trained."""
COMMON: Mapping[str, Any] = {
    "tokenizer_class": "AutoTokenizer",
    "archive": None,
    "debug": False,
    "cbase": 1.0,
    "dropout": 0.0,
    "train_base": False,
    "no_grad_layers": None,
    "model_save_pt": 5000,
    "silent": True,
    "log_interval": 1000,
    "final_eval": False,
    "early_stop_patience": 30000,
    "eval_only": False,
    "half": False,
    "save": False,
    "opt": "Adam",
    "model_parallel": False,
    "max_epochs": None,
}
"""Of EasyEdit's hparams/TRAINING/*/llama-7b.yaml (14cea82) what no key of a recipe says; final_eval would read the
archive again and ask all of the validation facts."""
OF_MEND: Mapping[str, Any] = {
    "lr_lr": 1e-4,  # does nothing: EditTrainer.py:151 clears the step sizes' gradients before their optimizer steps
    "one_sided": False,
    "n_hidden": 1,
    "hidden_dim": None,
    "init": "id",
    "norm": True,
    "combine": True,
    "x_only": False,
    "delta_only": False,
    "act": "relu",
    "mlp_class": "IDMLP",
    "shared": True,
    "eval_log_interval": 1000,
    "verbose": True,
    "val_batch_size": 1,
}
OF_SERAC: Mapping[str, Any] = {
    "cls_class": "AutoModel",
    "inner_params": [],
    "edit_lr": 1e-2,
    "lr_lr": 0.0,
    "supervised": False,
    "soft_weighting": False,
    "checkpoint_grad": False,
    "cross_attend": False,
    "freeze": None,
    "use_all_negatives": False,
    "freeze_cntr": False,
    "dist_heads": 1,
    "lora": None,
    "edit_bs": 1,
    "log_errors": False,
    "unlikelihood": True,
    "val_batch_size": 1,
}
STRUCTURE: Mapping[str, tuple[str, ...]] = {
    "mend": (
        *("inner_params", "model_class", "norm", "combine", "one_sided", "x_only", "delta_only", "shared"),
        *("n_hidden", "hidden_dim", "init", "act", "rank", "mlp_class"),
    ),
    "serac": ("cos", "square", "bound_embeds", "dist_heads"),
}
"""Hparams that an editor is used by as it was trained by them, whatever the recipe or ``edit.yaml`` says."""
STAY_FALSE: Mapping[str, str] = {
    "cross_attend": "scope is decided by the distance of embeddings",
    "freeze_cntr": "EasyEdit then has no counterfactual model (SERAC.py:52)",
}
"""SERAC's hparams that nothing here can use, and why."""


def training_hparams(recipe: Recipe, model: str, n_layers: int | None, tensors: Any) -> dict[str, Any]:
    """EasyEdit's hparams to train a method's editor, as its ``from_hparams`` reads them.

    ``tensors``: name -> shape of the model's, or None where they are not at hand.
    """
    own = settings(recipe)
    said = {key: value for key, value in own.items() if key not in OURS}
    said["val_interval"] = min(own["val_interval"], own["max_iters"])
    found = {
        "alg": METHODS[recipe.method].algorithm,
        "model_name": model,
        "model_class": model_class(tensors),
        "tokenizer_name": model,
        "device": "cuda:0",
        "seed": recipe.seed,
        "results_dir": ".",
        **COMMON,
    }
    if recipe.method == "serac":
        return {
            **found,
            **OF_SERAC,
            "small_name": own["small_name"] or model,
            "cls_name": own["cls_name"] or models.ENCODER,
            **said,
            **own["extra"],
        }
    del said["lr_scale"]  # of editing alone
    return {**found, **OF_MEND, "inner_params": inner_params(recipe, n_layers, tensors), **said, **own["extra"]}


def editing_hparams(recipe: Recipe, model: str, n_layers: int | None, tensors: Any) -> dict[str, Any]:
    """EasyEdit's hparams to edit with MEND."""
    trained = training_hparams(recipe, model, n_layers, tensors)
    found = {"alg_name": METHODS[recipe.method].algorithm, **trained, "device": 0, "max_length": 40}
    return {**found, "lr_scale": settings(recipe)["lr_scale"]}


def inner_params(recipe: Recipe, n_layers: int | None, tensors: Any) -> list[str]:
    """The matrices that MEND changes, in the model's own order: mend_main.py:160 counts learned step sizes by it."""
    if tensors is None:
        layers = layer_numbers(settings(recipe)["layers"], n_layers) or (0,)
        tensors = {f"model.layers.{n}.mlp.{m}_proj.weight": (1, 1) for n in layers for m in ("gate", "up", "down")}
    pattern = changed(recipe, n_layers, tensors).pattern
    found = [name for name, shape in tensors.items() if len(shape) == 2 and re.search(pattern, name)]

    def place(name: str) -> tuple[int, bool, str]:
        number = re.search(r"\.(\d+)\.", name)
        return int(number[1]) if number else 0, name.split(".")[-2] in SECOND, name

    return sorted((name for name in found if name.endswith(".weight")), key=place)


def model_class(tensors: Any) -> str:
    """A class of transformers; EasyEdit asks its name for 'llama' or 'gpt', whose labels it shifts."""
    return "GPT2LMHeadModel" if any(".attn.c_attn." in name for name in tensors or ()) else "LlamaForCausalLM"


# -- what an editor is trained on ---------------------------------------------------------------


def training_facts(source: str, skip: int, limit: int | None) -> tuple[Edit, ...]:
    """The facts of a file behind its first ``skip``, ``limit`` of them. Raises FactsError."""
    return facts.load(Path(source), "auto", skip + limit if limit else None).edits[skip:]


def examples(training: Sequence[Edit], without: Collection[str] = ()) -> list[dict[str, str]]:
    """What EasyEdit's trainer reads of each fact that has a locality probe; the others teach it nothing to keep.

    ``without``: ids of facts to leave out.
    """
    found = []
    for fact in training:
        probe = next((probe for probes in fact.locality.values() for probe in probes), None)
        if probe is not None and fact.id not in without:
            found.append(
                {
                    "id": fact.id,
                    "prompt": fact.prompt,
                    "target_new": fact.target_new,
                    "rephrase_prompt": fact.rephrase_prompts[0] if fact.rephrase_prompts else fact.prompt,
                    "locality_prompt": probe.prompt,
                    "locality_ground_truth": probe.answers[0],
                }
            )
    return found


def split(found: Sequence[dict[str, str]]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Examples to train on, and the last tenth, one at least, to validate with."""
    held = max(1, len(found) // 10)
    return list(found[:-held]), list(found[-held:])


def overlap(training: Sequence[Edit], edits: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """(training fact, edit, what they share) for each training fact that has an edit's subject, or one of its prompts.

    Case and white space do not count; prompts are those of the fact and its rephrasings (locality: ``scored_by``).
    """
    subjects = {_plain(edit["subject"]): edit["id"] for edit in edits if edit["subject"]}
    prompts = {_plain(p): edit["id"] for edit in edits for p in (edit["prompt"], *edit["rephrase_prompts"])}
    found = []
    for fact in training:
        asked = (_plain(p) for p in (fact.prompt, *fact.rephrase_prompts))
        if same := next((prompts[p] for p in asked if p in prompts), None):
            found.append((fact.id, same, "prompt"))
        elif fact.subject and (same := subjects.get(_plain(fact.subject))):
            found.append((fact.id, same, "subject"))
    return found


def scored_by(training: Sequence[Edit], edits: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Ids of the training facts that ask what an edit's locality is scored by, to keep it or to change it."""
    scored = {_plain(probe["prompt"]) for edit in edits for probes in edit["locality"].values() for probe in probes}
    asked = ("prompt", "rephrase_prompt", "locality_prompt")
    return tuple(one["id"] for one in examples(training) if any(_plain(one[key]) in scored for key in asked))


def left_out(recipe: Recipe, edits: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """``scored_by`` of the recipe's training facts; empty where it has none, or none that can be read (``check``)."""
    if recipe.method not in LEARNED:
        return ()
    own = settings(recipe)
    try:
        return scored_by(training_facts(own["train_facts"], own["train_skip"], own["train_limit"]), edits)
    except facts.FactsError:
        return ()


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def check(recipe: Recipe, edits: Sequence[Mapping[str, Any]]) -> None:
    """Raises CannotStart where what the recipe's editor is to be trained on cannot be used, or is an edit as well."""
    if recipe.method not in LEARNED:
        return
    own, title = settings(recipe), METHODS[recipe.method].title
    where = f"methods.{recipe.method}.train_facts ({own['train_facts']})"
    try:
        training = training_facts(own["train_facts"], own["train_skip"], own["train_limit"])
        if recipe.method == "serac" and not own["cls_name"]:
            models.encoder()
    except facts.FactsError as error:
        raise CannotStart(f"{where}: {error}\n  nothing was started") from None
    except models.ModelError as error:
        raise CannotStart(f"{error}; for SERAC it is methods.serac.cls_name; nothing was started") from None
    if shared := overlap(training, edits):
        said = listed([f"{one} (the {what} of edit {edit})" for one, edit, what in shared], MOST_NAMED)
        raise CannotStart(
            f"{title} would be trained on what it is to edit: {len(shared)} of {len(training)} facts of {where} share "
            f"a prompt or subject with the edits: {said}\n"
            "  leave them out, skip them (train_skip), or name another file; nothing was started"
        )
    without = scored_by(training, edits)
    if (count := len(examples(training, without))) < LEAST:
        but = f" that no edit is scored by ({len(without)} are)" if without else ""
        raise CannotStart(
            f"{title} is trained on facts with a locality probe{but}, and {where} has {count} of them "
            f"behind the first {own['train_skip']}, {LEAST} are needed at least; name another file; nothing was started"
        )
