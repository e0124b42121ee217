"""Our own time per batch beside the tools': ``python benchmarks/overhead.py runs/NAME``.

Reads a finished run's events and records; starts nothing. The tools' time is what passes inside
LLaMA-Factory's ``run_exp``, mergekit's ``run_merge`` and EasyEdit's and lm-eval's calls (model loading
and saving, which are theirs, included). Ours is the rest of each stage's wall time: the process, the
imports, R-SFT's question for the final losses, the checks after a merge, hashing and records.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

STAGES = ("train", "merge", "score")


def stage_seconds(folder: Path, stage: str) -> tuple[float, float] | None:
    """(wall, tool) seconds of one stage of a batch, None where it did not run."""
    record, events = folder / f"{stage}.record.json", folder / f"{stage}.events.jsonl"
    if not record.is_file() or not events.is_file():
        return None
    wall = json.loads(record.read_text(encoding="utf-8"))["seconds"]
    found = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    times = {e["event"]: e["time"] for e in found}
    tool = next(e["seconds"] for e in found if e["event"] == "finished")
    tool -= sum(e.get("evaluation_seconds", 0) for e in found)  # R-SFT's own question for the final losses
    if "checking" in times:  # what follows mergekit's own work in a merge stage
        tool -= times["finished"] - times["checking"]
    return wall, tool


def main(run: Path) -> None:
    rows = []
    for folder in sorted(run.glob("batch_*")):
        seconds = {stage: found for stage in STAGES if (found := stage_seconds(folder, stage))}
        own = {stage: wall - tool for stage, (wall, tool) in seconds.items()}
        rows.append((sum(own.values()), sum(wall for wall, _ in seconds.values())))
        parts = ", ".join(f"{stage} {value:.2f}" for stage, value in own.items())
        print(f"{folder.name}: own {rows[-1][0]:.2f} s ({parts}) of {rows[-1][1]:.1f} s")
    if not rows:
        sys.exit(f"{run} holds no finished batch")
    own = [o for o, _ in rows]
    print(
        f"own time per batch: median {statistics.median(own):.2f} s, most {max(own):.2f} s; "
        f"share of the batches' wall time {sum(own) / sum(w for _, w in rows):.1%}"
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
