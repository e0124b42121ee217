"""``launch:`` of a recipe: torchrun's command, and the machines of a run that join its training stages."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import nodes, run
from kedit_glue.nodes import NotTogether, join, node_rank, together, torchrun
from kedit_glue.problems import RecipeError
from kedit_glue.runner import Job, Runner

HEAD = "name: try\nmodel: smollm2-135m\nedits: {source: facts.json}\ntrain: {mini_batch: 4}\n"
PLACE = {"MASTER_ADDR": "host0", "MASTER_PORT": "29500"}

# -- the recipe ---------------------------------------------------------------------------------


def test_launch_was_a_key_of_train(problems: Callable[..., list[str]]) -> None:
    [problem] = problems(HEAD.replace("mini_batch: 4", "launch: {processes: 2}"))
    assert problem.startswith(":4:9  train.launch: unknown key; known here: from, modules")
    assert problem.endswith("; did you mean 'launch'?")


def test_ray_is_asked_for_one_core_and_three_retries(load: Callable[..., Any]) -> None:
    ray = load(HEAD).launch.ray
    assert (ray.cpus, ray.gpus, ray.memory_gb, ray.retries) == (1, 0, None, 3)


# -- torchrun -----------------------------------------------------------------------------------


def test_one_machine_needs_no_address() -> None:
    assert torchrun(2, 1, {}) == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.mark.parametrize(
    ("environment", "rank", "where"),
    [
        ({**PLACE, "NODE_RANK": "1"}, 1, ["--master-addr=host0", "--master-port=29500"]),
        ({}, 0, ["--master-addr=$MASTER_ADDR", "--master-port=$MASTER_PORT"]),  # a dry run elsewhere
    ],
)
def test_machines_are_told_as_llamafactory_is(environment: dict[str, str], rank: int, where: list[str]) -> None:
    head = ["-m", "torch.distributed.run", "--nnodes=3", f"--node-rank={rank}", "--nproc-per-node=2"]
    assert torchrun(2, 3, environment) == [*head, *where]


def test_a_machines_number_is_a_number() -> None:
    with pytest.raises(NotTogether, match=r"^NODE_RANK is 'first'; allowed: a machine's number, 0 or more$"):
        node_rank({"NODE_RANK": "first"})


# -- machine 0 ----------------------------------------------------------------------------------


def told(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "setup" / "nodes.json").read_text()))


def test_one_machine_tells_nobody(tmp_path: Path) -> None:
    with together(tmp_path, 1, {}):
        pass
    assert not list(tmp_path.iterdir())


def test_the_others_hear_how_a_run_began_and_ended(tmp_path: Path) -> None:
    with together(tmp_path, 2, PLACE):
        begun = told(tmp_path)
        assert begun["state"] == "begun"
    assert told(tmp_path)["state"] == "done" and told(tmp_path)["id"] != begun["id"]
    with pytest.raises(KeyboardInterrupt), together(tmp_path, 2, PLACE):
        raise KeyboardInterrupt
    assert told(tmp_path)["state"] == "failed"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"MASTER_ADDR": "host0"}, "launch.nodes is 2, but MASTER_PORT not set: on every machine set MASTER_ADDR"),
        ({}, "launch.nodes is 2, but MASTER_ADDR and MASTER_PORT not set: on every machine"),
        ({**PLACE, "NNODES": "4"}, "launch.nodes is 2, but NNODES says 4; nothing was started"),
    ],
)
def test_machines_that_could_not_meet_are_not_started(environment: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(NotTogether) as refused, together(tmp_path, 2, environment):
        raise AssertionError("it began")
    assert str(refused.value).startswith(said)
    assert not list(tmp_path.iterdir())


# -- the others ---------------------------------------------------------------------------------


@dataclass
class Machine:
    """Machine 1 of a run for two, joining in a thread; its interpreter writes down what it was started with."""

    recipe: Path
    folder: Path
    """The run's."""
    started: Path
    said: list[str]
    code: list[int | None]
    thread: threading.Thread | None = None

    def join(self) -> None:
        self.thread = threading.Thread(target=lambda: self.code.append(join(self.recipe, [], self.said.append)))
        self.thread.start()

    def end(self) -> int | None:
        assert self.thread is not None
        self.thread.join(30)
        assert not self.thread.is_alive()
        return self.code[-1]

    def wait_for(self, words: str) -> None:
        for _ in range(3000):
            if any(words in line for line in self.said):
                return
            threading.Event().wait(0.01)
        raise AssertionError(f"{words!r} was never said: {self.said}")


