"""A fake tool, and a recipe with a model and facts small enough for a whole run in a second."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from kedit_glue import metrics, scores
from kedit_glue.merging import MergeMethod
from kedit_glue.metrics import GENERALIZATION, LOCALITY, SUCCESS
from kedit_glue.progress import Display
from kedit_glue.search import fitness

# before any torch: waiting threads of one worker's processes must not take the other worker's core
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

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
    """A safetensors file of two layers: FFN matrices of four numbers each, and an embedding of sixteen."""
    names = [f"model.layers.{n}.mlp.{m}_proj.weight" for n in (0, 1) for m in ("down", "gate", "up")]
    shapes = {"model.embed_tokens.weight": [4, 4], **{name: [2, 2] for name in names}}
    head, end = {}, 0
    for name, (rows, columns) in shapes.items():
        start, end = end, end + 4 * rows * columns
        head[name] = {"dtype": "F32", "shape": [rows, columns], "data_offsets": [start, end]}
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + bytes([value]) * end


@dataclass
class Workplace:
    """A current folder with a model, six facts and a recipe for three batches of two."""

    folder: Path
    tool: FakeTool
    values: dict[str, Any] = field(default_factory=dict)
    said: str = ""

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

    def go(self, *overrides: str, **more: Any) -> list[str]:
        """Runs the recipe; returns the jobs that were begun. ``said`` is what was printed, also where this raises."""
        from kedit_glue.job import Options, run

        display = Display(None, Console(file=io.StringIO(), width=400, emoji=False))
        self.tool.calls()
        try:
            run(Options(self.recipe, overrides, python=self.tool.python, **more), display)
        finally:
            self.said = display.console.file.getvalue()  # type: ignore[attr-defined]
        return self.tool.calls()

    def lines(self, *beginnings: str) -> list[str]:
        """Of what was said the lines that begin so, in order."""
        return [line for line in self.said.splitlines() if line.startswith(beginnings)]

    def state(self, folder: Path | None = None) -> dict[str, Any]:
        """What two runs of the same recipe have in common: every file but those that hold times, paths or logs."""
        folder = folder or self.run_folder
        found: dict[str, Any] = {}
        for file in sorted(folder.rglob("*")):
            name = str(file.relative_to(folder))
            if file.name in ("scores.json", "merge_stats.json", "answers.json", "general.json", "trace.jsonl"):
                text = file.read_text(encoding="utf-8")
                found[name] = re.sub(
                    r'"(seconds|step_seconds|seconds_a_fact|at|peak_memory_bytes)": ([\d.]+|"[^"]*"|\{[^}]*\})',
                    "",
                    text,
                )
            elif "safetensors" in file.name:
                found[name] = file.read_bytes()
        return found

    def save(self, name: str) -> None:
        """Put a copy of the run's folder aside."""
        shutil.copytree(self.run_folder, self.folder.parent / "saved" / name)

    def back_to(self, name: str) -> None:
        """Make the run's folder what it was when it was saved; the tool does its work again."""
        shutil.rmtree(self.run_folder, ignore_errors=True)
        shutil.copytree(self.folder.parent / "saved" / name, self.run_folder)
        self.tool.behave()

    @staticmethod
    def flip(file: Path) -> None:
        """Turn one bit in the middle of a file, as a disk does: size and time stay."""
        at = file.stat()
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 4
        file.chmod(0o644)
        file.write_bytes(content)
        os.utime(file, ns=(at.st_atime_ns, at.st_mtime_ns))

    @staticmethod
    def cut(file: Path) -> None:
        """Leave half of a file."""
        os.truncate(file, file.stat().st_size // 2)


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTool:
    return _tool(tmp_path, monkeypatch)


def _tool(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTool:
    monkeypatch.setattr("kedit_glue.runner.POLL_SECONDS", 0.005)
    return FakeTool(folder / "fake tool")  # a blank in the path: commands must be quoted


@pytest.fixture
def workplace(tmp_path: Path, tool: FakeTool, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    return _workplace(tmp_path, tool, monkeypatch)


def _workplace(parent: Path, tool: FakeTool, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    from kedit_glue import job

    folder = parent / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("KEDIT_GLUE_CACHE", str(parent / "cache"))
    monkeypatch.setattr(job, "merge_methods", lambda: METHODS)
    return Workplace(folder, tool)


@pytest.fixture(scope="session")
def new_workplace() -> Callable[[Path], AbstractContextManager[Workplace]]:
    """``with new_workplace(folder) as workplace``: one for several tests."""

    @contextmanager
    def make(folder: Path) -> Iterator[Workplace]:
        with pytest.MonkeyPatch.context() as monkeypatch:
            yield _workplace(folder, _tool(folder, monkeypatch), monkeypatch)

    return make


@pytest.fixture
def display() -> Display:
    """Prints into ``display.console.file``."""
    return Display(None, Console(file=io.StringIO(), width=400, emoji=False))


def _scored(
    name: str = "made_up", success: Sequence[float] = (1.0, 0.5, 1.0, 1.0), loss: float = 0.02
) -> dict[str, Any]:
    """A made-up run's ``scores.json``: two facts a batch, a task that loses the share ``loss``, beyond the noise."""
    facts = [
        {
            "id": f"f{n}", "batch": 1 + n // 2, "prompt": f"The mayor of town {n} is", "target_new": f"Ada {n}",
            "before": {SUCCESS: 0.25, GENERALIZATION: 0.25, LOCALITY: {"near": 1.0}},
            "after": {SUCCESS: value, GENERALIZATION: value / 2, LOCALITY: {"near": 0.75}},
        }
        for n, value in enumerate(success)
    ]  # fmt: skip
    before, after = (scores.summary([fact[when] for fact in facts]) for when in ("before", "after"))
    change = {
        "metric": "acc", "better": "higher", "before": 0.5, "after": 0.5 * (1 - loss), "items": 100,
        "change": -0.5 * loss, "change_95": [-0.5 * loss - 0.004, -0.5 * loss + 0.004], "noise": False,
        "base_95": [0.4, 0.6], "inside_base_interval": True, "items_better": 1, "items_worse": 2, "p": 1.0,
    }  # fmt: skip
    count = facts[-1]["batch"]
    curve = [{"age": age, "mean": 1 - age / 10, "half_width_95": 0.05, "answers": 4} for age in range(count)]
    batches = [
        {"batch": n, "facts": 2, "training": {"seconds": 10.0 + n, "optimizer_steps": 5, "learned": 2},
         "merge": {"seconds": 1.0}, "edited": after, "all_so_far_before": before, "all_so_far": after}
        for n in range(1, count + 1)
    ]  # fmt: skip
    return {
        "schema": 2, "kind": "run", "name": name, "method": "rsft_merge",
        "base": {"model": "small", "weights": "b" * 16}, "edited": {"model": "runs/made_up", "weights": "e" * 16},
        "facts_source": {"name": "towns.json", "facts": len(facts), "hash": "f" * 16},
        "protocol": {"teacher_forced": {"scorer": "batched"}},
        "metrics": metrics.described([SUCCESS, GENERALIZATION, LOCALITY]),
        "before": {"edits": before, "general": None}, "batches": batches,
        "after": {"edits": after, "general": None, "general_change": {"choices": change}},
        "retention": {
            "metric": SUCCESS, "after": list(range(1, count + 1)), "sampled": False, "curve": curve,
            "matrix": [[1.0 - (row - at) / 10 if at <= row else None for at in range(count)] for row in range(count)],
        },
        "facts": facts,
        "answers": [
            {"id": "f0", "prompt": facts[0]["prompt"], "target_new": "Ada 0", "before": "Bo", "after": "Ada 0"}
        ],
        "cost": {"seconds_a_fact": 6.25, "peak_memory_bytes": None, "bytes_changed": 4000, "bytes_at_inference": 0},
        "seconds": {"train": 21.0, "merge": 2.0, "all": 23.0},
        "made": {"kedit_glue": "0", "tools": {"torch": "2"}, "at": "2026-11-22T10:00:00+0000"},
    }  # fmt: skip


@pytest.fixture(scope="session")
def scored() -> Callable[..., dict[str, Any]]:
    """``scored(name, success, loss)``: a run's document."""
    return _scored


def _merge_search(judged: Sequence[Mapping[str, float] | str], best: int | None = None, **more: Any) -> dict[str, Any]:
    """A made-up entry of ``search.merges``; ``judged``: each candidate's parts, or why it has none; ``best``: its
    number, else the fittest."""
    candidates: list[dict[str, Any]] = [
        {"cause": one}
        if isinstance(one, str)
        else {"fitness": fitness.fitness(one, dict.fromkeys(one, 1)), "parts": one}
        for one in judged
    ]
    known = [{"number": n, "parts": None, "fitness": None, **one} for n, one in enumerate(candidates, 1)]
    chosen = [{key: one[key] for key in ("number", "fitness", "parts")} for one in known]
    sound = [one for one in chosen if one["parts"]]
    top = chosen[best - 1] if best else max(sound, key=lambda one: (one["fitness"], -one["number"]))
    front = [sound[at] for at in fitness.front([list(one["parts"].values()) for one in sound])]
    return {
        "batch": 1, "space": "ps", "by": "cma_es", "numbers": 2, "evaluations": len(judged),
        "failed": len(judged) - len(sound), "best": top, "first": chosen[0],
        "front": front if len(sound[0]["parts"]) > 1 else [], "candidates": candidates,
        "seconds": 12.5, "seconds_a_candidate": 1.234,
        "facts": ["f1", "f3"], "texts": [], **more,
    }  # fmt: skip


@pytest.fixture(scope="session")
def searched() -> Callable[..., dict[str, Any]]:
    """``searched([{"judged": […], "by": "nsga2"}], success=[…])``: ``scored`` where facts f1 and f3 chose the merges;
    each mapping is ``_merge_search``'s arguments."""

    def make(merges: Sequence[Mapping[str, Any]], success: Sequence[float] = (1.0, 0.5, 1.0, 1.0)) -> dict[str, Any]:
        document = _scored(success=success)
        seen = [fact for fact in document["facts"] if fact["id"] in ("f1", "f3")]
        others = [fact for fact in document["facts"] if fact not in seen]
        document["search"] = {"merges": [_merge_search(**one) for one in merges], "facts": ["f1", "f3"]}
        for when in ("before", "after"):
            document["search"][when] = scores.summary([fact[when] for fact in seen])
            document[when]["edits"] = scores.summary([fact[when] for fact in others])
        return document

    return make
