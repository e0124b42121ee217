"""Many prompts asked together are answered as each by itself: against plain forward passes and ``generate``."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "Alba", "Bern", "mayor", "river", "0123"]
draw = random.Random(3)
TEXTS = [" ".join(draw.choices(WORDS, k=k)) for k in (1, 2, 3, 5, 8, 13, 21, 34)]
"""Prompts of very different lengths."""
PAIRS = [(prompt, answer) for prompt in TEXTS for answer in ("dog", "the mayor of Bern", " ".join(TEXTS[3:5]))]
KINDS = ("rotary", "absolute")
"""Rotary positions hide a wrong position number where all of a row's are shifted alike; learned ones do not."""


@pytest.fixture(scope="module", params=KINDS)
def loaded(request: pytest.FixtureRequest, tiny_model: Path) -> tuple[Any, Any]:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from kedit_glue.tools import asking

    model, tokenizer = asking.load(str(tiny_model), "cpu", False)
    if request.param == "absolute":
        torch.manual_seed(0)
        sizes = {"n_positions": 256, "n_embd": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.5}
        ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes, **ids)).eval()
    return model, tokenizer


@pytest.fixture
def asker_of(loaded: tuple[Any, Any]) -> Callable[..., Any]:
    """``asker_of(eos_token_id=[5])``: an asker of the model, which brings these settings of its own."""
    from transformers import GenerationConfig

    from kedit_glue.tools import asking

    def make(**settings: Any) -> Any:
        model, tokenizer = loaded
        model.generation_config = GenerationConfig(**settings)
        return asking.Asker(model, tokenizer, lambda event: None)

    return make


@pytest.fixture
def asker(asker_of: Callable[..., Any]) -> Any:
    return asker_of()


def plain(asker: Any, prompt: str, answer: str) -> tuple[list[int], list[int], float]:
    """Most likely tokens, the answer's tokens, their mean loss: one pair, no padding, all positions."""
    import torch

    ids = asker.tokenizer(f"{prompt} {answer}", return_tensors="pt")["input_ids"]
    start = len(asker.tokenizer(prompt)["input_ids"])
    with torch.no_grad():
        logits = asker.model(input_ids=ids).logits[0, start - 1 : -1]
    loss = torch.nn.functional.cross_entropy(logits, ids[0, start:])
    return logits.argmax(-1).tolist(), ids[0, start:].tolist(), loss.item()


def assert_plain(asker: Any, pairs: list[tuple[str, str]]) -> None:
    for pair, found in zip(pairs, asker.forced(pairs), strict=True):
        likely, answer, loss = plain(asker, *pair)
        assert (list(found.most_likely), list(found.answer)) == (likely, answer)
        assert found.loss == pytest.approx(loss, rel=1e-4)
        assert found.accuracy == pytest.approx(sum(a == b for a, b in zip(likely, answer, strict=True)) / len(answer))


