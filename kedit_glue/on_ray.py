"""``python -m kedit_glue.on_ray RECIPE …``: whole runs on a Ray cluster, one task each (docs/clusters.md).

Ray decides where and when; a run whose worker or machine is lost is taken up by another worker and goes on from its
ledger. This is the driver: it hands out the runs, shows what they print, and says how they ended. The worker's side
is ``ray_task``.
"""

from __future__ import annotations

import argparse
import os
import shlex
import socket
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from kedit_glue import job, ray_task
from kedit_glue.problems import CannotStart, RecipeError
from kedit_glue.progress import Display
from kedit_glue.ray_task import Order, Outcome, RunLost
from kedit_glue.recipe import Recipe, load_recipe
from kedit_glue.run import any_terminal, guarded, terminated_as_interrupted

EXAMPLES = """examples:
  ray start --head                                                       a cluster of this machine, once
  python -m kedit_glue.on_ray a.yaml b.yaml                              two runs at once, as far as there is room
  python -m kedit_glue.on_ray a.yaml --set launch.ray.gpus=1             a run that takes a GPU
  python -m kedit_glue.on_ray a.yaml --address local                     no cluster: this machine, for this command

The folders that runs write to (output: of the recipes) must be on storage that all nodes share.
exit codes: 0 all runs are done, 1 some are not (run again to go on), 2 nothing was started,
130 interrupted, 143 terminated (run again to go on)
"""
GIGABYTE = 10**9
POLL_SECONDS = 0.5
CONNECT_SECONDS = 10.0


@dataclass
class Run:
    """A run that was handed out."""

    order: Order
    recipe: Recipe
    position: int = 0
    """Bytes of its log that were shown."""
    attempts: int = 0
    outcome: Outcome | None = None
    said: list[str] = field(default_factory=list)

    @property
    def asks(self) -> dict[str, Any]:
        """Ray's options of the task; what is lost is tried again, what failed by itself is not."""
        ray = self.recipe.launch.ray
        return {
            "name": f"kedit_glue {self.order.name}",
            "num_cpus": ray.cpus,
            "num_gpus": ray.gpus,
            **({"memory": int(ray.memory_gb * GIGABYTE)} if ray.memory_gb else {}),
            "max_retries": ray.retries,
            "retry_exceptions": [RunLost],
            "scheduling_strategy": "SPREAD",
        }

    def new_lines(self, last: bool = False) -> list[str]:
        """The lines that its log got since this was last asked; with ``last`` also one without an end."""
        with self.order.log.open("rb") as file:
            file.seek(self.position)
            text = file.read()
        whole = text if last else text[: text.rfind(b"\n") + 1]
        self.position += len(whole)
        return [line for line in whole.decode("utf-8", errors="replace").splitlines() if line.strip()]


def runs_of(recipes: Sequence[Path], overrides: Sequence[str]) -> list[Run]:
    """Every recipe loaded and looked at; raises CannotStart or RecipeError for what no task could do."""
    known = {name: frozenset(method.parameters) for name, method in job.merge_methods().items()}
    found: dict[Path, Run] = {}
    wrong: list[str] = []
    for path in recipes:
        try:
            recipe = load_recipe(path, overrides, known)
        except RecipeError as error:
            wrong.append(str(error))
            continue
        folder = Path(recipe.output).resolve() / recipe.name
        wrong += [f"{path}: {problem}; nothing was started" for problem in cannot_ask(recipe)]
        if (other := found.get(folder)) is not None:
            wrong.append(f"{path}: its folder {folder} is that of {other.order.recipe}, too: give one another name")
            continue
        order = Order(
            recipe.name,
            str(path.resolve()),
            str(Path.cwd()),
            str(folder),
            tuple(overrides),
            recipe.launch.ray.gpus,
            uuid.uuid4().hex,
        )
        found[folder] = Run(order, recipe)
    if wrong:
        raise CannotStart("\n".join(wrong))
    return list(found.values())


def cannot_ask(recipe: Recipe) -> list[str]:
    """What a recipe asks of one machine that does not go together."""
    launch, problems = recipe.launch, []
    if launch.nodes > 1:
        problems.append(f"launch.nodes is {launch.nodes}: a run on Ray takes one machine; give it more processes there")
    if recipe.device == "cuda" and not launch.ray.gpus:
        problems.append("device is cuda, while launch.ray.gpus is 0")
    if launch.ray.gpus and launch.processes > launch.ray.gpus:
        problems.append(f"launch.processes is {launch.processes}, while launch.ray.gpus is {launch.ray.gpus}")
    return problems


# -- Ray ------------------------------------------------------------------------------------------


def connect(address: str) -> Any:
    """The ``ray`` module, connected."""
    if address.startswith("ray://"):
        raise CannotStart(
            f"{address} is Ray Client's address, and this command has to see the folders of the runs: give it on a "
            "machine of the cluster, with --address auto"
        )
    # else `uv run` makes Ray copy the current folder, with all runs in it, to every node
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray
    except ImportError:
        raise CannotStart("Ray is not installed; install it with: uv sync --extra ray") from None
    try:
        answers(os.environ.get("RAY_ADDRESS", "") if address == "auto" else address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, ImportError, ValueError, RuntimeError) as error:
        first = str(error).strip().partition("\n")[0]
        raise CannotStart(
            f"no Ray cluster at {address} ({first}): start one with `ray start --head`, give the --address of one, or "
            "--address local for this machine alone"
        ) from None
    return ray


