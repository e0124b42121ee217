"""What a user's scoring script through EasyEdit does: ``score_by_hand.py MODEL FACTS.json FIRST_N OUT.json [--all]``.

EasyEdit's evaluation functions, record by record, on the first N facts; only the imports and the device are bent as
``kedit_glue.tools.easyedit_compat`` does, without which the package does not run here at all.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

from kedit_glue.tools import easyedit_compat

METRICS = ("edit_success", "generalization", "portability", "locality")


def main(folder: str, facts_file: str, count: str, output: str, *every: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from kedit_glue import questions

    evaluate = easyedit_compat.evaluation()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.padding_side = "left"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    settings = SimpleNamespace(max_length=4096)
    facts = json.loads(Path(facts_file).read_text(encoding="utf-8"))
    found = []
    with easyedit_compat.on_device("cpu") as device:
        for fact in facts if every else facts[: int(count)]:
            asked = questions.about(fact, METRICS)
            for metric in METRICS:
                prompts = [q.prompt for q in asked if q.aspect == metric]
                targets = [q.answers[0] for q in asked if q.aspect == metric]
                if not prompts:
                    continue
                if metric == "locality":
                    answer = evaluate.compute_locality_quality(
                        model, "causal-lm", settings, tokenizer, "probe", prompts, targets, device
                    )
                else:
                    answer = evaluate.compute_rewrite_or_rephrase_quality(
                        model, "causal-lm", settings, tokenizer, prompts, targets, device
                    )
                found.append({"id": fact["id"], "metric": metric, **answer})
    Path(output).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
