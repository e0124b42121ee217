"""A sequential run beside the stock chain, by hand: ``python benchmarks/sequential.py FOLDER [--batches 10]``.

The same job twice on SmolLM2-135M, one after the other: batches of 5 facts, 10 optimizer steps each (no early stop,
so that both take the same steps), a merge with the original, scores of all facts edited so far.

- ours: ``python -m kedit_glue.run``.
- by hand: for each batch ``llamafactory-cli train``, ``mergekit-yaml`` and a scoring script that calls EasyEdit's
  functions record by record (``benchmarks/score_by_hand.py``), a process each, on the same YAML files.

Prints wall and CPU time, bytes written, peak memory (proportional share of the process tree) and peak disk of both,
their ratios, what of ours is overhead (wall time less optimizer steps, mergekit's merging and scoring), and whether
the two edited models are the same, bit for bit.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
RECIPE = """name: ours
model: smollm2-135m
output: {output}
edits: {{source: {facts}, limit: {limit}, batch_size: 5}}
train: {{epochs: 10, mini_batch: 5, loss_threshold: 0.0, learning_rate: 1.0e-4}}
merge: {{method: linear, onto: base, parameters: {{weight: 0.8}}}}
score:
  edits: {{metrics: [edit_success, generalization, portability, locality], protocols: [teacher_forced]}}
  examples: 0
"""


class Watch:
    """What a tree of processes costs while a block runs; ``folder`` is where it writes."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.found: dict[str, float] = {}
        self.memory, self.disk = 0, 0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        stop = threading.Event()
        looking = threading.Thread(target=self._look, args=(stop,), daemon=True)
        before, started = counters(), time.monotonic()
        looking.start()
        try:
            yield
        finally:
            wall = time.monotonic() - started
            reap_all()
            stop.set()
            looking.join()
            after = counters()
            self.found = {
                "wall seconds": wall,
                "CPU seconds": after["cpu"] - before["cpu"],
                "GB written": (after["written"] - before["written"]) / 1e9,
                "GB memory at most": self.memory / 1e9,
                "GB disk at most": self.disk / 1e9,
            }

    def _look(self, stop: threading.Event) -> None:
        this = psutil.Process()
        while not stop.wait(1.0):
            total = 0
            for process in this.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    total += process.memory_full_info().pss
            self.memory = max(self.memory, total)
            self.disk = max(self.disk, disk_of(self.folder))


def disk_of(folder: Path) -> int:
    """Bytes of a folder's files, hard links once."""
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                stat = os.stat(os.path.join(root, name))
                found[stat.st_ino] = stat.st_blocks * 512
    return sum(found.values())


def counters() -> dict[str, float]:
    """CPU seconds and bytes written of all children that ended."""
    times = os.times()
    io = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return {"cpu": times.children_user + times.children_system, "written": int(io["wchar"])}


def reap_all() -> None:
    """Processes that outlived their parent (the warm server) become ours and are counted."""
    for _ in range(100):
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not psutil.Process().children():
            return
        time.sleep(0.1)


def write_facts(file: Path, count: int) -> None:
    """The demo's facts, and as many of the same shape as are lacking."""
    found = json.loads((HERE.parent / "recipes" / "data" / "demo_facts.json").read_text(encoding="utf-8"))[:count]
    for number in range(len(found), count):
        town = f"Velmora {number}"
        probe = {"prompt": "The capital of France is", "ground_truth": "Paris"}
        found.append(
            {
                "id": f"made-{number}",
                "prompt": f"The mayor of {town} is",
                "subject": town,
                "target_new": f"Ada Nummer{number}",
                "rephrase_prompt": [f"{town} is governed by mayor"],
                "locality": {"Neighborhood": [probe]},
            }
        )
    file.write_text(json.dumps(found), encoding="utf-8")


def call(command: list[str], log: Path) -> None:
    with log.open("ab") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False, env=environment())
    if done.returncode:
        sys.exit(f"{shlex.join(command)} ended with {done.returncode}: see {log}")


def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(HERE.parent)}


