"""Bad input that only the real tokenizer and the real tools can tell: what is said, and that the rest goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kedit_glue.run import main

pytestmark = pytest.mark.integration

GOOD = {"prompt": "The mayor of Alba is", "target_new": "Ada Moss"}
ZERO_WIDTH = "\u200b"


@pytest.fixture
def dropping(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model with a tokenizer that passes over zero-width spaces, as some do."""
    model = Path(shutil.copytree(tiny_model, tmp_path / "dropping"))
    tokenizer = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": ZERO_WIDTH}, "content": ""}
    (model / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return model


@pytest.fixture
def edit(
    stages_here: list[str], dropping: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[list[dict[str, Any]]], int]:
    """A run over these records: one batch, one epoch."""
    monkeypatch.chdir(tmp_path)

    def start(records: list[dict[str, Any]]) -> int:
        Path("facts.json").write_text(json.dumps(records), encoding="utf-8")
        Path("try.yaml").write_text(
            "name: try\nmodel: dropping\nedits: {source: facts.json, batch_size: 100}\ntrain: {epochs: 1}\n"
            "merge: {parameters: {weight: 1.0}}\nscore: {edits: {fluency_facts: 0}}\ndevice: cpu\nrunner: command\n",
            encoding="utf-8",
        )
        return main(["try.yaml"])

    return start


LEFT_OUT = {
    "a prompt of 1 MB": (
        GOOD | {"prompt": "x" * 1_000_000},
        "prompt and target are 1000012 tokens, train.cutoff_len is 256",
    ),
    "a target that is no token": (
        GOOD | {"target_new": ZERO_WIDTH},
        f"the target {ZERO_WIDTH!r} tokenizes to nothing",
    ),
    "a target that holds the padding": (
        GOOD | {"target_new": "Ada <|pad|> Moss"},
        "the target 'Ada <|pad|> Moss' holds <|pad|>, the tokenizer's padding: EasyEdit would score other tokens",
    ),
}
ASKED_LESS = {
    "a rephrasing of 1 MB": (
        GOOD | {"rephrase_prompt": "x" * 1_000_000},
        "a rephrasing is not asked: its answer 'Ada Moss' ends 1000009 tokens, of which scoring reads 4096",
    ),
    "a probe of 1 MB": (
        GOOD | {"locality_prompt": "The river is", "locality_ground_truth": "x" * 1_000_000},
        f"a locality probe is not asked: its answer '{59 * 'x'}…' ends 1000004 tokens, of which scoring reads 4096",
    ),
    "an answer that is no token": (
        GOOD | {"portability_prompt": "The river is", "portability_ground_truth": ZERO_WIDTH},
        f"a portability probe is not asked: its answer {ZERO_WIDTH!r} tokenizes to nothing",
    ),
}


def test_facts_are_left_out_and_named(
    edit: Callable[[list[dict[str, Any]]], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [*LEFT_OUT.items(), *ASKED_LESS.items()]
    records = [
        {**record, "id": name, "prompt": record["prompt"] + f" {n}"} for n, (name, (record, _)) in enumerate(cases)
    ]
    assert edit([{**GOOD, "id": "good"}, *records]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out")]
    assert lines == [f"left out: record {n} ({name}): {message}" for n, (name, (_, message)) in enumerate(cases, 2)]
    trained = json.loads((tmp_path / "runs" / "try" / "batch_001" / "edits.json").read_text(encoding="utf-8"))
    assert [fact["id"] for fact in trained] == ["good", *ASKED_LESS]


def test_no_fact_is_left(edit: Callable[[list[dict[str, Any]]], int]) -> None:
    with pytest.raises(ValueError, match=r"^the tokenizer leaves no usable fact: record 1: the target .* to nothing$"):
        edit([GOOD | {"target_new": ZERO_WIDTH}])
