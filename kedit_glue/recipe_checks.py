"""What the recipe's schema cannot say: keys that do not go together, and names that only the tools know."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedit_glue.deepspeed_file import file_problem
from kedit_glue.learned import STAY_FALSE
from kedit_glue.methods import FURTHER, LEARNED, METHODS, TRAINED, settings
from kedit_glue.models import ModelError, layer_count
from kedit_glue.problems import did_you_mean
from kedit_glue.recipe_errors import Draft
from kedit_glue.recipe_independent import check_independent
from kedit_glue.recipe_schema import INSTEAD
from kedit_glue.recipe_search_checks import check_search
from kedit_glue.recipe_values import leaves, resolve_layers
from kedit_glue.redact import is_secret_name
from kedit_glue.strict_yaml import KeyPath

if TYPE_CHECKING:
    from kedit_glue.recipe import Recipe

TASK_VECTOR_METHODS = frozenset(
    {
        "task_arithmetic",
        "ties",
        "dare_ties",
        "dare_linear",
        "della",
        "della_linear",
        "breadcrumbs",
        "breadcrumbs_ties",
        "sce",
    }
)
"""mergekit methods that add one tuned model's weighted difference to the base model."""
NO_WEIGHT = frozenset({"sce"})

PER_SAMPLE = "it breaks per-sample stopping"
TRAIN_EXTRA = {
    "model_name_or_path": "model",
    "trust_remote_code": "trust_remote_code",
    "dataset": "edits.source",
    "max_samples": "edits.limit",
    "freeze_trainable_modules": "train.modules",
    "freeze_trainable_layers": "train.layers",
    "num_train_epochs": "train.epochs",
    "max_steps": "train.epochs",
    "per_device_train_batch_size": "train.mini_batch",
    "learning_rate": "train.learning_rate",
    "weight_decay": "train.weight_decay",
    "max_grad_norm": "train.max_grad_norm",
    "bf16": "train.precision",
    "fp16": "train.precision",
    "pure_bf16": "train.precision",
    "template": "train.template",
    "lora_rank": "train.lora.rank",
    "lora_alpha": "train.lora.alpha",
    "lora_target": "train.modules",
    "cutoff_len": "train.cutoff_len",
    "disable_shuffling": "train.shuffle",
    "disable_gradient_checkpointing": "train.gradient_checkpointing",
    "report_to": "train.report_to",
    "output_dir": "output",
    "seed": "seed",
    "data_seed": "seed",
    "use_cpu": "device",
    "deepspeed": "launch.deepspeed",
}
TRAIN_EXTRA_NEVER = {
    "stage": "R-SFT is supervised fine-tuning (stage: sft)",
    "do_train": "a batch is always trained",
    "finetuning_type": "it follows from train.lora (freeze, or lora)",
    "dataset_dir": "each batch has a folder of its own",
    "tokenized_path": "LLaMA-Factory would train on an earlier batch's tokens",
    "resume_from_checkpoint": "it skips the new batch's steps (LLaMA-Factory issue 6350)",
    "gradient_accumulation_steps": f"{PER_SAMPLE}: an optimizer step would wait for later samples",
    "packing": f"{PER_SAMPLE}: several facts would share one sequence",
    "neat_packing": f"{PER_SAMPLE}: several facts would share one sequence",
    "fsdp": f"{PER_SAMPLE}: the inner loop and protection need whole matrices; launch.processes shares facts",
    "use_ray": f"{PER_SAMPLE}: Ray's workers take no callbacks of ours; launch.processes starts torchrun",
    "adapter_name_or_path": "each batch trains an adapter of its own",
    "use_dora": "mergekit merges LoRA's form only",
    "overwrite_cache": "LLaMA-Factory would train on an earlier batch's tokens",
    "overwrite_output_dir": "a batch that was cut off is trained again in its own folder",
    "save_strategy": "the tuned model is saved once, when its batch is done",
    "logging_steps": "progress and the curves are read from every step",
    "dataloader_num_workers": "a batch's facts are in memory: workers would have nothing to load",
    "ddp_backend": "it follows from device",
    "ddp_find_unused_parameters": "it follows from launch.processes",
}
TRAIN_EXTRA_SECRET = {
    "hf_hub_token": "set HF_TOKEN in the environment",
    "hub_token": "set HF_TOKEN in the environment",
    "push_to_hub_token": "set HF_TOKEN in the environment",
    "ms_hub_token": "set MODELSCOPE_API_TOKEN in the environment",
    "om_hub_token": "log in with the hub's own command",
    "swanlab_api_key": "set SWANLAB_API_KEY in the environment",
    "swanlab_lark_webhook_url": "leave it out",
    "swanlab_lark_secret": "leave it out",
}
"""LLaMA-Factory's keys that hold a secret (0.9.5, hparams/) -> where it goes instead."""
MERGE_EXTRA = {
    "merge_method": "set it with 'merge.method'",
    "base_model": "set it with 'merge.onto'",
    "parameters": "set it with 'merge.parameters'",
    "dtype": "set it with 'merge.dtype'",
    "models": "kedit_glue names the tuned model of each batch",
    "slices": "kedit_glue merges whole models",
    "modules": "kedit_glue merges whole models",
}


