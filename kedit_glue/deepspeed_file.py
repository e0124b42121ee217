"""Which DeepSpeed configurations R-SFT can train with; read without DeepSpeed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def problem(settings: Mapping[str, Any]) -> str | None:
    """Why R-SFT cannot train with a DeepSpeed configuration, None where it can."""
    zero = settings.get("zero_optimization")
    zero = zero if isinstance(zero, Mapping) else {}
    if zero.get("stage", 0) not in (0, 1, 2):
        return f"zero_optimization.stage is {zero['stage']}; allowed: 0, 1 or 2, which leave the matrices whole"
    if offload := next((key for key in zero if key.startswith(("offload", "cpu_offload")) and zero[key]), None):
        return f"zero_optimization.{offload} is set, which R-SFT was not tried with: leave it out"
    for key, meaning in (("optimizer", "R-SFT has its own"), ("scheduler", "the learning rate is constant")):
        if key in settings:
            return f"{key} is set: leave it out ({meaning})"
    if isinstance(fp16 := settings.get("fp16"), Mapping) and fp16.get("enabled") not in (None, False, "auto"):
        return "fp16.enabled is set: train.precision is fp32 or bf16"
    if settings.get("gradient_clipping") != "auto":
        return 'gradient_clipping must be "auto", else gradients are not clipped as train.max_grad_norm says'
    return None


def file_problem(file: Path) -> str | None:
    """``problem`` of a configuration file. Raises OSError where it cannot be read."""
    try:
        settings = json.loads(file.read_bytes())
    except ValueError as error:
        return f"it is no JSON ({error})"
    return problem(settings) if isinstance(settings, Mapping) else "it holds no object"
