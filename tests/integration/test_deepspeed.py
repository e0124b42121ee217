"""R-SFT under DeepSpeed's engine: two processes on the CPU, against one process without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import run

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed (uv sync --extra deepspeed)")

pytestmark = pytest.mark.integration

ZERO_2 = Path(__file__).parents[2] / "recipes" / "deepspeed" / "zero2.json"
SETTINGS = (
    *("edits.batch_size=5", "train.mini_batch=4", "train.order=depth", "train.inner_steps=4", "train.epochs=10"),
    *("train.loss_threshold=1.5", "train.weight_decay=0.1", "train.protect.directions=4", "train.protect.texts=20"),
    *("score.edits.metrics=[edit_success]", "score.examples=0", "keep=all", "threads=1"),
)


def trained(recipe: Path, *settings: str) -> tuple[dict[str, Any], list[dict[str, Any]], int]:
    """Weights, trace and optimizer steps of the run's only batch."""
    from safetensors.torch import load_file

    assert run.main([str(recipe), *(word for value in (*SETTINGS, *settings) for word in ("--set", value))]) == 0
    batch = recipe.parent / "runs" / "tiny" / "batch_001"
    trace = [json.loads(line) for line in (batch / "trace.jsonl").read_text().splitlines()]
    steps = json.loads((batch / "train.result.json").read_text())["optimizer_steps"]
    return dict(load_file(batch / "tuned" / "model.safetensors")), trace, steps


def test_zero_gives_the_weights_of_one_process(recipe_text: str, tiny_model: Path, tmp_path: Path) -> None:
    """With facts that are learned before others, mini-batches without any step, an inner loop, and protection."""
    import torch
    from safetensors.torch import load_file

    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(f"{recipe_text}\noutput: {json.dumps(str(tmp_path / 'runs'))}\n", encoding="utf-8")
    alone, trace, steps = trained(recipe)
    shared, shared_trace, shared_steps = trained(recipe, "launch.processes=2", f"launch.deepspeed={ZERO_2}")
    start = load_file(tiny_model / "model.safetensors")
    assert shared.keys() == alone.keys() == start.keys(), "tied matrices are saved once"
    for name, tensor in alone.items():
        assert torch.allclose(tensor, shared[name], rtol=0, atol=1e-5), name
    assert any(not torch.equal(tensor, start[name]) for name, tensor in alone.items())
    assert [each["steps"] for each in shared_trace] == [each["steps"] for each in trace]
    assert len({each["steps"] for each in trace}) > 1, "some fact was learned before another"
    assert shared_steps == steps