PYTHON = """#!{python} -IS
import json, os, sys, time
seen = {{"arguments": sys.argv[1:], "id": os.environ["PET_RDZV_ID"], "quiet": os.environ["QUIET"]}}
with open({started!r}, "a") as file:
    file.write(json.dumps(seen) + "\\n")
print("the tool sees", os.environ.get("HF_TOKEN"))
time.sleep(60 if "stuck" in sys.argv[-1] else 0)
sys.exit(3 if "bad" in sys.argv[-1] else 0)
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    recipe, started = tmp_path / "try.yaml", tmp_path / "started.jsonl"
    (tmp_path / "facts.json").write_text("[]")
    recipe.write_text(f"{HEAD}output: {tmp_path / 'runs'}\nlaunch: {{nodes: 2}}\n")
    python = tmp_path / "python"
    python.write_text(PYTHON.format(python=sys.executable, started=str(started)))
    python.chmod(0o755)
    monkeypatch.setattr(nodes.sys, "executable", str(python))
    monkeypatch.setattr(nodes, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(nodes, "die_with_parent", None)  # the thread that starts a process here ends before it
    monkeypatch.setenv("NODE_RANK", "1")
    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    folder = tmp_path / "runs" / "try"
    made = Machine(recipe, folder, started, [], [])
    yield made
    if made.thread is not None and made.thread.is_alive():
        nodes._tell(folder, state="failed")
        made.thread.join()


def announce(machine: Machine, name: str) -> str:
    """As machine 0's runner does; returns the id."""
    batch = machine.folder / "batch_001"
    batch.mkdir(parents=True, exist_ok=True)
    command = ["/its/python", *torchrun(1, 2, PLACE), "-m", "kedit_glue.stage", name]
    return nodes.announce(machine.folder, command, batch / f"{name}.log", {"QUIET": "yes"})["PET_RDZV_ID"]


def started(machine: Machine) -> list[dict[str, Any]]:
    return [json.loads(line) for line in machine.started.read_text().splitlines()]


def test_a_machine_joins_each_stage_and_ends_with_the_run(machine: Machine) -> None:
    machine.join()
    machine.wait_for("machine 1 of 2: waits for machine 0's training stages in")
    with together(machine.folder, 2, PLACE):
        first = announce(machine, "good")
        machine.wait_for("joins batch_001/good, log:")
        machine.wait_for("the stage is done")
        second = announce(machine, "bad")
        machine.wait_for("the stage ended with exit code 3; waits for machine 0")
    assert machine.end() == 0
    assert machine.said[-1] == "machine 0's run is done"
    where = ["--nnodes=2", "--node-rank=1", "--nproc-per-node=1", "--master-addr=host0", "--master-port=29500"]
    command = ["-m", "torch.distributed.run", *where, "-m", "kedit_glue.stage"]
    assert started(machine) == [
        {"arguments": [*command, "good"], "id": first, "quiet": "yes"},
        {"arguments": [*command, "bad"], "id": second, "quiet": "yes"},
    ]
    assert (machine.folder / "batch_001" / "good.node1.log").read_text() == "the tool sees **********\n"


def test_a_stage_that_was_begun_anew_is_joined_anew(machine: Machine) -> None:
    """Machine 0 was killed and started again: the process that waits for the old stage must go."""
    announce(machine, "stuck")
    machine.join()
    machine.wait_for("joins batch_001/stuck")
    announce(machine, "good")
    machine.wait_for("joins batch_001/good")
    machine.wait_for("the stage is done")
    with pytest.raises(RuntimeError), together(machine.folder, 2, PLACE):
        raise RuntimeError
    assert machine.end() == 1
    assert machine.said[-1] == "machine 0's run is failed"


def test_the_end_of_an_earlier_run_is_not_this_ones(machine: Machine) -> None:
    nodes._tell(machine.folder, state="failed")
    machine.join()
    machine.wait_for("waits for machine 0")
    with together(machine.folder, 2, PLACE):
        pass
    assert machine.end() == 0


def test_a_machine_waits_for_the_first_sign_only_so_long(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "PATIENCE", 0.0)
    with pytest.raises(NotTogether, match="machine 0 did not begin within 0 min: start the same command with NODE_RA"):
        join(machine.recipe, [], machine.said.append)


def test_a_number_beyond_the_machines_is_refused(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_RANK", "2")
    with pytest.raises(NotTogether, match=r"^NODE_RANK is 2, but launch.nodes is 2: numbers begin with 0$"):
        join(machine.recipe, [], machine.said.append)


def test_a_recipe_for_one_machine_does_not_look_at_its_number(machine: Machine) -> None:
    assert join(machine.recipe, ["launch.nodes=1"], machine.said.append) is None
    with pytest.raises(RecipeError, match=r"launch\.nodes: 0"):
        join(machine.recipe, ["launch.nodes=0"], machine.said.append)


def test_the_command_line_of_another_machine_joins(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    over = threading.Event()

    def tell() -> None:  # more than once: what stands there before the machine looks is an earlier run's
        while not over.wait(0.05):
            nodes._tell(machine.folder, state="done")

    thread = threading.Thread(target=tell)
    thread.start()
    try:
        assert run.main([str(machine.recipe)]) == 0
    finally:
        over.set()
        thread.join()
    assert capsys.readouterr().out.splitlines()[-1] == "machine 0's run is done"
    assert not (machine.folder / ".lock").exists(), "the run is machine 0's"


def test_the_runner_announces_what_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PLACE.items():
        monkeypatch.setenv(name, value)
    job = Job("train", "train", {}, tmp_path / "batch_001", "train", nodes=2)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "{{\\"id\\": \\"$PET_RDZV_ID\\"}}" > \'{job.file("result.json")}\'\n')
    python.chmod(0o755)
    runner = Runner("spawn", {"QUIET": "yes"}, python=str(python))
    monkeypatch.setattr(Runner, "start", lambda self: None)
    result = runner.run(job)
    assert told(tmp_path) == {
        "id": result["id"],
        "state": "stage",
        "command": runner.command(job),
        "log": str(job.file("log")),
        "environment": {"QUIET": "yes"},
    }
    assert "--node-rank=0" in runner.command(job)
