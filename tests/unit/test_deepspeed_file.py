"""Which DeepSpeed configurations are refused, and why; nothing here needs DeepSpeed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import check
from kedit_glue.deepspeed_file import file_problem, problem

SHIPPED = sorted((Path(__file__).parents[2] / "recipes" / "deepspeed").glob("*.json"))
FINE = {"gradient_clipping": "auto"}
WHOLE = "allowed: 0, 1 or 2, which leave the matrices whole"
CLIPPED = 'gradient_clipping must be "auto", else gradients are not clipped as train.max_grad_norm says'
HEAD = "name: try\nmodel: smollm2-135m\nedits: {source: facts.json}\ntrain: {mini_batch: 4}\n"

BAD = [
    ({"zero_optimization": {"stage": 3}}, f"zero_optimization.stage is 3; {WHOLE}"),
    ({"zero_optimization": {"stage": "two"}}, f"zero_optimization.stage is two; {WHOLE}"),
    (
        {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
        "zero_optimization.offload_optimizer is set, which R-SFT was not tried with: leave it out",
    ),
    ({"optimizer": {"type": "AdamW"}}, "optimizer is set: leave it out (R-SFT has its own)"),
    ({"scheduler": {"type": "WarmupLR"}}, "scheduler is set: leave it out (the learning rate is constant)"),
    ({"fp16": {"enabled": True}}, "fp16.enabled is set: train.precision is fp32 or bf16"),
    ({"gradient_clipping": 1.0}, CLIPPED),
    ({"gradient_clipping": None}, CLIPPED),
]


@pytest.mark.parametrize(("settings", "said"), BAD, ids=[json.dumps(settings) for settings, _ in BAD])
def test_what_is_refused(settings: dict[str, Any], said: str) -> None:
    assert problem({**FINE, **settings}) == said


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_what_is_allowed(stage: int) -> None:
    fp16 = {"enabled": "auto"}
    assert problem({**FINE, "zero_optimization": {"stage": stage, "offload_optimizer": None}, "fp16": fp16}) is None


@pytest.mark.parametrize("file", SHIPPED, ids=[file.name for file in SHIPPED])
def test_what_is_shipped_is_allowed(file: Path) -> None:
    assert file_problem(file) is None


def test_there_is_something_shipped() -> None:
    assert SHIPPED


@pytest.mark.parametrize(("text", "said"), [("[1]", "it holds no object"), ("{", "it is no JSON (")])
def test_a_file_that_is_none(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "zero.json").write_text(text)
    assert str(file_problem(tmp_path / "zero.json")).startswith(said)


def test_the_recipe_names_what_is_wrong(problems: Callable[..., list[str]], tmp_path: Path) -> None:
    file = tmp_path / "zero.json"
    file.write_text(json.dumps({**FINE, "zero_optimization": {"stage": 3}}))
    [found] = problems(f"{HEAD}launch: {{processes: 2, deepspeed: {json.dumps(str(file))}}}\n")
    assert f"launch.deepspeed: zero_optimization.stage is 3; {WHOLE}" in found
    [found] = problems(f"{HEAD}launch: {{deepspeed: {json.dumps(str(SHIPPED[0]))}}}\n")
    assert "launch.deepspeed: set, while launch.processes is 1; allowed: launch.processes: 2 or more" in found
    [found] = problems(f"{HEAD}launch: {{processes: 2, deepspeed: nowhere.json}}\n")
    assert "launch.deepspeed" in found and "nowhere.json" in found


def test_deepspeed_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: None)
    assert check.check_deepspeed(None) == []
    [finding] = check.check_deepspeed("zero2.json")
    assert (finding.level, finding.what) == ("fail", "deepspeed")
    assert "uv sync --extra deepspeed" in finding.detail