def cross_check(recipe: Recipe, draft: Draft, merge_methods: Mapping[str, frozenset[str]] | None) -> None:
    """Every combination that cannot work; keys that have a problem of their own are left out."""
    check_independent(recipe, draft)
    _check_protection(recipe, draft)
    _check_training(recipe, draft)
    _check_lora(recipe, draft)
    _check_several(recipe, draft)
    _check_method(recipe, draft)
    _check_learned(recipe, draft)
    _check_further(recipe, draft)
    _check_tuned(recipe, draft)
    _check_extra(recipe, draft)
    check_search(recipe, draft, merge_methods)
    apart = recipe.merge.onto == "previous" and recipe.merge.when == "end"
    if apart and draft.sound(("merge", "onto"), ("merge", "when")):
        found = "previous, while merge.when is end: a single merge has no previous result"
        draft.add(("merge", "onto"), found, "onto: base, or when: each")
    sound = draft.sound(("merge", "method"), ("merge", "parameters"))
    if sound and _check_names(recipe, draft, merge_methods):
        _check_weights(recipe, draft)


def _check_method(recipe: Recipe, draft: Draft) -> None:
    """What only a merge makes one model of."""
    if recipe.method not in ("rsft", "sft") or not draft.sound(("method",), ("train", "from"), ("train", "lora")):
        return
    if recipe.train.from_ == "base":
        found = f"base, while method is {recipe.method}: nothing merges the batches' models"
        draft.add(("train", "from"), found, "previous, or method: rsft_merge")
    if recipe.train.lora.rank:
        found = f"{recipe.train.lora.rank}, while method is {recipe.method}: nothing merges the adapters"
        draft.add(("train", "lora", "rank"), found, "0, or method: rsft_merge")


def _check_tuned(recipe: Recipe, draft: Draft) -> None:
    """Before its last merge a run has one tuned model that holds every batch, or it has none to score."""
    if not recipe.score.tuned or not draft.sound(("score", "tuned"), ("method",), ("train",), ("edits", "mode")):
        return
    whys = {
        f"method is {recipe.method}: nothing is merged": recipe.method != "rsft_merge",
        "edits.mode is independent: no model holds all edits": recipe.edits.mode == "independent",
        "train.from is base: each batch has a tuned model of its own": recipe.train.from_ == "base",
        f"train.lora.rank is {recipe.train.lora.rank}: training leaves an adapter": recipe.train.lora.rank > 0,
    }
    if why := next((why for why, found in whys.items() if found), ""):
        draft.add(("score", "tuned"), f"true, while {why}", "false")


