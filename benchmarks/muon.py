"""How much of a Muon step lies where the gradient has nothing: LLaMA-Factory's own (bfloat16) beside ours (float32).

    python benchmarks/muon.py

A gradient of a batch of facts has as many directions as the facts have tokens to learn at. A line for each rank: the
share of the step's norm outside of the gradient's row space, and the seconds of a step on a matrix of SmolLM2's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from llamafactory.third_party.muon.muon import zeropower_via_newtonschulz5

from kedit_glue.tools.llamafactory_compat import orthogonal

OUTPUTS, INPUTS = 1536, 576
STEPS = 5
"""Newton-Schulz iterations; what LLaMA-Factory takes."""


def measured(step: Callable[..., Any], gradient: torch.Tensor, rows: torch.Tensor) -> str:
    """``rows`` [inputs, rank]: an orthonormal basis of the gradient's row space."""
    started = time.perf_counter()
    found = step(gradient, STEPS).float()
    seconds = time.perf_counter() - started
    outside = (found - found @ rows @ rows.T).norm() / found.norm()
    return f"{100 * float(outside):8.4f} % {seconds:6.3f} s"


def main() -> None:
    torch.manual_seed(0)
    print(f"rank   {'bfloat16, LLaMA-Factory':>20}   {'float32, ours':>17}")
    for rank in (3, 10, 30, 90, 300):
        left, rows = (torch.linalg.qr(torch.randn(size, rank))[0] for size in (OUTPUTS, INPUTS))
        gradient = (left * torch.logspace(0, -2, rank)) @ rows.T
        both = (measured(step, gradient, rows) for step in (zeropower_via_newtonschulz5, orthogonal))
        print(f"{rank:4}   {'   '.join(both)}")


if __name__ == "__main__":
    main()
