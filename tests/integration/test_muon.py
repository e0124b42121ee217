"""``train.extra: {use_muon: true}``: LLaMA-Factory's Muon, whose step stays in what the gradient spans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration


def low_rank(outputs: int, inputs: int, rank: int) -> tuple[Any, Any]:
    """A gradient, and an orthonormal basis [inputs, rank] of its row space."""
    import torch

    torch.manual_seed(0)
    left, rows = (torch.linalg.qr(torch.randn(size, rank))[0] for size in (outputs, inputs))
    return (left * torch.logspace(0, -1, rank)) @ rows.T, rows


@pytest.mark.parametrize(("outputs", "inputs"), [(96, 48), (48, 96)])
def test_the_step_stays_in_the_gradients_span(outputs: int, inputs: int) -> None:
    import torch

    from kedit_glue.tools.llamafactory_compat import orthogonal

    gradient, rows = low_rank(outputs, inputs, 5)
    found = orthogonal(gradient, 5)
    assert found.shape == gradient.shape
    assert (found - found @ rows @ rows.T).norm() < 1e-4 * found.norm()
    values = torch.linalg.svdvals(found)
    assert torch.allclose(values[:5], torch.ones(5), atol=1e-3) and (values[5:] < 1e-3).all()
    assert not orthogonal(torch.zeros(4, 6), 5).any(), "a matrix that got no gradient stays"


def test_it_is_near_upstreams_step() -> None:
    import torch
    from llamafactory.third_party.muon.muon import zeropower_via_newtonschulz5 as upstream

    from kedit_glue.tools.llamafactory_compat import orthogonal

    if upstream is orthogonal:
        pytest.skip("another test of this process has put ours in its place")
    torch.manual_seed(0)
    gradient = torch.randn(40, 24)
    ours = orthogonal(gradient, 5)  # upstream's singular values end between 0.7 and 1.2
    assert (upstream(gradient, 5).float() - ours).norm() < 0.3 * ours.norm()


def test_training_uses_it(tiny_model: Path, facts_file: Path, tmp_path: Path) -> None:
    """The change of each matrix has no more directions than the subject's tokens gave it."""
    import json

    import torch

    from .test_rsft import tensors, train, tuned

    facts = json.loads(facts_file.read_text(encoding="utf-8"))[:4]
    settings = {"epochs": 4, "mini_batch": 4, "learning_rate": 1e-2, "weight_decay": 0.0, "tokens": "subject"}
    result, _ = train(tmp_path / "muon", tiny_model, facts, extra={"use_muon": True}, **settings)
    train(tmp_path / "adam", tiny_model, facts, **settings)
    assert result["optimizer_steps"] == 4
    before = tensors(tiny_model)
    for name, after in tuned(tmp_path / "muon").items():
        if ".0.mlp." not in name:  # what the last layer makes of a subject nobody reads any more
            continue
        ranks = [
            int((values > 1e-3 * values[0]).sum())
            for change in (after - before[name], tuned(tmp_path / "adam")[name] - before[name])
            for values in [torch.linalg.svdvals(change)]
        ]
        assert 0 < ranks[0] <= 16 < ranks[1], (name, ranks)
