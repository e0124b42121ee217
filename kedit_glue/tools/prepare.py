"""The tokenizer's word on the facts: how a target is joined to its prompt, and whether it fits."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kedit_glue.corpus import read_corpus
from kedit_glue.recipe_schema import BARE
from kedit_glue.tools import Emit


def prepare(job: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """Adds to each fact in ``job['facts']`` the text that LLaMA-Factory trains on.

    With the bare prompt (template ``empty``) nothing ends the answer (LLaMA-Factory 0.9.5, data/template.py:890),
    so the tokenizer's end-of-sequence text is put behind the target; and the target is given its
    leading space exactly where ``prompt + ' ' + target`` tokenizes so, which is what scoring asks.
    Writes ``job['output']`` (the usable facts); returns those left out, with the reason.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job["model"], trust_remote_code=job["trust_remote_code"])
    if tokenizer.eos_token is None:
        raise ValueError(f"the tokenizer in {job['model']} has no end-of-sequence token")
    facts = json.loads(Path(job["facts"]).read_text(encoding="utf-8"))
    contexts = context_sentences(job["context_texts"]) if job["contexts"] else []
    usable, left_out = [], []
    for fact in facts:
        trained, scored = split_rephrasings(fact["rephrase_prompts"], job["rephrasings"])
        trained += in_contexts(fact["prompt"], contexts, fact["id"], job["seed"], job["contexts"])
        try:
            response, *others = (
                response_text(tokenizer, prompt, fact["target_new"], job["template"])
                for prompt in (fact["prompt"], *trained)
            )
        except ValueError as error:
            left_out.append({"id": fact["id"], "position": fact["position"], "message": str(error)})
            continue
        length = max(
            len(encode(tokenizer, prompt)) + len(encode(tokenizer, text))
            for prompt, text in zip((fact["prompt"], *trained), (response, *others), strict=True)
        )
        if length > job["cutoff_len"]:
            left_out.append(
                {
                    "id": fact["id"],
                    "position": fact["position"],
                    "message": f"prompt and target are {length} tokens, train.cutoff_len is {job['cutoff_len']}",
                }
            )
            continue
        also = [{"prompt": p, "response": r} for p, r in zip(trained, others, strict=True)]
        usable.append({**fact, "rephrase_prompts": scored, "response": response, "also_trained": also})
    if not usable:
        raise ValueError(f"the tokenizer leaves no usable fact: {left_out[0]['position']}: {left_out[0]['message']}")
    Path(job["output"]).write_text(json.dumps(usable, ensure_ascii=False, indent=1), encoding="utf-8")
    return {"facts": len(usable), "left_out": left_out}


def split_rephrasings(rephrasings: list[str], count: int) -> tuple[list[str], list[str]]:
    """The first ``count`` are trained on, the others scored; at least one is always left for scoring.

    A rephrasing that is word for word among the trained ones is not scored.
    """
    trained = rephrasings[: min(count, max(0, len(rephrasings) - 1))]
    return trained, [r for r in rephrasings if r not in trained]


CONTEXT_WORDS = range(5, 16)


def context_sentences(corpus: str | None) -> list[str]:
    """Short sentences of a general text, each once: what a fact's prompt is put behind."""
    found = [s.strip() for text in read_corpus(corpus) for s in re.findall(r"[^.!?]+[.!?]", text)]
    short = [s for s in dict.fromkeys(found) if len(s.split()) in CONTEXT_WORDS]
    if not short:
        raise ValueError(f"train.contexts: {corpus or 'the shipped text'} holds no sentence of 5 to 15 words")
    return short


def in_contexts(prompt: str, sentences: Sequence[str], fact: str, seed: int, count: int) -> list[str]:
    """The prompt behind ``count`` sentences (as ROME's context templates), drawn by the seed and the fact's id."""
    drawn = random.Random(f"{seed} {fact}").sample(list(sentences), min(count, len(sentences)))
    return [f"{sentence} {prompt}" for sentence in drawn]


def encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def response_text(tokenizer: Any, prompt: str, target: str, template: str) -> str:
    """What follows the prompt in training. Raises ValueError for a target that is no token at all."""
    if not encode(tokenizer, target):
        raise ValueError(f"the target {target!r} tokenizes to nothing")
    if template not in BARE:
        return target  # a chat template brings its own separator and end
    joint = encode(tokenizer, f"{prompt} {target}")
    for response in (f" {target}", target):
        if encode(tokenizer, prompt) + encode(tokenizer, response) == joint:
            return response + str(tokenizer.eos_token)
    # the joint text tokenizes across the boundary; keep the words as they are
    return f" {target}{tokenizer.eos_token}"
