"""Kills runs wherever it can, resumes them, and compares: ``python tests/kill_anywhere.py RECIPE FOLDER``.

RECIPE is a recipe without ``name`` and ``output``. One run is left alone; then others are killed, again and again,
each in a folder of its own until it is done:

- at every boundary: before and after each write of a record, each renaming, deletion and packing of an output, and
  the export;
- at random moments (``--random`` of them): SIGKILL; SIGTERM and SIGINT, which must end with 143 and 130 and a line that
  says how to go on; SIGKILL to the stage's own process, as the kernel does when memory is short, which must end with 1.

``--full-disk`` instead puts a run on a file system (tmpfs, so it wants ``unshare -Urm``) that is too small, again and
again, and makes a little more room each time; each stop must end with 1, name what is missing, and lose nothing.

Every process is forked from this one, which has imported the tools, so that hundreds of starts take seconds.
At the end every model, trace, answer and score is compared with those of the run that was left alone, bit for bit.
Prints a JSON object {kills: {kind: count}, differences: [text]}; exit code 1 where there are differences.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

TIMINGS = {"seconds", "step_seconds", "seconds_a_fact", "at", "model", "bytes_written", "finished", "peak_memory_bytes"}
"""Keys whose values differ between equal runs: times, and paths of models."""
MOST = 500
CODES = {"SIGTERM": 143, "SIGINT": 130, "memory": 1}


def prepare() -> None:
    """Import everything, and make stages fork from the run's process, which has it all imported."""
    import kedit_glue.warm  # noqa: F401
    from kedit_glue.runner import Runner

    def start(self: Runner) -> None:
        os.environ.update(self.environment)
        self._context = multiprocessing.get_context("fork")

    Runner.start = start  # type: ignore[method-assign]


def boundaries(at: int | None) -> None:
    """SIGKILL before (``at`` is 2n) or after (2n + 1) the n-th thing that changes the run's folder for good."""
    from kedit_glue import changed, execute, job, ledger, records

    count, run = 0, os.getpid()

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            if os.getpid() != run:  # a stage's process
                return function(*args, **kwargs)
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            found = function(*args, **kwargs)
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return found

        return call

    records.write_record = watched(records.write_record)
    ledger.remove = watched(ledger.remove)
    changed.pack = watched(changed.pack)
    execute.export = job.export = watched(execute.export)
    Path.rename = watched(Path.rename)  # type: ignore[method-assign]


def start(recipe: Path, folder: Path, at: int | None = None) -> int:
    """The process of a run that works in ``folder``; its output goes to ``out``."""
    folder.mkdir(exist_ok=True)
    (folder / "out").unlink(missing_ok=True)
    pid = os.fork()
    if pid:
        return pid
    out = os.open(folder / "out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    code = 99
    try:
        if at is not None:
            boundaries(at)
        from kedit_glue.run import main

        code = main([str(recipe), "--set", "name=run", "--set", f"output={json.dumps(str(folder))}"])
    finally:
        sys.stdout.flush()
        os._exit(code)


def ended(pid: int) -> int:
    """The exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def until_killed(pid: int, after: float, kind: str) -> int | None:
    """Strike after so many seconds; the process's exit code, None where it was through before."""
    end = time.monotonic() + after
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return None if code == 0 else code
        time.sleep(0.002)
    if kind == "memory":
        children = psutil.Process(pid).children()
        for child in children:
            child.kill()
        if not children:
            return until_killed(pid, 0.05, kind)
    else:
        os.kill(pid, {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}[kind])
    code = ended(pid)
    return None if code == 0 else code  # what was killed may have been no stage, or one that was through


def until_it_speaks(file: Path) -> None:
    end = time.monotonic() + 60
    while not (file.is_file() and file.stat().st_size):
        if time.monotonic() > end:
            sys.exit(f"nothing in {file} after a minute")
        time.sleep(0.002)


def state(folder: Path) -> dict[str, Any]:
    """What has to be the same: weights by their hashes; traces, answers and scores without their times."""
    from kedit_glue.content import hash_of

    found: dict[str, Any] = {}
    for file in sorted((folder / "run").rglob("*")):
        name = str(file.relative_to(folder / "run"))
        if file.name == "manifest.json":
            continue  # its paths are the folder's own; the tensors beside it are compared
        if file.suffix == ".safetensors" or file.name == "trace.jsonl":
            found[name] = hash_of(file)
        elif file.name in ("answers.json", "general.json", "scores.json", "merge_stats.json"):
            found[name] = plain(json.loads(file.read_text(encoding="utf-8")))
    return found


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k not in TIMINGS}
    return [plain(v) for v in value] if isinstance(value, list) else value


