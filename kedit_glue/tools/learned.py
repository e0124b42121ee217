"""Editors that are trained before they edit: MEND's networks, SERAC's classifier and counterfactual model.

EasyEdit's own ``EditTrainer`` trains them, once for a model, facts and hparams: what comes out is kept in the cache.
Batches are made by ``Examples``; what else is bent stands in ``easyedit_compat``.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kedit_glue import learned, models, moments
from kedit_glue.atomic import new_folder, write_json
from kedit_glue.tools import Emit, easyedit_compat

ARCHIVE = "archive"
"""MEND's networks, in the form that EasyEdit's executors read; tensors and numbers only."""
CLASSIFIER = "classifier"
COUNTERFACTUAL = "counterfactual"
"""Folders of SERAC's models, as transformers writes them."""
SAID = "editor.json"
"""Written last: what the editor was trained on, and how that went."""
HPARAMS = {
    "mend": ("mend_training_hparams", "MENDTrainingHparams"),
    "serac": ("serac_training_hparams", "SERACTrainingHparams"),
}
PLACES = ("model_name", "tokenizer_name", "small_name", "cls_name", "results_dir", "device", "archive")
"""Hparams that are places: which models lie there is told by their weights' hashes."""
IGNORED = -100
MOST_TOKENS = 256
"""Of a training text; what is longer loses its beginning."""
MOST_EVENTS = 1000


class TrainingError(RuntimeError):
    """No editor came out of training; the message says why and what to do."""