def _check_learned(recipe: Recipe, draft: Draft) -> None:
    """An editor that is trained needs facts to train on, and a step of its optimizer."""
    if recipe.method not in LEARNED or not draft.sound(("methods", recipe.method)):
        return
    own, section = settings(recipe), ("methods", recipe.method)
    if own["train_facts"] is None:
        found = f"no file, while method is {recipe.method}: its editor is trained first"
        draft.add((*section, "train_facts"), found, "a file with facts, none of them an edit")
    if own["accumulate_bs"] > own["max_iters"]:
        found = f"{own['accumulate_bs']}, while methods.{recipe.method}.max_iters is {own['max_iters']}"
        draft.add((*section, "accumulate_bs"), found, f"at most {own['max_iters']}", "the optimizer would take no step")
    if recipe.method == "serac" and recipe.score.edits.easyedit and draft.sound(("score", "edits", "easyedit")):
        found = "a checkout, while method is serac, whose scope the package's code decides in the same process"
        draft.add(("score", "edits", "easyedit"), found, "null")
    for key, why in STAY_FALSE.items():
        if recipe.method == "serac" and own["extra"].get(key):
            at = (*section, "extra", key)
            draft.add(at, draft.shown(at), "false", why)


def _check_further(recipe: Recipe, draft: Draft) -> None:
    """A key that no editor reads changes nothing, or fails at the first batch; of a checkout only EasyEdit knows."""
    own, section = settings(recipe), ("methods", recipe.method)
    if recipe.method in LEARNED or "extra" not in own or not draft.sound((*section, "extra")):
        return
    if METHODS[recipe.method].by == "checkout" and recipe.methods.easyedit is not None:
        return
    read = FURTHER.get(recipe.method, ())
    for key in own["extra"]:
        if key in own:
            draft.add(
                (*section, "extra", key),
                "the recipe sets this key itself",
                "",
                f"set it with 'methods.{recipe.method}.{key}'",
            )
        elif key not in read:
            title = METHODS[recipe.method].title
            found = f"{title} reads no such key, or it follows from the model and from methods.{recipe.method}"
            draft.add((*section, "extra", key), found, ", ".join(read) or "no further key")


def _check_protection(recipe: Recipe, draft: Draft) -> None:
    own = recipe.train.protect
    for section, protect in (("train", own), ("merge", recipe.merge.protect)):
        if protect.directions and protect.energy and draft.sound((section, "protect")):
            found = f"{protect.energy}, while {section}.protect.directions is {protect.directions}"
            draft.add((section, "protect", "energy"), found, "one of the two, the other 0")
    if recipe.merge.regmean.on and recipe.merge.protect.on and draft.sound(("merge", "protect"), ("merge", "regmean")):
        found = f"{recipe.merge.regmean.tokens:g}, while merge.protect is set"
        draft.add(("merge", "regmean", "tokens"), found, "one of the two", "it weighs all directions of general text")
    at = ("train", "protect", "neighbours")
    if not own.neighbours or not draft.sound(at[:2]):
        return
    if own.strength is not None:
        found = f"{own.neighbours}, while train.protect.strength is set"
        draft.add(at, found, "0", "neighbours' directions are kept wholly or not at all")
    elif not own.on:
        found = f"{own.neighbours}, while train.protect.directions is 0"
        draft.add(at, found, "0, or train.protect.directions: 128", "they are kept beside those of general text")


