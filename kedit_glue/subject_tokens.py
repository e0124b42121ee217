"""Lets trained matrices learn at the tokens of a fact's subject alone.

What a fact is taught by fine-tuning spreads to the same sentence about others, because every token of it pulls at the
matrices. With ``train.tokens: subject`` only the tokens that name the subject do, as only the subject's key does in
ROME (arXiv 2202.05262, section 3.1) and MEMIT; the loss and the path back through the model stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from kedit_glue.sample_losses import prompt_of, texts_of
from kedit_glue.tools import Emit


class SubjectOnly:
    """Hooks on the modules whose parameters are trained; make it after R-SFT's own hooks, which choose the samples.

    ``dataset``: LLaMA-Factory's, a row a sample. A sample that does not name its fact's subject is learned at all of
    its tokens; how many there are is told. A module gives what it gives anyway: at all other tokens it is used with
    its parameters detached. Raises ValueError, which names the module, for one that sees some of the tokens only.
    """

    def __init__(
        self, model: torch.nn.Module, tokenizer: Any, dataset: Any, samples: Sequence[Mapping[str, Any]], emit: Emit
    ):
        self.where: dict[tuple[int, ...], list[bool]] = {}
        """Token ids of a sample -> at which of them the matrices learn."""
        self.named = 0
        """Of how many samples the subject's tokens were found."""
        for row, sample in enumerate(samples):
            ids, labels = dataset[row]["input_ids"], dataset[row]["labels"]
            found = subject_places(tokenizer, ids, labels, sample)
            self.named += any(found)
            self.where[tuple(ids)] = found if any(found) else [True] * len(ids)
        if self.named < len(samples):
            without = f"{len(samples) - self.named} of {len(samples)} texts do not name the subject in their tokens"
            emit({"event": "say", "text": f"train.tokens: {without}: learned at all tokens"})
        self.now = torch.zeros(0, dtype=torch.bool)
        """[batch, tokens]: where the current mini-batch's samples are learned."""
        self.inside = False
        parameters = model.named_parameters(remove_duplicate=False)  # one that is tied has several owners
        trained = {name.rpartition(".")[0] for name, p in parameters if p.requires_grad}
        self.handles = [model.register_forward_pre_hook(self._look, with_kwargs=True)]
        for name, module in model.named_modules():
            if name in trained:
                self.handles.append(module.register_forward_hook(self._elsewhere_detached(name)))

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()

    def _look(self, model: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the model: which tokens of which samples it is about to read."""
        real = kwargs["attention_mask"].bool()
        self.now = torch.zeros_like(real)
        for row, text in enumerate(texts_of(kwargs)):
            self.now[row, real[row]] = torch.tensor(self.where[text], device=real.device)

    def _elsewhere_detached(self, name: str) -> Any:
        def hook(module: torch.nn.Module, args: Any, output: Any) -> torch.Tensor | None:
            if self.inside:
                return None
            shape = list(getattr(output, "shape", ()))
            if shape[:2] != list(self.now.shape):
                given = f"a tensor of shape {shape}" if shape else f"a {type(output).__name__}"
                raise ValueError(
                    f"train.tokens: subject needs modules that give something for every token, {name} gives {given} "
                    f"for {list(self.now.shape)} tokens (experts?): train others, or set train.tokens to all"
                )
            if not output.requires_grad:
                return None
            self.inside = True
            try:
                detached = {key: p.detach() for key, p in module.named_parameters()}
                elsewhere = torch.func.functional_call(module, detached, args)
            finally:
                self.inside = False
            where = self.now.reshape(*self.now.shape, *[1] * (output.ndim - 2))
            return torch.where(where, output, elsewhere)

        return hook


def subject_places(tokenizer: Any, ids: Sequence[int], labels: Sequence[int], sample: Mapping[str, Any]) -> list[bool]:
    """Of each token of a sample whether it is one of those that name the subject where the prompt does so last.

    The text's very first token is left out where there are others: attention of every text rests on it (attention
    sinks, arXiv 2309.17453), and what is learned there reaches them all. None is, where the prompt does not name it, or
    is not what its tokens say (a tokenizer that normalizes it).
    """
    found = [False] * len(ids)
    subject, prompt = sample["subject"] or "", sample["instruction"]
    if not subject or subject not in prompt or (around := prompt_of(tokenizer, ids, labels, prompt)) is None:
        return found
    asked = around[0] + prompt + around[1]
    begin = len(around[0]) + last_named(prompt, subject)
    end = begin + len(subject)
    start, since = 0, 0  # the characters and the tokens before those that are looked at
    for place in range(len(ids)):
        read = tokenizer.decode(ids[: place + 1], clean_up_tokenization_spaces=False)
        if not asked.startswith(read):  # a character takes several tokens, and this is not its last
            continue
        if start < end and len(read) > begin:
            found[since : place + 1] = [True] * (place + 1 - since)
        if len(read) >= end:
            break
        start, since = len(read), place + 1
    if any(found[1:]):
        found[0] = False
    return found


def last_named(prompt: str, subject: str) -> int:
    """Where the prompt names the subject last: as a word by itself where it does so, else inside of another."""
    alone = [match.start() for match in re.finditer(rf"(?<!\w){re.escape(subject)}(?!\w)", prompt)]
    return alone[-1] if alone else prompt.rindex(subject)
