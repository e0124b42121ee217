"""A scoring stage with a model that was made up: what it asks, and the file it writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import scores
from kedit_glue.tools import asking, easyedit, scorer
from kedit_glue.tools.asking import Forced, Generated

FACTS: list[dict[str, Any]] = [
    {
        "id": "a",
        "prompt": "A is",
        "target_new": "new",
        "ground_truth": "true",
        "rephrase_prompts": ["A, again, is"],
        "portability": {
            "hops": [{"prompt": "So A is", "answers": ["so", "thus"],
                      "conditions": [{"prompt": "B is", "answers": ["known"]}]}]
        },
        "locality": {
            "near": [{"prompt": "C is", "answers": ["own"]}],
            "Neighborhood": [{"prompt": "D is", "answers": ["true"]}],
        },
    },
    {
        "id": "b", "prompt": "E is", "target_new": "late", "ground_truth": None, "rephrase_prompts": [],
        "portability": {}, "locality": {},
    },
    {
        "id": "c", "prompt": "F is", "target_new": "glad", "ground_truth": None, "rephrase_prompts": [],
        "portability": {}, "locality": {},
        "responses": {"Wanted": [{"prompt": "F?", "answers": ["good F"]}],
                      "Opposite": [{"prompt": "F?", "answers": ["bad"]}, {"prompt": "F!", "answers": ["worse"]}]},
    },
]  # fmt: skip
JOB: dict[str, Any] = {
    "model": "m", "device": "cpu", "trust_remote_code": False, "new": 0, "upto": 3, "old": None, "seed": 5,
    "metrics": ["edit_success", "generalization", "portability", "locality", "fluency"],
    "protocols": ["teacher_forced", "likelihood", "generated"], "scorer": "batched", "easyedit": None,
    "generate": {"template": "chat", "most_tokens": 9, "ids": ["a"]}, "fluency_ids": ["b", "a"], "example_ids": ["b"],
    "judge": None,
}  # fmt: skip


def forced(prompt: str, answer: str) -> Forced:
    """As many tokens as the answer has letters, the first one wrong; the loss is the prompt's length."""
    tokens = tuple(map(ord, answer))
    return Forced((0, *tokens[1:]), tokens, float(len(prompt) + len(answer)))


class Asker:
    def __init__(self, model: Any, tokenizer: Any, emit: Any) -> None:
        self.asked = 0

    def referee(self, checkout: str | None) -> Referee:
        return Referee(checkout)

    def forced(self, pairs: Sequence[tuple[str, str]]) -> list[Forced]:
        self.asked += len(pairs)
        return [forced(*pair) for pair in pairs]

    def generated(self, prompts: Sequence[str], template: str, most_tokens: int) -> list[Generated]:
        self.asked += len(prompts)
        return [Generated(f"{template} {most_tokens} {prompt}", "A" in prompt) for prompt in prompts]


