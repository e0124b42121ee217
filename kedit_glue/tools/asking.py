"""Asks a model many things at once: teacher-forced tokens and likelihoods of answers, and generated text.

Numbers are EasyEdit's (evaluate/evaluate_utils.py, test_prediction_acc): prompt and answer joined by one space, the
answer's tokens are those behind as many as the prompt has by itself. What is different is only the way there: pairs of
like length run together, padded on the left with their own position numbers, and only the answer's positions go through
the output matrix.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kedit_glue.tools import Emit

if TYPE_CHECKING:
    from kedit_glue.tools.easyedit import Referee

MOST_TOKENS = 4096
"""Of a prompt with its answer; what is longer is cut off."""
TOKENS_AT_ONCE = {"cpu": 512, "cuda": 16384}
"""Tokens of one forward pass, padding included; more make a CPU no faster, and pad more."""
NUMBERS_AT_ONCE = 2**27
"""Of the logits of one forward pass: 512 MB in float32."""
GENERATED_AT_ONCE = {"cpu": 32, "cuda": 128}
"""Prompts that are continued together."""
BARE = "bare"
CHAT = "chat"
Encoded = tuple[list[int], int]
"""Tokens of a prompt with its answer, and where the answer begins."""


@dataclass(frozen=True)
class Forced:
    """What a model makes of an answer that it is given token by token."""

    most_likely: tuple[int, ...]
    """The model's most likely token at each of the answer's positions."""
    answer: tuple[int, ...]
    """The answer's tokens; never empty."""
    loss: float
    """Mean negative log-likelihood of the answer's tokens, in nats."""

    @property
    def accuracy(self) -> float:
        """Share of the answer's tokens that are the most likely ones, 0 to 1."""
        return sum(a == b for a, b in zip(self.most_likely, self.answer, strict=True)) / len(self.answer)


@dataclass(frozen=True)
class Generated:
    """What a model says by itself, and whether it came to an end by itself."""

    text: str
    ended: bool


def load(folder: str, device: str, trust_remote_code: bool) -> tuple[Any, Any]:
    """Model and tokenizer, padding set as both EasyEdit's evaluation and ours need it."""
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(folder, trust_remote_code)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trust_remote_code, dtype="auto")
    return model.to(device).eval(), tokenizer


