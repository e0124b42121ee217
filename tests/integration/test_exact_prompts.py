"""What the models are fed is what stands in the file of facts: token by token, in training and in scoring."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kedit_glue.run import main

pytestmark = pytest.mark.integration

END = "<|end|>"
NASTY = {
    "emoji": "The 👩‍👩‍👧‍👦 of 🇨🇭 and 👍🏽 is",
    "right-to-left": "عمدة المدينة هو",
    "mixed directions": "The \u202emayor\u202c of תל אביב is",
    "combining": "Cafe\u0301 and Ko\u0308ln are",
    "arithmetic": "{{ 7*7 }} is",
    "raw": "{% raw %}{{ x }}{% endraw %} is",
    "a turn's number": "{{idx}} is",
    "a turn's text": "{{content}} is",
    "YAML": "- a: b",
    "a comment": "# x is",
    "an anchor": "&a *b !!c is",
    "quotes": '"It\'s" `so` «here»',
    "backslashes": "C:\\new\\table \\u0041 \\x41",
    "line breaks": "one\ntwo\r\nthree\u2028four\n\nfive",
    "tabs": "a\tb\t\tc",
    "spaces": "a  b   c\u00a0d\u3000e",
    "chat": "<|im_start|>user\nWho?<|im_end|>",
    "end in the middle": f"one {END} two",
    "placeholders": "<image> <video> <audio> <think>x</think>",
    "a date": "2020-01-01T00:00:00Z",
    "a number": "007",
    "null": "null",
    "control": "a\x07b\x1b[31mc",
    "byte order mark": "\ufeffa",
    "long": "long " * 30 + "text",
    "HTML": "<b>&amp;</b> is",
    "one character": "x",
}


def facts() -> list[dict[str, Any]]:
    """Each text as prompt, target, rephrasing and probe; a target must not hold the tokenizer's end."""
    made = []
    for name, text in NASTY.items():
        answer = text.replace(END, "end")
        made.append(
            {
                "id": name,
                "prompt": text,
                "target_new": f"{answer} new",
                "rephrase_prompt": f"again {text}",
                "portability": {"Reasoning": [{"prompt": f"port {text}", "ground_truth": f"{answer} p"}]},
                "locality": {"Neighborhood": [{"prompt": f"near {text}", "ground_truth": f"{answer} l"}]},
            }
        )
    return made


@pytest.fixture
def fed(stages_here: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, set[tuple[int, ...]]]:
    """Stage -> every row of tokens that a Llama was given in it, without padding."""
    from transformers import LlamaForCausalLM

    rows: dict[str, set[tuple[int, ...]]] = {}
    forward = LlamaForCausalLM.forward

    @functools.wraps(forward)  # the trainer keeps those columns that the signature names
    def recorded(self: Any, *args: Any, **kwargs: Any) -> Any:
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        mask = kwargs.get("attention_mask")
        for number, row in enumerate(ids.tolist()):
            held = mask[number].tolist() if mask is not None else [1] * len(row)
            rows.setdefault(stages_here[-1], set()).add(
                tuple(token for token, on in zip(row, held, strict=False) if on)
            )
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", recorded)
    return rows


@pytest.fixture
def edit(
    stages_here: list[str], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., int]]:
    """``edit("--set", …)``: one batch of all facts, one epoch, scored once."""
    monkeypatch.chdir(tmp_path)
    Path("facts.json").write_text(json.dumps(facts()), encoding="utf-8")
    Path("try.yaml").write_text(
        f"name: try\nmodel: {json.dumps(str(tiny_model))}\nedits: {{source: facts.json, batch_size: 100}}\n"
        "train: {epochs: 1, mini_batch: 4}\nmerge: {parameters: {weight: 1.0}}\n"
        "score: {edits: {when: end, fluency_facts: 0}, examples: 100}\ndevice: cpu\nrunner: command\n",
        encoding="utf-8",
    )
    yield lambda *arguments: main(["try.yaml", *arguments])


def test_bare(
    edit: Callable[..., int], fed: dict[str, set[tuple[int, ...]]], tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoTokenizer

    assert edit() == 0
    assert "left out" not in capsys.readouterr().out
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)

    def tokens(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text))

    for fact in facts():
        prompt, target = fact["prompt"], fact["target_new"]
        trained = tokens(f"{prompt} {target}{END}")
        assert tokenizer.decode(trained) == f"{prompt} {target}{END}"
        assert trained in fed["train"], fact["id"]
        asked = [(prompt, target), (fact["rephrase_prompt"], target)]
        probes = [*fact["portability"]["Reasoning"], *fact["locality"]["Neighborhood"]]
        asked += [(probe["prompt"], probe["ground_truth"]) for probe in probes]
        for question, answer in asked:
            assert tokens(f"{question} {answer}") in fed["score"], (fact["id"], question)
        assert tokens(prompt) in fed["score"], fact["id"]  # the greedy answer
    assert len(fed["train"]) == len(NASTY), "nothing else was trained on"


def test_chat(
    edit: Callable[..., int],
    fed: dict[str, set[tuple[int, ...]]],
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A fact that only fits without the template's own tokens is left out, not cut off."""
    from transformers import AutoTokenizer

    model = Path(shutil.copytree(tiny_model, tmp_path / "chatty"))
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>\n{% endif %}"
    )
    tokenizer.save_pretrained(model)
    wanted = {}
    for fact in facts():
        prompt = f"<user>\n{fact['prompt']}<|end|>\n<assistant>\n"
        wanted[fact["id"]] = (*tokenizer.encode(prompt), *tokenizer.encode(f"{fact['target_new']}<|end|>\n"))
    most = len(wanted["long"]) - 1
    arguments = {"model": json.dumps(str(model)), "train.template": "chat", "train.cutoff_len": most}
    assert edit(*(part for key, value in arguments.items() for part in ("--set", f"{key}={value}"))) == 0
    place = f"record {list(NASTY).index('long') + 1} (long)"
    said = f"left out: {place}: prompt and target are {most + 1} tokens, train.cutoff_len is {most}"
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out")] == [said]
    assert fed["train"] == set(wanted.values()) - {wanted["long"]}


def test_chat_with_a_model_that_has_no_template(edit: Callable[..., int], tiny_model: Path) -> None:
    with pytest.raises(ValueError, match=r"train.template is chat, and the tokenizer in .* has no chat template: "):
        edit("--set", "train.template=chat")
