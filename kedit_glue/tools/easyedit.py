"""EasyEdit scores a model on edits, by its own functions; one model, no editing."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kedit_glue.tools import Emit

BATCH = 16  # prompts in one forward pass, for models whose positions are relative
MOST_TOKENS = 4096  # of a prompt with its answer
FLUENCY_TOKENS = 100  # EasyEdit's own length, evaluate/evaluate.py:72


def preload() -> None:
    """The imports a scoring stage needs; paid once by the warm server."""
    from kedit_glue.tools import easyedit_compat

    easyedit_compat.evaluation()


def score(job: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """Ask one model everything about the facts in ``job['facts']`` and write raw answers.

    ``job``: ``model`` (folder), ``facts`` (facts.json), ``new``, ``upto`` and ``old`` (see ``chosen``), ``metrics``,
    ``fluency_ids``, ``example_ids``, ``output`` (JSON file), ``seed``, ``device``,
    ``trust_remote_code``. The file holds, per fact: teacher-forced token accuracy of the edit
    prompt, of each rephrasing and of each portability probe; the argmax tokens of each locality
    probe (locality is their agreement with another model's, so it is computed later, from two
    files); plus EasyEdit's n-gram entropy and greedy answers for the facts asked for.
    """
    from kedit_glue.tools import easyedit_compat

    evaluate = easyedit_compat.evaluation()
    model, tokenizer = load(job["model"], job["device"], job["trust_remote_code"])
    emit({"event": "loaded"})  # benchmarks/sequential.py counts what came before as ours
    facts = chosen(json.loads(Path(job["facts"]).read_text(encoding="utf-8")), job)
    asker = Asker(evaluate, model, tokenizer, job["device"], emit)
    result: dict[str, Any] = {"facts": asker.facts(facts, job["metrics"])}
    if "fluency" in job["metrics"] and job["fluency_ids"]:
        fluent = [f for f in facts if f["id"] in set(job["fluency_ids"])]
        result["fluency"] = {"n_gram_entropy": asker.fluency(fluent, job["seed"]), "facts": len(fluent)}
    examples = [f for f in facts if f["id"] in set(job["example_ids"])]
    result["answers"] = {f["id"]: asker.answer(f["prompt"]) for f in examples}
    Path(job["output"]).write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")
    return {"facts": len(facts), "prompts": asker.asked}


def chosen(facts: Sequence[Any], job: Mapping[str, Any]) -> list[Any]:
    """The facts from number ``new`` to before ``upto``, behind ``old`` of those before (all where it is None).

    The sample is drawn anew for each batch, by the seed, and stands in the facts' order.
    """
    new, old = job["new"], job["old"]
    if old is None or old >= new:
        return list(facts[: job["upto"]])
    drawn = random.Random(f"{job['seed']} {new}").sample(range(new), old)
    return [facts[i] for i in sorted(drawn)] + list(facts[new : job["upto"]])


def longest_asked(tokenizer: Any) -> int:
    """So many tokens of a prompt with its answer are read, the rest is cut off."""
    return min(int(tokenizer.model_max_length), MOST_TOKENS)


def load(folder: str, device: str, trust_remote_code: bool) -> tuple[Any, Any]:
    """Model and tokenizer, padding set as EasyEdit's evaluation needs it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    # with right padding EasyEdit reads padded positions (evaluate_utils.py:107, slice_list)
    tokenizer.padding_side = "left"
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trust_remote_code, dtype="auto")
    model = model.to("cpu" if device == "cpu" else device).eval()
    return model, tokenizer


