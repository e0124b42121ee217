"""Raw answers to scores. Pure functions over what scoring stages wrote (``tools/scorer.py``).

A fact's scores map a metric's name (``kedit_glue.metrics``) to a number, or to one for each kind of probe. A Summary
maps it to ``{"mean", "facts", "half_width_95", "by_kind"?}``: the mean over the facts that have such a score, each fact
counting once, with the mean over its probes (portability and locality: over its kinds, each with the mean over its
probes), and half the width of its 95 % interval; ``mean`` is None where no fact has any.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kedit_glue import metrics, paired, questions
from kedit_glue.general_ability import PERPLEXITIES
from kedit_glue.generated import contains, exact_match, normalized
from kedit_glue.metrics import GENERATED, METRICS

Answers = Mapping[str, Any]
"""One fact's raw answers of one model: ``{protocol: {aspect: value}}``."""
Score = float | None | Mapping[str, float | None]

ROMES = {"edit_success": "efficacy", "generalization": "paraphrase", "locality": "neighborhood"}
"""Our aspects in ROME's words."""


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


MOST_NATS = 709.0
"""e to the power of more is no float."""


def finite(value: float) -> float | None:
    """None for infinity and what is no number: JSON has neither."""
    return value if math.isfinite(value) else None


def exp(number: float) -> float:
    """Infinity where the result is too large for a float."""
    return math.exp(number) if number < MOST_NATS else math.inf if number == number else math.nan


def agreement(before: Sequence[int], after: Sequence[int]) -> float:
    """Share of equal tokens; 1 for two empty lists. Both have the probe's answer length."""
    if len(before) != len(after):
        raise ValueError("the two models answered a locality probe at different lengths")
    return sum(b == a for b, a in zip(before, after, strict=True)) / len(before) if before else 1.0


# -- one fact -----------------------------------------------------------------------------------


def fact_scores(after: Answers, before: Answers, fact: questions.Fact) -> dict[str, Any]:
    """One fact's scores from a model's raw answers; ``before`` holds the original model's."""
    found: dict[str, Any] = {}
    for protocol, score in (("teacher_forced", forced), ("likelihood", likelihood)):
        if protocol in after:
            found |= score(after[protocol], before[protocol])
    if "generated" in after:
        found |= generated(after["generated"], before["generated"], fact)
    if "perplexity" in after:
        found[metrics.PERPLEXITY] = finite(after["perplexity"]["edit_success"])
    return found


def forced(after: Answers, before: Answers) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "edit_success" in after:
        found[metrics.SUCCESS] = after["edit_success"]
    if "generalization" in after:
        found[metrics.GENERALIZATION] = _mean(after["generalization"])
    if "portability" in after:
        found[metrics.PORTABILITY] = {kind: _mean(values) for kind, values in after["portability"].items()}
    if "locality" in after:
        found[metrics.LOCALITY] = {
            kind: _mean([agreement(b, a) for b, a in zip(before["locality"][kind], probes, strict=True)])
            for kind, probes in after["locality"].items()
        }
    return found


def likelihood(after: Answers, before: Answers) -> dict[str, Any]:
    """ROME's scores and magnitudes, a value being the losses of the new and of the true answer; ConvSent's success."""
    found: dict[str, Any] = {}
    for aspect, name in ROMES.items():
        value = after.get(aspect)
        pairs = value[questions.NEIGHBORS] if aspect == "locality" and value else value
        if not pairs:
            continue
        pairs = [pairs] if aspect == "edit_success" else pairs
        wins = [1.0 if new < true else 0.0 for new, true in pairs]
        gains = [math.exp(-new) - math.exp(-true) for new, true in pairs]
        if name == "neighborhood":
            wins, gains = [1.0 if true < new else 0.0 for new, true in pairs], [-gain for gain in gains]
        found[f"{name}.likelihood.score"] = _mean(wins)
        found[f"{name}.likelihood.magnitude"] = finite(sum(gains) / len(gains))
    if responses := after.get("responses"):
        found[metrics.SENTIMENT] = finite(sentiment(responses, before["responses"]))
    return found


def sentiment(after: Answers, before: Answers) -> float:
    """sigmoid(LL(wanted) - LL(opposite)) * min(1, LL(wanted) after / before, as probabilities); LL: per token.

    A value is a list of [loss, tokens], a pair for each response.
    """
    wanted, opposite, was = (_per_token(values) for values in (after["Wanted"], after["Opposite"], before["Wanted"]))
    return 1 / (1 + exp(opposite - wanted)) * exp(min(0.0, wanted - was))


