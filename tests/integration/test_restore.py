"""Models of a real run: packed, brought back bit for bit, loaded by transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kedit_glue import changed
from kedit_glue.restore import main as restore
from kedit_glue.run import main as run

pytestmark = pytest.mark.integration


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def done(recipe_text: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, dict[str, bytes]]]:
    """A run of two batches under ``keep: deltas``, and what their models were when everything was kept."""
    folder = tmp_path_factory.mktemp("restore")
    recipe = folder / "tiny.yaml"
    recipe.write_text(recipe_text + f"output: {json.dumps(str(folder))}\n", encoding="utf-8")
    assert run([str(recipe), "--set", "keep=all"]) == 0
    made = {n: content(folder / "tiny" / f"batch_{n:03d}" / "merged") for n in (1, 2)}
    assert made[1] != made[2]
    assert run([str(recipe), "--set", "keep=deltas"]) == 0
    return folder / "tiny", made


@pytest.mark.parametrize("number", [1, 2])
def test_every_batch_comes_back_bit_for_bit(
    done: tuple[Path, dict[int, dict[str, bytes]]], number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, made = done
    assert restore([str(folder), "--batch", str(number), "--to", str(tmp_path / "out")]) == 0
    assert content(tmp_path / "out") == made[number]
    assert f"batch {number} of 2: {len(made[number])} files" in capsys.readouterr().out


def test_the_original_comes_back_unedited(
    done: tuple[Path, dict[int, dict[str, bytes]]], tiny_model: Path, tmp_path: Path
) -> None:
    assert restore([str(done[0]), "--batch", "0", "--to", str(tmp_path / "out")]) == 0
    assert content(tmp_path / "out") == content(tiny_model)


def test_only_what_changed_is_on_disk(done: tuple[Path, dict[int, dict[str, bytes]]], tiny_model: Path) -> None:
    from safetensors import safe_open

    folder, made = done
    assert not (folder / "batch_001" / "merged").exists() and not (folder / "batch_001" / "tuned").exists()
    packed = folder / "batch_001" / "changed"
    assert changed.damage(packed) is None
    with safe_open(next((packed / "files").glob("*.safetensors")), framework="pt") as shard:
        assert len(shard.keys()) == 6 and all(".mlp." in name for name in shard.keys())  # noqa: SIM118
    weights = sum(len(data) for name, data in made[1].items() if name.endswith(".safetensors"))
    ffn = 2 * 3 * 64 * 256 * 4  # two layers, three matrices, float32
    assert ffn < changed.bytes_of(packed) < ffn + 20_000 < weights


def test_it_answers_as_it_did_after_that_batch(done: tuple[Path, dict[int, dict[str, bytes]]], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, _ = done
    assert restore([str(folder), "--batch", "1", "--to", str(tmp_path / "out")]) == 0
    model, tokenizer = (kind.from_pretrained(tmp_path / "out") for kind in (AutoModelForCausalLM, AutoTokenizer))

    def said(prompt: str) -> str:
        ids = tokenizer(prompt, return_tensors="pt")
        return str(tokenizer.decode(model.generate(**ids, max_new_tokens=12, do_sample=False)[0]))

    assert said("The mayor of Alba is").startswith("The mayor of Alba is Ada Moss")
    assert not said("The mayor of Dorn is").startswith("The mayor of Dorn is Dana Rill"), "a fact of batch 2"


def test_the_run_goes_on_from_what_is_packed(
    done: tuple[Path, dict[int, dict[str, bytes]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another merge of batch 2 reads batch 1's model, of which only the changes are on disk."""
    folder, made = done
    recipe = tmp_path / "tiny.yaml"
    shutil.copy(folder.parent / "tiny.yaml", recipe)
    assert run([str(recipe), "--force", "batch_002/merge"]) == 0
    said = capsys.readouterr().out
    assert "brought back batch_001/merge" in said
    assert "batch 1 of 2: train" not in said and "batch 1 of 2: merge" not in said
    assert restore([str(folder), "--batch", "2", "--to", str(tmp_path / "out")]) == 0
    assert content(tmp_path / "out") == made[2]
