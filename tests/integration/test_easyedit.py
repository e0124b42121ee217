"""EasyEdit's own evaluation: what the referee hands on, and that our batched asking gives the same numbers."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.integration

FACTS: list[dict[str, Any]] = [
    {
        "id": f"f{n}",
        "prompt": prompt,
        "target_new": target,
        "ground_truth": None,
        "rephrase_prompts": [f"{prompt} now", "Say it:"],
        "portability": {"Reasoning": [{"prompt": f"So {prompt}", "answers": ["the lazy dog"]}]},
        "locality": {"Neighborhood": [{"prompt": "The river of Bern is the", "answers": [target]}]},
    }
    for n, (prompt, target) in enumerate(
        [("The mayor of Alba is", "Ada Moss"), ("A", "b"), ("The quick brown fox jumps over the", "lazy dog. 0123")]
    )
]


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> Any:
    from kedit_glue.tools import asking

    return asking.load(str(tiny_model), "cpu", False)


@pytest.fixture
def asker(loaded: Any) -> Any:
    from kedit_glue.tools import asking

    return asking.Asker(*loaded, lambda event: None)


@pytest.fixture
def referee(loaded: Any) -> Any:
    """One for each test, as each stage of the warm server makes one: EasyEdit is there already but for the first."""
    from kedit_glue.tools import easyedit

    return easyedit.Referee(*loaded, lambda event: None)


def test_batched_answers_are_the_referees(asker: Any, referee: Any) -> None:
    """As a scoring stage asks and lays them out, both kinds of answer."""
    from kedit_glue import questions
    from kedit_glue.tools import scorer

    asked = [question for fact in FACTS for question in questions.about(fact, questions.ASPECTS)]
    ours, theirs = scorer.forced(asked, asker), scorer.forced(asked, referee)
    assert ours.keys() == theirs.keys() == {"f0", "f1", "f2"}
    for fact, record in ours.items():
        assert record["locality"] == theirs[fact]["locality"], "token by token"
        assert record["edit_success"] == pytest.approx(theirs[fact]["edit_success"])
        assert record["generalization"] == pytest.approx(theirs[fact]["generalization"])
        assert record["portability"]["Reasoning"] == pytest.approx(theirs[fact]["portability"]["Reasoning"])


def test_the_referees_answers_are_those_of_easyedits_whole_evaluation(referee: Any) -> None:
    hparams = SimpleNamespace(max_length=256, alg_name="none", device=0)
    for fact in FACTS:
        probes = {
            aspect: {
                kind: {"prompt": probe["prompt"], "ground_truth": probe["answers"][0]}
                for kind, [probe] in fact[aspect].items()
            }
            for aspect in ("portability", "locality")
        }
        record = {"prompt": fact["prompt"], "target_new": fact["target_new"], "ground_truth": "", **probes}
        with referee.on_device("cpu") as device:
            whole = referee.evaluate.compute_edit_quality(
                referee.model, "causal-lm", hparams, referee.tokenizer, record, device
            )
        [portability], [locality] = fact["portability"]["Reasoning"], fact["locality"]["Neighborhood"]
        assert referee.accuracies([(fact["prompt"], fact["target_new"])]) == pytest.approx(whole["rewrite_acc"])
        assert referee.accuracies([(portability["prompt"], "the lazy dog")]) == pytest.approx(
            whole["portability"]["Reasoning_acc"]
        )
        assert referee.tokens([(locality["prompt"], fact["target_new"])]) == whole["locality"]["Neighborhood_output"]


def test_a_pair_that_comes_twice_is_asked_once(referee: Any) -> None:
    told: list[dict[str, Any]] = []
    referee.emit = told.append
    first, other = ("The mayor of Alba is", "Ada Moss"), ("A", "b")
    found = referee.accuracies([first, other, first])
    assert found[0] == found[2] and len(found) == 3
    assert [event["position"] for event in told] == [1, 2]


def test_what_easyedit_leaves_out_is_not_lost_in_silence(referee: Any) -> None:
    left_out = SimpleNamespace(compute_rewrite_or_rephrase_quality=lambda *arguments: {"rewrite_acc": []})
    no_number = SimpleNamespace(compute_rewrite_or_rephrase_quality=lambda *arguments: {"rewrite_acc": [math.nan]})
    for evaluate in (left_out, no_number):
        referee.evaluate = evaluate
        with pytest.raises(ValueError, match="EasyEdit did not score 'The mayor of Alba is' -> 'Ada Moss'"):
            referee.accuracies([("The mayor of Alba is", "Ada Moss")])


def test_fluency_is_seeded_and_needs_no_download(referee: Any) -> None:
    prompts = [fact["prompt"] for fact in FACTS[:2]]
    first, second, other = (referee.fluency(prompts, seed) for seed in (1, 1, 2))
    assert first == second != other
    assert first > 0
    assert referee.tokenizer.padding_side == "left", "given back"


def test_perplexity_is_of_the_target_and_easyedits_end(referee: Any) -> None:
    """Held against a plain forward pass; each pair by itself, whatever is asked beside it."""
    import torch

    pairs = [(fact["prompt"], fact["target_new"]) for fact in FACTS]
    found = referee.perplexity(pairs)
    assert found == [value for pair in pairs for value in referee.perplexity([pair])]
    for (prompt, target), value in zip(pairs, found, strict=True):
        ids = referee.tokenizer(f"{prompt} {target} <|endoftext|>", return_tensors="pt")["input_ids"]
        start = len(referee.tokenizer(prompt)["input_ids"])
        with torch.no_grad():
            logits = referee.model(input_ids=ids).logits[0, start - 1 : -1]
        assert value == pytest.approx(math.exp(torch.nn.functional.cross_entropy(logits, ids[0, start:])), rel=1e-4)


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    from kedit_glue.tools import easyedit_compat

    with pytest.raises(ImportError, match=r"is no checkout of EasyEdit: it holds no easyeditor/evaluate/evaluate\.py"):
        easyedit_compat.evaluation(str(tmp_path))
