"""Every metric is named and explained, and every score that can be given is a metric."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from kedit_glue import metrics, scores
from kedit_glue.metrics import METRICS
from kedit_glue.result_fields import Metric as InAFile

PROTOCOLS = {"teacher_forced", "generated", "likelihood", "sampled"}


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_named_and_explained(name: str) -> None:
    metric = METRICS[name]
    assert metric.name == name
    assert re.fullmatch(r"[a-z_]+\.[a-z_]+\.[a-z_]+", name), "aspect.protocol.measure"
    assert (metric.aspect, metric.protocol) == tuple(name.split(".")[:2])
    assert metric.protocol in PROTOCOLS
    assert metric.better in {"higher", "lower", "as before"}
    texts = {k: v for k, v in dataclasses.asdict(metric).items() if k != "percent"}
    assert [k for k, v in texts.items() if not v.strip() or v != v.strip()] == []
    assert not metric.percent or metric.range in ("0 to 1", "-1 to 1"), "a percentage is of a share"


def test_titles_tell_metrics_of_a_protocol_apart() -> None:
    seen = [(metric.protocol, metric.title) for metric in METRICS.values()]
    assert len(set(seen)) == len(seen)


def test_what_a_result_file_says_of_its_metrics() -> None:
    found = metrics.described([metrics.FLUENCY, metrics.SUCCESS, "unknown.likelihood.score"])
    assert list(found) == [metrics.SUCCESS, metrics.FLUENCY], "in the order of METRICS"
    assert found[metrics.FLUENCY]["better"] == "as before"
    for entry in metrics.described(METRICS).values():
        assert entry.keys() == InAFile.model_fields.keys()
        InAFile.model_validate(entry)


SAID = {"text": "x", "ended": True, "verdict": True}
FACT = {
    "id": "a",
    "prompt": "p",
    "target_new": "new",
    "ground_truth": "true",
    "aim": "erasure",
    "rephrase_prompts": ["r"],
    "portability": {"alias": [{"prompt": "q", "answers": ["new"]}]},
    "locality": {"Neighborhood": [{"prompt": "n", "answers": ["true"]}]},
}
RAW = {
    "teacher_forced": {
        "edit_success": 1.0,
        "generalization": [1.0],
        "portability": {"alias": [1.0]},
        "locality": {"Neighborhood": [[1]]},
    },
    "likelihood": {
        "edit_success": [1.0, 2.0],
        "generalization": [[1.0, 2.0]],
        "locality": {"Neighborhood": [[1.0, 2.0]]},
        "responses": {"Wanted": [[1.0, 2]], "Opposite": [[2.0, 2]]},
    },
    "generated": {
        "edit_success": SAID,
        "generalization": [SAID],
        "portability": {"alias": [SAID]},
        "locality": {"Neighborhood": [SAID]},
    },
    "perplexity": {"edit_success": 3.0},
}


def test_every_score_is_a_metric_and_every_metric_can_be_scored() -> None:
    fact: dict[str, Any] = scores.fact_scores(RAW, RAW, FACT)
    of_all = scores.summary([fact]) | scores.fluency({"fluency": {"n_gram_entropy": 6.0, "facts": 1}})
    assert fact.keys() <= METRICS.keys()
    assert of_all.keys() == METRICS.keys()
