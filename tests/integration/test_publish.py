"""What a real run gives away: loaded by transformers, and the changed tensors applied with mergekit's own function."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kedit_glue.publish import main as publish
from kedit_glue.run import main as run

pytestmark = pytest.mark.integration
Bits = Callable[[Path], dict[str, bytes]]


@pytest.fixture(scope="module")
def runs(recipe_text: str, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of two batches, and one that converts the base to bfloat16 first; few scores are asked for."""
    folder = tmp_path_factory.mktemp("publish")
    for name, precision in (("fp32", "fp32"), ("bf16", "bf16")):
        recipe = folder / f"{name}.yaml"
        recipe.write_text(recipe_text + f"output: {json.dumps(str(folder))}\n", encoding="utf-8")
        values = (
            f"name={name}",
            f"train.precision={precision}",
            "train.epochs=20",
            "score.edits.protocols=[teacher_forced]",
        )
        assert run([str(recipe), *(word for value in values for word in ("--set", value))]) == 0
    return {name: folder / name for name in ("fp32", "bf16")}


def told(readme: Path, language: str) -> list[str]:
    """The blocks of a README in one language, as a reader would copy them."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", readme.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [block for of, block in found if of == language]


def do(command: list[str], folder: Path) -> str:
    """In a folder with no kedit_glue to be found: stock tools only."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_whole_model_is_loaded_with_the_runs_bits(runs: dict[str, Path], tmp_path: Path, bits: Bits) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert publish([str(runs["fp32"]), "--to", str(tmp_path / "out")]) == 0
    assert bits(tmp_path / "out") == bits(runs["fp32"] / "model")
    loaded, before = (AutoModelForCausalLM.from_pretrained(f) for f in (tmp_path / "out", runs["fp32"] / "model"))
    states = [model.state_dict() for model in (loaded, before)]
    assert all(torch.equal(states[0][name], tensor) for name, tensor in states[1].items())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer("The mayor of Alba is", return_tensors="pt")
    assert torch.equal(loaded(**ids).logits, before(**ids).logits)


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_the_vector_on_the_base_is_the_edited_model(
    runs: dict[str, Path], tiny_model: Path, tmp_path: Path, name: str
) -> None:
    """By the README's own commands; loaded in the run's format where the base is stored in another."""
    import torch
    from transformers import AutoModelForCausalLM

    assert publish([str(runs[name]), "--to", str(tmp_path / "vector"), "--only-task-vector"]) == 0
    readme = tmp_path / "vector" / "README.md"
    shutil.copytree(tiny_model, tmp_path / tiny_model.name)
    (commands,) = told(readme, "")
    _, *lines = commands.splitlines()  # the first installs mergekit
    assert "model.safetensors: OK" in do(["bash", "-ec", "\n".join(lines)], tmp_path)
    wanted = AutoModelForCausalLM.from_pretrained(runs[name] / "model").state_dict()

    on_disk, in_memory = told(readme, "python")
    assert f"dtype=torch.{'float32' if name == 'fp32' else 'bfloat16'}" in on_disk
    codes = {"on_disk.pt": on_disk, "in_memory.pt": in_memory}
    saving = [f"{code}\ntorch.save(model.state_dict(), {way!r})\n" for way, code in codes.items()]
    do([sys.executable, "-c", "".join(saving)], tmp_path)
    for way in codes:
        found = torch.load(tmp_path / way)
        assert found.keys() == wanted.keys()
        for tensor, value in wanted.items():
            assert value.dtype == found[tensor].dtype
            assert torch.equal(value.view(torch.uint8), found[tensor].view(torch.uint8)), f"{way}: {tensor}"


def test_the_vectors_tensors_are_what_mergekits_function_puts_in_place(
    runs: dict[str, Path], tiny_model: Path, tmp_path: Path, bits: Bits
) -> None:
    """The files themselves, not only what is loaded from them."""
    assert publish([str(runs["fp32"]), "--to", str(tmp_path / "vector"), "--only-task-vector"]) == 0
    shutil.copytree(tiny_model, tmp_path / "base")
    code = "from mergekit.scripts.fill_missing_params import main; main()"
    do([sys.executable, "-c", code, "base", "vector", "--output_dir", "edited"], tmp_path)
    assert bits(tmp_path / "edited") == bits(runs["fp32"] / "model") != bits(tiny_model)


def test_another_base_is_noticed(runs: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    assert publish([str(runs["fp32"]), "--to", str(tmp_path / "vector"), "--only-task-vector"]) == 0
    shutil.copytree(runs["bf16"] / "model", tmp_path / "base")
    (line,) = [line for line in told(tmp_path / "vector" / "README.md", "")[0].splitlines() if "sha256sum" in line]
    done = subprocess.run(["bash", "-ec", line], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "model.safetensors" in done.stdout + done.stderr


def test_a_model_that_remembers_goes_whole_or_not_at_all(
    run_method: Callable[..., Path], tmp_path: Path, bits: Bits, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run_method("ice", "")
    assert publish([str(done), "--to", str(tmp_path / "out")]) == 0
    assert bits(tmp_path / "out") == bits(tiny_model)
    assert (tmp_path / "out" / "remembered.json").read_bytes() == (done / "model" / "remembered.json").read_bytes()
    assert publish([str(done), "--to", str(tmp_path / "vector"), "--only-task-vector"]) == 2
    assert "method ice changed no tensor, it remembers facts beside the model" in capsys.readouterr().err
    assert not (tmp_path / "vector").exists()
