"""Runs on a Ray cluster of two worker nodes on this machine, with a fake tool in the place of the tools."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ray = pytest.importorskip("ray", reason="Ray is not installed (uv sync --extra ray)")

pytestmark = pytest.mark.integration

PRETEND = """
import sys
if "kedit_glue.ray_task" in sys.orig_argv:  # a run's process: its stages use the fake tool
    sys.executable = {python!r}
"""


@dataclass
class Cluster:
    """A head without CPUs, and two nodes of one CPU each."""

    address: str
    folder: Path
    facts: Path
    model: Path
    tool: Any
    """``FakeTool``."""

    def recipe(self, name: str, **changes: Any) -> Path:
        values: dict[str, Any] = {
            "name": name,
            "model": str(self.model),
            "edits": {"source": str(self.facts), "batch_size": 2},
            "train": {"layers": [0, 1], "epochs": 3},
            "merge": {"method": "task_arithmetic", "onto": "previous", "parameters": {"weight": 0.7}},
            "score": {"examples": 2},
            "device": "cpu",
            "runner": "command",
            "output": str(self.folder / "runs"),
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**values, **changes}), encoding="utf-8")
        return path

    def start(self, *recipes: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "kedit_glue.on_ray", *map(str, recipes), "--address", self.address],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
        )

    def hanging(self) -> int:
        """The process of the stage that hangs, as soon as it does."""
        file = Path(self.tool.folder) / "hanging.pid"
        return int(until(lambda: (file.is_file() and file.read_text()) or None, "the stage that hangs"))


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The cluster's address, and a folder on the Python path of all that it starts."""
    from ray.cluster_utils import Cluster as RayCluster

    site = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(site))
        patch.setenv("HF_TOKEN", "hf_planted_secret")
        made = RayCluster()
        try:
            for cpus in (0, 1, 1):  # the head runs nothing
                add_node(made, num_cpus=cpus, object_store_memory=80 * 2**20, include_dashboard=False)
            made.wait_for_nodes()
            yield made.address, site
        finally:
            made.shutdown()


def add_node(made: Any, **room: Any) -> None:
    """Ray gives a node 30 s to start, fixed (2.60, _private/node.py:428): a machine that is busy gets a second try."""
    try:
        made.add_node(**room)
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        made.add_node(**room)


@pytest.fixture
def cluster(nodes: tuple[str, Path], workplace: Any) -> Cluster:
    address, site = nodes
    (site / "sitecustomize.py").write_text(PRETEND.format(python=workplace.tool.python))
    folder = workplace.folder
    return Cluster(address, folder, folder / "facts.json", folder / "model", workplace.tool)


def until(look: Callable[[], Any], what: str, seconds: float = 240.0) -> Any:
    end = time.monotonic() + seconds
    while (found := look()) is None:
        assert time.monotonic() < end, f"never came: {what}"
        time.sleep(0.05)
    return found