def _per_token(responses: Sequence[tuple[float, int]]) -> float:
    """Mean log-likelihood of all tokens of all responses, in nats."""
    return -sum(loss * tokens for loss, tokens in responses) / sum(tokens for _, tokens in responses)


def generated(after: Answers, before: Answers, fact: questions.Fact) -> dict[str, Any]:
    """Exact match, containment, verdicts, agreement with the original model, and how many answers ended."""
    aspects = [aspect for aspect in questions.ASPECTS if aspect in after]
    asked = questions.about(fact, aspects)
    triples = list(zip(asked, questions.in_order(asked, after), questions.in_order(asked, before), strict=True))
    known = before.get("conditions", {})
    counting = [(q, a, b) for q, a, b in triples if all(contains(known[p], right) for p, right in q.conditions)]
    found: dict[str, Any] = {}
    for aspect in GENERATED:
        rows = [(q, a) for q, a, _ in counting if q.aspect == aspect]
        measures = {
            "exact_match": [(q, exact_match(a["text"], q.answers)) for q, a in rows if not q.also],
            "containment": [(q, all(contains(a["text"], one) for one in (q.answers, *q.also))) for q, a in rows],
            "judge": [(q, a["verdict"]) for q, a in rows if a.get("verdict") is not None],
        }
        found |= {f"{aspect}.generated.{name}": _grouped(values) for name, values in measures.items() if values}
    kept = [(q, normalized(a["text"]) == normalized(b["text"])) for q, a, b in counting if q.aspect == "locality"]
    if kept:
        found[metrics.AGREEMENT] = _grouped(kept)
    if fact.get("aim") == "erasure":
        found |= erasure([(q, a["text"]) for q, a, _ in counting], fact)
    if triples:
        found[metrics.ENDED] = _mean([float(answer["ended"]) for _, answer, _ in triples])
    return found


def erasure(answers: Sequence[tuple[questions.Question, str]], fact: questions.Fact) -> dict[str, Any]:
    """Of what was to be withheld: asked with questions that the edit did not hold, else with its own."""
    others = [text for q, text in answers if q.kind == questions.HELD_OUT]
    texts = others or [text for q, text in answers if q.aspect == "edit_success"]
    if not texts:
        return {}
    found: dict[str, Any] = {metrics.WITHHELD: _mean([float(fact["target_new"].lower() in t.lower()) for t in texts])}
    if truth := fact.get("ground_truth"):
        found[metrics.LEAKED] = _mean([float(contains(text, [truth])) for text in texts])
    return found


ALL_OF = ("Single_Hop",)
"""Kinds of probe whose tests are passed by all of their probes; others' by any."""


def _grouped(values: Sequence[tuple[questions.Question, bool]]) -> Score:
    """The mean, or one for each kind of probe; probes of one test count as one."""
    if values[0][0].aspect not in questions.BY_KIND:
        return _mean([float(value) for _, value in values])
    found: dict[str, float | None] = {}
    for kind in dict.fromkeys(question.kind for question, _ in values):
        tests: dict[Any, list[bool]] = {}
        for at, (question, value) in enumerate(values):
            if question.kind == kind:
                tests.setdefault(question.test or at, []).append(value)
        passed = all if kind in ALL_OF else any
        found[kind] = _mean([float(passed(results)) for results in tests.values()])
    return found


# -- several facts ------------------------------------------------------------------------------


def one_number(score: Score) -> float | None:
    """A fact's score as one number: of several kinds their mean; None where there is none."""
    if isinstance(score, Mapping):
        return _mean([value for value in score.values() if value is not None])
    return score


def summary(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summary of several facts' scores (see the module's docstring)."""
    found: dict[str, Any] = {}
    for name in METRICS:
        having = [s[name] for s in scores if s.get(name) is not None and s[name] != {}]
        if not having:
            continue
        values = [value for score in having if (value := one_number(score)) is not None]
        endless = name == metrics.PERPLEXITY and any(name in s and s[name] is None for s in scores)
        found[name] = {"mean": None if endless else _mean(values), "facts": len(values)}
        if values and not endless:
            found[name]["half_width_95"] = interval(values)[1]
        if isinstance(having[0], Mapping):
            kinds = sorted({kind for score in having for kind in score})
            found[name]["by_kind"] = {
                kind: _mean([score[kind] for score in having if score.get(kind) is not None]) for kind in kinds
            }
    return found | harmonic(found)


def harmonic(found: Mapping[str, Any]) -> dict[str, Any]:
    """ROME's S, where all of its three scores are there."""
    parts = [found.get(name) for name in (metrics.EFFICACY_SCORE, metrics.PARAPHRASE_SCORE, metrics.NEIGHBORHOOD_SCORE)]
    if not all(parts):
        return {}
    means = [part["mean"] for part in parts if part]
    whole = len(means) / sum(1 / mean for mean in means) if all(means) else 0.0
    return {metrics.COUNTERFACT_S: {"mean": whole, "facts": min(part["facts"] for part in parts if part)}}


