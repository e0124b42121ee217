"""Secrets of the environment through a whole run of the real tools: they stand in no file and on no screen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

PIECE = "pl4nted"
PLANTED = {
    "HF_TOKEN": "hf_pl4ntedAbCdEfGhIjKlMnOpQrStUvWxYz",
    "HUGGING_FACE_HUB_TOKEN": "hf_pl4ntedZyXwVuTsRqPoNmLkJiHgFeDcBa",
    "WANDB_API_KEY": f"{PIECE}0123456789abcdef0123456789abcdef0",
    "OPENAI_API_KEY": "sk-pl4nted-openai",
    "AWS_SECRET_ACCESS_KEY": "pl4nted/AWS+secret/key=",
    "MY_PASSWORD": "pl4nted password",
    "HTTPS_PROXY": "http://me:pl4nted-proxy@proxy.example:3128",
}
NOISY = {"HF_DEBUG": "1", "TRANSFORMERS_VERBOSITY": "debug", "WANDB_MODE": "offline", "WANDB_SILENT": "false"}
"""What makes the tools say as much as they can."""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kedit_glue.run", "tiny.yaml", *arguments],
        cwd=folder,
        env={**os.environ, **PLANTED, **NOISY},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def holds(folder: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 30
    return [str(path.relative_to(folder)) for path in files if PIECE.encode() in path.read_bytes()]


def test_planted(recipe_text: str, tmp_path: Path) -> None:
    recipe = recipe_text.replace("epochs: 100", "epochs: 2\n  report_to: [tensorboard, wandb]")
    (tmp_path / "tiny.yaml").write_text(f"{recipe}output: {json.dumps(str(tmp_path))}\n", encoding="utf-8")
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert PIECE not in done.stdout + done.stderr
    assert holds(tmp_path) == []
    # and where a stage fails: LLaMA-Factory prints what it was given
    failed = run(tmp_path, "--set", "train.extra.no_such_argument=1")
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "no_such_argument" in failed.stdout and PIECE not in failed.stdout + failed.stderr
    assert holds(tmp_path) == []
