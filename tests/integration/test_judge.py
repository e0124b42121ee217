"""A model folder as the judge of generated answers: asked in its own way, once for each item."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kedit_glue.tools import asking, judge

pytestmark = pytest.mark.integration

ITEMS = [
    ("The mayor of Alba is", "Ada Moss", "Ada Moss"),
    ("The mayor of Brunn is", "Ben Ode", "the quick brown fox"),
    ("The mayor of Alba is", "Ada Moss", "Ada Moss"),
]
TEMPLATE = "{% for m in messages %}[user]{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}[judge]{% endif %}"


@pytest.fixture(params=["bare", "chat"])
def folder(request: pytest.FixtureRequest, tiny_model: Path, tmp_path: Path) -> Path:
    """The two-layer model, without a chat template or with one."""
    copy = tmp_path / request.param
    shutil.copytree(tiny_model, copy)
    if request.param == "chat":
        settings = json.loads((copy / "tokenizer_config.json").read_text(encoding="utf-8"))
        (copy / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}))
    return copy


def job(folder: Path) -> dict[str, Any]:
    return {"model": str(folder), "endpoint": None, "device": "cpu", "trust_remote_code": False}


def test_a_folders_model_judges_by_its_own_greedy_words(folder: Path) -> None:
    import torch

    events: list[Any] = []
    found = judge.verdicts(ITEMS, job(folder), events.append)
    model, tokenizer = asking.load(str(folder), "cpu", False)
    ends = asking.ends_of(model, tokenizer)
    for item, answer in zip(ITEMS, found, strict=True):
        asked = judge.prompt(*item)
        ids = tokenizer(f"[user]{asked}[judge]" if folder.name == "chat" else asked, return_tensors="pt")["input_ids"]
        start = ids.shape[1]
        for _ in range(judge.MOST_TOKENS):
            with torch.inference_mode():
                best = model(ids).logits[0, -1].argmax()
            if int(best) in ends:
                break
            ids = torch.cat([ids, best.view(1, 1)], dim=1)
        said = tokenizer.decode(ids[0, start:], skip_special_tokens=True).strip()
        assert said
        assert answer == {"verdict": None, "said": said[: judge.LONGEST_SAID]}, "random weights give no verdict"
    assert events == [{"event": "judged", "position": 2, "of": 2}]


def test_what_the_model_says_becomes_the_verdict(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def generated(self: Any, prompts: list[str], template: str, most_tokens: int) -> list[asking.Generated]:
        asked.append((template, most_tokens, len(prompts)))
        return [asking.Generated("CORRECT" if '"Ada Moss"' in p else "INCORRECT.", True) for p in prompts]

    monkeypatch.setattr(asking.Asker, "generated", generated)
    found = judge.verdicts(ITEMS, job(tiny_model), lambda event: None)
    assert [one["verdict"] for one in found] == [True, False, True]
    assert asked == [(asking.BARE, judge.MOST_TOKENS, 2)]
