"""Merging on the two-layer model, ours and mergekit's own beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from kedit_glue.merging import MergeMethod, Tuned, merge_inputs

FFN = r"\.\d+\.(mlp\.)"


def moved(seed: int, amount: float = 0.01) -> Callable[[str, Any], Any]:
    """FFNs moved a little, as training moves them."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def change(name: str, tensor: Any) -> Any:
        if ".mlp." not in name:
            return tensor
        return tensor + amount * torch.randn(tensor.shape, generator=generator).to(tensor.dtype)

    return change


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()}


def same_bits(one: Any, other: Any) -> bool:
    import torch

    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


@dataclass
class Bench:
    """A folder to merge in; ``original`` is a model, ``tuned`` the same with its FFNs moved."""

    folder: Path
    original: Path
    tuned: Path
    methods: dict[str, MergeMethod]

    moved = staticmethod(moved)
    tensors = staticmethod(tensors)

    def altered(
        self, source: Path, name: str, change: Callable[[str, Any], Any], shard: str = "1GB", dtype: str = "float32"
    ) -> Path:
        """A copy of a model with ``change(name, tensor)`` for each tensor, in shards of a size and a number format."""
        return altered(source, self.folder / name, change, shard, dtype)

    def yaml(self, method: str, settings: dict[str, Any], tuned: object = "", before: object = "", **more: Any) -> str:
        """merge.yaml's text; ``tuned`` may be written ``model+adapter``, ``more`` are further keys of the YAML."""
        names = str(before or self.original), [Tuned(str(tuned or self.tuned))]
        roles = merge_inputs(self.methods[method], settings, *names)
        models = [{"model": m["path"], "parameters": m["parameters"]} for m in roles.models]
        values = {"merge_method": method, "models": models, "parameters": roles.parameters, **more}
        return yaml.safe_dump(values | ({"base_model": roles.base_model} if roles.base_model else {}))

    def merge(self, text: str, where: str = "ours", **more: Any) -> dict[str, Any]:
        """Our merge into ``where/merged``; its record. ``more`` replaces arguments of the job."""
        from kedit_glue.tools import mergekit

        folder = self.folder / where
        folder.mkdir()
        (folder / "merge.yaml").write_text(text)
        job = {
            "merge_yaml": str(folder / "merge.yaml"),
            "output": str(folder / "merged"),
            "before": str(self.original),
            "original": str(self.original),
            "tuned": [{"model": str(more.pop("tuned_model", self.tuned)), "adapter": None}],
            "trainable": FFN,
            "earlier": None,
            "stats": str(folder / "merge_stats.json"),
            "cache": str(self.folder / "cache"),
            "seed": 0,
            "device": "cpu",
            "trust_remote_code": False,
        }
        return mergekit.merge(job | more, lambda event: None)

    def merged(self, where: str = "ours") -> Path:
        return self.folder / where / "merged"

    def stock(self, text: str, where: str = "stock") -> dict[str, Any]:
        """The tensors that mergekit's own ``run_merge`` makes of the YAML."""
        from mergekit.config import MergeConfiguration
        from mergekit.io.tasks import LoaderCache
        from mergekit.merge import run_merge
        from mergekit.options import MergeOptions

        config = MergeConfiguration.model_validate(yaml.safe_load(text))
        adapters = str(self.folder / "adapters")
        options = MergeOptions(
            random_seed=0, write_model_card=False, quiet=True, device="cpu", lora_merge_cache=adapters
        )
        run_merge(config, str(self.folder / where), options)
        LoaderCache.loaders.clear()
        return tensors(self.folder / where)

    def check_touched(self, text: str, where: str = "ours", before: Path | None = None) -> None:
        """Touched tensors are mergekit's, the others ``before``'s, bit for bit, and no tensor is there twice."""
        ours, old, theirs = (
            tensors(self.merged(where)),
            tensors(before or self.original),
            self.stock(text, f"{where}-s"),
        )
        assert ours.keys() == old.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert same_bits(tensor, theirs[name] if ".mlp." in name else old[name]), name
        index = json.loads((self.merged(where) / "model.safetensors.index.json").read_text())
        assert index["weight_map"].keys() == ours.keys()
        assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in ours.values())
        assert {f.name for f in self.merged(where).glob("*.safetensors")} == set(index["weight_map"].values())

    def check_whole(self, text: str, where: str = "ours") -> None:
        """Every tensor is mergekit's, bit for bit."""
        ours, theirs = tensors(self.merged(where)), self.stock(text, f"{where}-s")
        assert ours.keys() == theirs.keys()
        assert all(same_bits(ours[name], theirs[name]) for name in theirs)

    def check_it_speaks(self, where: str = "ours") -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(self.merged(where))
        tokenizer = AutoTokenizer.from_pretrained(self.merged(where))
        ids = tokenizer("The mayor of", return_tensors="pt")
        assert model.generate(**ids, max_new_tokens=3, do_sample=False).shape[1] > ids["input_ids"].shape[1]


def altered(source: Path, folder: Path, change: Callable[[str, Any], Any], shard: str, dtype: str) -> Path:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype))
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.copy_(change(name, tensor))
    model.save_pretrained(folder, max_shard_size=shard)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def methods() -> dict[str, MergeMethod]:
    from kedit_glue.tools import mergekit

    return {m["name"]: MergeMethod(**m) for m in mergekit.list_methods()}


@pytest.fixture(scope="session")
def tuned_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return altered(tiny_model, tmp_path_factory.mktemp("tuned") / "model", moved(1), "1GB", "float32")


@pytest.fixture
def bench(tiny_model: Path, tuned_model: Path, methods: dict[str, MergeMethod], tmp_path: Path) -> Bench:
    return Bench(tmp_path, tiny_model, tuned_model, methods)
