"""What a long run's own bookkeeping costs: ``python benchmarks/growth.py [BATCHES …]`` (10 100 1000 10000).

Simulates a run of so many batches of one fact and four stages each, stopped before its last batch: the real plan,
renderer and ledger (``keep: deltas``) write its files, records and small outputs; no tool runs. Then a new process
starts as a resumed run does. A line for each size, in seconds of processor time:

    plan    make_plan, with reading the facts
    files   write_data and write_rendered; nothing of what they write has changed
    todo    Ledger.todo: what is done, by keys and hashes
    keep    Keeper.begin
    stage   Ledger.begin and finish of the first stage that is to be done, in milliseconds
    memory  MB that the process takes at most
"""

from __future__ import annotations

import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kedit_glue import files, job, packed
from kedit_glue.keeping import PACKED, Keeper
from kedit_glue.ledger import Ledger
from kedit_glue.merging import MergeMethod
from kedit_glue.plan import Place, Plan, Stage, make_plan
from kedit_glue.recipe import Recipe

VERSIONS = {"llamafactory": "0.9.5", "mergekit": "0.1.5", "lm-eval": "0.4.13", "transformers": "5.6.0"}
METHOD = MergeMethod("task_arithmetic", "required", 1, None, {"weight": "non_base"})
RECIPE = {
    "name": "growth",
    "model": "/original",
    "edits": {"source": "facts.json", "batch_size": 1},
    "train": {"layers": "4-8", "mini_batch": 1},
    "merge": {"method": "task_arithmetic", "onto": "previous", "parameters": {"weight": 0.7}},
    "score": {"edits": {"old_facts": 20}, "general": {"tasks": ["arc_easy"], "when": "each"}},
}


def plan_in(folder: Path) -> Plan:
    place = Place(folder, "/original", "print of the original", "cpu", 12, METHOD, VERSIONS)
    return make_plan(Recipe.model_validate(RECIPE), json.loads((folder / "facts.json").read_bytes()), place)


def simulate(folder: Path, batches: int) -> None:
    """A run that was stopped when its last batch was to begin."""
    facts = [{"id": f"f{n}", "prompt": f"Fact {n} is", "target_new": "new", "response": " new"} for n in range(batches)]
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    plan, ledger = plan_in(folder), Ledger(VERSIONS, folder)
    files.write_data(plan.data)
    files.write_rendered(plan.files, None)
    for stage in plan.stages:
        if stage.batch != batches:
            pretend(stage, ledger, last=stage.batch == batches - 1)


def pretend(stage: Stage, ledger: Ledger, last: bool) -> None:
    """What a stage leaves, and what ``keep: deltas`` leaves of that."""
    ledger.begin(stage)
    stage.output.parent.mkdir(parents=True, exist_ok=True)
    for path in stage.beside:
        path.write_text("{}\n" * 100, encoding="utf-8")
    if stage.job.function not in ("train", "merge"):
        stage.working.write_text(json.dumps({"facts": [{"id": "f", "edit_success": 1.0}] * 21}), encoding="utf-8")
        ledger.finish(stage, {"facts": 21}, 1.0)
        return
    stage.working.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (stage.working / name).write_text(f"{name} of {stage.name}", encoding="utf-8")
    ledger.finish(stage, {"learned": 1, "facts": 1}, 1.0)
    if stage.job.function == "train":
        ledger.release(stage, packed=None)
    elif not last:
        kept = stage.output.with_name(PACKED)
        kept.mkdir()
        packed.write_manifest(kept, packed.Manifest(format=1, original="/original", original_seen={}, files={}))
        ledger.release(stage, packed=PACKED)


def timed(found: dict[str, float], name: str, work: Callable[..., Any], *arguments: Any) -> Any:
    began = time.process_time()
    made = work(*arguments)
    found[name] = time.process_time() - began
    return made


def start(folder: Path) -> dict[str, float]:
    """The start of a resumed run, and a stage of it."""
    gc.set_threshold(*job.GARBAGE)
    found: dict[str, float] = {}
    plan = timed(found, "plan", plan_in, folder)
    timed(found, "files", lambda: [files.write_data(plan.data), files.write_rendered(plan.files, None)])
    todo = timed(found, "todo", (ledger := Ledger(VERSIONS, folder)).todo, plan.stages, {}, plan.final_model)
    pending = [item.stage for item in todo if item.reason is not None]
    assert {stage.batch for stage in pending} == {len(plan.batches)}, "all else stands"
    timed(found, "keep", Keeper(plan, ledger, "deltas", Path("/original")).begin, [s.name for s in pending])
    timed(found, "stage", pretend, pending[0], ledger, True)
    return {**found, "stage": 1000 * found["stage"], "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}


def main(words: list[str]) -> None:
    if words[:1] == ["--start"]:
        print(", ".join(f"{name} {value:.3g}" for name, value in start(Path(words[1])).items()))
        return
    for batches in map(int, words or (10, 100, 1000, 10000)):
        print(f"{batches:6} batches: ", end="", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            simulate(Path(folder), batches)
            subprocess.run([sys.executable, __file__, "--start", folder], check=True)  # its memory is its own


if __name__ == "__main__":
    main(sys.argv[1:])