def by_id(raw: Answers) -> dict[str, Answers]:
    """A model's raw answers (``answers.json``), fact by fact."""
    return {f["id"]: f for f in raw["facts"]}


def score(
    after: Mapping[str, Answers], before: Mapping[str, Answers], facts: Iterable[questions.Fact]
) -> dict[str, Any]:
    """Summary of a model's answers about ``facts``; ``before`` holds the original model's."""
    return summary([fact_scores(after[f["id"]], before[f["id"]], f) for f in facts])


def fluency(raw: Answers) -> dict[str, Any]:
    """A Summary of fluency alone, empty where it was not asked for."""
    if "fluency" not in raw:
        return {}
    return {metrics.FLUENCY: {"mean": raw["fluency"]["n_gram_entropy"], "facts": raw["fluency"]["facts"]}}


# -- general ability ----------------------------------------------------------------------------

"""Their items are (log-likelihood in nats, weight in words or bytes)."""
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

    No change is given for metrics of all items together (mcc, some f1, bleu), whose items are answers, and for
    perplexities that are no finite number.
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
            "before": finite(old["metrics"][metric]),
            "after": finite(new["metrics"][metric]),
            "items": len(pairs),
        }
        if pairs and metric.partition(",")[0] in PERPLEXITIES:
            if change := _ratio_change(pairs):
                turned = _turned([(a[0], b[0]) for a, b in pairs], higher_is_better=True)  # log-likelihoods
                entry |= change | turned
        elif pairs and all(isinstance(value, (int, float)) for pair in pairs for value in pair):
            entry |= _difference(pairs)
            entry |= _turned(pairs, entry["better"] == "higher")
        chosen = metric.partition(",")[2]
        if any(chosen in side.get("not_extracted", {}) for side in (old, new)):
            entry["not_extracted"] = [side.get("not_extracted", {}).get(chosen) for side in (old, new)]
        found[task] = entry
    return found


def _turned(pairs: Sequence[tuple[float, float]], higher_is_better: bool) -> dict[str, Any]:
    """How many items got better and worse, and the exact p value of so uneven a split (sign test, McNemar's)."""
    counts = paired.turned(pairs, higher_is_better)
    return {"items_better": counts.better, "items_worse": counts.worse, "p": counts.p}


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
    low, high = change - half, change + half
    if paired.right_or_wrong(pairs):
        counts = paired.turned(pairs)
        low, high = paired.difference_interval(counts.better, counts.worse, counts.items)
    base, base_half = interval([float(a) for a, _ in pairs])
    return {
        "change": change,
        "change_95": [low, high],
        "noise": low <= 0 <= high,
        "base_95": [base - base_half, base + base_half],
        "inside_base_interval": abs(change) <= base_half,
    }


def _ratio_change(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> dict[str, Any]:
    """Items are (log-likelihood in nats, weight in words or bytes); the change is a ratio of perplexities.

    Empty where one of the numbers is not finite.
    """
    weights = [float(a[1]) for a, _ in pairs]
    mean_weight = sum(weights) / len(weights)

    def rate(values: Sequence[float]) -> tuple[float, float]:
        """Ratio estimator sum(values) / sum(weights) and the half-width of its interval (delta method)."""
        ratio = sum(values) / sum(weights)
        _, half = interval([(v - ratio * w) / mean_weight for v, w in zip(values, weights, strict=True)])
        return ratio, half

    change, half = rate([float(a[0]) - float(b[0]) for a, b in pairs])
    base, base_half = rate([-float(a[0]) for a, _ in pairs])
    ratios = [exp(number) - 1 for number in (change, change - half, change + half)]
    base_95 = [exp(base - base_half), exp(base + base_half)]
    if not all(map(math.isfinite, (*ratios, *base_95))):
        return {}
    return {
        "change": ratios[0],
        "change_95": ratios[1:],
        "noise": change - half <= 0 <= change + half,
        "base_95": base_95,
        "inside_base_interval": abs(change) <= base_half,
        "change_is": "ratio minus 1",
    }


def brief_general(raw: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """General ability without its items, for ``scores.json``."""
    if raw is None:
        return None
    return {
        task: {
            "metrics": {name: finite(value) for name, value in values["metrics"].items()},
            "items": len(values["items"]),
            **({"not_extracted": values["not_extracted"]} if "not_extracted" in values else {}),
        }
        for task, values in raw.items()
    }