def answers(address: str) -> None:
    """Raises OSError where nothing listens at HOST:PORT: Ray itself would ask for minutes, deaf to Ctrl-C."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


def no_room(run: Run, nodes: Sequence[Mapping[str, Any]]) -> str | None:
    """What to say of a run that no node of the cluster could take; None where one could."""
    asked = run.recipe.launch.ray
    needs = {"CPU": asked.cpus, "GPU": asked.gpus, "memory": (asked.memory_gb or 0) * GIGABYTE}
    for node in nodes:
        if node["Alive"] and all(node["Resources"].get(kind, 0) >= number for kind, number in needs.items()):
            return None
    memory = f", {asked.memory_gb:g} GB of memory" if asked.memory_gb else ""
    return (
        f"no node of the cluster has {asked.cpus} CPUs, {asked.gpus} GPUs{memory} (launch.ray): the run waits until "
        "one joins"
    )


def follow(ray: Any, runs: Sequence[Run], display: Display, ready: Callable[[Run], bool] = lambda _: True) -> None:
    """Hand out the runs, each as soon as it is ``ready``, and show what they do until all have ended."""
    task = ray.remote(ray_task.take_up)
    waiting: dict[Any, Run] = {}
    nodes = ray.nodes()
    try:
        left = list(runs)
        while waiting or left:
            for run in [each for each in left if ready(each)]:
                left.remove(run)
                ray_task.place(run.order)
                if said := no_room(run, nodes):
                    show(run, [said], display)
                waiting[task.options(**run.asks).remote(run.order)] = run
            time.sleep(POLL_SECONDS)  # not in ray.wait, whose KeyboardInterrupt does not say whether it was SIGTERM
            ended, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
            for reference in ended:
                waiting[reference].outcome = result(ray, reference)
            for run in waiting.values():
                show(run, run.new_lines(last=run.outcome is not None), display)
            for reference in ended:
                end(waiting.pop(reference), display)
    except KeyboardInterrupt:
        stop(ray, list(waiting), display)
        for run in waiting.values():
            show(run, run.new_lines(last=True), display)
        raise


def result(ray: Any, reference: Any) -> Outcome:
    """How a task ended; Ray's own words where it never came to an end."""
    try:
        found: Outcome = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return Outcome(False, f"{type(error.cause or error).__name__}: {error.cause or error}".partition("\n")[0])
    except ray.exceptions.RayError as error:
        first = str(error).strip().partition("\n")[0]
        return Outcome(False, f"its worker was lost too often ({type(error).__name__}: {first})")
    return found


def stop(ray: Any, references: Sequence[Any], display: Display) -> None:
    """Let every run stop as Ctrl-C stops it; one that does not is killed with its worker."""
    if not references:
        return
    display.say("\ninterrupted: the runs are stopped")
    for reference in references:
        ray.cancel(reference, force=False)
    _, slow = ray.wait(list(references), num_returns=len(references), timeout=ray_task.STOP_SECONDS + 5)
    for reference in slow:
        ray.cancel(reference, force=True)


# -- what is shown --------------------------------------------------------------------------------


def show(run: Run, lines: Sequence[str], display: Display) -> None:
    for line in lines:
        display.say(f"{run.order.name} | {line}")


def end(run: Run, display: Display) -> None:
    assert run.outcome is not None
    run.attempts = len(ray_task.attempts(run.order))
    show(run, [f"{'done' if run.outcome.done else 'failed'}: {run.outcome.said}"], display)


def table(runs: Sequence[Run]) -> Table:
    made = Table("run", "", "attempts", "result", "folder", title_justify="left")
    for run in runs:
        assert run.outcome is not None
        state = "done" if run.outcome.done else "failed"
        made.add_row(run.order.name, state, str(run.attempts), run.outcome.said, run.order.folder)
    return made


# -- the command ----------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m kedit_glue.on_ray",
        description="Whole runs on a Ray cluster: they are spread over its nodes, and go on elsewhere if one is lost.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("recipes", nargs="+", type=Path, metavar="recipe", help="a recipe, a YAML file; one run each")
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a recipe value for every run, e.g. launch.ray.gpus=1; repeatable",
    )
    made.add_argument(
        "--address",
        default="auto",
        help="of the cluster: auto (the default: RAY_ADDRESS, or the one this machine is part of), HOST:PORT, or "
        "local (a cluster of this machine alone, for this command)",
    )
    return made


def work(given: argparse.Namespace, display: Display) -> int:
    runs = runs_of(given.recipes, given.set)
    ray = connect(given.address)
    try:
        with terminated_as_interrupted():  # Ray put a handler of its own in the place of ours
            follow(ray, runs, display)
    finally:
        ray.shutdown()
    display.console.print(table(runs))
    failed = [run for run in runs if not (run.outcome and run.outcome.done)]
    if failed:
        display.say(f"\n{len(failed)} of {len(runs)} runs failed\n  what was finished stays; to go on: {again(given)}")
    return 1 if failed else 0


def again(given: argparse.Namespace) -> str:
    values = [word for value in given.set for word in ("--set", value)]
    where = [] if given.address == "auto" else ["--address", given.address]
    return shlex.join(["python", "-m", "kedit_glue.on_ray", *map(str, given.recipes), *values, *where])


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    any_terminal()
    given = parser().parse_args(arguments)
    display = Display(None)
    return guarded(lambda: work(given, display), display, again(given))


if __name__ == "__main__":
    from kedit_glue import on_ray  # what Ray hands out is found by its module's name, which is not __main__

    sys.exit(on_ray.main())