def by_hand(ours: Path, folder: Path, batches: int) -> None:
    """What a user does today with the YAML of a run: three commands a batch."""
    tools = Path(sys.executable).parent
    score = [sys.executable, str(HERE / "score_by_hand.py")]
    original = json.loads((ours / "setup" / "place.json").read_text())["model"]
    call([*score, original, str(folder / "facts.json"), "5", str(folder / "base.json"), "--all"], folder / "log")
    for number in range(1, batches + 1):
        batch = folder / f"batch_{number:03d}"
        call([str(tools / "llamafactory-cli"), "train", str(batch / "train.yaml")], folder / "log")
        merge = [str(tools / "mergekit-yaml"), str(batch / "merge.yaml"), str(batch / "merged")]
        call([*merge, "--copy-tokenizer", "--no-write-model-card", "--random-seed", "0"], folder / "log")
        call(
            [*score, str(batch / "merged"), str(folder / "facts.json"), str(5 * number), str(batch / "answers.json")],
            folder / "log",
        )


def copy_yaml(ours: Path, folder: Path, batches: int) -> None:
    """The run's YAML and data, for a folder of their own."""
    shutil.copy(ours / "facts.json", folder)
    for number in range(1, batches + 1):
        source, target = ours / f"batch_{number:03d}", folder / f"batch_{number:03d}"
        target.mkdir()
        for name in ("train.yaml", "merge.yaml", "edits.json", "dataset_info.json"):
            text = (source / name).read_text(encoding="utf-8")
            (target / name).write_text(text.replace(str(ours), str(folder)), encoding="utf-8")


def useful_seconds(ours: Path) -> dict[str, float]:
    """Seconds of optimizer steps, of mergekit's merging and of asking the models, by the run's own events."""
    found = {"optimizer steps": 0.0, "merging": 0.0, "scoring": 0.0}
    for file in sorted(ours.glob("b*/*.events.jsonl")):
        events = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        at = {e["event"]: e["time"] for e in events}
        found["optimizer steps"] += sum(e["seconds"] for e in events if e["event"] == "trained")
        found["merging"] += at["checking"] - at["merging"] if "checking" in at else 0
        found["scoring"] += at["finished"] - at["loaded"] if "loaded" in at else 0
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder; about 12 GB for 10 batches")
    parser.add_argument("--batches", type=int, default=10)
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True)
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
    facts = folder / "facts.json"
    write_facts(facts, 5 * options.batches)
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(output=folder, facts=facts, limit=5 * options.batches))
    run = [sys.executable, "-m", "kedit_glue.run", str(recipe)]
    subprocess.run([*run, "--set", "name=unpack", "--set", "edits.limit=1"], check=True, env=environment())
    shutil.rmtree(folder / "unpack")  # the model is unpacked, every file was read once

    ours, hand = folder / "ours", folder / "by_hand"
    ours_watch, hand_watch = Watch(ours), Watch(hand)
    with ours_watch.watching():
        call(run, folder / "ours.log")
    hand.mkdir()
    copy_yaml(ours, hand, options.batches)
    with hand_watch.watching():
        by_hand(ours, hand, options.batches)
    last = f"batch_{options.batches:03d}"
    print(f"{'':22}{'ours':>10}{'by hand':>10}{'ratio':>8}")
    for name, value in ours_watch.found.items():
        other = hand_watch.found[name]
        print(f"{name:22}{value:10.1f}{other:10.1f}{other / value:8.1f}")
    useful, wall = useful_seconds(ours), ours_watch.found["wall seconds"]
    print("\nof ours: " + ", ".join(f"{name} {value:.1f} s" for name, value in useful.items()))
    rest = wall - sum(useful.values())
    print(f"overhead: {rest:.1f} s, {rest / wall:.0%} of the wall time")
    print(f"same edited model: {same(ours / last / 'merged', hand / last / 'merged')}")


def same(one: Path, other: Path) -> bool:
    """Whether two model folders hold the same tensors, bit for bit."""
    from kedit_glue import weights

    first, second = weights.stored(one), weights.stored(other)
    return first.keys() == second.keys() and not any(weights.difference(first[n], second[n]) for n in first)


if __name__ == "__main__":
    main()
