"""One stage in a process of its own: ``python -m kedit_glue.stage JOB.json``.

The job file names the tool, its function, its arguments and where events and the result go. The
warm runner calls the same ``execute`` in a forked process, so both ways do the same work.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from kedit_glue.atomic import write_json
from kedit_glue.tools import memory

FUNCTIONS = {
    "unpack": ("kedit_glue.tools.model", "unpack"),
    "fetch": ("kedit_glue.tools.model", "fetch"),
    "convert": ("kedit_glue.tools.model", "convert"),
    "prepare": ("kedit_glue.tools.prepare", "prepare"),
    "protect": ("kedit_glue.tools.protect", "directions"),
    "project": ("kedit_glue.tools.protect", "project"),
    "regmean": ("kedit_glue.tools.regmean", "regress"),
    "moments": ("kedit_glue.tools.editing", "moments"),
    "editor": ("kedit_glue.tools.learned", "train_editor"),
    "edit": ("kedit_glue.tools.editing", "edit"),
    "independent": ("kedit_glue.tools.independent", "edit_each"),
    "remember": ("kedit_glue.tools.recall", "remember"),
    "train": ("kedit_glue.tools.llamafactory", "train"),
    "search": ("kedit_glue.tools.search", "search"),
    "merge": ("kedit_glue.tools.mergekit", "merge"),
    "score": ("kedit_glue.tools.scorer", "score"),
    "general": ("kedit_glue.tools.lm_eval", "evaluate"),
}


LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def quiet_environment(offline: bool) -> dict[str, str]:
    """What every tool process gets on top of the user's environment."""
    settings = {
        "TOKENIZERS_PARALLELISM": "false",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking for a GPU must not initialise it before a fork
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if offline:
        settings |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    return settings


def die_with_parent(owner: int | None = None) -> None:
    """A run that is killed must not leave a process behind that writes into its folder (Linux; elsewhere it ends
    by itself, and the next run waits for it).

    prctl(PR_SET_PDEATHSIG, SIGKILL). The parent is the run, torchrun, or the warm server, which ends with the run.
    ``owner``: the run's process, which may have died before this was called.
    """
    if LIBC is not None:
        LIBC.prctl(1, signal.SIGKILL)
    if owner is not None:
        try:
            os.kill(owner, 0)
        except ProcessLookupError:
            os._exit(1)


def let_go_of_the_server() -> None:
    """Every process that the warm server forked holds the server's lifeline (CPython 3.11, multiprocessing/
    forkserver.py, ``_serve_one``): with it the server would live on after its run, and so would the stage.
    """
    server: Any = vars(forkserver)["_forkserver"]
    if server._forkserver_alive_fd is not None:
        os.close(server._forkserver_alive_fd)
        server._forkserver_alive_fd = None


@contextlib.contextmanager
def alive(lock: str | None) -> Iterator[None]:
    """Hold the run folder's stage lock, for as long as this process lives at most."""
    if lock is None:
        yield
        return
    with open(lock, "a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def see(gpus: int | None) -> None:
    """Before torch asks for them: let this process see none, or the first of the GPUs that it was given."""
    if gpus is not None:
        given = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(given.split(",")[:gpus])


def first_process() -> bool:
    """Of several processes that do a stage together (torchrun) one speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def execute(job_file: str) -> None:
    """Do one job; raises what the tool raises."""
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    module, function = FUNCTIONS[job["function"]]
    die_with_parent()
    with alive(job.get("lock")), open(job["events"], "a", encoding="utf-8", buffering=1) as events:

        def emit(event: Mapping[str, Any]) -> None:
            if first_process():
                events.write(json.dumps({"time": round(time.time(), 3), **event}, ensure_ascii=False) + "\n")

        emit({"event": "started", "pid": os.getpid()})
        see(job.get("gpus"))
        if job.get("threads"):
            import torch

            torch.set_num_threads(job["threads"])
        work = getattr(importlib.import_module(module), function)
        started = time.monotonic()
        result = {**work(job["arguments"], emit), "peak_memory_bytes": memory.peak()}
        emit({"event": "finished", "seconds": round(time.monotonic() - started, 3)})
    if first_process():
        write_json(Path(job["result"]), result)


def execute_logged(job_file: str, log_file: str, owner: int, environment: Mapping[str, str]) -> None:
    """``execute`` with everything the process prints in its log (the warm runner's target)."""
    die_with_parent(owner)
    os.environ.clear()
    os.environ.update(environment)
    let_go_of_the_server()
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)
    execute(job_file)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m kedit_glue.stage JOB.json")
    execute(sys.argv[1])
