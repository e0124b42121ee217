"""``python -m kedit_glue.protect`` on a model that something else tuned."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kedit_glue.protect import main

pytestmark = pytest.mark.integration


def test_a_model_tuned_elsewhere_is_protected(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    monkeypatch.setenv("KEDIT_GLUE_CACHE", str(tmp_path / "cache"))
    tuned, output = tmp_path / "tuned", tmp_path / "protected"
    shutil.copytree(tiny_model, tuned)
    before = load_file(tiny_model / "model.safetensors")
    moved = {n: t + 0.01 * torch.randn_like(t) if ".mlp." in n else t for n, t in before.items()}
    save_file(moved, tuned / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "text.txt").write_text("the quick brown fox\n\njumps over the lazy dog")
    words = ["--before", str(tiny_model), "--model", str(tuned), "--output", str(output), "--directions", "5"]
    words += ["--corpus", str(tmp_path / "text.txt"), "--layers", "last 1"]
    assert main(words) == 0, capsys.readouterr()
    after = load_file(output / "model.safetensors")
    vectors = load_file(tmp_path / "protected.work" / "protect.safetensors")
    assert len(vectors) == 3 and all(".1.mlp." in name for name in vectors)
    for name in before:
        if name in vectors:
            assert ((after[name] - before[name]) @ vectors[name]).norm() < 1e-5
            assert (after[name] - before[name]).norm() > 0.1
        else:
            assert torch.equal(after[name], moved[name]), name
    assert "3 matrices" in capsys.readouterr().out
    assert main(words) == 2 and "is there already" in capsys.readouterr().err