def attempts(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "setup" / "ray.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines[1:]]


def finished(folder: Path) -> Mapping[str, str]:
    """Stage -> when it was done."""
    found = [json.loads(path.read_text()) for path in folder.rglob("*.record.json")]
    return {record["stage"]: f"{record['finished']}, {record['seconds']} s" for record in found if "stage" in record}


def table(said: str) -> list[list[str]]:
    """Run, how it ended, attempts."""
    rows = [[cell.strip() for cell in line.split("│")[1:4]] for line in said.splitlines() if line.startswith("│")]
    return [row for row in rows if row[0]]


def alive(pid: int) -> bool:
    """Not gone, and no zombie that nobody has waited for yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_two_runs_finish_though_a_worker_is_killed(cluster: Cluster) -> None:
    cluster.tool.behave({"batch_002/train": "hang"})  # of the first run: the second has one batch
    runs = cluster.folder / "runs"
    one = cluster.recipe("one")
    two = cluster.recipe("two", edits={"source": str(cluster.facts), "batch_size": 6})
    driver = cluster.start(one, two)
    stage = cluster.hanging()
    before = finished(runs / "one")
    [first] = attempts(runs / "one")
    cluster.tool.behave()
    os.kill(first["pid"], signal.SIGKILL)
    until(lambda: None if alive(stage) else True, "the end of the killed worker's stage", 10)
    said = driver.communicate(timeout=120)[0]

    assert driver.returncode == 0, said
    assert sorted(before) == ["base/edits", "batch_001/edits", "batch_001/merge", "batch_001/train"]
    after = finished(runs / "one")
    assert {stage: after[stage] for stage in before} == before, "nothing that was finished is done again"
    assert table(said) == [["one", "done", "2"], ["two", "done", "1"]]
    lines = [line for line in said.splitlines() if line.startswith("one | ")]
    assert [line.partition(" on ")[0] for line in lines if "attempt" in line] == ["one | attempt 1", "one | attempt 2"]
    assert "one | 4 of 10 stages are done and stand" in "\n".join(lines)
    assert lines[-1].startswith("one | done: 6 facts in 3 batches; edit success 100.0 %; rephrased 50.0 %")
    for name in ("one", "two"):
        assert (runs / name / "model" / "config.json").is_file()
        assert "hf_planted_secret" not in (runs / name / "ray.log").read_text()


def test_a_run_that_fails_is_not_tried_again_and_stops_no_other(cluster: Cluster) -> None:
    cluster.tool.behave({"batch_002/train": "exit_3"})
    one = cluster.recipe("one")
    two = cluster.recipe("two", edits={"source": str(cluster.facts), "batch_size": 6})
    driver = cluster.start(one, two)
    said = driver.communicate(timeout=120)[0]
    assert driver.returncode == 1, said
    assert table(said) == [["one", "failed", "1"], ["two", "done", "1"]], said
    assert "one |     ValueError: the tool's own complaint" in said
    assert f"1 of 2 runs failed\n  what was finished stays; to go on: python -m kedit_glue.on_ray {one} {two}" in said


def test_a_studys_cells_finish_though_a_worker_is_killed(cluster: Cluster) -> None:
    cluster.recipe("varied")
    study = {"name": "grid", "recipe": "varied.yaml", "axes": {"merge.parameters.weight": [0.4, 0.7, 1.0]}}
    (cluster.folder / "grid.yaml").write_text(yaml.safe_dump(study))
    cluster.tool.behave({"batch_002/train": "hang"})  # of the first cell: the others adopt its training's beginning
    driver = subprocess.Popen(
        [sys.executable, "-m", "kedit_glue.study", "grid.yaml", "--on", "ray", "--address", cluster.address],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cluster.folder,
    )
    cluster.hanging()
    cells = cluster.folder / "runs" / "grid"
    [first] = attempts(cells / "weight-0.4")
    cluster.tool.behave()
    os.kill(first["pid"], signal.SIGKILL)
    said = driver.communicate(timeout=240)[0]
    assert driver.returncode == 0, said
    assert [row[:2] for row in table(said)] == [[f"weight-{w}", "done"] for w in ("0.4", "0.7", "1.0")], said
    assert len(attempts(cells / "weight-0.4")) == 2
    assert "weight-0.7 | original model: score edits: taken from weight-0.4" in said
    document = json.loads((cells / "study.json").read_text())
    assert all(row["metrics"] for row in document["cells"])


def test_a_driver_that_is_stopped_stops_its_runs(cluster: Cluster) -> None:
    cluster.tool.behave({"batch_001/train": "hang"})
    driver = cluster.start(cluster.recipe("one"))
    stage = cluster.hanging()
    driver.send_signal(signal.SIGTERM)
    said = driver.communicate(timeout=60)[0]
    assert driver.returncode == 143, said
    assert "interrupted: the runs are stopped" in said
    assert not alive(stage)