def train_editor(job: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """Train a method's editor, or find it in the cache; ``job['output']``: JSON that says where it is, and by which
    hparams it is to be used.

    ``job``: ``method``, ``editor_yaml`` (EasyEdit's hparams), ``model`` (folder), ``train_facts``, ``skip`` and
    ``limit`` (``learned.training_facts``), ``left_out`` (ids of those to leave out), ``rephrased`` (whether the edited
    model is asked rephrasings), ``cache``, ``seed``, ``device``, ``trust_remote_code``. Returns ``facts`` (trained and
    validated with), ``left_out`` (how many), ``steps``, ``best_step``, ``seconds_training``, ``seconds_kept`` (the same
    where an earlier run trained it, else 0), ``editor_bytes`` and ``validation`` (EasyEdit's numbers of the best one).
    Raises TrainingError.
    """
    training, left_out = learned.training_facts(job["train_facts"], job["skip"], job["limit"]), job["left_out"]
    found = learned.examples(training, left_out)
    if left_out:
        count = f"facts to train on: {len(found)}; left out: {len(left_out)}"
        emit({"event": "say", "text": f"{count}, by whose locality prompts edits are scored"})
    hparams = yaml.safe_load(Path(job["editor_yaml"]).read_text(encoding="utf-8"))
    if refused := [name for name in learned.STAY_FALSE if hparams.get(name)]:
        why = learned.STAY_FALSE[refused[0]]
        raise TrainingError(f"{job['editor_yaml']}: {refused[0]} must be false: {why}")
    places = _places(hparams) if job["method"] == "serac" else {}
    folder = Path(job["cache"]) / "editors" / key(job, hparams, places, found)
    if known := (folder / SAID).is_file():
        emit({"event": "say", "text": f"the editor is trained already: {folder}"})
    else:
        with new_folder(folder, f".partial-{os.getpid()}") as aside:
            said = _trained(job, {**hparams, **places}, found, aside, emit)
            write_json(aside / SAID, said)
    said = json.loads((folder / SAID).read_text(encoding="utf-8"))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    trained_by = {name: hparams[name] for name in learned.STRUCTURE[job["method"]]}
    write_json(Path(job["output"]), {"archive": str(folder), "hparams": trained_by, **said})
    kept = said["seconds_training"] if known else 0.0
    return {**said, "seconds_kept": kept, "left_out": len(left_out), "editor_bytes": size}


def _places(hparams: Mapping[str, Any]) -> dict[str, str]:
    """Folders of the models that SERAC begins with; a packaged one is unpacked."""
    small, classifier = hparams["small_name"], hparams["cls_name"]
    return {
        "small_name": str(models.unpack(small)) if small in models.PACKAGED else small,
        "cls_name": str(models.encoder()) if classifier == models.ENCODER else classifier,
    }


def key(
    job: Mapping[str, Any], hparams: Mapping[str, Any], places: Mapping[str, str], found: Sequence[Mapping[str, str]]
) -> str:
    """Name of an editor's folder: the method, and a hash of all that it depends on."""
    depends = {
        "model": moments.model_key(Path(job["model"])),
        "others": [moments.model_key(Path(place)) for place in places.values()],
        "hparams": {name: value for name, value in hparams.items() if name not in PLACES},
        "facts": found,
        "rephrased": job["rephrased"],
        "seed": job["seed"],
        "easyeditor": importlib.metadata.version("easyeditor"),
    }
    text = json.dumps(depends, sort_keys=True, ensure_ascii=False)
    return f"{job['method']}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _trained(
    job: Mapping[str, Any], hparams: dict[str, Any], found: Sequence[dict[str, str]], folder: Path, emit: Emit
) -> dict[str, Any]:
    """Train, and leave the best editor in ``folder``; what is to be said of it."""
    import torch
    from transformers import set_seed

    from kedit_glue.tools import asking

    model, tokenizer = asking.load(job["model"], job["device"], job["trust_remote_code"])
    name = model.name_or_path = easyedit_compat.path_name(model)
    wanted = set(hparams["inner_params"])
    for parameter, weight in model.named_parameters():
        weight.requires_grad_(parameter in wanted)  # EasyEdit takes gradients of all and uses these
    hparams["inner_params"] = [parameter for parameter, _ in model.named_parameters() if parameter in wanted]
    if job["method"] == "serac":
        _same_vocabulary(tokenizer, hparams["small_name"], job["trust_remote_code"])
    random.seed(job["seed"])
    set_seed(job["seed"])
    training, validation = learned.split(found)
    of = hparams["max_iters"]
    drawn = order(training, of * hparams["batch_size"], job["seed"])
    started = time.monotonic()
    package = easyedit_compat.trainer().__name__
    module, kind = HPARAMS[job["method"]]
    with (
        tempfile.TemporaryDirectory(dir=folder, prefix="training-") as scratch,
        easyedit_compat.training_on(model) as trainer_class,
        easyedit_compat.on_device(job["device"]) as number,
    ):
        if job["method"] == "serac":
            # SERAC.py:37,181: a classifier whose path holds no 'bert' is read at a pooling layer that was taken off
            (Path(scratch) / "bert").symlink_to(Path(hparams["cls_name"]).resolve(), target_is_directory=True)
            hparams["cls_name"] = str(Path(scratch) / "bert")
        device = f"cuda:{number}"
        # max_iters: BaseTrainer.py:163 stops in front of the last step; its epochs are round(steps / facts), one here
        said = {**hparams, "model_name": name, "device": device, "results_dir": scratch, "max_iters": of + 1}
        config = getattr(importlib.import_module(f"{package}.training_hparams.{module}"), kind)(**said)
        made = [Examples(part, tokenizer, device, job["rephrased"]) for part in (drawn, validation)]
        trainer = trainer_class(config, *made)
        easyedit_compat.bend_trainer(trainer, Path(scratch) / ARCHIVE)
        _watch(trainer, of, emit)
        trainer.run()
        if not (Path(scratch) / ARCHIVE).is_file():
            raise TrainingError(
                f"no validation gave a finite {config.early_stop_key}: lower methods.{job['method']}.lr"
            )
        best = torch.load(Path(scratch) / ARCHIVE, map_location="cpu")
        _keep(job["method"], trainer.model, best, folder)
    return {
        "facts": len(found),
        "steps": of,
        "best_step": best["step"],
        "seconds_training": round(time.monotonic() - started, 3),
        "validation": {name: best["val_stats"][name] for name in ("edit/acc_val", "loss/edit_val", "loss/loc_val")},
    }


def _keep(method: str, alg: Any, best: dict[str, Any], folder: Path) -> None:
    """The best editor's weights in the form that they are read in."""
    import torch

    if method == "mend":
        torch.save(best, folder / ARCHIVE)
        return
    alg.load_state_dict(best["model"], False)
    alg.classifier.save_pretrained(folder / CLASSIFIER)
    alg.classifier_tok.save_pretrained(folder / CLASSIFIER)
    alg.replacement.save_pretrained(folder / COUNTERFACTUAL)


