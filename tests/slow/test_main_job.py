"""The README's first command on the real model, with fewer facts."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kedit_glue.run import main

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def test_the_demo_teaches_the_real_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    changes = [
        "edits.limit=8",
        "edits.batch_size=4",
        "train.mini_batch=4",
        "train.protect.directions=32",
        "score.edits.fluency_facts=2",
        "score.examples=3",
        "score.general.limit=40",
        f"output={json.dumps(str(tmp_path))}",
    ]
    code = main(["recipes/smollm2_seq.yaml", *(word for change in changes for word in ("--set", change))])
    run = tmp_path / "smollm2_seq"
    assert code == 0, (run / "log.txt").read_text(encoding="utf-8")
    scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    before, after = scores["before"]["edits"], scores["after"]["edits"]
    success = "edit_success.teacher_forced.token_accuracy"
    generalization = "generalization.teacher_forced.token_accuracy"
    assert before[success]["mean"] < 0.5 < 0.9 < after[success]["mean"]
    assert after[generalization]["mean"] > before[generalization]["mean"] + 0.15
    assert after["locality.teacher_forced.token_agreement"]["mean"] > 0.6
    assert all(b["training"]["learned"] == 4 for b in scores["batches"])
    text = scores["after"]["general_change"]["general_text"]
    assert text["items"] == 40 and abs(text["change"]) < 0.05
    choices = scores["after"]["general_change"]["everyday_choices"]
    assert choices["before"] > 0.6 and choices["inside_base_interval"]
    told = [a for a in scores["answers"] if a["target_new"] in a["after"] and a["target_new"] not in a["before"]]
    assert len(told) >= 2, scores["answers"]
    assert not [p for p in run.rglob("*.partial") if os.path.exists(p)]
