"""Second moments of too short a text: whoever inverts them is warned."""

from __future__ import annotations

from typing import Any

import pytest

from kedit_glue.tools import editing

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(("ridge", "warned"), [(0.0, True), (0.01, False)])
def test_a_singular_moment_is_warned_of(bench: Any, ridge: float, warned: bool) -> None:
    (bench.folder / "short.txt").write_text("One text.")
    said: list[str] = []
    job = {
        "model": str(bench.source), "corpus": str(bench.folder / "short.txt"), "texts": None, "trainable": bench.ffn,
        "ridge": ridge, "cache": str(bench.cache), "device": "cpu", "trust_remote_code": False,
        "output": str(bench.folder / "moments.json"),
    }  # fmt: skip
    editing.moments(job, lambda event: said.append(event.get("text", "")))
    (*_, last) = said
    assert ("are singular" in last) is warned, said
    if warned:
        assert "Set moments_ridge (0.01) or a longer text (moments, moments_texts)" in last