class Asker:
    """EasyEdit's evaluation bound to one model."""

    def __init__(self, evaluate: Any, model: Any, tokenizer: Any, device: str, emit: Emit):
        from kedit_glue.tools import easyedit_compat

        self.evaluate = evaluate
        self.model = model
        self.tokenizer = tokenizer
        self.device = device
        self.emit = emit
        self.on_device = easyedit_compat.on_device
        # PyPI truncates at hparams.max_length, 40 by default, which cuts targets off long prompts
        self.hparams = SimpleNamespace(max_length=longest_asked(tokenizer))
        self.name = "causal-lm"  # 't5' in the name would change the code path (evaluate.py:94)
        relative = getattr(model.config, "rope_parameters", None) or getattr(model.config, "rope_theta", None)
        # left padding shifts absolute positions: such models are asked one prompt at a time
        self.batch = BATCH if relative else 1
        self.asked = 0

    def facts(self, facts: Sequence[Mapping[str, Any]], metrics: Iterable[str]) -> list[dict[str, Any]]:
        """Raw answers per fact, in the order given."""
        questions = [q for f in facts for q in questions_about(f, set(metrics))]
        answers: list[Any] = [None] * len(questions)
        for locality in (False, True):
            rows = [i for i, q in enumerate(questions) if (q["metric"] == "locality") == locality]
            rows.sort(key=lambda i: len(questions[i]["prompt"]) + len(questions[i]["target"]))
            for start in range(0, len(rows), self.batch):
                chunk = rows[start : start + self.batch]
                for row, value in zip(chunk, self._ask([questions[i] for i in chunk], locality), strict=True):
                    answers[row] = value
                self.asked += len(chunk)
                self.emit({"event": "asked", "position": self.asked, "of": len(questions)})
        found: dict[str, dict[str, Any]] = {f["id"]: {"id": f["id"]} for f in facts}
        for question, value in zip(questions, answers, strict=True):
            record = found[question["id"]]
            if question["metric"] in ("portability", "locality"):
                record.setdefault(question["metric"], {}).setdefault(question["kind"], []).append(value)
            elif question["metric"] == "generalization":
                record.setdefault("generalization", []).append(value)
            else:
                record[question["metric"]] = value
        return list(found.values())

    def _ask(self, questions: Sequence[Mapping[str, str]], locality: bool) -> list[Any]:
        """One forward pass through EasyEdit: accuracies in [0, 1], or argmax tokens for locality."""
        prompts = [q["prompt"] for q in questions]
        targets = [q["target"] for q in questions]
        with self.on_device(self.device) as device:
            if locality:
                found = self.evaluate.compute_locality_quality(
                    self.model, self.name, self.hparams, self.tokenizer, "probe", prompts, targets, device
                )["probe_output"]
            else:
                found = self.evaluate.compute_rewrite_or_rephrase_quality(
                    self.model, self.name, self.hparams, self.tokenizer, prompts, targets, device
                )["rewrite_acc"]
        if len(found) != len(questions):  # evaluate_utils.py:124 leaves out items it cannot score
            raise ValueError(
                f"EasyEdit scored {len(found)} of {len(questions)} prompts; a target may tokenize to nothing: "
                + "; ".join(f"{p!r} -> {t!r}" for p, t in zip(prompts, targets, strict=True))[:500]
            )
        return [v if isinstance(v, list) else float(v) for v in found]

    def fluency(self, facts: Sequence[Mapping[str, Any]], seed: int) -> float:
        """EasyEdit's n-gram entropy (bits, weighted 2- and 3-grams) of top-5 sampled continuations."""
        import torch
        from transformers import set_seed

        self.emit({"event": "generating", "of": len(facts)})
        random.seed(seed)
        set_seed(seed)
        side, self.tokenizer.padding_side = self.tokenizer.padding_side, "right"  # util/generate.py:92
        try:
            with torch.no_grad():
                found = self.evaluate.test_generation_quality(
                    self.model, self.tokenizer, [f["prompt"] for f in facts], max_out_len=FLUENCY_TOKENS
                )
        finally:
            self.tokenizer.padding_side = side
        return float(found["ngram_entropy"])

    def answer(self, prompt: str, most_tokens: int = 24) -> str:
        """What the model really says: greedy, until its end-of-sequence token."""
        inputs = self.tokenizer(prompt, return_tensors="pt").to(self.model.device)
        output = self.model.generate(
            **inputs, max_new_tokens=most_tokens, do_sample=False, pad_token_id=self.tokenizer.pad_token_id
        )
        text: str = self.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return text.strip()


def questions_about(fact: Mapping[str, Any], metrics: set[str]) -> list[dict[str, str]]:
    """Every prompt one fact is asked about, as EasyEdit's record would hold them."""
    asked = []
    if "edit_success" in metrics:
        asked.append({"metric": "edit_success", "prompt": fact["prompt"], "target": fact["target_new"]})
    if "generalization" in metrics:
        asked += [
            {"metric": "generalization", "prompt": p, "target": fact["target_new"]} for p in fact["rephrase_prompts"]
        ]
    for metric in ("portability", "locality"):
        if metric in metrics:
            asked += [
                {"metric": metric, "kind": kind, "prompt": p["prompt"], "target": p["answers"][0]}
                for kind, probes in fact[metric].items()
                for p in probes
            ]
    return [{"id": fact["id"], **q} for q in asked]
