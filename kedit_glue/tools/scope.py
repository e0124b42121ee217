"""SERAC's memory in use: a classifier sends prompts near to a remembered fact to the counterfactual model.

Scope is decided by the prompt alone, for whatever answer is asked about: EasyEdit, in teacher forcing, decides by the
prompt with the answer behind it, and mixes both models' probabilities by the similarity (SERAC.py:267,379); its
``generate`` does as is done here (SERAC.py:288). Distances, and what is put in front of a prompt, are its own code's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from kedit_glue.methods import MEMORY
from kedit_glue.tools import Emit, easyedit_compat
from kedit_glue.tools.asking import Asker, Forced, Generated
from kedit_glue.tools.easyedit import Referee
from kedit_glue.tools.learned import CLASSIFIER, COUNTERFACTUAL

IN_SCOPE = 0.5
"""Of a similarity, 0 to 1: what is above is in scope (SERAC.py:288,385)."""
NUMBERS_AT_ONCE = 2**26
"""Of the differences between prompts' and facts' embeddings, which SERAC.py:199 makes all at once."""

Answer = TypeVar("Answer")


class Scoped(Asker):
    """A model, and beside it another that answers prompts in the scope of a remembered fact."""

    def __init__(self, folder: Path, model: Any, tokenizer: Any, emit: Emit, memory: Mapping[str, Any]):
        from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

        super().__init__(model, tokenizer, emit)
        place = folder / MEMORY
        other = AutoModelForCausalLM.from_pretrained(place / COUNTERFACTUAL, dtype="auto").to(model.device).eval()
        self.other = Asker(other, tokenizer, emit)
        self.device = "cpu" if model.device.type == "cpu" else f"cuda:{model.device.index or 0}"
        self.contexts: dict[str, str | None] = {}
        """Prompt -> the remembered fact that is put in front of it, None out of scope."""
        classifier = AutoModel.from_pretrained(place / CLASSIFIER).eval()
        of_classifier = AutoTokenizer.from_pretrained(place / CLASSIFIER)
        inputs = [f"{fact['prompt']} {fact['target_new']}" for fact in memory["facts"]]
        answers = [fact["target_new"] for fact in memory["facts"]]
        with easyedit_compat.on_device(self.device) as number:
            config = serac_config(memory, number)
            self.alg = easyedit_compat.trainer().SERAC(
                named("llama"), config, None, classifier, of_classifier, other, tokenizer, inputs, answers
            )
        self.size = classifier.config.hidden_size

    def context(self, prompts: Sequence[str]) -> list[str | None]:
        """For each prompt the remembered fact in whose scope it is, with a blank behind it; None: in none's."""
        import torch

        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.contexts]
        facts = self.alg.build_cls_cache_inputs()
        told = self.alg.build_rep_cache_contexts()
        step = max(1, NUMBERS_AT_ONCE // (len(facts) * self.size))
        with torch.inference_mode(), easyedit_compat.on_device(self.device):
            for start in range(0, len(new), step):
                part = new[start : start + step]
                similar, nearest = self.alg.embedding_logsim_matrix(facts, part).exp().max(-1)
                for prompt, how, fact in zip(part, similar.tolist(), nearest.tolist(), strict=True):
                    self.contexts[prompt] = told[fact] if how > IN_SCOPE else None
        return [self.contexts[prompt] for prompt in prompts]

    def referee(self, checkout: str | None) -> ScopedReferee:
        """EasyEdit's evaluation of the same; ``checkout``: of its main, or None for the package."""
        return ScopedReferee(self, checkout)

    def forced(self, pairs: Sequence[tuple[str, str]]) -> list[Forced]:
        """As ``Asker.forced``, of the model that answers each prompt."""
        return self._apart(pairs, lambda model, part: Asker.forced(model, part))

    def generated(self, prompts: Sequence[str], template: str, most_tokens: int) -> list[Generated]:
        """As ``Asker.generated``, of the model that answers each prompt."""
        pairs = [(prompt, "") for prompt in prompts]
        return self._apart(
            pairs, lambda model, part: Asker.generated(model, [prompt for prompt, _ in part], template, most_tokens)
        )

    def _apart(
        self, pairs: Sequence[tuple[str, str]], ask: Callable[[Asker, list[tuple[str, str]]], list[Answer]]
    ) -> list[Answer]:
        before, contexts = self.other.asked, self.context([prompt for prompt, _ in pairs])
        found = split(pairs, contexts, lambda part: ask(self, part), lambda part: ask(self.other, part))
        self.asked += self.other.asked - before
        return found


class ScopedReferee(Referee):
    """EasyEdit's evaluation of both models, each asked what it answers."""

    def __init__(self, asker: Scoped, checkout: str | None):
        super().__init__(asker.model, asker.tokenizer, asker.emit, checkout)
        self.asker = asker
        self.other = Referee(asker.other.model, asker.tokenizer, asker.emit, checkout)

    def _asked(self, pairs: Sequence[tuple[str, str]], locality: bool) -> list[Any]:
        return self._apart(pairs, lambda referee, part: Referee._asked(referee, part, locality))

    def perplexity(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """As ``Referee.perplexity``."""
        return self._apart(pairs, lambda referee, part: Referee.perplexity(referee, part))

    def fluency(self, prompts: Sequence[str], seed: int) -> float:
        """As ``Referee.fluency``: the mean over all prompts."""

        def each(referee: Referee, part: list[tuple[str, str]]) -> list[float]:
            return [Referee.fluency(referee, [prompt for prompt, _ in part], seed)] * len(part)

        found = self._apart([(prompt, "") for prompt in prompts], each)
        return sum(found) / len(found)

    def _apart(
        self, pairs: Sequence[tuple[str, str]], ask: Callable[[Referee, list[tuple[str, str]]], list[Answer]]
    ) -> list[Answer]:
        contexts = self.asker.context([prompt for prompt, _ in pairs])
        return split(pairs, contexts, lambda part: ask(self, part), lambda part: ask(self.other, part))


def split(
    pairs: Sequence[tuple[str, str]],
    contexts: Sequence[str | None],
    out: Callable[[list[tuple[str, str]]], list[Answer]],
    inside: Callable[[list[tuple[str, str]]], list[Answer]],
) -> list[Answer]:
    """Answers in the order of ``pairs`` (prompt, answer): those with a context are asked ``inside``, behind it."""
    there = [i for i, context in enumerate(contexts) if context is not None]
    here = [i for i, context in enumerate(contexts) if context is None]
    found: dict[int, Answer] = {}
    if here:
        found |= dict(zip(here, out([pairs[i] for i in here]), strict=True))
    if there:
        behind = [(f"{contexts[i]}{pairs[i][0]}", pairs[i][1]) for i in there]
        found |= dict(zip(there, inside(behind), strict=True))
    return [found[i] for i in range(len(pairs))]


def serac_config(memory: Mapping[str, Any], device: int) -> SimpleNamespace:
    """What ``SERAC`` reads of its hparams once it is trained: those that it was trained by."""
    settings, trained_by = memory["settings"], memory.get("hparams", {})  # memories of earlier versions have none
    own = {**settings, **settings.get("extra", {}), **trained_by}
    return SimpleNamespace(
        device=device,
        model_name="llama",
        model_class="LlamaForCausalLM",
        cls_name="bert",  # the classifier is read at its first token, as it was trained
        cross_attend=False,
        freeze_cntr=False,
        dist_heads=own.get("dist_heads", 1),
        cos=own["cos"],
        square=own["square"],
        bound_embeds=own["bound_embeds"],
    )


def named(name: str) -> Any:
    """Stands for the edited model, of which ``SERAC`` asks the name here: SERAC.py:229 does otherwise for no llama."""
    import torch

    model: Any = torch.nn.Identity()
    model.name_or_path = name
    return model
