"""Candidates of a merge search: merged in memory by mergekit, asked in memory, no file written.

The original is loaded once. A candidate's touched tensors are put into it; a data flow's candidate is a new list of
layers of the original and its tuned twins, which share all tensors but those that training touched. What the layers
below the first touched one make of each prompt is the same for every candidate: it is computed once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kedit_glue.search import fitness
from kedit_glue.search.paths import Step
from kedit_glue.tools import lm_eval, probes
from kedit_glue.tools.sort_once import Orders, sorted_once
from kedit_glue.tools.twin import touched, twin
from kedit_glue.weights import Weights

SPOKEN = 4
"""Tokens that a candidate has to be able to generate."""
MOST_PROMPTS = 10
"""So many facts' prompts are tried for one behind which the original says something."""
TASKS_AT_ONCE = 8
"""Items that lm-eval hands to a candidate at once."""
Flow = Sequence[tuple[str, Step]]
"""A data flow: each step with its model's folder."""


class NoCandidate(RuntimeError):
    """A merge that is worth nothing; the message says why."""


class Candidates:
    """Judges one merge after another."""

    def __init__(self, job: Mapping[str, Any], texts: Sequence[str]):
        """``job``: see ``tools/search.search``; ``texts``: of which perplexity is measured.

        Raises ValueError where there is nothing to judge by.
        """
        from kedit_glue.tools import asking
        from kedit_glue.tools.layer_stack import Remembered, Stack

        self.job, self.fitness = job, job["search"]["fitness"]
        self.model, tokenizer = asking.load(job["before"], job["device"], job["trust_remote_code"])
        if job["search"]["precision"] == "bf16":
            self.model.bfloat16()
        self.asker = asking.Asker(self.model, tokenizer, lambda event: None)
        self.touched = frozenset(touched(self.model, job["trainable"]))
        facts = json.loads(Path(job["facts"]).read_text(encoding="utf-8"))
        ids = set(job["ids"])
        self.facts = [fact for fact in facts if fact["id"] in ids]
        self.probes = probes.Probes(self.facts, self.asker, self.fitness, texts)
        self.stack = Stack(self.model, self.touched)
        self.lower = Remembered(self.stack.own[self.stack.first - 1]) if self.stack.first else None
        self.twins: dict[str, Any] = {}
        self.orders = Orders()
        self.prompt = next((p for p in (fact["prompt"] for fact in self.facts[:MOST_PROMPTS]) if self._said(p)), None)
        if self.lower:
            self.stack.lay([*self.stack.own[: self.stack.first - 1], self.lower, *self.stack.own[self.stack.first :]])
        self.before = self.probes.ask(self.asker, self._next_group)
        self.stack.lay(self.stack.own)
        self.general = self._general() if self.fitness["general"] else {}

    def judge(self, config: Mapping[str, Any], path: Flow = ()) -> dict[str, Any]:
        """A merge YAML's ``parts`` (see ``search.fitness.PARTS``), or the ``cause`` why it has none; and ``seconds``.

        ``path``: of a data flow, which is not merged but laid out. ``seconds``: of merging, of asking.
        """
        import torch

        started = merged = time.monotonic()
        found: dict[str, Any]
        try:
            with torch.no_grad():
                layers = self._laid(path) if path else self._merged(config)
            merged = time.monotonic()
            found = {"parts": self._parts(layers, path)}
            if why := fitness.wrong(found["parts"]):
                raise NoCandidate(why)
        except Exception as error:  # whatever it is that a merge breaks costs this candidate only
            found = {"cause": str(error) if isinstance(error, NoCandidate) else f"{type(error).__name__}: {error}"}
        finally:
            self.stack.lay(self.stack.own)
        return {**found, "seconds": [round(merged - started, 3), round(time.monotonic() - merged, 3)]}

    # -- a candidate's weights ------------------------------------------------------------------

    def _merged(self, config: Mapping[str, Any]) -> list[Any]:
        """The model's own layers, with the merged tensors in them."""
        from kedit_glue.tools.merge_memory import merged_in_memory

        with sorted_once(self.orders):
            tensors = merged_in_memory(config, self.job)
        for name, parameter in self.model.named_parameters():
            if name in self.touched:
                parameter.data.copy_(tensors[name])
        return self.stack.own

    def _laid(self, path: Flow) -> list[Any]:
        """The layers of a data flow, each with a number of its own for the cache."""
        laid = []
        for place, (folder, step) in enumerate(path):
            layer = self._of(folder)[step.layer]
            writers = self.job["writers"] if step.scale != 1.0 else ()
            scaled = {
                name: parameter.data * step.scale
                for name, parameter in layer.named_parameters()
                if any(writer in name for writer in writers)
            }
            copied = twin(layer, scaled)
            for module in copied.modules():
                if hasattr(module, "layer_idx"):
                    module.layer_idx = place
            laid.append(copied)
        return laid

    def _of(self, folder: str) -> Sequence[Any]:
        """The layers of one of the models."""
        if folder == self.job["before"]:
            return self.stack.own
        if folder not in self.twins:
            stored = Weights(Path(folder))
            own = {name: stored[name] for name in self.touched}
            self.twins[folder] = self.stack.of(twin(self.model, own))
        found: Sequence[Any] = self.twins[folder]
        return found

    # -- what it is worth -----------------------------------------------------------------------

    def _parts(self, layers: Sequence[Any], path: Flow) -> dict[str, float]:
        self.stack.lay(layers)
        self._speaks()
        general = self._general() if self.fitness["general"] else {}
        if self.lower and begins_as_original(path, self.stack.first):
            self.stack.lay([self.lower, *layers[self.stack.first :]])
        parts = self.probes.parts(self.before, self.probes.ask(self.asker, self._next_group))
        return parts | ({"general": probes.kept(self.general, general)} if general else {})

    def _next_group(self, number: int) -> None:
        if self.lower:
            self.lower.group = number

    def _speaks(self) -> None:
        """Raises NoCandidate where the model says nothing behind a prompt that makes the original say something."""
        if self.prompt is not None and not self._said(self.prompt):
            raise NoCandidate(f"it says nothing behind {self.prompt!r}")

    def _said(self, prompt: str) -> str:
        return str(self.asker.generated([prompt], "bare", SPOKEN)[0].text)

    def _general(self) -> dict[str, Any]:
        from lm_eval.models.huggingface import HFLM

        model = HFLM(pretrained=self.model, tokenizer=self.asker.tokenizer, batch_size=TASKS_AT_ONCE)
        return lm_eval.measured(model, {**self.fitness, "seed": self.job["seed"]})


def begins_as_original(path: Flow, first: int) -> bool:
    """Whether the layers below ``first``, which all models share, come first and unscaled (so in every plain merge)."""
    return not path or [(step.layer, step.scale) for _, step in path[:first]] == [(at, 1.0) for at in range(first)]