def _check_training(recipe: Recipe, draft: Draft) -> None:
    train = recipe.train
    shares = recipe.method in TRAINED and recipe.method != "locft_bf"  # which has a mini-batch of its own
    if shares and draft.sound(("train", "mini_batch"), ("edits", "batch_size")):
        texts = 1 + train.rephrasings + train.contexts  # of a fact, each a sample of its own
        mini_batch, most = train.mini_batch, (recipe.edits.batch_size + train.rehearse) * texts
        if mini_batch > most:
            found = f"{mini_batch}, while edits.batch_size is {recipe.edits.batch_size}"
            found += f" and train.rehearse {train.rehearse}" if train.rehearse else ""
            found += f", and a fact has {texts} texts" if texts > 1 else ""
            hint = "a mini-batch cannot hold more texts than an edit batch"
            draft.add(("train", "mini_batch"), found, f"at most {most}", hint)
    if train.rehearse and train.from_ == "base" and draft.sound(("train", "rehearse"), ("train", "from")):
        found = f"{train.rehearse}, while train.from is base: that model was taught no earlier fact"
        draft.add(("train", "rehearse"), found, "0, or train.from: previous")
    launch = recipe.launch
    if draft.sound(("train", "mini_batch"), ("launch",)) and train.mini_batch % launch.everyone:
        found = f"{train.mini_batch}, while launch.processes is {launch.processes}"
        found += f" and launch.nodes {launch.nodes}" if launch.nodes > 1 else ""
        allowed = f"a multiple of {launch.everyone}"
        draft.add(("train", "mini_batch"), found, allowed, "the processes share each mini-batch evenly")
    if launch.deepspeed is not None and draft.sound(("launch",)):
        at = ("launch", "deepspeed")
        if launch.everyone == 1:
            draft.add(at, "set, while launch.processes is 1", "launch.processes: 2 or more, or no deepspeed")
        elif problem := file_problem(Path(launch.deepspeed)):
            draft.add(at, problem, "a configuration that R-SFT can train with, such as recipes/deepspeed/zero2.json")
    if draft.sound(("train", "order"), ("train", "inner_steps")) and train.inner_steps is not None:
        at = ("train", "inner_steps")
        if train.order == "breadth" and train.inner_steps > 1:
            found = f"{train.inner_steps}, while train.order is breadth, which takes one step on a mini-batch at a time"
            draft.add(at, found, "1, or order: depth")
        elif train.order == "depth" and train.inner_steps == 1:
            draft.add(at, "1, while train.order is depth", "2 or more, or order: breadth")
    if draft.sound(("train", "layers"), ("model",)) and (count := _layers_of(recipe.model)):
        at = ("train", "layers")
        try:
            resolve_layers(train.layers, count)
        except ValueError as error:
            draft.add(at, draft.shown(at), f"layers 0 to {count - 1}", str(error), at_value=True)
    if train.parameters is not None and draft.sound(("train", "parameters")):
        for key in INSTEAD["train", "parameters"]:
            if draft.written(("train", key)):
                found = "written beside train.parameters, which says what is trained"
                draft.add(("train", key), found, "one of the two")


def _layers_of(model: str) -> int | None:
    """How many layers a model that is a folder has, where its configuration tells."""
    try:
        return layer_count(Path(model)) if Path(model).is_dir() else None
    except ModelError:
        return None  # said when the model is looked at


def _check_lora(recipe: Recipe, draft: Draft) -> None:
    train = recipe.train
    if not train.lora.rank or not draft.sound(("train", "lora")):
        return
    at = ("train", "lora", "rank")
    if train.parameters is not None:
        draft.add(
            at, f"{train.lora.rank}, while train.parameters is set", "0", "LoRA adapts whole modules: use modules"
        )
    if train.protect.strength is not None:
        found = f"{train.lora.rank}, while train.protect.strength is set"
        draft.add(at, found, "0", "soft protection shrinks a matrix's change; of LoRA's factors only hard is exact")
    sound = draft.sound(("train", "from"), ("merge", "when"))
    if sound and recipe.merge.when == "end" and train.from_ == "previous":
        found = f"{train.lora.rank}, while merge.when is end"
        draft.add(at, found, "0, or train.from: base", "the next batch is trained from a model, not from an adapter")


def _check_several(recipe: Recipe, draft: Draft) -> None:
    """Batches that are trained apart are merged together, at the end."""
    if recipe.train.from_ == "base" and draft.sound(("train", "from"), ("merge", "when")):
        if recipe.merge.when != "end":
            found = f"{recipe.merge.when}, while train.from is base: the batches' models are merged together"
            draft.add(("merge", "when"), found, "end, or train.from: previous")
        else:
            for section, allowed in (("edits", "end"), ("general", "ends, never")):
                at = ("score", section, "when")
                if getattr(recipe.score, section).when == "each" and draft.written(at) and draft.sound(at):
                    found = "each, while train.from is base: no model holds the batches so far"
                    draft.add(at, found, allowed)
    if recipe.merge.file is not None and draft.sound(("merge", "file")):
        for key in INSTEAD["merge", "file"]:
            if draft.written(("merge", key)):
                draft.add(("merge", key), "written beside merge.file, which says it", "one of the two")


