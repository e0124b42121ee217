"""The tokenizer's word on the facts: how a target is joined to its prompt, and whether it fits."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kedit_glue.batch_files import TEMPLATES
from kedit_glue.corpus import SUBJECTS, read_corpus, read_texts, shipped
from kedit_glue.facts.errors import shown
from kedit_glue.recipe_schema import BARE
from kedit_glue.tools import Emit
from kedit_glue.tools.asking import longest_asked


def prepare(job: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """Adds to each fact in ``job['facts']`` the text that LLaMA-Factory trains on.

    With the bare prompt (template ``empty``) nothing ends the answer (LLaMA-Factory 0.9.5, data/template.py:890),
    so the tokenizer's end-of-sequence text is put behind the target; and the target is given its
    leading space exactly where ``prompt + ' ' + target`` tokenizes so, which is what scoring asks.
    Writes ``job['output']`` (the usable facts); returns those left out, and probes left out of others, with the reason.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job["model"], trust_remote_code=job["trust_remote_code"])
    if tokenizer.eos_token is None:
        raise ValueError(f"the tokenizer in {job['model']} has no end-of-sequence token")
    facts = json.loads(Path(job["facts"]).read_text(encoding="utf-8"))
    contexts = context_sentences(job["context_texts"]) if job["contexts"] else []
    others = read_texts(shipped(SUBJECTS)) if job["neighbours"] else []
    tokens_of = token_counter(tokenizer, job)
    usable, left_out = [], []
    for fact in facts:
        trained, scored = split_rephrasings(fact["rephrase_prompts"], job["rephrasings"])
        trained += in_contexts(fact["prompt"], contexts, fact["id"], job["seed"], job["contexts"])
        texts = [
            (prompt, response_text(tokenizer, prompt, fact["target_new"], job["template"]))
            for prompt in (fact["prompt"], *trained)
        ]
        probes, dropped = askable_probes(tokenizer, {**fact, "rephrase_prompts": scored})
        if (length := max(tokens_of(prompt, response) for prompt, response in texts)) > job["cutoff_len"]:
            dropped = [f"prompt and target are {length} tokens, train.cutoff_len is {job['cutoff_len']}"]
        elif flaw := unaskable(tokenizer, fact["prompt"], fact["target_new"]):
            dropped = [f"the target {flaw}"]
        else:
            also = [{"prompt": prompt, "response": response} for prompt, response in texts[1:]]
            about = {"neighbours": about_others(fact, others, job["seed"])} if others and fact["subject"] else {}
            usable.append({**fact, **probes, "response": texts[0][1], "also_trained": also, **about})
        left_out += [{"id": fact["id"], "position": fact["position"], "message": message} for message in dropped]
    if not usable:
        raise ValueError(f"the tokenizer leaves no usable fact: {left_out[0]['position']}: {left_out[0]['message']}")
    if others and not any("neighbours" in fact for fact in usable):
        raise ValueError("train.protect.neighbours: no fact has a subject that another could stand for: set it to 0")
    Path(job["output"]).write_text(json.dumps(usable, ensure_ascii=False, indent=1), encoding="utf-8")
    return {"facts": len(usable), "left_out": left_out}


def split_rephrasings(rephrasings: list[str], count: int) -> tuple[list[str], list[str]]:
    """The first ``count`` are trained on, the others scored; at least one is always left for scoring.

    A rephrasing that is word for word among the trained ones is not scored.
    """
    trained = rephrasings[: min(count, max(0, len(rephrasings) - 1))]
    return trained, [r for r in rephrasings if r not in trained]


def unaskable(tokenizer: Any, prompt: str, answer: str) -> str | None:
    """Why scoring could not tell this answer from its prompt, None where it can.

    The tokenizer is asked only about what looks as if: a file may hold many probes.
    """
    if not any(map(str.isalnum, answer)) and not encode(tokenizer, answer):
        return f"{shown(answer)} tokenizes to nothing"
    if (padding := tokenizer.pad_token or tokenizer.eos_token) in answer:
        # EasyEdit counts it among the padding before the prompt (evaluate_utils.py:97)
        return f"{shown(answer)} holds {padding}, the tokenizer's padding: EasyEdit would score other tokens"
    most = longest_asked(tokenizer)
    text = f"{prompt} {answer}"
    if len(text.encode()) >= most and (count := len(tokenizer.encode(text))) > most:
        return f"{shown(answer)} ends {count} tokens, of which scoring reads {most}"
    return None


def askable_probes(tokenizer: Any, fact: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A fact's rephrasings, portability and locality without what cannot be scored, and why that was left out."""
    dropped: list[str] = []

    def askable(what: str, prompt: str, answer: str) -> bool:
        flaw = unaskable(tokenizer, prompt, answer)
        if flaw:
            dropped.append(f"a {what} is not asked: its answer {flaw}")
        return flaw is None

    found: dict[str, Any] = {
        "rephrase_prompts": [p for p in fact["rephrase_prompts"] if askable("rephrasing", p, fact["target_new"])]
    }
    for metric in ("portability", "locality"):
        sound = {
            kind: [p for p in probes if askable(f"{metric} probe", p["prompt"], p["answers"][0])]
            for kind, probes in fact.get(metric, {}).items()
        }
        found[metric] = {kind: probes for kind, probes in sound.items() if probes}
    return found, dropped


def token_counter(tokenizer: Any, job: Mapping[str, Any]) -> Callable[[str, str], int]:
    """How many tokens training sees of a prompt and what follows it, what a chat template adds included."""
    if job["template"] in BARE:
        return lambda prompt, response: len(encode(tokenizer, prompt)) + len(encode(tokenizer, response))
    if job["template"] == "chat" and not isinstance(tokenizer.chat_template, str):
        raise ValueError(
            f"train.template is chat, and the tokenizer in {job['model']} has no chat template: set it to bare, or to "
            "the name of one of LLaMA-Factory's"
        )
    from llamafactory.data.template import get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments
    from transformers import AutoTokenizer

    name = TEMPLATES.get(job["template"], job["template"])
    fixed = AutoTokenizer.from_pretrained(job["model"], trust_remote_code=job["trust_remote_code"])
    template = get_template_and_fix_tokenizer(fixed, DataArguments(template=name))

    def count(prompt: str, response: str) -> int:
        said = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        return sum(map(len, template.encode_oneturn(fixed, said))) + int(template.efficient_eos)

    return count


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


NEIGHBOURS = 8
"""So many of them a fact."""


def about_others(fact: Mapping[str, Any], others: Sequence[str], seed: int) -> list[str]:
    """The fact's prompt about other subjects, drawn by the seed and the fact's id."""
    drawn = random.Random(f"{seed} {fact['id']} neighbours").sample(list(others), NEIGHBOURS)
    return [fact["prompt"].replace(fact["subject"], other) for other in drawn if other != fact["subject"]]


def encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def response_text(tokenizer: Any, prompt: str, target: str, template: str) -> str:
    """What follows the prompt in training."""
    if template not in BARE:
        return target  # a chat template brings its own separator and end
    joint = encode(tokenizer, f"{prompt} {target}")
    for response in (f" {target}", target):
        if encode(tokenizer, prompt) + encode(tokenizer, response) == joint:
            return response + str(tokenizer.eos_token)
    # the joint text tokenizes across the boundary; keep the words as they are
    return f" {target}{tokenizer.eos_token}"
