"""A fake tool, and a recipe with a model and facts small enough for a whole run in a second."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from kedit_glue.merging import MergeMethod
from kedit_glue.progress import Display

TASK_VECTOR = {
    **dict.fromkeys(("int8_mask", "normalize", "rescale", "lambda"), "shared"),
    "weight": "non_base",
    "density": "non_base",
}
METHODS = {name: MergeMethod(name, "required", 1, None, TASK_VECTOR) for name in ("task_arithmetic", "ties")}


@dataclass
class FakeTool:
    """``fake_tool.py`` as an executable; see there."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir()
        source = Path(__file__).with_name("fake_tool.py").read_text(encoding="utf-8")
        Path(self.python).write_text(f"#!{sys.executable} -IS\n{source}", encoding="utf-8")
        Path(self.python).chmod(0o755)
        self.behave()

    @property
    def python(self) -> str:
        return str(self.folder / "python")

    def behave(self, table: Mapping[str, str] | None = None) -> None:
        """Job (``batch_001/train``) or function (``train``) -> a function of ``fake_tool.py``."""
        (self.folder / "behaviour.json").write_text(json.dumps(table or {}), encoding="utf-8")

    def calls(self) -> list[str]:
        """The jobs that were begun since the last call of this."""
        file = self.folder / "calls.txt"
        found = file.read_text(encoding="utf-8").split() if file.is_file() else []
        file.unlink(missing_ok=True)
        return found


def tiny_weights(value: int = 0) -> bytes:
    """A safetensors file with the FFN matrices of two layers, a number each."""
    names = [f"model.layers.{n}.mlp.{m}_proj.weight" for n in (0, 1) for m in ("down", "gate", "up")]
    head = {n: {"dtype": "F32", "shape": [1, 1], "data_offsets": [4 * i, 4 * i + 4]} for i, n in enumerate(names)}
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + bytes([value]) * 4 * len(names)


@dataclass
class Workplace:
    """A current folder with a model, six facts and a recipe for three batches of two."""

    folder: Path
    tool: FakeTool
    values: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        model = self.folder / "model"
        model.mkdir()
        config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 2}
        (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
        (model / "tokenizer.json").write_text("{}", encoding="utf-8")
        (model / "model.safetensors").write_bytes(tiny_weights())
        facts = [
            {
                "id": f"f{n}",
                "prompt": f"The river of town {n} is",
                "target_new": f"Ooze {n}",
                "rephrase_prompt": f"Town {n} lies on the",
                "portability": {"Reasoning": [{"prompt": f"Boats in town {n} sail the", "ground_truth": f"Ooze {n}"}]},
                "locality": {"Neighborhood": [{"prompt": f"The hill of village {n} is", "ground_truth": "Mound"}]},
            }
            for n in range(6)
        ]
        (self.folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
        self.values = {
            "name": "try",
            "model": "model",
            "edits": {"source": "facts.json", "batch_size": 2},
            "train": {"layers": [0, 1], "epochs": 3},
            "merge": {"method": "task_arithmetic", "onto": "previous", "parameters": {"weight": 0.7}},
            "score": {"general": {"tasks": ["arc_easy"]}, "examples": 2},
            "device": "cpu",
            "runner": "command",
        }
        self.write()

    @property
    def recipe(self) -> Path:
        return self.folder / "try.yaml"

    @property
    def run_folder(self) -> Path:
        return self.folder / "runs" / "try"

    def write(self) -> None:
        self.recipe.write_text(yaml.safe_dump(self.values), encoding="utf-8")


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTool:
    monkeypatch.setattr("kedit_glue.runner.POLL_SECONDS", 0.005)
    return FakeTool(tmp_path / "fake tool")  # a blank in the path: commands must be quoted


@pytest.fixture
def workplace(tmp_path: Path, tool: FakeTool, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    from kedit_glue import job

    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(job, "merge_methods", lambda: METHODS)
    return Workplace(folder, tool)


@pytest.fixture
def display() -> Display:
    """Prints into ``display.console.file``."""
    return Display(None, Console(file=io.StringIO(), width=400, emoji=False))
