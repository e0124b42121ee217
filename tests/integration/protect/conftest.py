"""A bench for protection: a tiny model, a tiny corpus, training steps, and what is left in the directions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kedit_glue.tools import protect

FFN = r"\.\d+\.(mlp\.)"
TEXTS = ("the quick brown fox", "jumps over the lazy dog", "The town of Elm lies in the north.")


@dataclass
class Bench:
    source: Path
    """Folder of the model."""
    folder: Path
    """To write into."""
    texts = TEXTS
    ffn = FFN

    @property
    def directions(self) -> str:
        return str(self.folder / "protect.safetensors")

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def find(self, **settings: Any) -> dict[str, Any]:
        """The job's result; it writes ``directions``."""
        corpus = self.folder / "small.txt"
        corpus.write_text("\n\n".join(TEXTS))
        job = {
            "model": str(self.source),
            "corpus": str(corpus),
            "texts": None,
            "trainable": FFN,
            "directions": 6,
            "energy": None,
            "strength": None,
            "device": "cpu",
            "trust_remote_code": False,
            "cache": str(self.cache),
            "output": self.directions,
            **settings,
        }
        return protect.directions(job, lambda event: None)

    def load(self) -> Any:
        """The model with its FFNs to be trained."""
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(self.source)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(bool(re.search(FFN, name)))
        return model

    def train(self, model: Any, seeds: range, protected: bool = True) -> None:
        """AdamW steps with weight decay on random tokens, one for each seed."""
        import torch

        from kedit_glue.protection import Protection

        guard = Protection(model, self.directions) if protected else None
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
        for seed in seeds:
            ids = torch.randint(2, 200, (4, 12), generator=torch.Generator().manual_seed(seed))
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if guard:
                guard.apply()

    def moments(self) -> tuple[dict[str, Any], int]:
        """Module -> sum of x xᵀ, one text and one token at a time; and the number of tokens."""
        import torch
        from transformers import AutoTokenizer

        model, tokenizer = self.load(), AutoTokenizer.from_pretrained(self.source)
        sums: dict[str, Any] = {}
        tokens = 0
        for name, module in model.named_modules():
            if re.search(FFN, f"{name}.weight") and getattr(module, "weight", None) is not None:

                def add(module: Any, inputs: Any, output: Any, name: str = name) -> None:
                    sums[name] = sums.get(name, 0) + sum(torch.outer(x, x) for x in inputs[0][0])

                module.register_forward_hook(add)
        with torch.no_grad():
            for text in TEXTS:
                ids = tokenizer(text, return_tensors="pt")["input_ids"]
                tokens += ids.shape[1]
                model(input_ids=ids)
        return sums, tokens

    def changes(self, before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Name -> the change D [outputs, inputs] and U, for every matrix that has directions."""
        from kedit_glue import protection

        found = protection.read(self.directions)
        return {
            name: ((d.T if name in found.inputs_first else d), u)
            for name, u in found.vectors.items()
            for d in [after[name].float() - before[name].float()]
        }

    def inside(self, before: dict[str, Any], after: dict[str, Any]) -> float:
        """The largest share of a matrix's change that lies in its directions: norm of D V over norm of D."""
        return max(float((d @ u).norm() / d.norm()) for d, u in self.changes(before, after).values())

    def least(self, before: dict[str, Any], after: dict[str, Any]) -> float:
        """Norm of the smallest change of a matrix."""
        return min(float(d.norm()) for d, _ in self.changes(before, after).values())


def weights(model: Any) -> dict[str, Any]:
    """The weights as they are now, kept."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.fixture
def now() -> Any:
    return weights


@pytest.fixture
def llama(tiny_model: Path, tmp_path: Path) -> Bench:
    return Bench(tiny_model, tmp_path)


@pytest.fixture
def gpt2(gpt2_model: Path, tmp_path: Path) -> Bench:
    return Bench(gpt2_model, tmp_path)


@pytest.fixture(params=["llama", "gpt2"])
def bench(request: pytest.FixtureRequest) -> Bench:
    found: Bench = request.getfixturevalue(request.param)
    return found
