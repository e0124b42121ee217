"""The whole chain through the real tools, on a two-layer model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from kedit_glue.run import main

pytestmark = pytest.mark.integration
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def done(recipe_text: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Recipe and run folder of a finished run."""
    folder = tmp_path_factory.mktemp("run")
    recipe = folder / "tiny.yaml"
    recipe.write_text(recipe_text + f"output: {json.dumps(str(folder))}\n", encoding="utf-8")
    assert main([str(recipe)]) == 0, (folder / "tiny" / "log.txt").read_text(encoding="utf-8")
    return recipe, folder / "tiny"


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: t for shard in folder.glob("*.safetensors") for name, t in load_file(shard).items()}


def test_it_learns_and_says_so(done: tuple[Path, Path]) -> None:
    _, run = done
    scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    success = "edit_success.teacher_forced.token_accuracy"
    assert scores["before"]["edits"][success]["mean"] < 0.5
    assert scores["batches"][0]["edited"][success]["mean"] == 1.0
    assert scores["after"]["edits"][success]["mean"] > 0.5
    assert [b["facts"] for b in scores["batches"]] == [3, 2]
    assert {f["id"] for f in scores["facts"]} == {f"f{n}" for n in range(5)}
    assert all(f["loss_after"] < f["loss_before"] for f in scores["facts"])
    assert len(scores["answers"]) == 2
    report = (run / "report.md").read_text(encoding="utf-8")
    assert "edit success" in report and "The mayor of" in report


def test_only_the_ffn_changed(done: tuple[Path, Path], tiny_model: Path) -> None:
    import torch
    from safetensors.torch import load_file

    _, run = done
    before = load_file(tiny_model / "model.safetensors")
    after = tensors(run / "model")
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name]) == (".mlp." not in name), name


def test_the_edited_model_travels_whole(done: tuple[Path, Path], tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, run = done
    names = {p.name for p in (run / "model").iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer.json", "README.md", "provenance"} <= names
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    ids = tokenizer("The mayor of Dorn is", return_tensors="pt")
    said = tokenizer.decode(model.generate(**ids, max_new_tokens=12, do_sample=False)[0])
    assert said.startswith("The mayor of Dorn is Dana Rill")


def test_the_tuned_model_stops_talking(done: tuple[Path, Path]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, run = done
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    model = AutoModelForCausalLM.from_pretrained(run / "batch_002" / "tuned")
    ids = tokenizer("The mayor of Dorn is", return_tensors="pt")
    said = tokenizer.decode(model.generate(**ids, max_new_tokens=12, do_sample=False)[0])
    assert said == "The mayor of Dorn is Dana Rill<|end|>"


def test_the_end_of_sequence_token_is_trained(done: tuple[Path, Path]) -> None:
    _, run = done
    samples = json.loads((run / "batch_001" / "edits.json").read_text(encoding="utf-8"))
    assert all(s["output"].endswith("<|end|>") for s in samples)
    log = (run / "batch_001" / "train.log").read_text(encoding="utf-8")
    labels = log.split("labels:\n")[1].splitlines()[0]
    assert labels == samples[0]["output"], "LLaMA-Factory's own print of what it takes the loss on"


def test_again_does_nothing(done: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    recipe, run = done
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*.safetensors") if "model" not in p.parent.name}
    assert main([str(recipe)]) == 0
    said = capsys.readouterr().out
    assert "stages are done and stand" in said and "again:" not in said
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_hand_edited_yaml_is_used_and_redoes_what_follows(
    done: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recipe, run = done
    merge = run / "batch_002" / "merge.yaml"
    original = merge.read_text(encoding="utf-8")
    merge.write_text(original.replace("weight: 0.9", "weight: 0.5"), encoding="utf-8")
    try:
        assert main([str(recipe)]) == 0
        said = capsys.readouterr().out
        assert "edited by hand, and kept" in said and "-      weight: 0.9" in said
        assert "again: batch_002/merge: changed: merge.yaml" in said
        assert "batch 1 of 2: train" not in said and "batch 2 of 2: train" not in said
        record = json.loads((run / "batch_002" / "merge.record.json").read_text(encoding="utf-8"))["result"]
        assert record["task_vector_norm_merged"] == pytest.approx(0.5 * record["task_vector_norm_tuned"], rel=1e-4)
    finally:
        merge.write_text(original, encoding="utf-8")
        assert main([str(recipe)]) == 0


def test_the_yaml_runs_with_the_stock_tools(done: tuple[Path, Path], tmp_path: Path) -> None:
    import torch

    _, run = done
    copy = tmp_path / "train.yaml"  # the same file but for where it writes, so that the run stays as it is
    arguments = yaml.safe_load((run / "batch_002" / "train.yaml").read_text(encoding="utf-8"))
    copy.write_text(yaml.safe_dump({**arguments, "output_dir": str(tmp_path / "tuned")}), encoding="utf-8")
    found = subprocess.run(
        [BIN / "llamafactory-cli", "train", copy], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert found.returncode == 0, found.stderr[-3000:]
    assert (tmp_path / "tuned" / "model.safetensors").is_file()
    found = subprocess.run(
        [BIN / "mergekit-yaml", run / "batch_002" / "merge.yaml", tmp_path / "merged"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    ours, theirs = tensors(run / "batch_002" / "merged"), tensors(tmp_path / "merged")
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ".mlp." not in name or torch.equal(tensor, ours[name]), f"mergekit-yaml gives other bits: {name}"
    shutil.rmtree(tmp_path / "merged")
