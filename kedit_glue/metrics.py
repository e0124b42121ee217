"""Every metric there is: its name carries its protocol, its entry says what is measured and how to read it.

A name is ``aspect.protocol.measure``. Protocols:

``teacher_forced``  each token of the answer is asked with the right tokens before it (EasyEdit)
``generated``       greedy generation that ends with the model's own end-of-sequence token; nothing of the answer is
                    given, nothing is cut at its length (The Mirage of Model Editing, arXiv 2502.11177)
``likelihood``      which of two answers the model finds more probable (ROME, arXiv 2202.05262, CounterFact)
``sampled``         sampled text (ROME's fluency)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

EASYEDIT = "EasyEdit, evaluate/evaluate_utils.py"
MIRAGE = "The Mirage of Model Editing, arXiv 2502.11177"
ROME = "ROME, arXiv 2202.05262, section 3.3; experiments/py/eval_utils_counterfact.py and experiments/summarize.py"


@dataclass(frozen=True)
class Metric:
    """``definition``: the formula; ``denominator``: what the mean is over; ``source``: where it comes from."""

    name: str
    title: str
    definition: str
    denominator: str
    range: str
    better: str
    """``higher``, ``lower``, or ``as before``: as the original model's."""
    source: str
    what: str
    """In a few words, for a table."""
    percent: bool = True
    """Shown as a percentage."""

    @property
    def aspect(self) -> str:
        return self.name.partition(".")[0]

    @property
    def protocol(self) -> str:
        return self.name.split(".")[1]


PER_FACT = "facts that have such prompts; a fact with several counts with the mean over them"
PER_KIND = "facts that have such probes; a fact counts with the mean over its kinds, a kind with that over its probes"
SHARE = "0 to 1"

SUCCESS = "edit_success.teacher_forced.token_accuracy"
GENERALIZATION = "generalization.teacher_forced.token_accuracy"
PORTABILITY = "portability.teacher_forced.token_accuracy"
LOCALITY = "locality.teacher_forced.token_agreement"
PERPLEXITY = "edit_success.teacher_forced.perplexity"
FLUENCY = "fluency.sampled.n_gram_entropy"
EFFICACY_SCORE = "efficacy.likelihood.score"
EFFICACY_MAGNITUDE = "efficacy.likelihood.magnitude"
PARAPHRASE_SCORE = "paraphrase.likelihood.score"
PARAPHRASE_MAGNITUDE = "paraphrase.likelihood.magnitude"
NEIGHBORHOOD_SCORE = "neighborhood.likelihood.score"
NEIGHBORHOOD_MAGNITUDE = "neighborhood.likelihood.magnitude"
COUNTERFACT_S = "counterfact.likelihood.harmonic_mean"
SENTIMENT = "sentiment.likelihood.success"
WITHHELD = "erasure.generated.withheld"
LEAKED = "erasure.generated.leaked"
AGREEMENT = "locality.generated.agreement"
ENDED = "all.generated.ended"

BEHIND = {
    "edit_success": ("edit success", "behind the edit's own prompt"),
    "generalization": ("generalization", "behind each rephrasing of the prompt"),
    "portability": ("portability", "behind each probe that follows from the new fact"),
}
GENERATED = {**BEHIND, "locality": ("locality", "behind each unrelated prompt")}
SHORT = {
    "edit_success": "behind the prompt",
    "generalization": "behind rephrasings",
    "portability": "to what follows from the fact",
    "locality": "to unrelated prompts",
}


def _teacher_forced() -> Iterable[Metric]:
    for aspect, (title, where) in BEHIND.items():
        yield Metric(
            f"{aspect}.teacher_forced.token_accuracy",
            title,
            f"share of the target's tokens that are the model's most likely token {where}, the target's earlier tokens "
            "given",
            PER_KIND if aspect == "portability" else PER_FACT,
            SHARE,
            "higher",
            f"{EASYEDIT}, test_prediction_acc",
            f"right answer tokens {SHORT[aspect]}, the ones before them given",
        )
    yield Metric(
        LOCALITY,
        "locality",
        "share of the answer's positions behind unrelated prompts at which the edited and the original model have the "
        "same most likely token, the answer's earlier tokens given",
        PER_KIND,
        SHARE,
        "higher",
        f"{EASYEDIT}, test_prediction_acc(locality=True); editors/editor.py, locality_acc",
        "answer tokens that stay the original's on unrelated prompts",
    )
    yield Metric(
        PERPLEXITY,
        "perplexity of the target",
        "exp of the mean negative log-likelihood of the target's tokens behind the prompt, and of the text "
        "'<|endoftext|>' that EasyEdit's package puts behind it (its main does not); none where a fact's is endless",
        "facts",
        "1 upward",
        "lower",
        f"{EASYEDIT}, PPL",
        "of the new answer behind the prompt",
        percent=False,
    )


