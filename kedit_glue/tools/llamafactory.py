"""LLaMA-Factory trains one edit batch from its YAML, with R-SFT as a callback."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kedit_glue.tools import Emit


def preload() -> None:
    """The imports a training stage needs; paid once by the warm server."""
    import llamafactory.train.tuner  # noqa: F401

    import kedit_glue.rsft  # noqa: F401


def fill_content_last() -> None:
    """Keep ``{{idx}}`` in a fact as it is: LLaMA-Factory fills a template's places one after another, a message's own
    text first, and would write the turn's number over it (0.9.5, data/formatter.py:83)."""
    from llamafactory.data.formatter import StringFormatter

    upstream = StringFormatter.apply
    if upstream.__module__ == __name__:
        return

    def apply(self: Any, **values: Any) -> Any:
        return upstream(self, **dict(sorted(values.items(), key=lambda item: item[0] == "content")))

    StringFormatter.apply = apply


def train(job: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """Run ``train.yaml`` and ``rsft.yaml`` of a batch folder; everything that was not to be trained keeps every bit.

    ``job``: ``train_yaml``, ``rsft_yaml``, ``facts`` (the JSON that LLaMA-Factory reads, with ids),
    ``output`` (the folder to write, not the YAML's own: work is done aside and renamed when whole),
    ``trace`` (file), ``model`` (the folder that training began with), ``tracker`` (see ``trackers.reporting``;
    read only where the YAML has a ``report_to``). Returns steps, epochs and how many facts were learned.
    """
    from llamafactory.train.tuner import run_exp

    from kedit_glue.stage import first_process
    from kedit_glue.tools import trackers
    from kedit_glue.weights import check_untouched

    facts = json.loads(Path(job["facts"]).read_text(encoding="utf-8"))
    arguments, settings = read_yaml(job)
    arguments["output_dir"] = job["output"]
    report_to = trackers.named(arguments.get("report_to"))
    callback = prepared(arguments, settings, facts, Path(job["trace"]), emit)

    def knows() -> dict[str, float]:
        loss = callback.mean_loss()
        return {
            "batch": job["tracker"]["batch"],
            "facts_learned": callback.traces.learned_so_far(),
            "loss_per_token": loss,
        }

    def at_end() -> dict[str, float]:
        return {"batch_learned": callback.traces.learned() or 0, "batch_facts": len(callback.traces.facts())}

    with trackers.reporting(report_to, job, knows, at_end, emit) as more:
        run_exp(arguments, callbacks=[callback, *more])
        if first_process():
            check_untouched(Path(job["model"]), Path(job["output"]), settings["trainable"])
    return said(callback)


def read_yaml(job: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """``train.yaml`` and ``rsft.yaml`` as they stand."""
    arguments: dict[str, Any] = yaml.safe_load(Path(job["train_yaml"]).read_text(encoding="utf-8"))
    settings: dict[str, Any] = yaml.safe_load(Path(job["rsft_yaml"]).read_text(encoding="utf-8"))
    return arguments, settings


def prepared(
    arguments: dict[str, Any], settings: Mapping[str, Any], facts: Sequence[Mapping[str, str]], trace: Path, emit: Emit
) -> Any:
    """R-SFT's callback for ``run_exp``, whose arguments are made ready for it."""
    from kedit_glue.rsft import RSFT, Settings

    fill_content_last()
    arguments["report_to"] = "none"  # else each batch is a run of its own
    return RSFT(Settings(**settings), facts, trace, emit)


def said(callback: Any) -> dict[str, Any]:
    """What R-SFT has to say of a batch when it was trained."""
    only = callback.subject_only
    return {
        "optimizer_steps": callback.steps,
        "epochs": callback.epochs,
        "step_seconds": round(callback.step_seconds, 3),
        "learned": callback.traces.learned(),
        "facts": len(callback.traces.facts()),
        "samples": len(callback.traces.each),
        "not_learned": callback.traces.not_learned(),
        "rehearsed": callback.traces.rehearsed(),
        **({"neighbours": callback.neighbours} if callback.neighbours else {}),
        **({"at_subject": {"texts": len(callback.samples), "named": only.named}} if only else {}),
    }
