"""Keeps the change of trained matrices out of the input directions that general text uses.

The file of directions (``tools/protect.py``) holds for each matrix U [inputs, k]; a change D
[outputs, inputs] becomes D - (D U) Uᵀ. *Hard*: U has orthonormal columns V, the leading eigenvectors
of the inputs' second moment, and D V = 0. *Soft*: the columns are scaled, so that the part of D
along V_i is shrunk by lambda / (lambda + eigenvalue_i / mean eigenvalue).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch

ABOUT = "directions"
"""Key of the file's metadata; a single one, because safetensors writes several in an order that changes."""
FACTOR = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<factor>[AB])\.(?P<adapter>[^.]+)\.weight")
"""Names that peft gives to the factors of a LoRA (peft 0.18, ``tuners/lora/layer.py``)."""


@dataclass(frozen=True)
class Directions:
    """A file of directions."""

    vectors: dict[str, torch.Tensor]
    """Parameter name -> U, float32 [inputs, k]."""
    inputs_first: frozenset[str]
    """Parameters stored [inputs, outputs]: transformers' Conv1D (GPT-2)."""
    soft: bool


def read(file: Path | str) -> Directions:
    """Read a file that ``tools/protect.directions`` wrote."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        about = json.loads((opened.metadata() or {}).get(ABOUT, "{}"))
        vectors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no dict)
    return Directions(vectors, frozenset(about.get("inputs_first", [])), about.get("mode") == "soft")


def project(change: torch.Tensor, vectors: torch.Tensor, inputs_first: bool = False) -> torch.Tensor:
    """D - (D U) Uᵀ for D [outputs, inputs] and U [inputs, k]; for D [inputs, outputs] D - U (Uᵀ D)."""
    if inputs_first:
        return change - vectors @ (vectors.T @ change)
    return change - (change @ vectors) @ vectors.T


class Matrix:
    """A trained matrix W. Hard: W - W0 is projected, W0 being W as training found it; doing so again
    changes nothing, so no error grows with the steps. Soft: each step's change is shrunk, once."""

    def __init__(self, weight: torch.Tensor, vectors: torch.Tensor, inputs_first: bool, soft: bool):
        self.weight, self.inputs_first, self.soft = weight, inputs_first, soft
        self.vectors = vectors.to(weight.device)
        self.start = weight.detach().clone()

    def apply(self) -> None:
        start = self.start.float()
        change = project(self.weight.float() - start, self.vectors, self.inputs_first)
        self.weight.copy_(start + change)
        if self.soft:
            self.start.copy_(self.weight)


class Factor:
    """A of a LoRA, W = W0 + s B A: with A U = 0 the change has no part in the directions, whatever B is."""

    def __init__(self, weight: torch.Tensor, vectors: torch.Tensor):
        self.weight, self.vectors = weight, vectors.to(weight.device)

    def apply(self) -> None:
        self.weight.copy_(project(self.weight.float(), self.vectors))


class Protection:
    """Protects all matrices that a model trains: call ``apply`` after every optimizer step.

    Vectors (biases, norms) have no input directions and are left alone. With several processes each
    does the same arithmetic on the same weights. As every batch keeps D V = 0, so does their sum,
    and so does a merge that scales D as a whole.

    Raises ValueError, which names the parameter, for what cannot be protected.
    """

    def __init__(self, model: torch.nn.Module, file: str):
        found = read(file)
        everything = {name.removeprefix("module."): p for name, p in model.named_parameters()}
        trained = {name: p for name, p in everything.items() if p.requires_grad}
        if magnitude := next((name for name in trained if "lora_magnitude_vector" in name), None):
            raise ValueError(f"train.protect does not work with DoRA: {magnitude} scales whole rows of the matrix")
        plain = {name: p for name, p in trained.items() if p.ndim >= 2 and not FACTOR.fullmatch(name)}
        adapters = {
            (match["module"], match["adapter"]): name.replace(f".lora_{match['factor']}.", ".lora_{}.")
            for name in trained
            if (match := FACTOR.fullmatch(name))
        }
        if adapters and found.soft:
            raise ValueError(
                "train.protect.strength (soft) does not work with LoRA: a step's change of the product B A "
                "cannot be shrunk in its factors; leave strength out, or train the matrices themselves"
            )
        wanted = {*plain, *(f"{module}.weight" for module, _ in adapters)}
        if missing := sorted(wanted - found.vectors.keys()):
            raise ValueError(f"{file} holds no directions for {', '.join(missing[:3])}: it was made for other layers")
        if not wanted:
            raise ValueError("train.protect: no matrix is trained here (or FSDP flattened them, which it cannot do)")
        self.soft = found.soft
        self.matrices: dict[str, Matrix | Factor] = {}
        """Parameter name -> how it is protected."""
        for name, weight in plain.items():
            inputs_first = name in found.inputs_first
            _check_shape(name, weight, found.vectors[name], 0 if inputs_first else -1)
            self.matrices[name] = Matrix(weight, found.vectors[name], inputs_first, found.soft)
        for (module, _), name in adapters.items():
            a, b = everything[name.format("A")], everything[name.format("B")]
            if b.detach().any():
                raise ValueError(
                    f"train.protect with LoRA needs a B that is zero at the start, {name.format('B')} is not "
                    "(PiSSA, OLoRA, LoftQ, or an adapter trained before): merge it first, then start a new one"
                )
            _check_shape(name.format("A"), a, found.vectors[f"{module}.weight"], -1)
            self.matrices[name.format("A")] = Factor(a, found.vectors[f"{module}.weight"])
        if adapters:
            self.apply()  # A starts at random; B is zero, so the model stays the same

    def apply(self) -> None:
        """After an optimizer step: take back the part of the change that lies in the directions."""
        with torch.no_grad():
            for matrix in self.matrices.values():
                matrix.apply()


def _check_shape(name: str, weight: torch.Tensor, vectors: torch.Tensor, axis: int) -> None:
    if weight.ndim != 2 or weight.shape[axis] != vectors.shape[0]:
        raise ValueError(
            f"train.protect: {name} has shape {list(weight.shape)} and directions of {vectors.shape[0]} inputs: "
            "they are of another model, or the weights are sharded (ZeRO-3, FSDP)"
        )
