"""Raw answers to scores. Pure functions; the one documented result type of ``scores.json``.

``scores.json``
    schema      1
    run, model  names
    metrics     name -> {definition, range, better}
    before      {edits: Summary over all facts, general}
    batches     one entry a batch: {batch (from 1), facts, training, merge, edited: Summary over this batch's
                facts, all_so_far: Summary over every fact edited until then, or over this
                batch's and a sample of the earlier ones (score.edits.old_facts), both also as
                …_before: the original model's, general?}
    after       {edits: Summary over all facts, general, general_change}: the edited model
    facts       one entry a fact: {id, batch, prompt, target_new, before, after, learned}
    answers     a few facts with what each model really generated

A Summary maps a metric's name to ``{"mean", "facts", "by_kind"?}``: the mean over the facts that
have such probes, each fact counting once, with the mean over its probes (portability and locality:
over its kinds, each with the mean over its probes); ``mean`` is None where no fact has any.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SCHEMA = 1
SUCCESS = "edit_success.teacher_forced.token_accuracy"
GENERALIZATION = "generalization.teacher_forced.token_accuracy"
PORTABILITY = "portability.teacher_forced.token_accuracy"
LOCALITY = "locality.teacher_forced.token_agreement"
FLUENCY = "fluency.sampled.n_gram_entropy"

METRICS: dict[str, dict[str, str]] = {
    SUCCESS: {
        "definition": "share of the target's tokens that are the model's most likely token, the prompt and the "
        "target's earlier tokens given (EasyEdit evaluate_utils.py, test_prediction_acc; 'reliability')",
        "range": "0 to 1",
        "better": "higher",
    },
    GENERALIZATION: {
        "definition": "the same behind each rephrasing of the prompt ('paraphrase')",
        "range": "0 to 1",
        "better": "higher",
    },
    PORTABILITY: {
        "definition": "the same for probes that follow from the new fact: reasoning over it, the subject under "
        "another name",
        "range": "0 to 1",
        "better": "higher",
    },
    LOCALITY: {
        "definition": "share of the answer positions of unrelated probes at which the edited and the original "
        "model have the same most likely token (EasyEdit editor.py, locality_acc)",
        "range": "0 to 1",
        "better": "higher",
    },
    FLUENCY: {
        "definition": "weighted 2- and 3-gram entropy in bits of sampled continuations of edit prompts, 100 tokens, "
        "top 5 (EasyEdit evaluate_utils.py, n_gram_entropy); low values mean repetition",
        "range": "0 upward",
        "better": "as before the edit",
    },
}
_SIMPLE = {SUCCESS: "edit_success", GENERALIZATION: "generalization"}

Answers = Mapping[str, Any]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def agreement(before: Sequence[int], after: Sequence[int]) -> float:
    """Share of equal tokens; 1 for two empty lists. Both have the probe's answer length."""
    if len(before) != len(after):
        raise ValueError("the two models answered a locality probe at different lengths")
    return sum(b == a for b, a in zip(before, after, strict=True)) / len(before) if before else 1.0


def fact_scores(after: Answers, before: Answers) -> dict[str, Any]:
    """One fact's scores in [0, 1] from its raw answers; ``before`` is the original model's."""
    found: dict[str, Any] = {}
    if "edit_success" in after:
        found[SUCCESS] = after["edit_success"]
    if "generalization" in after:
        found[GENERALIZATION] = _mean(after["generalization"])
    if "portability" in after:
        found[PORTABILITY] = {kind: _mean(values) for kind, values in after["portability"].items()}
    if "locality" in after:
        found[LOCALITY] = {
            kind: _mean([agreement(b, a) for b, a in zip(before["locality"][kind], probes, strict=True)])
            for kind, probes in after["locality"].items()
        }
    return found


def summary(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summary of several facts' scores (see the module's docstring)."""
    found: dict[str, Any] = {}
    for metric in (SUCCESS, GENERALIZATION):
        values = [s[metric] for s in scores if s.get(metric) is not None]
        if values:
            found[metric] = {"mean": _mean(values), "facts": len(values)}
    for metric in (PORTABILITY, LOCALITY):
        per_fact = [s[metric] for s in scores if s.get(metric)]
        if not per_fact:
            continue
        means = [_mean([v for v in kinds.values() if v is not None]) for kinds in per_fact]
        kept = [m for m in means if m is not None]
        kinds = sorted({kind for f in per_fact for kind in f})
        found[metric] = {
            "mean": _mean(kept),
            "facts": len(kept),
            "by_kind": {kind: _mean([f[kind] for f in per_fact if f.get(kind) is not None]) for kind in kinds},
        }
    return found


def by_id(raw: Answers) -> dict[str, Answers]:
    """A model's raw answers (``answers.json``), fact by fact."""
    return {f["id"]: f for f in raw["facts"]}