def compare(name: str, expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return [f"{name}: {key}" for key in sorted({*expected, *found}) if expected.get(key) != found.get(key)]


def records_in(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in (folder / "run").rglob("*.record.json")}


def said_how_to_go_on(folder: Path) -> bool:
    text = (folder / "out").read_text(encoding="utf-8")
    return re.search(r"what was finished stays; to go on: python -m kedit_glue\.run ", text) is not None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--random", type=int, default=30, help="how many strikes at random moments")
    parser.add_argument("--full-disk", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    recipe, folder = options.recipe.resolve(), options.folder.resolve()
    prepare()
    kills: Counter[str] = Counter()
    differences: list[str] = []

    started = time.monotonic()
    if code := ended(start(recipe, folder / "alone")):
        sys.exit(f"the run that was left alone ended with {code}: see {folder / 'alone' / 'out'}")
    whole = time.monotonic() - started
    expected = state(folder / "alone")
    if options.full_disk:
        kills["full disk"] = fill(recipe, folder / "small", differences)
        differences += compare("small", expected, state(folder / "small"))
    else:
        kill_at_boundaries(recipe, folder, expected, kills, differences)
        kill_at_random(recipe, folder, expected, options, whole, kills, differences)
    print(json.dumps({"kills": dict(kills), "seconds_alone": round(whole, 1), "differences": differences}))
    return 1 if differences else 0


Found = dict[str, Any]


def kill_at_boundaries(
    recipe: Path, folder: Path, expected: Found, kills: Counter[str], differences: list[str]
) -> None:
    at, before = 0, records_in(folder / "boundaries")
    while (code := ended(start(recipe, folder / "boundaries", at))) == -signal.SIGKILL:
        kills["boundary"] += 1
        if kills["boundary"] > MOST:
            sys.exit(f"killed {MOST} times and still not through: see {folder / 'boundaries' / 'run' / 'log.txt'}")
        now = records_in(folder / "boundaries")
        at, before = (at + 1 if now == before else 0), now  # the next boundary, counted from the last record
    if code:
        differences.append(f"boundaries: ended with {code}: see {folder / 'boundaries' / 'out'}")
    differences += compare("boundaries", expected, state(folder / "boundaries"))


def kill_at_random(
    recipe: Path,
    folder: Path,
    expected: Found,
    options: argparse.Namespace,
    whole: float,
    kills: Counter[str],
    differences: list[str],
) -> None:
    draw = random.Random(options.seed)
    struck, number = 0, 0
    while struck < options.random:
        name = f"random_{number}"
        number += 1
        while True:
            kind = draw.choice(["SIGKILL"] * 3 + ["SIGTERM", "SIGINT", "memory"])
            pid = start(recipe, folder / name)
            if kind in ("SIGTERM", "SIGINT"):
                until_it_speaks(folder / name / "out")  # before that it is Python that starts
            enough = struck >= options.random
            code = ended(pid) or None if enough else until_killed(pid, draw.uniform(0, whole / 3), kind)
            if code is None:
                break
            struck += 1
            kills[kind] += 1
            if kind in CODES and (code != CODES[kind] or not said_how_to_go_on(folder / name)):
                differences.append(f"{name}: after {kind} it ended with {code}: see {folder / name / 'out'}")
        differences += compare(name, expected, state(folder / name))


def fill(recipe: Path, folder: Path, differences: list[str]) -> int:
    """How often the disk was full until the run was through."""
    from kedit_glue import check

    check.check_room = lambda *arguments: []  # as if another program had filled the disk since the run began
    folder.mkdir()
    size, full = 100, 0
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(folder)], check=True)
    while code := ended(start(recipe, folder)):
        full += 1
        text = (folder / "out").read_text(encoding="utf-8")
        if code != 1 or not re.search(r" free: make room", text) or size > 10**6:
            differences.append(f"with {size} kB it ended with {code} and said: {text[-1000:]}")
            break
        size = size * 5 // 4
        subprocess.run(["mount", "-o", f"remount,size={size}k", str(folder)], check=True)
    return full


if __name__ == "__main__":
    sys.exit(main())
