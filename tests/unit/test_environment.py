"""What a run stands on, found out without importing any tool."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kedit_glue import environment


def test_versions_are_those_installed_without_their_build(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(tool: str) -> str:
        if tool == "mergekit":
            raise importlib.metadata.PackageNotFoundError(tool)
        return "2.11.0+cpu"

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = environment.versions()
    assert (found["torch"], found["mergekit"]) == ("2.11.0", "missing")
    assert list(found) == list(environment.TESTED)


def test_tested_versions_are_the_pinned_ones() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    pinned = dict(d.replace("[hf]", "").split("==") for d in project["dependencies"] if "==" in d)
    assert {tool: pinned[tool] for tool in environment.TESTED} == environment.TESTED


@pytest.mark.parametrize(
    ("asked", "gpu", "expected"),
    [
        ("auto", True, "cuda:0"),
        ("auto", False, "cpu"),
        ("cpu", True, "cpu"),
        ("cuda", False, "cuda:0"),
    ],
)
def test_device(asked: str, gpu: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "has_gpu", lambda: gpu)
    assert environment.device(asked) == expected


def test_hidden_gpus_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not environment.has_gpu()


@pytest.mark.parametrize(
    ("asked", "device", "expected"),
    [
        ("auto", "cpu", "warm"),
        ("auto", "cuda:0", "spawn"),
        ("command", "cpu", "command"),
        ("warm", "cuda:0", "warm"),
    ],
)
def test_how_stages_are_run(asked: str, device: str, expected: str) -> None:
    assert environment.runner_mode(asked, device) == expected


def test_room_where_a_folder_will_be(tmp_path: Path) -> None:
    assert environment.disk_free(tmp_path / "not" / "made" / "yet") > 0


def test_the_description_is_json_and_holds_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    text = json.dumps(environment.describe("cpu", tmp_path))
    assert "hf_secret" not in text
    assert json.loads(text)["git"] is None  # no checkout here


def test_git_state(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@x", "-C", str(tmp_path), *words], check=True)

    git("init", "-q")
    assert environment.git_state(tmp_path) is None  # nothing committed yet
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-qm", "one")
    commit = environment.git_state(tmp_path)
    assert commit and not commit.endswith("-dirty")
    (tmp_path / "file").write_text("2")
    assert environment.git_state(tmp_path) == f"{commit}-dirty"


def test_no_module_here_imports_a_heavy_tool() -> None:
    modules = "merging modules plan render files ledger scores report progress check models results environment recipe"
    code = (
        f"import sys, importlib\nfor m in {modules.split()}: importlib.import_module('kedit_glue.' + m)\n"
        "print({m for m in ('torch', 'transformers', 'mergekit', 'llamafactory', 'lm_eval') if m in sys.modules})"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
