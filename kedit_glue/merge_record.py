"""What a merge did to the tensors that training touched: numbers for the record, and when they are an error.

With b the model before, t the tuned one and m the merged one, the batch's change is m - b, and what
training asked for is t - b (the sum over all tuned models). With e and f the models before and after the
previous batch, that batch's change is f - e.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

CHUNK = 1 << 18
"""Entries that are measured at once: the tensors' pieces fit a core's cache."""
PLACE = re.compile(r"\.(\d+)\.(.+?)(?:\.(?:weight|bias))?$")


class MergeError(RuntimeError):
    """The merge ran, and its result is not what a merge of these models can be."""


@dataclass
class Change:
    """Sums over the entries of one tensor, or of several added up."""

    tuned_square: float = 0.0
    """Of (t - b) squared."""
    merged_square: float = 0.0
    """Of (m - b) squared."""
    missed_square: float = 0.0
    """Of (m - t) squared."""
    entries: int = 0
    tuned_entries: int = 0
    """Entries where t is not b."""
    merged_entries: int = 0
    """Entries where m is not b."""
    both: int = 0
    """Entries that this batch and the previous one both changed."""
    agreeing: int = 0
    """Those of them that both moved the same way."""

    def __add__(self, other: Change) -> Change:
        return Change(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def record(self) -> dict[str, Any]:
        """Euclidean norms; density: share of entries that the merge changed; sign agreement: share in [0, 1]."""
        return {
            "norm_tuned": self.tuned_square**0.5,
            "norm_merged": self.merged_square**0.5,
            "density": self.merged_entries / self.entries if self.entries else 0.0,
            "sign_agreement": self.agreeing / self.both if self.both else None,
        }


def measure(before: Any, tuned: Sequence[Any], merged: Any, earlier: Sequence[Any] = ()) -> Change:
    """One tensor's change; torch tensors of one shape, of any floating-point format, computed in float32.

    With several tuned models t - b is the sum of their changes. ``earlier``: e and f, or nothing.
    """
    import torch

    found = Change()
    tensors = [before, merged, *earlier, *tuned]
    for pieces in zip(*(t.reshape(-1).split(CHUNK) for t in tensors), strict=True):
        base, result, *others = (piece.float() for piece in pieces)
        change = result - base
        first, *more = others[len(earlier) :]
        asked = first - base
        for one in more:
            asked += one - base
        found.merged_square += float(torch.linalg.vector_norm(change)) ** 2
        found.tuned_square += float(torch.linalg.vector_norm(asked)) ** 2
        found.missed_square += float(torch.linalg.vector_norm(change - asked)) ** 2
        found.entries += base.numel()
        found.merged_entries += int(torch.count_nonzero(change))
        found.tuned_entries += int(torch.count_nonzero(asked))
        if earlier:
            sign, previous = change.sign(), (others[1] - others[0]).sign()
            both = (sign != 0) & (previous != 0)
            found.both += int(torch.count_nonzero(both))
            found.agreeing += int(torch.count_nonzero(both & (sign == previous)))
    return found


def place(name: str) -> tuple[int | None, str]:
    """Layer and module of a tensor: ``model.layers.3.mlp.up_proj.weight`` is (3, ``mlp.up_proj``)."""
    found = PLACE.search(name)
    return (int(found[1]), found[2]) if found else (None, name)


def added(changes: Iterable[Change]) -> Change:
    return sum(changes, Change())


def statistics(changes: Mapping[str, Change]) -> dict[str, Any]:
    """The record by tensor, and added up by layer and by module."""
    tensors = {}
    for name, change in changes.items():
        layer, module = place(name)
        tensors[name] = {"layer": layer, "module": module, **change.record()}

    def by(key: Callable[[str], str]) -> dict[str, Any]:
        groups: dict[str, Change] = {}
        for name, change in changes.items():
            groups[key(name)] = groups.get(key(name), Change()) + change
        return {group: change.record() for group, change in groups.items()}

    layers = by(lambda name: str(place(name)[0]))
    ordered = dict(sorted(layers.items(), key=lambda item: (not item[0].isdigit(), item[0].zfill(6))))
    return {"tensors": tensors, "layers": ordered, "modules": by(lambda name: place(name)[1])}


def check_finite(name: str, change: Change) -> None:
    if not math.isfinite(change.merged_square):
        raise MergeError(f"{name} is not finite after the merge: training diverged; lower train.learning_rate")


def check_something_left(total: Change) -> None:
    if total.tuned_square > 0 and total.merged_square == 0:
        raise MergeError(
            "the merge gave back the model it began with: nothing that training learned is left. "
            "Raise merge.parameters.weight or density (sce's select_topk: with one tuned model only 1.0 keeps anything)"
        )


def asked_for_less(method: str, parameters: Mapping[str, Any], density: float) -> str | None:
    """A parameter by which the merge of one tuned model must differ from that model, as ``weight 0.7``.

    ``parameters`` are those of one tensor, as mergekit resolved them; ``density`` is the share of
    entries that training changed (asking to keep more than that asks for nothing). Weight, lambda
    and scale multiply; within one per cent of 1 they ask for nothing. ``t`` is a share in slerp only;
    nearswap's is a distance.
    """
    factors = {
        key: value
        for key in ("weight", "lambda", "scale", *(("t",) if method == "slerp" else ()))
        if isinstance(value := parameters.get(key), (int, float)) and value != 1
    }
    if abs(math.prod(factors.values()) - 1) >= 0.01:
        return ", ".join(f"{key} {value:g}" for key, value in factors.items())
    kept = parameters.get("density")
    if isinstance(kept, (int, float)) and kept < density - 0.01:
        return f"density {kept:g}"
    return None


def check_not_the_tuned(method: str, changes: Mapping[str, Change], asked: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises MergeError where the tensors that were to differ from the tuned model's do not.

    For one tuned model. ``asked``: tensor -> its resolved parameters. "Do not" is a distance under a
    thousandth of what training changed.
    """
    reasons = {
        name: why
        for name, change in changes.items()
        if (why := asked_for_less(method, asked.get(name, {}), change.tuned_entries / max(change.entries, 1)))
    }
    total = added(changes[name] for name in reasons)
    if total.tuned_square == 0 or total.missed_square >= 1e-6 * total.tuned_square:
        return
    name, why = next(iter(reasons.items()))
    more = f" and {len(reasons) - 1} more tensors" if len(reasons) > 1 else ""
    normalized = next((key for key in ("normalize", "normalize_weights") if asked[name].get(key)), None)
    cause = (
        f"with {normalized}: true mergekit divides by the sum of the weights, and with one tuned model that takes "
        f"the weight out again; set {normalized}: false"
        if normalized
        else f"{method} does not use it with these inputs, or the changes are smaller than the number format can "
        "halve; see mergekit's description of the method, and try dtype: float32 with out_dtype: float32"
    )
    raise MergeError(
        f"the merge gave back the tuned model although merge.yaml asks for {why} (of {name}{more}): {cause}"
    )