def score(after: Mapping[str, Answers], before: Mapping[str, Answers], ids: Iterable[str]) -> dict[str, Any]:
    """Summary of a model's answers for the facts in ``ids``; ``before`` holds the original model's."""
    return summary([fact_scores(after[i], before[i]) for i in ids])


def fluency(raw: Answers) -> dict[str, Any]:
    """A Summary of fluency alone, empty where it was not asked for."""
    if "fluency" not in raw:
        return {}
    return {FLUENCY: {"mean": raw["fluency"]["n_gram_entropy"], "facts": raw["fluency"]["facts"]}}


# -- general ability ----------------------------------------------------------------------------

MAIN_METRICS = ("acc", "exact_match", "word_perplexity", "byte_perplexity", "bits_per_byte", "f1")


def main_metric(task: Mapping[str, Any]) -> str | None:
    """The metric a task is read by: the first of MAIN_METRICS that it has, for any filter of lm-eval's."""
    names: list[str] = [n for n in task["metrics"] if not n.partition(",")[0].endswith("_stderr")]
    for wanted in MAIN_METRICS:
        for name in names:
            if name.partition(",")[0] == wanted:
                return name
    return names[0] if names else None


def general_change(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Per task: value before and after, the change over the same items with its 95 % interval.

    Accuracy-like metrics: mean of the paired differences, normal approximation. Perplexities: the
    change in log-perplexity per word (items weighted by their words), given as a ratio. ``noise``
    says whether the interval holds no change. ``inside_base_interval`` says whether the value after
    lies inside the 95 % interval of the value before, which is wider: the items are the same.
    """
    found = {}
    for task, old in before.items():
        metric = main_metric(old)
        new = after.get(task)
        if metric is None or new is None or metric not in new["metrics"]:
            continue
        pairs = _paired(old["items"], new["items"], metric)
        entry: dict[str, Any] = {
            "metric": metric,
            "better": "higher" if old.get("higher_is_better", {}).get(metric.partition(",")[0], True) else "lower",
            "before": old["metrics"][metric],
            "after": new["metrics"][metric],
            "items": len(pairs),
        }
        if pairs and isinstance(pairs[0][0], (list, tuple)):
            entry |= _ratio_change(pairs)
        elif pairs:
            entry |= _difference(pairs)
        found[task] = entry
    return found


def _paired(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]], metric: str) -> list[tuple[Any, Any]]:
    """The metric's value of each item that both have; ``metric`` may name one of lm-eval's filters."""
    name, _, chosen = metric.partition(",")

    def values(items: Sequence[Mapping[str, Any]]) -> dict[Any, Any]:
        wanted = [i for i in items if name in i and (not chosen or i.get("filter", chosen) == chosen)]
        return {item["doc_id"]: item[name] for item in wanted}

    before, after = values(old), values(new)
    return [(value, after[doc]) for doc, value in before.items() if doc in after]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval (normal approximation); half-width 0 for one value."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, 0.0
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return mean, 1.96 * math.sqrt(variance / len(values))


def _difference(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    change, half = interval([float(b) - float(a) for a, b in pairs])
    base, base_half = interval([float(a) for a, _ in pairs])
    return {
        "change": change,
        "change_95": [change - half, change + half],
        "noise": change - half <= 0 <= change + half,
        "base_95": [base - base_half, base + base_half],
        "inside_base_interval": abs(change) <= base_half,
    }


def _ratio_change(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> dict[str, Any]:
    """Items are (log-likelihood in nats, weight in words or bytes); the change is a ratio of perplexities."""
    weights = [float(a[1]) for a, _ in pairs]
    mean_weight = sum(weights) / len(weights)

    def rate(values: Sequence[float]) -> tuple[float, float]:
        """Ratio estimator sum(values) / sum(weights) and the half-width of its interval (delta method)."""
        ratio = sum(values) / sum(weights)
        _, half = interval([(v - ratio * w) / mean_weight for v, w in zip(values, weights, strict=True)])
        return ratio, half

    change, half = rate([float(a[0]) - float(b[0]) for a, b in pairs])
    base, base_half = rate([-float(a[0]) for a, _ in pairs])
    return {
        "change": math.exp(change) - 1,
        "change_95": [math.exp(change - half) - 1, math.exp(change + half) - 1],
        "noise": change - half <= 0 <= change + half,
        "base_95": [math.exp(base - base_half), math.exp(base + base_half)],
        "inside_base_interval": abs(change) <= base_half,
        "change_is": "ratio minus 1",
    }


def brief_general(raw: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """General ability without its items, for ``scores.json``."""
    if raw is None:
        return None
    return {task: {"metrics": values["metrics"], "items": len(values["items"])} for task, values in raw.items()}
