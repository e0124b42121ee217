"""Regression mean (RegMean, arXiv 2212.09849) of a merged model and the one it was merged with.

A linear layer that was W0 and became W0 + D has two things to do: give the facts what W0 + D gives them, and ordinary
text what W0 gives it. The least squares of both, with X the inputs of the facts' tokens [tokens, inputs], C the second
moment of a token of general text and n how many tokens such text counts as,

    min |(W - W0 - D) Xᵀ|² + n tr((W - W0) C (W - W0)ᵀ),   is   W = W0 + D XᵀX (XᵀX + n C)⁻¹:

equation 2 there for two models, whose inner products are XᵀX and n C. MEMIT's closed form (arXiv 2210.07229, equation
14) is the same, with D Xᵀ for its residual. Layer by layer, each with the inputs that it has in the merged model.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kedit_glue import moments, training_trace
from kedit_glue.tools import Emit, asking
from kedit_glue.tools.protect import matched, matrices
from kedit_glue.tools.reshape import reshaped
from kedit_glue.weights import Stored

TOGETHER = 16
"""Texts that are read at once."""
RIDGE = 1e-6
"""Of the mean eigenvalue, on the diagonal: where neither facts nor text have been there is nothing to weigh."""


def regress(job: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """Write ``job['output']``: of each matrix the regression mean of ``job['model']`` and ``job['before']``.

    ``job``: ``model`` (folder of the merged model), ``before`` (of the one it was merged with), ``traces`` (files
    that training left: the texts that were taught), ``moments`` (JSON that says where general text's are), ``tokens``
    (n), ``trainable`` (regular expression), ``device``, ``trust_remote_code``.

    Returns the number of ``matrices``, of ``texts`` and of their ``tokens``, the norm of the change before and after,
    and what of it the facts' and general text's tokens meet, |D Xᵀ| and sqrt(tr(D C Dᵀ)), before and after. Raises
    ValueError for traces without tokens.
    """
    started = time.monotonic()
    texts = taught(job["traces"])
    statistics = json.loads(Path(job["moments"]).read_text(encoding="utf-8"))
    shapes = matrices(Path(job["model"]), job["trainable"], job["trust_remote_code"])
    inputs_first = {name: first for name, (_, first) in shapes.items()}
    model, _ = asking.load(job["model"], job["device"], job["trust_remote_code"])
    emit({"event": "loaded"})
    rows, counted = inputs_of(model, list(inputs_first), texts, emit)
    del model
    squares = {f"{what}_{when}": 0.0 for what in ("change", "facts_meet", "text_meets") for when in ("before", "after")}
    maps = Maps(rows, statistics, job["tokens"], job["device"])

    def names(stored: Mapping[str, Stored]) -> dict[str, str]:
        return matched(stored, inputs_first, job["trainable"])

    def mean(name: str, change: Any) -> Any:
        both = maps.of(name)
        return both.T @ change if inputs_first[name] else change @ both

    count = 0
    for name, was, left in reshaped(job, names, mean, emit):
        count += 1
        facts, text = maps.measures(name)
        for key, part in (("before", was), ("after", left)):
            turned = part.T if inputs_first[name] else part
            squares[f"change_{key}"] += float(part.norm()) ** 2
            squares[f"facts_meet_{key}"] += float((turned @ facts * turned).sum())
            squares[f"text_meets_{key}"] += float((turned @ text * turned).sum())
    found = {key: max(value, 0.0) ** 0.5 for key, value in squares.items()}
    seconds = round(time.monotonic() - started, 3)
    return {"matrices": count, "texts": len(texts), "tokens": counted, **found, "seconds": seconds}


def taught(traces: Sequence[str]) -> list[list[int]]:
    """Token ids of each text that was taught, once; of what was rehearsed, too."""
    found: dict[tuple[int, ...], None] = {}
    for file in traces:
        for trace in training_trace.read(Path(file)):
            if not (tokens := trace.get("tokens")):
                raise ValueError(
                    f"{file} does not say as which tokens its texts were taught (an earlier version wrote it): run the "
                    "same command with --force train"
                )
            found[tuple(tokens)] = None
    return [list(text) for text in found]


def inputs_of(
    model: Any, names: Sequence[str], texts: Sequence[Sequence[int]], emit: Emit
) -> tuple[dict[str, Any], int]:
    """Parameter name -> X [tokens, inputs], float32, in ``model``; matrices with the same input share it. And how many
    tokens that is of.

    A text's first token is left out: attention rests on it whatever it says, and its input is the largest by far.
    """
    import torch

    from kedit_glue.module_inputs import watch_inputs

    owners = {name: name.rpartition(".")[0] for name in names}
    known = dict(model.named_modules())
    found: dict[str, list[Any]] = {}
    counted = 0

    def take(owner: str, rows: Any) -> None:
        held = found.setdefault(owner, [])
        held.append(rows.float().cpu())
        if sum(map(len, held)) > 2 * rows.shape[1]:  # R of X = Q R has the same inner products
            held[:] = [torch.linalg.qr(torch.cat(held), mode="r").R]

    def batches() -> Iterator[dict[str, Any]]:
        nonlocal counted
        for start in range(0, len(texts), TOGETHER):
            some = texts[start : start + TOGETHER]
            longest = max(map(len, some))
            ids = torch.tensor([[*text, *[0] * (longest - len(text))] for text in some])
            real = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in some])
            inner = real.clone()
            inner[:, 0] = torch.tensor([len(text) == 1 for text in some])
            counted += int(inner.sum())
            batch = {"input_ids": ids, "attention_mask": real, "counted": inner}
            yield {key: value.to(model.device) for key, value in batch.items()}
            emit({"event": "corpus", "position": min(start + TOGETHER, len(texts)), "of": len(texts)})

    same = watch_inputs(model, {owner: known[owner] for owner in owners.values()}, batches(), take)
    joined = {owner: torch.cat(held) for owner, held in found.items()}
    return {name: joined[same.get(owner, owner)] for name, owner in owners.items()}, counted


class Maps:
    """XᵀX (XᵀX + n C)⁻¹ of each matrix; of matrices that read the same input, which come together, one."""

    def __init__(self, rows: Mapping[str, Any], statistics: Mapping[str, Any], count: float, device: str):
        self.rows, self.statistics, self.count, self.device = rows, statistics, count, device
        self.latest: tuple[Any, Any, Any, Any] | None = None

    def of(self, name: str) -> Any:
        """[inputs, inputs], float32."""
        return self._made(name)[3]

    def measures(self, name: str) -> tuple[Any, Any]:
        """XᵀX of the facts and C, a token's, of general text: [inputs, inputs], float32."""
        return self._made(name)[1:3]

    def _made(self, name: str) -> tuple[Any, Any, Any, Any]:
        import torch

        rows = self.rows[name]
        if self.latest is None or self.latest[0] is not rows:
            module = name.rpartition(".")[0]
            tokens, moment = moments.read(Path(self.statistics["files"][module]), rows.shape[1])
            # in float64, which Apple's GPUs have not
            at = self.device if self.device != "mps" else "cpu"
            facts = rows.to(at).double()
            facts, text = facts.T @ facts, torch.from_numpy(moment).to(at).double() / tokens
            found = weighed(facts, text, self.count)
            self.latest = (rows, *(each.float().cpu() for each in (facts, text, found)))
        return self.latest


def weighed(facts: Any, text: Any, count: float) -> Any:
    """XᵀX (XᵀX + n C)⁻¹ of the facts' XᵀX and a token's C of general text; all [inputs, inputs], float64."""
    import torch

    both = facts + count * text
    both.diagonal().add_(RIDGE * both.diagonal().mean())
    return torch.linalg.solve(both, facts).T
