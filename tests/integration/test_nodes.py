"""Training on two machines (``launch.nodes``), which are two processes here that meet on the loopback interface."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

SETTINGS = (
    *("edits.limit=2", "edits.batch_size=2", "train.mini_batch=2", "train.epochs=3", "train.loss_threshold=0"),
    *("score.edits.metrics=[edit_success]", "score.examples=0", "threads=1", "launch.nodes=2"),
)


def start(recipe: Path, **environment: str) -> subprocess.Popen[str]:
    words = [word for value in SETTINGS for word in ("--set", value)]
    return subprocess.Popen(
        [sys.executable, "-m", "kedit_glue.run", str(recipe), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def test_two_machines_share_each_mini_batch(recipe_text: str, tmp_path: Path) -> None:
    """That the shares give the weights of one process is shown for two processes, in ``test_rsft``."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(f"{recipe_text}\noutput: {json.dumps(str(tmp_path / 'runs'))}\n", encoding="utf-8")
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "NNODES": "2"}
    second = start(recipe, **place, NODE_RANK="1")
    first = start(recipe, **place, NODE_RANK="0")
    said, joined = first.communicate()[0], second.communicate()[0]
    assert (first.returncode, second.returncode) == (0, 0), f"{said}\n{joined}"
    batch = tmp_path / "runs" / "tiny" / "batch_001"
    log = batch / "train.node1.log"
    assert joined.splitlines()[1:] == [
        f"joins batch_001/train, log: {log}",
        *(["the stage is done"] if "the stage is done" in joined else []),  # or machine 0 was faster
        "machine 0's run is done",
    ]
    # two facts, one on each machine: one step an epoch
    steps = [json.loads(line)["steps"] for line in (batch / "trace.jsonl").read_text().splitlines()]
    assert (steps, json.loads((batch / "train.result.json").read_text())["optimizer_steps"]) == ([3, 3], 3)
    assert "per_device_train_batch_size: 1\n" in (batch / "train.yaml").read_text()