def load_tokenizer(folder: str, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    # with right padding EasyEdit reads padded positions (evaluate_utils.py:107, slice_list)
    tokenizer.padding_side = "left"
    return tokenizer


def longest_asked(tokenizer: Any) -> int:
    """So many tokens of a prompt with its answer are read, the rest is cut off."""
    return min(int(tokenizer.model_max_length), MOST_TOKENS)


def together(lengths: Sequence[int], kept: Sequence[int], tokens: int, numbers: int) -> Iterator[list[int]]:
    """Rows for a forward pass each, the longest first: at most ``tokens``, and ``numbers`` kept positions, padded."""
    rows: list[int] = []
    width = depth = 0
    for row in sorted(range(len(lengths)), key=lambda r: (-lengths[r], -kept[r])):
        width, depth = max(width, lengths[row]), max(depth, kept[row])
        if rows and ((len(rows) + 1) * width > tokens or (len(rows) + 1) * depth > numbers):
            yield rows
            rows, width, depth = [], lengths[row], kept[row]
        rows.append(row)
    if rows:
        yield rows


class Asker:
    """A loaded model that is asked."""

    def __init__(self, model: Any, tokenizer: Any, emit: Emit):
        from transformers import GenerationConfig

        self.model, self.tokenizer, self.emit = model, tokenizer, emit
        self.kind = "cpu" if model.device.type == "cpu" else "cuda"
        takes = inspect.signature(model.forward).parameters
        self.takes_positions, self.takes_keep = "position_ids" in takes, "logits_to_keep" in takes
        self.ends = ends_of(model, tokenizer)
        # the model's own settings could sample, or punish repetition: generate() falls back on them
        # (transformers 5.6.0, generation/utils.py:1700)
        model.generation_config = GenerationConfig()
        self.asked = 0
        self.known: dict[tuple[str, str], Forced] = {}

    def put(self, prompts: Sequence[str]) -> list[str]:
        """The prompts as the model gets them: as they are."""
        return list(prompts)

    def referee(self, checkout: str | None) -> Referee:
        """EasyEdit's evaluation of the same model; ``checkout``: of EasyEdit's main, or None for the package."""
        from kedit_glue.tools import easyedit

        return easyedit.Referee(self.model, self.tokenizer, self.emit, checkout, self.put)

    # -- teacher forced -----------------------------------------------------------------------------

    def forced(self, pairs: Sequence[tuple[str, str]]) -> list[Forced]:
        """For each prompt and answer; a pair that comes again is not asked again.

        Raises ValueError where an answer has no token within the length that is read.
        """
        unique = [pair for pair in dict.fromkeys(pairs) if pair not in self.known]
        encoded = [self.encoded(*pair) for pair in unique]
        done = 0
        for rows in self.grouped(encoded):
            for row, answer in zip(rows, self.passed([encoded[r] for r in rows]), strict=True):
                self.known[unique[row]] = answer
            done += len(rows)
            self.emit({"event": "asked", "position": done, "of": len(unique)})
        self.asked += len(unique)
        return [self.known[pair] for pair in pairs]

    def encoded(self, prompt: str, answer: str) -> Encoded:
        """Tokens of both, and where the answer begins, as EasyEdit counts (evaluate_utils.py:96-101)."""
        most, pad = longest_asked(self.tokenizer), self.tokenizer.pad_token_id
        ids = self.tokenizer(f"{prompt} {answer}", truncation=True, max_length=most)["input_ids"]
        own = self.tokenizer(prompt, truncation=True, max_length=most)["input_ids"]
        start = sum(i != pad for i in own) + sum(i == pad for i in ids)
        if start >= len(ids) or start < 1:
            raise ValueError(
                f"the answer {answer!r} has no token of its own behind the prompt {prompt!r} within {most} tokens: "
                "shorten the prompt, or leave the fact out"
            )
        return ids, start

    def grouped(self, encoded: Sequence[Encoded]) -> Iterator[list[int]]:
        """Which of them go through the model together."""
        size = self.model.get_output_embeddings().weight.shape[0]
        lengths, kept = [len(ids) for ids, _ in encoded], [len(ids) - start + 1 for ids, start in encoded]
        return together(lengths, kept, TOKENS_AT_ONCE[self.kind], NUMBERS_AT_ONCE // size)

    def passed(self, encoded: Sequence[Encoded]) -> list[Forced]:
        """What the model makes of each, in one forward pass."""
        import torch

        width = max(len(ids) for ids, _ in encoded)
        keep = max(len(ids) - start for ids, start in encoded) + 1
        inputs, mask = self._padded([ids for ids, _ in encoded], width)
        more: dict[str, Any] = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if self.takes_positions else {}
        if self.takes_keep:
            more["logits_to_keep"] = keep
        with torch.inference_mode():
            logits = self.model(input_ids=inputs, attention_mask=mask, use_cache=False, **more).logits[:, -keep:]
            counts = [len(ids) - start for ids, start in encoded]
            chosen = torch.cat([logits[row, keep - 1 - count : keep - 1] for row, count in enumerate(counts)])
            answers = torch.cat([inputs[row, width - count :] for row, count in enumerate(counts)])
            losses = torch.nn.functional.cross_entropy(chosen.float(), answers, reduction="none")
            tokens, losses = chosen.argmax(-1).split(counts), losses.split(counts)
        return [
            Forced(tuple(likely.tolist()), tuple(ids[start:]), float(loss.mean()))
            for likely, loss, (ids, start) in zip(tokens, losses, encoded, strict=True)
        ]

    def _padded(self, rows: Sequence[Sequence[int]], width: int) -> tuple[Any, Any]:
        """Tokens and mask, [rows, width], padded on the left."""
        import torch

        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=self.model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self.model.device)
        return ids, mask

    # -- generated ----------------------------------------------------------------------------------

    def generated(self, prompts: Sequence[str], template: str, most_tokens: int) -> list[Generated]:
        """Greedy answers that end with the model's end-of-sequence token, or after ``most_tokens``.

        ``template``: ``bare``, or ``chat`` for the tokenizer's own. A prompt that comes twice is asked once.
        """
        unique = list(dict.fromkeys(prompts))
        encoded = [self._prompt(prompt, template) for prompt in unique]
        found: dict[str, Generated] = {}
        order = sorted(range(len(unique)), key=lambda row: -len(encoded[row]))
        size = GENERATED_AT_ONCE[self.kind]
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            for row, answer in zip(rows, self._continued([encoded[r] for r in rows], most_tokens), strict=True):
                found[unique[row]] = answer
            self.emit({"event": "generated", "position": len(found), "of": len(unique)})
        self.asked += len(unique)
        return [found[prompt] for prompt in prompts]

    def _prompt(self, prompt: str, template: str) -> list[int]:
        if template == BARE:
            ids: list[int] = self.tokenizer(prompt)["input_ids"]
            return ids
        if not self.tokenizer.chat_template:
            raise ValueError("the model's tokenizer has no chat template: ask in the template 'bare'")
        turns = [{"role": "user", "content": prompt}]
        text = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _continued(self, encoded: Sequence[Sequence[int]], most_tokens: int) -> list[Generated]:
        import torch
        from transformers import GenerationConfig

        settings = GenerationConfig(
            do_sample=False,
            max_new_tokens=most_tokens,
            eos_token_id=self.ends,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        width = max(map(len, encoded))
        inputs, mask = self._padded(encoded, width)
        with torch.inference_mode():
            output = self.model.generate(inputs, attention_mask=mask, generation_config=settings)
        found = []
        for row in output[:, width:].tolist():
            end = next((at for at, token in enumerate(row) if token in self.ends), None)
            text = self.tokenizer.decode(row[:end], skip_special_tokens=True)
            found.append(Generated(text.strip(), end is not None))
        return found


def ends_of(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end an answer: the tokenizer's, and those that the model's own settings name."""
    own = getattr(model.generation_config, "eos_token_id", None)
    own = own if isinstance(own, list) else [own]
    return sorted({int(i) for i in (tokenizer.eos_token_id, *own) if i is not None})
