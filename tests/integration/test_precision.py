"""Models that are stored in half precision, and training in bf16."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kedit_glue import models
from kedit_glue.run import main

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def half_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("half") / "tiny-half"
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_half_precision_model_is_edited(
    half_model: Path, recipe_text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    known = models.cache_dir()
    monkeypatch.setenv("KEDIT_GLUE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    for file in known.glob("mergekit-*.json"):  # spares the test mergekit's imports
        (tmp_path / "cache" / file.name).write_bytes(file.read_bytes())
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(recipe_text + f"output: {json.dumps(str(tmp_path))}\n", encoding="utf-8")
    changes = [f"model={json.dumps(str(half_model))}", f"train.precision={precision}", "score.edits.fluency_facts=0"]
    assert models.stored_format(half_model) == "float16"
    code = main([str(recipe), *(word for change in changes for word in ("--set", change))])
    run = tmp_path / "tiny"
    assert code == 0, (run / "log.txt").read_text(encoding="utf-8")
    wanted = models.FORMATS[precision]
    assert f"the model is stored as float16, train.precision wants {wanted}" in (run / "log.txt").read_text()
    [original] = (tmp_path / "cache" / "models").iterdir()
    before = load_file(original / "model.safetensors")
    after = {name: t for shard in (run / "model").glob("*.safetensors") for name, t in load_file(shard).items()}
    assert {t.dtype for t in after.values()} == {getattr(torch, wanted)}
    for name in before:
        assert torch.equal(before[name], after[name]) == (".mlp." not in name), name
    assert AutoModelForCausalLM.from_pretrained(run / "model").dtype == getattr(torch, wanted)
    scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    assert scores["batches"][0]["edited"]["edit_success.teacher_forced.token_accuracy"]["mean"] > 0.9
