"""EasyEdit alone, as a user of it would: its editor edits facts one after another (FT-L), its evaluation counts.

``python tests/outsider.py MODEL FACTS OUT``, in a process of its own. Nothing of ours counts or edits here: of
``kedit_glue`` there is only what makes EasyEdit import and run (``easyedit_compat``). It leaves in OUT::

    model          the edited model and its tokenizer
    easyedit.json  {before, after: one record a fact, as ``compute_edit_quality`` makes it: rewrite_acc, rephrase_acc,
                   portability and locality by kind; editor: what the editor itself said right after each edit;
                   hparams; seconds of the edits}

``before`` and ``after`` are of the original model and of the one after all edits. FACTS is a JSON list; a fact has
``prompt``, ``target_new``, ``rephrase_prompt`` (a string) and probes, of the same kinds in each fact: ``locality`` and
``portability`` {kind: [{prompt, ground_truth}]}, or CounterFact's ``locality_prompt`` with its answer.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

NAME = "causal-lm"
"""'t5' or 'chatglm' in it would change the code path (evaluate/evaluate.py:100, models/ft/ft_main.py:120-130)."""


def main() -> None:
    options = arguments()
    facts = json.loads(options.facts.read_text(encoding="utf-8"))[: options.limit]
    model_folder, out = options.model.resolve(), options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.chdir(out)  # editors/editor.py:33 writes logs/run.log into the current folder

    from transformers import AutoTokenizer, set_seed

    from kedit_glue.tools import easyedit_compat

    easyeditor = easyedit_compat.editors()
    set_seed(options.seed)
    with easyedit_compat.on_device("cpu") as device:
        model, tokenizer = load(model_folder)
        hparams = fitting(easyeditor.FTHyperParams, model, tokenizer, options, device)
        # editors/editor.py:63-89 loads by what a model's name holds and knows no other; line 95 takes what is loaded
        hparams.model_name = model, tokenizer
        editor = easyeditor.BaseEditor.from_hparams(hparams)
        editor.model_name = hparams.model_name = NAME
        start = time.perf_counter()
        said, edited, _ = editor.edit(**requests(facts), keep_original_weight=False, verbose=False)
        seconds = time.perf_counter() - start
        records = [one["requested_rewrite"] for one in said]
        original, _ = load(model_folder)
        before, after = (
            [
                easyeditor.compute_edit_quality(one.eval(), NAME, hparams, tokenizer, record, device)
                for record in records
            ]
            for one in (original, edited)
        )
    for old, new in zip(before, after, strict=True):
        new["locality"] = agreement(old["locality"], new["locality"])
    edited.save_pretrained(out / "model")
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(out / "model")  # without what was set for EasyEdit
    found = {"before": before, "after": after, "editor": said, "hparams": asdict(hparams), "seconds": seconds}
    Path("easyedit.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Edit facts by EasyEdit alone (FT-L), and count by its own code.")
    parser.add_argument("model", type=Path, help="a folder")
    parser.add_argument("facts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--limit", type=int, help="only the first facts")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--layer", type=int, help="whose down_proj is trained (the middle one)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def load(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer as EasyEdit wants them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")  # as editors/editor.py:91-93 sets it
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.unk_token is None:  # models/ft/ft_main.py:117 compares tokens with it, and wants a tensor back
        tokenizer.unk_token = tokenizer.pad_token
    return AutoModelForCausalLM.from_pretrained(folder), tokenizer


def fitting(kind: Any, model: Any, tokenizer: Any, options: argparse.Namespace, device: int) -> Any:
    """FT-L's settings of EasyEdit's own files (25 steps, learning rate 5e-4, no norm constraint), for this model."""
    middle = model.config.num_hidden_layers // 2
    return kind(
        layers=[middle if options.layer is None else options.layer],
        num_steps=options.steps,
        lr=options.learning_rate,
        weight_decay=0,
        kl_factor=0,
        norm_constraint=False,
        rewrite_module_tmp="model.layers.{}.mlp.down_proj.weight",
        layer_module_tmp="model.layers.{}",
        mlp_module_tmp="model.layers.{}.mlp",
        attn_module_tmp="model.layers.{}.self_attn",
        ln_f_module="model.norm",
        lm_head_module="lm_head",
        device=device,
        alg_name="FT",
        model_name=NAME,
        batch_size=1,
        # the default, 40, cuts the targets off long prompts (evaluate/evaluate_utils.py:89)
        max_length=min(tokenizer.model_max_length, model.config.max_position_embeddings),
    )


def requests(facts: list[dict[str, Any]]) -> dict[str, Any]:
    """What ``BaseEditor.edit`` takes: a list for each argument, and for each kind of probe."""
    found: dict[str, Any] = {
        "prompts": [fact["prompt"] for fact in facts],
        "target_new": [fact["target_new"] for fact in facts],
        "rephrase_prompts": [fact["rephrase_prompt"] for fact in facts],
    }
    for aspect in ("locality", "portability"):
        kinds = [by_kind(fact, aspect) for fact in facts]
        found[f"{aspect}_inputs"] = {
            kind: {key: [one[kind][key] for one in kinds] for key in ("prompt", "ground_truth")} for kind in kinds[0]
        }
    return found


def by_kind(fact: dict[str, Any], aspect: str) -> dict[str, dict[str, Any]]:
    """A fact's probes as EasyEdit's record holds them: a kind's prompts, and their answers."""
    if f"{aspect}_prompt" in fact:
        return {
            "Neighborhood": {"prompt": fact[f"{aspect}_prompt"], "ground_truth": fact[f"{aspect}_ground_truth"]},
        }
    return {
        kind: {key: [probe[key] for probe in probes] for key in ("prompt", "ground_truth")}
        for kind, probes in fact.get(aspect, {}).items()
    }


def agreement(before: dict[str, Any], after: dict[str, Any]) -> dict[str, list[float]]:
    """Locality as the editor counts it right after an edit (editors/editor.py:275-281), here after all of them."""
    import numpy as np

    found = {}
    for name, new in after.items():
        pairs = zip(new, before[name], strict=True)
        found[name.replace("_output", "_acc")] = [float(np.mean(np.equal(*pair))) for pair in pairs]
    return found


if __name__ == "__main__":
    main()
