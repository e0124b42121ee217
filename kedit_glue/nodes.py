"""Training on several machines (``launch.nodes``): the first one runs, the others join its training stages.

Who is who is told in LLaMA-Factory's own environment variables (llamafactory 0.9.5, launcher.py:66-69): NODE_RANK,
0 for the first machine; MASTER_ADDR and MASTER_PORT, where the others find it. All see the run's folder. The first
announces each training stage in ``setup/nodes.json``, and the others start the same torchrun command with their own
number. An announcement's id is the prefix of torchrun's rendezvous: machines at different stages never meet.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kedit_glue.atomic import write_json
from kedit_glue.recipe import load_recipe
from kedit_glue.redact import Redaction
from kedit_glue.stage import die_with_parent

NEEDED = ("MASTER_ADDR", "MASTER_PORT")
POLL_SECONDS = 0.2
PATIENCE = 600.0
"""Seconds that a machine waits for the first sign of machine 0; training is then waited for as long as it takes."""


class NotTogether(ValueError):
    """The machines of a run cannot find each other; the message is the user's."""


def node_rank(environment: Mapping[str, str] = os.environ) -> int:
    """The number of this machine; 0 where nothing says otherwise."""
    try:
        return int(environment.get("NODE_RANK", "0"))
    except ValueError:
        raise NotTogether(
            f"NODE_RANK is {environment['NODE_RANK']!r}; allowed: a machine's number, 0 or more"
        ) from None


def torchrun(processes: int, nodes: int, environment: Mapping[str, str] = os.environ) -> list[str]:
    """The interpreter's arguments that start a module in so many processes on each of so many machines."""
    run = ["-m", "torch.distributed.run"]
    if nodes == 1:
        return [*run, "--standalone", f"--nproc-per-node={processes}"]
    address, port = (environment.get(name, f"${name}") for name in NEEDED)
    where = [f"--nnodes={nodes}", f"--node-rank={node_rank(environment)}", f"--nproc-per-node={processes}"]
    return [*run, *where, f"--master-addr={address}", f"--master-port={port}"]


# -- machine 0 ------------------------------------------------------------------------------------


@contextlib.contextmanager
def together(folder: Path, nodes: int, environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Tell the other machines that a run in ``folder`` begins, and how it ended; nothing with one machine."""
    if nodes == 1:
        yield
        return
    if missing := [name for name in NEEDED if not environment.get(name)]:
        raise NotTogether(
            f"launch.nodes is {nodes}, but {' and '.join(missing)} not set: on every machine set MASTER_ADDR (the "
            "first machine's name or address), MASTER_PORT (a free port there) and NODE_RANK (0 there, then 1, 2 …), "
            "and run the same command; nothing was started"
        )
    if (told := environment.get("NNODES", str(nodes))) != str(nodes):
        raise NotTogether(f"launch.nodes is {nodes}, but NNODES says {told}; nothing was started")
    _tell(folder, state="begun")
    try:
        yield
    except BaseException:
        _tell(folder, state="failed")
        raise
    _tell(folder, state="done")


def announce(folder: Path, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Tell the other machines to join a stage; returns what has to be added to the environment of its command."""
    id_ = _tell(folder, state="stage", command=list(command), log=str(log), environment=dict(environment))
    return {"PET_RDZV_ID": id_}  # torchrun reads each of its options there, too


def _tell(folder: Path, **what: Any) -> str:
    id_ = uuid.uuid4().hex
    (folder / "setup").mkdir(parents=True, exist_ok=True)
    write_json(folder / "setup" / "nodes.json", {"id": id_, **what})
    return id_


# -- the others -----------------------------------------------------------------------------------


def join(file: Path, overrides: Sequence[str], say: Callable[[str], None]) -> int | None:
    """Take part in the training stages of machine 0's run until it ends; returns the exit code.

    None: the recipe is for one machine, whatever NODE_RANK says.
    """
    recipe = load_recipe(file, overrides)
    if recipe.launch.nodes == 1:
        return None
    if (rank := node_rank()) >= recipe.launch.nodes:
        raise NotTogether(f"NODE_RANK is {rank}, but launch.nodes is {recipe.launch.nodes}: numbers begin with 0")
    folder = Path(recipe.output).resolve() / recipe.name
    told = _told(folder)
    seen = told.get("id") if told.get("state") in ("done", "failed") else None  # that was an earlier run
    say(f"machine {rank} of {recipe.launch.nodes}: waits for machine 0's training stages in {folder}")
    began, heard = time.monotonic(), False
    part: _Part | None = None
    try:
        while True:
            told = _told(folder)
            if told.get("id") not in (None, seen):
                seen, heard = told["id"], True
                if part is not None:
                    part.stop()
                    part = None
                if told["state"] in ("done", "failed"):
                    say(f"machine 0's run is {told['state']}")
                    return int(told["state"] == "failed")
                if told["state"] == "stage":
                    part = _Part(told, rank)
                    say(f"joins {part.log.parent.name}/{part.log.name.partition('.')[0]}, log: {part.log}")
            elif part is not None and (code := part.process.poll()) is not None:
                say("the stage is done" if code == 0 else f"the stage ended with exit code {code}; waits for machine 0")
                part.stop()
                part = None
            elif not heard and time.monotonic() - began > PATIENCE:
                raise NotTogether(
                    f"machine 0 did not begin within {PATIENCE / 60:.0f} min: start the same command with NODE_RANK=0 "
                    f"there, and see that {folder} is on storage that all machines share"
                )
            time.sleep(POLL_SECONDS)
    finally:
        if part is not None:
            part.stop()


def _told(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / "setup" / "nodes.json").read_bytes())
    except FileNotFoundError:
        return {}
    return found


class _Part:
    """This machine's part of an announced stage."""

    def __init__(self, told: Mapping[str, Any], rank: int):
        self.log = Path(told["log"]).with_suffix(f".node{rank}.log")
        words = [f"--node-rank={rank}" if word.startswith("--node-rank=") else word for word in told["command"][1:]]
        self.environment = {**os.environ, **told["environment"], "PET_RDZV_ID": told["id"]}
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, *words],
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self.environment,
                preexec_fn=die_with_parent,
            )

    def stop(self) -> None:
        """End it, if it has not ended, and leave a log without secrets."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        Redaction(self.environment).file(self.log)