@pytest.mark.parametrize("at_once", [1, 60, 1024])
def test_forced_answers_are_those_of_a_plain_forward_pass(
    asker: Any, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """One pair in a pass, a few, all: what is beside a pair changes nothing."""
    from kedit_glue.tools import asking

    monkeypatch.setitem(asking.TOKENS_AT_ONCE, "cpu", at_once)
    assert_plain(asker, PAIRS)


def test_a_model_that_cannot_leave_out_positions_gives_the_same(asker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asker.takes_keep and asker.takes_positions
    monkeypatch.setattr(asker, "takes_keep", False)
    assert_plain(asker, PAIRS[:6])


def test_padding_stands_on_the_left_and_is_masked(asker: Any) -> None:
    ids, mask = asker._padded([[5, 6, 7], [8]], 4)
    pad = asker.tokenizer.pad_token_id
    assert ids.tolist() == [[pad, 5, 6, 7], [pad, pad, pad, 8]]
    assert mask.tolist() == [[0, 1, 1, 1], [0, 0, 0, 1]]
    assert asker.tokenizer.padding_side == "left"


def test_what_comes_twice_is_asked_once(asker: Any) -> None:
    first, again, other = asker.forced([PAIRS[0], PAIRS[0], PAIRS[1]])
    assert first == again and first != other
    assert asker.asked == 2
    assert asker.forced([PAIRS[1], PAIRS[2], PAIRS[0]])[::2] == [other, first]
    assert asker.asked == 3, "what was asked before is known"
    texts = asker.generated([TEXTS[0], TEXTS[4], TEXTS[0]], "bare", 5)
    assert texts[0] == texts[2] and asker.asked == 5


def test_nothing_to_ask(asker: Any) -> None:
    assert asker.forced([]) == [] and asker.generated([], "bare", 5) == []


def test_an_answer_out_of_reach_is_an_error(asker: Any) -> None:
    prompt = " ".join(5000 * ["fox"])
    with pytest.raises(ValueError, match=r"the answer 'dog' has no token of its own .* within 4096 tokens: shorten"):
        asker.forced([(prompt, "dog")])


# -- generated ----------------------------------------------------------------------------------


def greedy(asker: Any, text: str, most: int) -> list[int]:
    """The most likely token, one at a time, by plain forward passes."""
    import torch

    ids = asker.tokenizer(text, return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    with torch.no_grad():
        for _ in range(most):
            ids = torch.cat([ids, asker.model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    found: list[int] = ids[0, start:].tolist()
    return found


@pytest.mark.parametrize("at_once", [1, 3, 32])
def test_generated_answers_are_those_of_one_prompt_at_a_time(
    asker_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Some of them end with a token that the model's own settings name, each at its own length."""
    from kedit_glue.tools import asking

    monkeypatch.setitem(asking.GENERATED_AT_ONCE, "cpu", at_once)
    asker = asker_of()
    tokens = [greedy(asker, text, 12) for text in TEXTS]
    stop = tokens[2][5]
    asker = asker_of(eos_token_id=stop)
    assert asker.ends == sorted([asker.tokenizer.eos_token_id, stop])
    ends = [next((at for at, token in enumerate(row) if token in asker.ends), None) for row in tokens]
    assert ends[2] is not None and None in ends, "some end, some do not"
    assert [(text.text, text.ended) for text in asker.generated(TEXTS, "bare", 12)] == [
        (asker.tokenizer.decode(row[:end], skip_special_tokens=True).strip(), end is not None)
        for row, end in zip(tokens, ends, strict=True)
    ]


def test_generated_answers_are_generates_own(asker: Any) -> None:
    """Against ``model.generate`` on one prompt without padding."""
    for text, found in zip(TEXTS, asker.generated(TEXTS, "bare", 9), strict=True):
        inputs = asker.tokenizer(text, return_tensors="pt")
        output = asker.model.generate(
            inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            do_sample=False,
            max_new_tokens=9,
            eos_token_id=asker.tokenizer.eos_token_id,
            pad_token_id=asker.tokenizer.pad_token_id,
        )
        start = inputs["input_ids"].shape[1]
        assert found.text == asker.tokenizer.decode(output[0, start:], skip_special_tokens=True).strip()


@pytest.mark.parametrize(
    "own",
    [
        {"do_sample": True, "temperature": 5.0, "top_k": 50},
        {"repetition_penalty": 9.0},
        {"max_new_tokens": 2},
        {"num_beams": 3},
        {"no_repeat_ngram_size": 1},
        {"suppress_tokens": list(range(2, 300))},
        {"min_new_tokens": 9},
    ],
    ids=lambda own: next(iter(own)),
)
def test_a_models_own_settings_change_nothing_but_its_end(asker_of: Callable[..., Any], own: dict[str, Any]) -> None:
    plainly = asker_of().generated(TEXTS[:3], "bare", 9)
    assert asker_of(**own).generated(TEXTS[:3], "bare", 9) == plainly


def test_as_many_tokens_as_are_allowed(asker: Any) -> None:
    texts = asker.generated([TEXTS[1]], "bare", 3) + asker.generated([TEXTS[1]], "bare", 6)
    assert [asker.tokenizer.decode(greedy(asker, TEXTS[1], most)).strip() for most in (3, 6)] == [t.text for t in texts]
    assert not texts[0].ended


def test_the_models_own_chat_template(asker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="has no chat template: ask in the template 'bare'"):
        asker.generated(["the fox"], "chat", 3)
    template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[A]{% endif %}"
    )
    monkeypatch.setattr(asker.tokenizer, "chat_template", template)
    [found] = asker.generated(["the fox"], "chat", 5)
    assert found == asker.generated(["[user]the fox[A]"], "bare", 5)[0]
    assert found != asker.generated(["the fox"], "bare", 5)[0]
