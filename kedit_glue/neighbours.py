"""Keeps a change out of what a taught prompt feeds into the matrices when it is about another subject.

A fact's *neighbours* are its own prompt about other subjects ("The mother tongue of Marie Curie is" for a fact about
somebody else's). Directions of general text say little about such prompts, and a fact's answer spreads to them.
``train.protect.neighbours`` adds, matrix by matrix, the leading right singular vectors of the inputs X [tokens,
inputs] that the neighbours give, less what general text's directions U hold of them: of X (I - U Uᵀ).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from kedit_glue.module_inputs import watch_inputs
from kedit_glue.protection import Factor, Protection
from kedit_glue.ranks import said_by_first
from kedit_glue.sample_losses import prompt_of
from kedit_glue.tools import Emit

MOST = 256
"""So many neighbours of a batch are read, drawn from them all where they are more."""
TOGETHER = 16
"""So many at once."""
SPARE = 8
"""So many more singular vectors than are wanted are sought (``torch.svd_lowrank``)."""
NOTHING = 1e-4
"""A singular value under this share of the inputs' norm is rounding."""


def keep(
    protection: Protection | None,
    model: torch.nn.Module,
    tokenizer: Any,
    dataset: Any,
    samples: Sequence[Mapping[str, Any]],
    count: int,
    emit: Emit,
) -> dict[str, Any] | None:
    """Add up to ``count`` directions to each protected matrix: those of the neighbours of ``samples``.

    ``dataset``: LLaMA-Factory's, a row a sample. Returns what ``widen`` says, None where no sample has neighbours;
    facts without are counted aloud. Raises ValueError where nothing is protected, where softly, and where nothing
    could change any more.
    """
    if protection is None:
        raise ValueError("rsft.yaml has neighbours and no protect: they add to directions of general text")
    ids, facts = token_ids(tokenizer, dataset, samples)
    if without := len({sample["id"] for sample in samples} - facts):
        text = (
            f"train.protect.neighbours: {without} of the facts shown have none (no subject, or another text in tokens)"
        )
        emit({"event": "say", "text": text})
    return widen(protection, model, ids, count) if ids else None


def token_ids(tokenizer: Any, dataset: Any, samples: Sequence[Mapping[str, Any]]) -> tuple[list[list[int]], set[str]]:
    """The neighbours of ``samples`` as training would put them, and the ids of the facts that have some.

    What the template puts around a prompt is kept. Left out are facts whose text is not what their tokens say (a
    tokenizer that normalizes it).
    """
    found, facts = [], set()
    for row, sample in enumerate(samples):
        if not (others := sample.get("neighbours")):
            continue
        ids, labels = dataset[row]["input_ids"], dataset[row]["labels"]
        if (around := prompt_of(tokenizer, ids, labels, sample["instruction"])) is None:
            continue
        (before, after) = around
        facts.add(sample["id"])
        found += [tokenizer(before + other + after, add_special_tokens=False)["input_ids"] for other in others]
    if len(found) > MOST:
        drawn = random.Random(len(found)).sample(range(len(found)), MOST)
        found = [found[place] for place in sorted(drawn)]
    return found, facts


def widen(protection: Protection, model: torch.nn.Module, ids: Sequence[Sequence[int]], count: int) -> dict[str, Any]:
    """Add up to ``count`` directions to each matrix that is protected; ``ids``: ``token_ids``.

    Returns the number of ``prompts``, their ``tokens``, and the mean number of ``directions`` that were added. Of
    several processes the first one's directions are everybody's.
    """
    if protection.soft:
        raise ValueError("train.protect.neighbours does not work with strength (soft protection)")
    modules = dict(model.named_modules())
    rows = inputs_of(model, {name: modules[name.rpartition(".")[0]] for name in protection.matrices}, ids)
    known: dict[tuple[int, int], torch.Tensor] = {}  # matrices that read the same input have the same directions
    added = []
    for name, matrix in protection.matrices.items():
        own, (inputs, kept) = matrix.vectors, matrix.vectors.shape
        key = (id(rows[name]), kept)
        if key not in known:
            read = rows[name].to(own.device).float()
            known[key] = said_by_first(outside(read, own, count).cpu()).to(own.device)
        if kept + known[key].shape[1] == inputs:
            raise ValueError(
                f"train.protect.neighbours is {count}, and with {kept} directions of general text all {inputs} inputs "
                f"of {name} would be kept: nothing could change; lower it"
            )
        matrix.vectors = torch.cat([own, known[key]], dim=1)
        added.append(known[key].shape[1])
        if isinstance(matrix, Factor):
            with torch.no_grad():
                matrix.apply()  # A as it starts, which is at random
    return {"prompts": len(ids), "tokens": sum(map(len, ids)), "directions": round(sum(added) / len(added), 1)}


def outside(rows: torch.Tensor, vectors: torch.Tensor, count: int) -> torch.Tensor:
    """V [inputs, up to ``count``]: the leading right singular vectors of X - X U Uᵀ; orthonormal, and to U.

    ``rows``: X [tokens, inputs], ``vectors``: U [inputs, k] with orthonormal columns.
    """
    rest = rows - (rows @ vectors) @ vectors.T
    most = min(*rest.shape, rest.shape[1] - vectors.shape[1])
    devices = [rest.device] if rest.device.type == "cuda" else []
    with torch.random.fork_rng(devices):  # it begins with random numbers; training's own go on as they were
        torch.manual_seed(0)
        _, values, found = torch.svd_lowrank(rest, q=min(count + SPARE, most), niter=2)
    real = int((values > NOTHING * rows.norm()).sum())
    return found[:, : min(count, real)]


def inputs_of(
    model: torch.nn.Module, owners: Mapping[str, torch.nn.Module], ids: Sequence[Sequence[int]]
) -> dict[str, torch.Tensor]:
    """What each of ``owners`` reads while the model reads ``ids``: [tokens, inputs], padding left out.

    In the model's number format and in main memory, as it is of all layers at once. Modules that read the same tensor
    (``gate_proj``, ``up_proj``) share one.
    """
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in owners}
    device = next(model.parameters()).device
    with asking(model):
        same = watch_inputs(model, owners, padded(ids, device), lambda name, rows: parts[name].append(rows.cpu()))
    whole = {name: torch.cat(parts.pop(name)) for name in owners if name not in same}
    return whole | {name: whole[source] for name, source in same.items()}


def padded(ids: Sequence[Sequence[int]], device: torch.device) -> Iterator[dict[str, torch.Tensor]]:
    """Token ids and attention mask, texts of a length together, padded on the right."""
    ordered = sorted(ids, key=len)
    for start in range(0, len(ordered), TOGETHER):
        part = ordered[start : start + TOGETHER]
        longest = max(map(len, part))
        rows = [[*text, *[0] * (longest - len(text))] for text in part]
        mask = [[1] * len(text) + [0] * (longest - len(text)) for text in part]
        yield {
            "input_ids": torch.tensor(rows, device=device),
            "attention_mask": torch.tensor(mask, device=device),
        }


@contextmanager
def asking(model: torch.nn.Module) -> Iterator[None]:
    """No dropout meanwhile."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