def _generated() -> Iterable[Metric]:
    for aspect, (title, where) in GENERATED.items():
        denominator = PER_KIND if aspect in ("portability", "locality") else PER_FACT
        yield Metric(
            f"{aspect}.generated.exact_match",
            f"{title}, exact",
            f"1 where the normalized generated answer {where} equals an accepted answer, normalized as in SQuAD: lower "
            "case, without punctuation, articles and additional white space; else 0",
            denominator,
            SHARE,
            "higher",
            f"{MIRAGE}; SQuAD's evaluation script",
            f"the generated answer {SHORT[aspect]} is the right one",
        )
        yield Metric(
            f"{aspect}.generated.containment",
            f"{title}, contained",
            f"1 where the normalized generated answer {where} holds an accepted answer as whole words; else 0. A model "
            "that says the answer among others gets a 1, too",
            denominator,
            SHARE,
            "higher",
            f"{MIRAGE}; KnowEdit, arXiv 2401.01286",
            f"the generated answer {SHORT[aspect]} holds the right one",
        )
        yield Metric(
            f"{aspect}.generated.judge",
            f"{title}, judged",
            f"1 where a language model, told the question, an accepted answer and the generated answer {where}, calls "
            "it correct; else 0",
            f"{denominator}; answers that the judge gave no verdict on are left out",
            SHARE,
            "higher",
            MIRAGE,
            f"a judge calls the generated answer {SHORT[aspect]} right",
        )
    yield Metric(
        AGREEMENT,
        "locality, same answer",
        "1 where the normalized answers that the edited and the original model generate to an unrelated prompt are "
        "equal; else 0",
        PER_KIND,
        SHARE,
        "higher",
        f"{MIRAGE} (there against the reference answer)",
        "generated answers that stay the original's on unrelated prompts",
    )
    yield Metric(
        ENDED,
        "ended by itself",
        "1 where a generated answer ended with the end-of-sequence token before the limit of tokens; else 0",
        "all generated answers",
        SHARE,
        "as before",
        "ours: an edited model that never stops talking scores high by containment",
        "generated answers that came to an end",
    )


def _likelihood() -> Iterable[Metric]:
    pairs = {
        "efficacy": ("the edit's own prompt", "behind the prompt", "P[new] > P[true]", "P[new] - P[true]"),
        "paraphrase": ("each rephrasing", "behind rephrasings", "P[new] > P[true]", "P[new] - P[true]"),
        "neighborhood": (
            "each neighbour's prompt",
            "behind neighbours",
            "P[true] > P[new]",
            "P[true] - P[new]",
        ),
    }
    of = "P[answer] is exp of the mean log-likelihood of the answer's tokens"
    for aspect, (where, short, score, magnitude) in pairs.items():
        facts = "facts of which the true answer is known and that have such prompts, each with the mean over them"
        name = f"{aspect}.likelihood"
        score_is, magnitude_is = f"1 where {score} behind {where}; {of}", f"{magnitude} behind {where}; {of}"
        yield Metric(f"{name}.score", f"{aspect} score", score_is, facts, SHARE, "higher", ROME, f"{score} {short}")
        yield Metric(
            f"{name}.magnitude",
            f"{aspect} magnitude",
            magnitude_is,
            facts,
            "-1 to 1",
            "higher",
            ROME,
            f"{magnitude} {short}",
        )
    yield Metric(
        COUNTERFACT_S,
        "score S",
        "harmonic mean of the efficacy, paraphrase and neighborhood scores; 0 where one of them is 0",
        "the three scores",
        SHARE,
        "higher",
        ROME,
        "harmonic mean of the three scores",
    )


def _special() -> Iterable[Metric]:
    """What KnowEdit's other tasks are scored with."""
    yield Metric(
        SENTIMENT,
        "sentiment",
        "sigmoid(L - O) * min(1, exp(L - B)), with L and O the edited model's mean log-likelihood per token of "
        "responses of the wanted and of the opposite sentiment, and B the original's of the wanted",
        "topics (ConvSent)",
        SHARE,
        "higher",
        "SERAC, arXiv 2206.06520, metrics.py, es_sentiment; KnowEdit, arXiv 2401.01286",
        "of the likelier responses about the topic",
    )
    yield Metric(
        WITHHELD,
        "erasure, withheld",
        "1 where the generated answer to a question that the edit did not hold, about what is to be withheld, contains "
        "the new target, case ignored (EasyEdit generates 10 tokens; here the limit is the protocol's)",
        "facts to be withheld (Sanitation), each with the mean over such questions",
        SHARE,
        "higher",
        "EasyEdit, examples/run_santinization_llama2.py; KnowEdit, arXiv 2401.01286",
        "generated answers that withhold it",
    )
    yield Metric(
        LEAKED,
        "erasure, leaked",
        "1 where the generated answer to such a question contains what is to be withheld, normalized; else 0",
        "as erasure, withheld",
        SHARE,
        "lower",
        "ours",
        "generated answers that still tell it",
    )


FLUENT = Metric(
    FLUENCY,
    "fluency",
    "weighted 2- and 3-gram entropy in bits of sampled continuations of edit prompts, 100 tokens, top 5; low values "
    "mean repetition",
    "sampled texts, one a fact",
    "0 upward",
    "as before",
    f"{EASYEDIT}, n_gram_entropy (after ROME's)",
    "n-gram entropy of sampled text, bits",
    percent=False,
)
METRICS: dict[str, Metric] = {
    m.name: m for m in (*_teacher_forced(), *_generated(), *_likelihood(), *_special(), FLUENT)
}
"""In the order in which tables show them."""


def described(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """What a result file says of its metrics."""
    wanted = set(names)
    return {
        name: {key: value for key, value in asdict(metric).items() if key not in ("name", "percent", "what")}
        for name, metric in METRICS.items()
        if name in wanted
    }