class Referee:
    def __init__(self, checkout: str | None) -> None:
        self.checkout = checkout

    def accuracies(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        return [forced(*pair).accuracy for pair in pairs]

    def tokens(self, pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
        return [list(forced(*pair).most_likely) for pair in pairs]

    def perplexity(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        return [float(len(answer)) for _, answer in pairs]

    def fluency(self, prompts: Sequence[str], seed: int) -> float:
        return len(prompts) + seed / 10


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    monkeypatch.setattr(asking, "load", lambda *arguments: (None, None))
    monkeypatch.setattr(asking, "Asker", Asker)
    monkeypatch.setattr(easyedit, "Referee", Referee)
    (tmp_path / "facts.json").write_text(json.dumps(FACTS), encoding="utf-8")

    def run(**more: Any) -> dict[str, Any]:
        job = {**JOB, "facts": str(tmp_path / "facts.json"), "output": str(tmp_path / "answers.json"), **more}
        told = scorer.score(job, lambda event: None)
        found: dict[str, Any] = json.loads((tmp_path / "answers.json").read_text(encoding="utf-8"))
        assert told["facts"] == len(found["facts"])
        return found

    return run


def tokens(answer: str) -> list[int]:
    return list(forced("", answer).most_likely)


def test_the_answers_of_all_protocols(ask: Callable[..., dict[str, Any]]) -> None:
    found = ask()
    a, b, c = found["facts"]
    assert a["id"] == "a"
    assert a["teacher_forced"] == {
        "edit_success": pytest.approx(2 / 3),
        "generalization": [pytest.approx(2 / 3)],
        "portability": {"hops": [0.5]},  # of the preferred answer
        "locality": {"near": [tokens("own")], "Neighborhood": [tokens("true")]},
    }
    assert a["likelihood"] == {
        "edit_success": [7.0, 8.0],
        "generalization": [[15.0, 16.0]],
        "locality": {"Neighborhood": [[7.0, 8.0]]},
    }
    assert a["generated"] == {
        "edit_success": {"text": "chat 9 A is", "ended": True},
        "generalization": [{"text": "chat 9 A, again, is", "ended": True}],
        "portability": {"hops": [{"text": "chat 9 So A is", "ended": True}]},
        "locality": {
            "near": [{"text": "chat 9 C is", "ended": False}],
            "Neighborhood": [{"text": "chat 9 D is", "ended": False}],
        },
        "conditions": {"B is": "chat 9 B is"},
    }
    assert b == {"id": "b", "teacher_forced": {"edit_success": 0.75}}, "no truth, and not among those that generate"
    assert c["likelihood"] == {"responses": {"Wanted": [[8.0, 6]], "Opposite": [[5.0, 3], [7.0, 5]]}}
    assert found["fluency"] == {"n_gram_entropy": 2.5, "facts": 2}
    assert found["answers"] == {"b": "bare 24 E is"}


def test_what_it_writes_can_be_scored(ask: Callable[..., dict[str, Any]]) -> None:
    raw = scores.by_id(ask(metrics=[*JOB["metrics"], "perplexity"], generate={**JOB["generate"], "ids": ["a", "c"]}))
    found = scores.score(raw, raw, FACTS)
    assert found["edit_success.teacher_forced.perplexity"]["mean"] == pytest.approx((3 + 4 + 4) / 3)
    assert found["locality.generated.agreement"] == {
        "mean": 1.0, "facts": 1, "half_width_95": 0.0, "by_kind": {"Neighborhood": 1.0, "near": 1.0},
    }  # fmt: skip
    assert found["edit_success.generated.containment"]["facts"] == 2
    assert found["sentiment.likelihood.success"]["facts"] == found["efficacy.likelihood.score"]["facts"] == 1


@pytest.mark.parametrize("protocol", ["teacher_forced", "likelihood", "generated"])
def test_one_protocol_alone(ask: Callable[..., dict[str, Any]], protocol: str) -> None:
    for record in ask(protocols=[protocol])["facts"]:
        assert record.keys() <= {"id", protocol}


def test_easyedits_own_functions_lay_their_answers_out_alike(ask: Callable[..., dict[str, Any]]) -> None:
    assert ask(scorer="easyedit") == ask(scorer="batched")


def test_only_the_chosen_facts_are_asked_about(ask: Callable[..., dict[str, Any]]) -> None:
    found = ask(new=1, upto=2, old=0, protocols=["teacher_forced"], metrics=["edit_success"])
    assert [f["id"] for f in found["facts"]] == ["b"]
    assert "fluency" not in found, "not asked for"
    assert ask(new=1, upto=2, old=0)["fluency"]["facts"] == 1, "of those that are asked about"


def test_a_judges_verdicts_stand_beside_the_answers(
    ask: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def judged(asked: Any, answers: Any, judge: Any, emit: Any) -> Any:
        return [{**a, "verdict": q.aspect == judge["model"]} for q, a in zip(asked, answers, strict=True)]

    monkeypatch.setattr(scorer, "judged", judged)
    said = ask(judge={"model": "edit_success"})["facts"][0]["generated"]
    assert said["edit_success"] == {"text": "chat 9 A is", "ended": True, "verdict": True}
    assert said["generalization"] == [{"text": "chat 9 A, again, is", "ended": True, "verdict": False}]
