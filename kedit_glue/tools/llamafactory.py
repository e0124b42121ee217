"""LLaMA-Factory trains one edit batch from its YAML, with R-SFT as a callback."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kedit_glue.tools import Emit


def preload() -> None:
    """The imports a training stage needs; paid once by the warm server."""
    import llamafactory.train.tuner  # noqa: F401

    import kedit_glue.rsft  # noqa: F401


def train(job: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """Run ``train.yaml`` and ``rsft.yaml`` of a batch folder; everything that was not to be trained keeps every bit.

    ``job``: ``train_yaml``, ``rsft_yaml``, ``facts`` (the JSON that LLaMA-Factory reads, with ids),
    ``output`` (the folder to write, not the YAML's own: work is done aside and renamed when whole),
    ``trace`` (file), ``model`` (the folder that training began with). Returns steps, epochs and how many
    facts were learned.
    """
    from llamafactory.train.tuner import run_exp

    from kedit_glue.rsft import RSFT, Settings
    from kedit_glue.stage import first_process
    from kedit_glue.weights import check_untouched

    arguments = yaml.safe_load(Path(job["train_yaml"]).read_text(encoding="utf-8"))
    settings = yaml.safe_load(Path(job["rsft_yaml"]).read_text(encoding="utf-8"))
    arguments["output_dir"] = job["output"]
    facts = json.loads(Path(job["facts"]).read_text(encoding="utf-8"))
    callback = RSFT(Settings(**settings), facts, Path(job["trace"]), emit)
    run_exp(arguments, callbacks=[callback])
    if first_process():
        check_untouched(Path(job["model"]), Path(job["output"]), settings["trainable"])
    return {
        "optimizer_steps": callback.steps,
        "epochs": callback.epochs,
        "step_seconds": round(callback.step_seconds, 3),
        "learned": len(callback.facts()) - len(callback.not_learned()),
        "facts": len(callback.facts()),
        "samples": len(callback.traces),
        "not_learned": callback.not_learned(),
    }
