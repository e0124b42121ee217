"""Runs on Ray without Ray: what the driver asks for and shows, what a worker does with an order."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kedit_glue import on_ray, ray_task, study
from kedit_glue.job import CannotStart
from kedit_glue.on_ray import GIGABYTE, no_room, runs_of, table
from kedit_glue.progress import Display
from kedit_glue.ray_task import Order, Outcome, RunLost, attempts, outcome, place, take_up, watch

HERE = Path(__file__).resolve().parents[2]

# -- the driver ---------------------------------------------------------------------------------


@pytest.fixture
def recipe(workplace: Any) -> Callable[..., Path]:
    """``recipe("one", launch={...})``: a recipe beside the workplace's own."""

    def make(name: str, **changes: Any) -> Path:
        workplace.values |= {"name": name, **changes}
        workplace.write()
        return Path(workplace.recipe.rename(workplace.folder / f"{name}.yaml"))

    return make


def test_each_recipe_is_a_run(recipe: Callable[..., Path], workplace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_planted_secret")
    one, two = runs_of([recipe("one"), recipe("two")], ["launch.ray.memory_gb=1.5", "launch.ray.retries=0"])
    runs = workplace.folder / "runs"
    assert [one.order.folder, two.order.folder] == [str(runs / "one"), str(runs / "two")]
    assert one.order.cwd == str(workplace.folder) and Path(one.order.recipe).is_absolute()
    assert one.order.token != two.order.token
    assert "hf_planted_secret" not in repr(one.order)
    assert one.asks == {
        "name": "kedit_glue one",
        "num_cpus": 1,
        "num_gpus": 0,
        "memory": int(1.5 * GIGABYTE),
        "max_retries": 0,
        "retry_exceptions": [RunLost],
        "scheduling_strategy": "SPREAD",
    }


def test_what_no_machine_could_do_is_said_at_once(recipe: Callable[..., Path], workplace: Any) -> None:
    bad = [
        recipe("a", launch={"nodes": 2}, train={"mini_batch": 2}),
        recipe("b", launch={"processes": 2, "ray": {"gpus": 1}}),
        recipe("c", launch={}, device="cuda"),
        recipe("d", device="cpu"),
        recipe("e", epochs=3),
    ]
    with pytest.raises(CannotStart) as refused:
        runs_of([*bad, bad[3]], [])
    lines = [line for line in str(refused.value).splitlines() if "e.yaml" not in line]
    start, folder = "; nothing was started", workplace.folder
    assert lines == [
        f"{folder}/a.yaml: launch.nodes is 2: a run on Ray takes one machine; give it more processes there{start}",
        f"{folder}/b.yaml: launch.processes is 2, while launch.ray.gpus is 1{start}",
        f"{folder}/c.yaml: device is cuda, while launch.ray.gpus is 0{start}",
        f"{folder}/d.yaml: its folder {folder}/runs/d is that of {folder}/d.yaml, too: give one another name",
    ]
    assert f"1 problem in {folder}/e.yaml; nothing was started" in str(refused.value)


@pytest.mark.parametrize(
    ("resources", "room"),
    [
        ({"CPU": 4.0, "GPU": 1.0, "memory": 8e9}, True),
        ({"CPU": 4.0, "memory": 8e9}, False),
        ({"CPU": 1.0, "GPU": 1.0, "memory": 8e9}, False),
        ({"CPU": 4.0, "GPU": 1.0, "memory": 2e9}, False),
    ],
)
def test_a_run_that_no_node_can_take_waits_and_says_so(
    resources: dict[str, float], room: bool, recipe: Callable[..., Path]
) -> None:
    [run] = runs_of([recipe("one", launch={"ray": {"cpus": 2, "gpus": 1, "memory_gb": 4}})], [])
    node = {"Alive": True, "Resources": resources}
    said = "no node of the cluster has 2 CPUs, 1 GPUs, 4 GB of memory (launch.ray): the run waits until one joins"
    assert no_room(run, [{"Alive": False, "Resources": {"CPU": 99.0, "GPU": 9.0, "memory": 9e9}}]) == said
    assert no_room(run, [{"Alive": True, "Resources": {}}, node]) == (None if room else said)


def test_whole_lines_of_a_log_are_shown_once(recipe: Callable[..., Path]) -> None:
    [run] = runs_of([recipe("one")], [])
    place(run.order)
    assert run.new_lines() == []
    with run.order.log.open("ab") as log:
        log.write(b"first\n\nsec")
        log.flush()
        assert run.new_lines() == ["first"]
        log.write("ond \xe9\n".encode("latin-1") + b"third")
        log.flush()
        assert run.new_lines() == ["second \ufffd"]
    assert run.new_lines(last=True) == ["third"]
    assert run.new_lines(last=True) == []


def test_the_table_says_how_each_run_ended(recipe: Callable[..., Path], display: Display) -> None:
    one, two = runs_of([recipe("one"), recipe("two")], [])
    one.outcome, one.attempts = Outcome(True, "6 facts in [3] batches"), 2
    two.outcome, two.attempts = Outcome(False, "a stage failed"), 1
    display.console.print(table([one, two]))
    rows = [line.split("│") for line in display.console.file.getvalue().splitlines() if "│" in line]
    assert [[cell.strip() for cell in row[1:-1]] for row in rows] == [
        ["one", "done", "2", "6 facts in [3] batches", one.order.folder],
        ["two", "failed", "1", "a stage failed", two.order.folder],
    ]


def test_the_command_that_goes_on() -> None:
    given = on_ray.parser().parse_args(["a b.yaml", "c.yaml", "--set", "train.epochs=3"])
    assert on_ray.again(given) == "python -m kedit_glue.on_ray 'a b.yaml' c.yaml --set train.epochs=3"
    given = argparse.Namespace(recipes=[Path("a.yaml")], set=[], address="local")
    assert on_ray.again(given) == "python -m kedit_glue.on_ray a.yaml --address local"


def test_the_manifest_for_kubernetes_starts_a_study_of_ours_with_our_options() -> None:
    manifest = re.search(r"```yaml\n(apiVersion.*?)```", (HERE / "docs" / "clusters.md").read_text(), re.DOTALL)
    assert manifest is not None
    job = yaml.safe_load(manifest[1])
    place, and_then, *command = shlex.split(job["spec"]["entrypoint"])[1:]
    given = study.parser().parse_args(command[3:])
    assert (place, and_then, command[:3]) == ("/app", "&&", ["python", "-m", "kedit_glue.study"])
    assert (HERE / given.study).is_file() and given.on == "ray" and given.address == "auto"
    cluster = job["spec"]["rayClusterSpec"]
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    folders = {pod["template"]["spec"]["containers"][0]["volumeMounts"][0]["mountPath"] for pod in pods}
    assert folders == {f"{place}/data"} and "output=data/runs" in given.set, "all nodes share the runs"


def test_without_ray_it_says_what_to_install(
    recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert on_ray.main([str(recipe("one"))]) == 2
    assert capsys.readouterr().err == "Ray is not installed; install it with: uv sync --extra ray\n"


@pytest.mark.parametrize("by_name", [False, True])
def test_where_nothing_listens_ray_is_not_even_asked(by_name: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listening
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(CannotStart) as refused:
            on_ray.connect("auto" if by_name else address)
    given = "auto" if by_name else address
    assert str(refused.value).startswith(f"no Ray cluster at {given} ([Errno 111] Connection refused): start one with")


def test_ray_client_is_refused() -> None:
    with pytest.raises(CannotStart, match=r"^ray://head:10001 is Ray Client's address, and this command has to see"):
        on_ray.connect("ray://head:10001")


def test_a_recipe_that_cannot_be_used_reaches_no_cluster(
    recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(on_ray, "connect", lambda address: pytest.fail("it was asked for a cluster"))
    assert on_ray.main([str(recipe("one", keep="nothing"))]) == 2
    assert "keep: nothing (text); allowed: one of deltas, all, last" in capsys.readouterr().err


# -- a worker -----------------------------------------------------------------------------------


@pytest.fixture
def order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Order:
    """An order whose run is a shell script: it is given the words of the run's own process."""
    monkeypatch.setattr(ray_task, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(ray_task, "SEE_SECONDS", 0.05)
    monkeypatch.setattr(ray_task.sys, "executable", str(tmp_path / "python"))
    found = Order("one", "/r/one.yaml", str(tmp_path), str(tmp_path / "runs" / "one"), ("a.b=1",), 0, "token")
    place(found)
    return found


PYTHON = sys.executable
HOLD = """
import fcntl, sys, time
with open(sys.argv[1], "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("4711", file=file, flush=True)
    print(flush=True)
    time.sleep(60)
"""


def pretend(order: Order, script: str) -> None:
    python = Path(order.cwd) / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)


def scores(order: Order) -> str:
    document = {"after": {"edits": {}, "general_change": {}}, "facts": [1, 2], "batches": [1]}
    return f"echo '{json.dumps(document)}' > {order.folder}/scores.json"


def test_a_run_is_its_own_process_in_the_commands_folder(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    pretend(order, f'echo "$PWD: $@, GPUs [$CUDA_VISIBLE_DEVICES]"\necho oh >&2\n{scores(order)}')
    assert take_up(order) == Outcome(True, "2 facts in 1 batch")
    first, *said = order.log.read_text().splitlines()
    assert first.startswith("attempt 1 on ") and first.endswith(f", worker {os.getpid()}")
    command = f"-m kedit_glue.ray_task {os.getpid()} /r/one.yaml --set a.b=1"
    assert said == [f"{order.cwd}: {command}, GPUs []", "oh"]
    assert [each["pid"] for each in attempts(order)] == [os.getpid()]


def test_gpus_that_ray_gave_stay_visible(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    pretend(order, f'echo "GPUs [$CUDA_VISIBLE_DEVICES]"\n{scores(order)}')
    take_up(Order(**{**vars(order), "gpus": 1}))
    assert order.log.read_text().splitlines()[1:] == ["GPUs [1]"]


@pytest.mark.parametrize(
    ("script", "said"),
    [("exit 1", "a stage failed, see above or "), ("exit 2", "could not start, see"), ("exit 7", "exit code 7, see")],
)
def test_what_failed_by_itself_is_not_tried_again(script: str, said: str, order: Order) -> None:
    pretend(order, script)
    found = take_up(order)
    assert not found.done and found.said.startswith(said)


@pytest.mark.parametrize(
    ("script", "said"), [("kill -9 $$", "(signal 9)"), ("exit 143", "(143)"), ("exit 130", "(130)")]
)
def test_what_was_stopped_from_outside_is_tried_again(script: str, said: str, order: Order) -> None:
    pretend(order, script)
    with pytest.raises(RunLost) as lost:
        take_up(order)
    assert str(lost.value) == f"the run's process was stopped from outside {said}"
    pretend(order, scores(order))
    assert take_up(order).done
    assert len(attempts(order)) == 2
    assert [line.partition(" on ")[0] for line in order.log.read_text().splitlines()] == ["attempt 1", "attempt 2"]


@pytest.mark.parametrize("there", [None, "", '{"token": "an earlier order"}\n', "not JSON"])
def test_a_node_that_does_not_see_the_folder_says_so(there: str | None, order: Order) -> None:
    pretend(order, "touch started")
    if there is None:
        order.attempts.unlink()
    else:
        order.attempts.write_text(there)
    found = take_up(order)
    assert not found.done
    assert f"does not see {order.folder} as the driver does: set output: to a folder on storage that all" in found.said
    assert not (Path(order.cwd) / "started").exists()
    assert order.log.read_text() == ""


def test_a_node_without_the_commands_folder_says_so(order: Order) -> None:
    found = take_up(Order(**{**vars(order), "cwd": "/no/such"}))
    assert not found.done and "has no folder /no/such, which the command was given in" in found.said


def test_a_folder_that_is_held_is_waited_for(order: Order) -> None:
    """By a process of its own, as a machine that was cut off would hold it."""
    pretend(order, scores(order))
    lock = Path(order.folder) / ".lock"
    holding = subprocess.Popen([PYTHON, "-c", HOLD, str(lock)], stdout=subprocess.PIPE)
    assert holding.stdout is not None
    holding.stdout.readline()
    found = take_up(order, lock_seconds=0.05)
    assert found == Outcome(False, "its folder was still in use by process 4711 after 0 min: stop it and run again")
    assert "waits for process 4711, which holds the folder" in order.log.read_text()
    holding.kill()
    holding.wait()
    assert take_up(order).done
    with lock.open() as free:
        fcntl.flock(free, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize(
    ("trap", "ended_by"), [("", signal.SIGTERM), ("trap '' TERM; ", signal.SIGKILL)], ids=["stops", "does not stop"]
)
def test_a_cancelled_attempt_stops_its_run(trap: str, ended_by: int, monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen(["sh", "-c", f"{trap}echo; exec sleep 60"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    monkeypatch.setattr(ray_task, "STOP_SECONDS", 0.1)
    slept: list[float] = []
    sleep = time.sleep

    def cancelled(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 1:  # as ray.cancel does, between two steps
            raise KeyboardInterrupt
        sleep(seconds)

    monkeypatch.setattr(ray_task.time, "sleep", cancelled)
    with pytest.raises(KeyboardInterrupt):
        watch(process)
    assert process.returncode == -ended_by


def test_codes_of_an_unknown_kind(order: Order) -> None:
    assert outcome(order, 3) == Outcome(False, f"exit code 3, see above or {order.log}")


def test_a_run_dies_with_its_worker(tmp_path: Path) -> None:
    """A worker that is killed, with the process that it started: nothing is left."""
    beat = tmp_path / "beat"
    worker = (
        "import os, subprocess, sys, time\n"
        "child = 'import sys, time; from kedit_glue import ray_task, run\\n'\n"
        'child += \'def main():\\n  while True: open(sys.argv[1], "a").write("."); time.sleep(0.01)\\n\'\n'
        "child += 'run.main = main; ray_task.main()'\n"
        "subprocess.Popen([sys.executable, '-c', child, str(os.getpid()), sys.argv[1]])\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", worker, str(beat)])
    end = time.monotonic() + 60
    while not beat.is_file():
        assert time.monotonic() < end, "the run's process never began"
        time.sleep(0.01)
    process.kill()
    process.wait()
    sizes = [beat.stat().st_size]
    for _ in range(100):
        time.sleep(0.05)
        sizes.append(beat.stat().st_size)
        if sizes[-1] == sizes[-2]:
            break
    time.sleep(0.1)
    assert beat.stat().st_size == sizes[-1]


def test_a_run_whose_worker_is_gone_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_task, "die_with_parent", lambda owner: None)
    monkeypatch.setattr(ray_task.sys, "argv", ["ray_task", str(os.getpid()), "/r/one.yaml"])
    assert ray_task.main() == 1