def _check_extra(recipe: Recipe, draft: Draft) -> None:
    if draft.sound(("train", "extra")):
        for key in recipe.train.extra:
            at = ("train", "extra", key)
            if key in TRAIN_EXTRA:
                draft.add(at, "the recipe sets this key itself", "", f"set it with '{TRAIN_EXTRA[key]}'")
            elif key in TRAIN_EXTRA_NEVER:
                draft.add(at, "this key must not be set", "", TRAIN_EXTRA_NEVER[key])
            elif key in TRAIN_EXTRA_SECRET or is_secret_name(key):
                instead = TRAIN_EXTRA_SECRET.get(key, "set it in the environment")
                draft.add(at, "a secret must not be set here", "", f"{instead}: a recipe is copied into records")
    if draft.sound(("merge", "extra")):
        for key in recipe.merge.extra:
            if key in MERGE_EXTRA:
                draft.add(("merge", "extra", key), "the recipe sets this key itself", "", MERGE_EXTRA[key])


def _check_names(recipe: Recipe, draft: Draft, methods: Mapping[str, frozenset[str]] | None) -> bool:
    """Method and parameters by mergekit's names; False when something is unknown."""
    if methods is None:
        return True
    method = recipe.merge.method
    if method not in methods:
        hint = did_you_mean(method, methods)
        found = f"{method}: mergekit has no such method"
        draft.add(("merge", "method"), found, ", ".join(sorted(methods)), hint, at_value=True)
        return False
    known = sorted(methods[method])
    names = ", ".join(known) or f"{method} takes no parameters"
    all_known = True
    for name in recipe.merge.parameters:
        if name in known:
            continue
        all_known = False
        at = ("merge", "parameters", name)
        if draft.written(("merge", "parameters")):
            draft.add(at, f"mergekit's {method} has no such parameter", names, did_you_mean(name, known))
        else:
            found = f"mergekit's {method} has no parameter {name}, which is the default here"
            draft.add(("merge", "method"), found, names, "write merge.parameters, {} if none is needed")
    return all_known


def _check_weights(recipe: Recipe, draft: Draft) -> None:
    """What mergekit would do without a word: ignore the weight, or give back the base model."""
    method, parameters = recipe.merge.method, recipe.merge.parameters
    adds_changes = method in TASK_VECTOR_METHODS
    one_tuned_model = adds_changes and draft.sound(("train", "from")) and recipe.train.from_ == "previous"
    if method in TASK_VECTOR_METHODS - NO_WEIGHT and "weight" not in parameters:
        draft.add(
            ("merge", "parameters"),
            "weight is missing",
            "a weight",
            f"mergekit's {method} cannot run without it",
        )
        return
    weights = list(leaves(parameters["weight"])) if "weight" in parameters else []
    for name, needed in (("weight", True), ("lambda", adds_changes)):
        if needed and name in parameters and all(value == 0 for value in leaves(parameters[name])):
            found = f"{name} is 0 everywhere: the merge would give back the base"
            hint = "nothing that was learned would be kept"
            draft.add(_written(draft, ("merge", "parameters", name)), found, "a number other than 0", hint)
            return
    # merging.merge_inputs writes ``normalize: false`` where the recipe is silent
    normalize: Any = parameters.get("normalize", False)
    if one_tuned_model and all(leaves(normalize)) and any(weight not in (0, 1) for weight in weights):
        found = "weight does nothing: mergekit divides by it when only one tuned model is merged"
        allowed = "normalize: false, or weight: 1"
        draft.add(_written(draft, ("merge", "parameters", "normalize")), found, allowed, "set normalize: false")


def _written(draft: Draft, path: KeyPath) -> KeyPath:
    """The key itself where the recipe writes it, else the method whose default it is."""
    return path if draft.written(path[:-1]) else ("merge", "method")
