"""The three ways to run a stage do the same work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kedit_glue.runner import Job, Runner, StageFailed
from kedit_glue.stage import quiet_environment

pytestmark = pytest.mark.integration


def prepare_job(folder: Path, model: Path, cutoff: int) -> Job:
    folder.mkdir()
    fact = {"id": "a", "position": "record 1", "prompt": "The mayor of Alba is", "target_new": "Ada Moss"}
    (folder / "loaded.json").write_text(
        json.dumps([{**fact, "rephrase_prompts": ["Alba is led by", "Who leads Alba?"]}])
    )
    arguments = {
        "model": str(model),
        "facts": str(folder / "loaded.json"),
        "output": str(folder / "facts.json"),
        "template": "bare",
        "cutoff_len": cutoff,
        "rephrasings": 1,
        "contexts": 0,
        "neighbours": False,
        "context_texts": None,
        "seed": 0,
        "trust_remote_code": False,
    }
    return Job("facts", "prepare", arguments, folder, "prepare", "look at the facts")


@pytest.mark.parametrize("mode", ["warm", "spawn", "command"])
def test_a_stage_runs_in_every_mode(tiny_model: Path, tmp_path: Path, mode: str) -> None:
    runner = Runner(mode, quiet_environment(offline=True), threads=1)
    runner.start()
    result = runner.run(prepare_job(tmp_path / "good", tiny_model, 64))
    assert result.pop("peak_memory_bytes") > 10**8  # the tools' imports alone
    assert result == {"facts": 1, "left_out": []}
    [fact] = json.loads((tmp_path / "good" / "facts.json").read_text())
    assert fact["response"] == " Ada Moss<|end|>"
    assert fact["also_trained"] == [{"prompt": "Alba is led by", "response": " Ada Moss<|end|>"}]
    assert fact["rephrase_prompts"] == ["Who leads Alba?"], "what is trained is not scored"

    with pytest.raises(StageFailed) as failed:
        runner.run(prepare_job(tmp_path / "bad", tiny_model, 3))
    said = str(failed.value)
    assert "facts: exit code 1" in said and "-m kedit_glue.stage" in said
    assert "the tokenizer leaves no usable fact: record 1: prompt and target are" in said
    assert "what to do: look at the facts" in said
