"""Models that cannot be edited: said before anything is started, the same by ``--check``."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NAN = {
    "F32": struct.pack("<f", float("nan")),
    "F16": struct.pack("<e", float("nan")),
    "BF16": struct.pack("<f", float("nan"))[2:],
    "F64": struct.pack("<d", float("-inf")),
}


def whole(names: list[str], dtype: str = "F32", last: bytes = b"") -> bytes:
    """A safetensors file of tensors with 1,000 zeros each; ``last`` are the last bytes of it."""
    size = 1000 * {"F16": 2, "BF16": 2, "F64": 8}.get(dtype, 4)
    head = json.dumps(
        {n: {"dtype": dtype, "shape": [1000], "data_offsets": [size * i, size * (i + 1)]} for i, n in enumerate(names)}
    ).encode()
    return struct.pack("<Q", len(head)) + head + bytes(size * len(names) - len(last)) + last


def no_shard(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    places = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def shard_without_its_tensor(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    places = {"a": "model-00001-of-00001.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def written(name: str, content: str | bytes) -> Callable[[Path], None]:
    return lambda model: (model / name).write_bytes(content.encode() if isinstance(content, str) else content) and None


def removed(name: str) -> Callable[[Path], None]:
    return lambda model: (model / name).unlink()


BERT = '{"architectures": ["BertForMaskedLM"], "model_type": "bert", "num_hidden_layers": 2}'
CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no configuration": (
        removed("config.json"),
        "{model} holds no config.json: it is not a model that transformers loads",
    ),
    "a broken configuration": (
        written("config.json", '{"architectures": '),
        "{model}/config.json is no JSON (Expecting value: line 1 column 19 (char 18)): fetch the model again",
    ),
    "no tokenizer": (
        removed("tokenizer.json"),
        "{model} holds no tokenizer (tokenizer.json, tokenizer.model, vocab.json); fetch it as well",
    ),
    "not causal": (
        written("config.json", BERT),
        "its architecture is ['BertForMaskedLM']: only causal language models can be edited; name another",
    ),
    "no weights": (
        removed("model.safetensors"),
        "{model} holds no .safetensors; load and save it once with transformers",
    ),
    "a shard is missing": (
        no_shard,
        "its index names shards that are not there: model-00002-of-00002.safetensors; fetch the model again",
    ),
    "a shard lacks its tensor": (
        shard_without_its_tensor,
        "its index says that model-00001-of-00001.safetensors holds a, and it does not: fetch the model again",
    ),
    "a broken index": (
        written("model.safetensors.index.json", "{}"),
        "{model}/model.safetensors.index.json cannot be read: fetch the model again",
    ),
    "cut off": (
        written("model.safetensors", whole(["a"])[:-1]),
        "{model}/model.safetensors is cut off, 4,074 of 4,075 bytes are there: fetch the model again",
    ),
    "a web page": (
        written("model.safetensors", "<!DOCTYPE html><html></html>"),
        "{model}/model.safetensors is no safetensors file: fetch the model again",
    ),
    "a pointer of Git LFS": (
        written("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        "{model}/model.safetensors is no safetensors file: it is a pointer: git lfs pull",
    ),
}


@pytest.mark.parametrize("arguments", [[], ["--check"]], ids=["run", "check"])
@pytest.mark.parametrize("case", CASES)
def test_unusable(
    case: str, arguments: list[str], main: Callable[..., int], workplace: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = CASES[case]
    model = workplace.folder / "model"
    change(model)
    assert main(*arguments, "--set", "train.layers=all") == 2
    expected = f"the model in {model} cannot be used; nothing was started\n  {message.replace('{model}', str(model))}\n"
    assert capsys.readouterr().err == expected
    assert workplace.tool.calls() == []


@pytest.mark.parametrize("arguments", [[], ["--check"]], ids=["run", "check"])
@pytest.mark.parametrize("dtype", NAN)
def test_weights_that_are_no_numbers(
    dtype: str, arguments: list[str], main: Callable[..., int], workplace: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    model = workplace.folder / "model"
    names = ["model.embed.weight", "model.layers.0.mlp.up_proj.weight"]
    (model / "model.safetensors").write_bytes(whole(names, dtype, NAN[dtype]))
    assert main(*arguments) == 2
    assert capsys.readouterr().err == (
        f"{model} holds NaN or infinity in {names[1]}: it cannot be edited; fetch or make the model again\n"
    )
    assert workplace.tool.calls() == []


def test_weights_are_read_once(main: Callable[..., int], workplace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main("--check") == 0
    monkeypatch.setattr("kedit_glue.finite.first_not_finite", lambda folder: "what was not looked at")
    assert main("--check") == 0
    (workplace.folder / "model" / "model.safetensors").touch()
    assert main("--check") == 2


def test_every_flaw_is_said_at_once(
    main: Callable[..., int], workplace: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    model = workplace.folder / "model"
    for name in ("tokenizer.json", "model.safetensors"):
        (model / name).unlink()
    assert main("--set", "train.layers=all") == 2
    assert capsys.readouterr().err.splitlines() == [
        f"the model in {model} cannot be used; nothing was started",
        f"  {model} holds no .safetensors; load and save it once with transformers",
        f"  {model} holds no tokenizer (tokenizer.json, tokenizer.model, vocab.json); fetch it as well",
    ]
