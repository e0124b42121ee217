"""What candidates of a search are asked, and what their answers are worth against the original's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kedit_glue import corpus, scores
from kedit_glue.questions import Fact, Question, about

if TYPE_CHECKING:
    from kedit_glue.tools.asking import Asker, Forced


class Probes:
    """Prompts in the groups that go through the model together; the same for every candidate."""

    def __init__(self, facts: Sequence[Fact], asker: Asker, fitness: Mapping[str, Any], texts: Sequence[str]):
        """``fitness``: ``merge.search.fitness``. Raises ValueError where a part has nothing to be measured on."""
        self.paraphrases = (
            [question for fact in facts for question in rephrased(fact)] if fitness["paraphrases"] else []
        )
        self.locality = [q for fact in facts for q in about(fact, ["locality"])] if fitness["locality"] else []
        if fitness["locality"] and not self.locality:
            raise ValueError(
                "none of the facts that the search is judged on has a locality probe: set "
                "merge.search.fitness.locality to 0, or edit facts that have some"
            )
        self.texts = texts
        asked = [asker.encoded(q.prompt, q.answers[0]) for q in (*self.paraphrases, *self.locality)]
        read = [asker.tokenizer(text)["input_ids"][: fitness["text_tokens"]] for text in self.texts]
        self.rows = [*asked, *((ids, 1) for ids in read if len(ids) > 1)]
        self.groups = list(asker.grouped(self.rows))

    def ask(self, asker: Asker, next_group: Callable[[int], None]) -> list[Forced]:
        """The model's answers to every row; ``next_group`` is told which group comes."""
        found: dict[int, Forced] = {}
        for number, rows in enumerate(self.groups):
            next_group(number)
            found |= zip(rows, asker.passed([self.rows[row] for row in rows]), strict=True)
        return [found[row] for row in range(len(self.rows))]

    def parts(self, before: Sequence[Forced], after: Sequence[Forced]) -> dict[str, float]:
        """``paraphrases``, ``locality`` and ``perplexity`` (see ``recipe_search.Fitness``), of those that are asked."""
        found = {}
        first, last = len(self.paraphrases), len(self.paraphrases) + len(self.locality)
        if self.paraphrases:
            found["paraphrases"] = mean([answer.accuracy for answer in after[:first]])
        if self.locality:
            pairs = zip(before[first:last], after[first:last], strict=True)
            found["locality"] = mean([scores.agreement(b.most_likely, a.most_likely) for b, a in pairs])
        if self.texts:
            share = math.exp(nats(before[last:]) - nats(after[last:]))
            found["perplexity"] = share if math.isnan(share) else min(1.0, share)
        return found


def texts_of(fitness: Mapping[str, Any]) -> list[str]:
    """The texts that perplexity is measured on; none where it is not asked for."""
    return corpus.read_corpus(fitness["corpus"], fitness["texts"]) if fitness["perplexity"] else []


def rephrased(fact: Fact) -> list[Question]:
    """A fact's rephrasings; its own prompt where it has none."""
    return about(fact, ["generalization"]) or about(fact, ["edit_success"])


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def nats(answers: Sequence[Forced]) -> float:
    """Mean loss of all tokens."""
    return sum(answer.loss * len(answer.answer) for answer in answers) / sum(len(answer.answer) for answer in answers)


def kept(before: Mapping[str, Any], after: Mapping[str, Any]) -> float:
    """The mean over tasks of the share that is kept of the original's value, each at most 1."""
    shares = []
    for change in scores.general_change(before, after).values():
        old, new = change["before"], change["after"]
        better, worse = (new, old) if change["better"] == "higher" else (old, new)
        shares.append(min(1.0, better / worse) if worse else 1.0)
    return mean(shares)