def _watch(trainer: Any, of: int, emit: Emit) -> None:
    """Training steps become events, ``MOST_EVENTS`` of them at most."""
    step, every = trainer.train_step, max(1, of // MOST_EVENTS)

    def told(batch: Mapping[str, Any]) -> Any:
        info = step(batch)
        done = trainer.global_iter
        if done % every == 0 or done == of:
            more = {"unit": "training steps", "loss": info["loss/total"]}
            emit({"event": "editing", "position": done, "of": of, **more})
        return info

    trainer.train_step = told


def _same_vocabulary(tokenizer: Any, small: str, trust_remote_code: bool) -> None:
    """SERAC.py:157 reads one model's tokens with the other's tokenizer, and mixes their probabilities."""
    from transformers import AutoTokenizer

    other = AutoTokenizer.from_pretrained(small, trust_remote_code=trust_remote_code)
    if other.get_vocab() != tokenizer.get_vocab():
        raise TrainingError(
            f"the counterfactual model {small} has another vocabulary than the model that is edited: set "
            "methods.serac.small_name to a smaller model of the same family, or to null"
        )


def order(training: Sequence[dict[str, str]], count: int, seed: int) -> list[dict[str, str]]:
    """``count`` facts: all in a random order, again and again."""
    draw = random.Random(seed)
    found: list[dict[str, str]] = []
    while len(found) < count:
        found += draw.sample(list(training), len(training))
    return found[:count]


class Examples:
    """Facts as batches of EasyEdit's trainer.

    For ``dataset/counterfact.py:176-194``, which tokenizes answers apart from their prompts, without the blank in front
    of them: in most vocabularies other tokens than those that stand in the text. And it cuts off what is behind 40
    tokens, the answer. ``cond`` is the edit, ``edit_inner`` what the edited model is asked: the same, or a rephrasing.
    """

    def __init__(self, facts: Sequence[dict[str, str]], tokenizer: Any, device: str, rephrased: bool):
        self.facts, self.tokenizer, self.device, self.rephrased = facts, tokenizer, device, rephrased

    def __len__(self) -> int:
        return len(self.facts)

    def __getitem__(self, item: int) -> dict[str, str]:
        return self.facts[item]

    def collate_gpt_fn(self, batch: Sequence[dict[str, str]]) -> dict[str, Any]:
        def made(prompt: str, answer: str) -> dict[str, Any]:
            return encoded(self.tokenizer, [(fact[prompt], fact[answer]) for fact in batch], self.device)

        loc = made("locality_prompt", "locality_ground_truth")
        loc["decoder_attention_mask"] = (loc["labels"] != IGNORED).long()
        return {
            "cond": made("prompt", "target_new"),
            "edit_inner": made("rephrase_prompt" if self.rephrased else "prompt", "target_new"),
            "loc": loc,
        }


def encoded(tokenizer: Any, pairs: Sequence[tuple[str, str]], device: str) -> dict[str, Any]:
    """``input_ids`` and ``attention_mask`` [pairs, tokens] of prompt, blank, answer, padded on the left; ``labels``
    [pairs, most tokens of an answer]: the answers' tokens as they stand there, -100 in front of shorter ones.
    """
    import torch

    rows, answers = [], []
    for prompt, answer in pairs:
        ids = tokenizer(f"{prompt} {answer}")["input_ids"]
        start = min(len(tokenizer(prompt)["input_ids"]), len(ids) - 1)
        rows.append(ids[-MOST_TOKENS:])
        answers.append(ids[start:][-MOST_TOKENS + 1 :])
    width, wide = max(map(len, rows)), max(map(len, answers))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    labels = torch.tensor([[IGNORED] * (wide - len(row)) + row for row in answers])
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}


def hparams_of(said: Path) -> dict[str, Any]:
    """Of the editor that ``train_editor`` wrote of: its file, and the hparams that it was trained by.

    Raises TrainingError where it is gone.
    """
    found = json.loads(said.read_text(encoding="utf-8"))
    file = Path(found["archive"]) / ARCHIVE
    if not file.is_file():
        raise TrainingError(f"the trained editor {file} is gone: run the same command with --force editor")
    return {**found.get("hparams", {}), "archive": str(file)}  # runs of earlier versions have none


def edit(module: Any, model: Any, tokenizer: Any, requests: Sequence[Mapping[str, Any]], hparams: Any) -> Iterator[int]:
    """Edit facts into the model, ``hparams.batch_size`` at a time, by EasyEdit's executor; yields how many are in.

    ``module``: ``easyeditor.models.mend.mend_main``.
    """
    batch: dict[str, Any] = {}
    executor = easyedit_compat.mend_executor(module, model, tokenizer, hparams, lambda theirs: batch)
    for start in range(0, len(requests), hparams.batch_size):
        part = requests[start : start + hparams.batch_size]
        pairs = [(request["prompt"], request["target_new"]) for request in part]
        batch |= encoded(tokenizer, pairs, f"cuda:{hparams.device}")
        executor.apply_to_model(model, tokenizer, [dict(request) for request in part], hparams)
        yield start + len(part)
