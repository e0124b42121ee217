"""Runs that are stopped wherever they can be end as one that was left alone (``tests/kill_anywhere.py``)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration
PROGRAM = Path(__file__).parent.parent / "kill_anywhere.py"
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.fixture
def recipe(recipe_text: str, tmp_path: Path) -> Path:
    text = recipe_text.replace("name: tiny\n", "").replace("epochs: 100", "epochs: 15")
    path = tmp_path / "recipe.yaml"
    path.write_text(text.replace("threads: 2", "threads: 1").replace("keep: all\n", ""), encoding="utf-8")
    return path


def told(command: list[str]) -> dict[str, Any]:
    """What the program found."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_run_that_is_killed_anywhere(recipe: Path, tmp_path: Path) -> None:
    found = told([sys.executable, str(PROGRAM), str(recipe), str(tmp_path / "runs"), "--random", "20"])
    assert found["differences"] == []
    assert found["kills"]["boundary"] >= 30
    assert sum(found["kills"].values()) >= 50


def test_a_disk_that_is_full_again_and_again(recipe: Path, tmp_path: Path) -> None:
    try:
        subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system of our own can be mounted here: {error}")
    command = [*NAMESPACE, sys.executable, str(PROGRAM), str(recipe), str(tmp_path / "runs"), "--full-disk"]
    found = told(command)
    assert found["differences"] == []
    assert found["kills"]["full disk"] >= 3
