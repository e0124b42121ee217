"""EasyEdit's own evaluation functions, bound to a loaded model: the referee, fluency, perplexity. No editing."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from kedit_glue.tools import Emit
from kedit_glue.tools.asking import longest_asked

FLUENCY_TOKENS = 100
"""EasyEdit's own length, evaluate/evaluate.py:72."""
NAME = "causal-lm"
"""'t5' in a model's name would change the code path (evaluate.py:94)."""


def preload() -> None:
    """The imports that EasyEdit's evaluation needs; paid once by the warm server."""
    from kedit_glue.tools import easyedit_compat

    easyedit_compat.evaluation()


class Referee:
    """EasyEdit's evaluation, one prompt at a time as EasyEdit itself asks."""

    def __init__(
        self, model: Any, tokenizer: Any, emit: Emit, checkout: str | None = None, put: Callable[..., list[str]] = list
    ):
        """``checkout``: the folder of a git checkout of EasyEdit's main, None for the package; ``put``: prompts ->
        the prompts as the model gets them (``Asker.put``).
        """
        from kedit_glue.tools import easyedit_compat

        self.evaluate = easyedit_compat.evaluation(checkout)
        self.on_device = easyedit_compat.on_device
        self.model, self.tokenizer, self.emit, self.put = model, tokenizer, emit, put
        self.device = "cpu" if model.device.type == "cpu" else f"cuda:{model.device.index or 0}"
        # the package truncates at hparams.max_length, 40 by default, which cuts targets off long prompts
        self.hparams = SimpleNamespace(max_length=longest_asked(tokenizer), alg_name="none")

    def accuracies(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Teacher-forced token accuracy of each prompt and answer, 0 to 1."""
        return [float(value) for value in self._asked(pairs, locality=False)]

    def tokens(self, pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
        """The most likely token at each of the answer's positions, for locality."""
        return [list(value) for value in self._asked(pairs, locality=True)]

    def _asked(self, pairs: Sequence[tuple[str, str]], locality: bool) -> list[Any]:
        pairs = self._put(pairs)
        found: dict[tuple[str, str], Any] = {}
        unique = list(dict.fromkeys(pairs))
        with self.on_device(self.device) as device:
            for prompt, answer in unique:
                if locality:
                    [value] = self.evaluate.compute_locality_quality(
                        self.model, NAME, self.hparams, self.tokenizer, "probe", [prompt], [answer], device
                    )["probe_output"]
                else:
                    scored = self.evaluate.compute_rewrite_or_rephrase_quality(
                        self.model, NAME, self.hparams, self.tokenizer, [prompt], [answer], device
                    )["rewrite_acc"]
                    if (
                        len(scored) != 1 or scored[0] != scored[0]
                    ):  # evaluate_utils.py:124 leaves out what it cannot score
                        raise ValueError(f"EasyEdit did not score {prompt!r} -> {answer!r}: the answer has no token")
                    [value] = scored
                found[prompt, answer] = value
                self.emit({"event": "asked", "position": len(found), "of": len(unique)})
        return [found[pair] for pair in pairs]

    def _put(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        prompts = self.put([prompt for prompt, _ in pairs])
        return [(prompt, answer) for prompt, (_, answer) in zip(prompts, pairs, strict=True)]

    def fluency(self, prompts: Sequence[str], seed: int) -> float:
        """N-gram entropy (bits, weighted 2- and 3-grams) of top-5 sampled continuations."""
        import torch
        from transformers import set_seed

        self.emit({"event": "generating", "of": len(prompts)})
        random.seed(seed)
        set_seed(seed)
        side, self.tokenizer.padding_side = self.tokenizer.padding_side, "right"  # util/generate.py:92
        try:
            with torch.no_grad():
                found = self.evaluate.test_generation_quality(
                    self.model, self.tokenizer, self.put(prompts), max_out_len=FLUENCY_TOKENS
                )
        finally:
            self.tokenizer.padding_side = side
        return float(found["ngram_entropy"])

    def perplexity(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Of each answer behind its prompt; one at a time: padded rows are masked wrongly (evaluate_utils.py:205)."""
        return [float(self.evaluate.PPL(self.model, self.tokenizer, *pair, self.device)) for pair in self._put(pairs)]
