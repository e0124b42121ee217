"""Candidates a minute: merge.search in memory, a merge and a score on disk for each, and mergekit-evolve.

    uv run python benchmarks/search.py RUN [--candidates 10] [--evolve]

RUN is a run with ``merge.search`` whose tuned model is still there (``keep: all``), such as

    uv run python -m kedit_glue.run recipes/smollm2_search.yaml --set keep=all

All three judge the same merges on the same facts and texts of that run, one after another on an idle machine:

- memory   what merge.search does, the loading of the models apart
- disk     ``mergekit-yaml``, then a process that loads the result and asks the same questions: what a loop by hand does
- evolve   ``mergekit-evolve`` itself (needs ``mergekit[evolve]``), one local task of the same paraphrases, its default
           way on disk; of its output the seconds between evaluations are taken
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

BIN = Path(sys.executable).parent
ASK = """
import json, sys
from pathlib import Path
from kedit_glue.tools import asking
from kedit_glue.tools.probes import Probes
job = json.loads(Path(sys.argv[1]).read_text())
facts = [f for f in json.loads(Path(job["facts"]).read_text()) if f["id"] in set(job["ids"])]
model, tokenizer = asking.load(sys.argv[2], job["device"], False)
asker = asking.Asker(model, tokenizer, lambda event: None)
probes = Probes(facts, asker, job["search"]["fitness"])
answers = probes.ask(asker, lambda group: None)
print(sum(a.accuracy for a in answers[: len(probes.paraphrases)]) / max(len(probes.paraphrases), 1))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--candidates", type=int, default=10)
    parser.add_argument("--evolve", action="store_true", help="also mergekit-evolve")
    asked = parser.parse_args()
    (job_file,) = sorted(asked.run.glob("batch_*/search.job.json"))[-1:]
    job = json.loads(job_file.read_text(encoding="utf-8"))["arguments"]
    configs = merges(job, asked.candidates)
    found = {"memory": in_memory(job, configs), "disk": on_disk(job, job_file, configs[:3])}
    if asked.evolve:
        found["evolve"] = evolved(job, asked.candidates)
    for name, seconds in found.items():
        ratio = seconds / found["memory"]
        print(f"{name:8} {seconds:8.2f} s a candidate  {60 / seconds:7.1f} a minute  {ratio:6.1f} x memory's time")


def merges(job: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """The first candidates of chance, the same for all."""
    from kedit_glue.tools.optimizers import optimizer
    from kedit_glue.tools.search import task_of

    task = task_of({**job, "space": "ps"})
    chooser = optimizer("random", [gene.begin for gene in task.genes()], 0.2, count, count, job["seed"], 1)
    return [{**task.config(vector), **job["formats"]} for vector in chooser.ask(count)]


def in_memory(job: dict[str, Any], configs: list[dict[str, Any]]) -> float:
    from kedit_glue.tools.candidates import Candidates

    judge = Candidates(job)
    judge.judge(configs[0])  # the first one reads the weights from the disk
    started = time.monotonic()
    parts = [judge.judge(config)["parts"] for config in configs]
    seconds = time.monotonic() - started
    print("memory: paraphrases", [round(p["paraphrases"], 4) for p in parts], flush=True)
    return seconds / len(configs)


def on_disk(job: dict[str, Any], job_file: Path, configs: list[dict[str, Any]]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        arguments = Path(folder, "job.json")
        arguments.write_text(json.dumps(job), encoding="utf-8")
        said = []
        started = time.monotonic()
        for config in configs:
            Path(folder, "merge.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
            out = Path(folder, "merged")
            shutil.rmtree(out, ignore_errors=True)
            merge = [BIN / "mergekit-yaml", Path(folder, "merge.yaml"), out, "--copy-tokenizer", "--random-seed", "0"]
            subprocess.run(merge, check=True, capture_output=True)
            ask = [sys.executable, "-c", ASK, arguments, out]
            said.append(float(subprocess.run(ask, check=True, capture_output=True, text=True).stdout.split()[-1]))
        seconds = time.monotonic() - started
    print("disk:   paraphrases", [round(value, 4) for value in said], flush=True)
    return seconds / len(configs)


def evolved(job: dict[str, Any], count: int) -> float:
    """mergekit-evolve on the same models, judged by lm-eval on the paraphrases and the texts as one task each."""
    facts = [f for f in json.loads(Path(job["facts"]).read_text(encoding="utf-8")) if f["id"] in set(job["ids"])]
    rows = [{"text": f"{p} {f['target_new']}"} for f in facts for p in (f["rephrase_prompts"] or [f["prompt"]])]
    rows += [{"text": f"{probe['prompt']} {probe['answers'][0]}"} for f in facts for kind in f["locality"].values() for probe in kind]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        task = {
            "task": "kedit_rows", "dataset_path": "json", "output_type": "loglikelihood_rolling", "test_split": "train",
            "dataset_kwargs": {"data_files": str(Path(folder, "rows.jsonl"))}, "doc_to_text": "", "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "bits_per_byte"}],
        }  # fmt: skip
        Path(folder, "kedit_rows.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
        said = yaml.safe_load(Path(job["evolve"]).read_text(encoding="utf-8"))
        said["tasks"] = [{"name": "kedit_rows", "weight": -1.0, "metric": "bits_per_byte,none"}]
        said["limit"] = None
        said["apply_chat_template"] = False
        Path(folder, "evolve.yaml").write_text(yaml.safe_dump(said), encoding="utf-8")
        command = [
            BIN / "mergekit-evolve", Path(folder, "evolve.yaml"), "--storage-path", Path(folder, "store"),
            "--task-search-path", folder, "--max-fevals", str(count), "--no-vllm", "--no-merge-cuda",
            "--strategy", "serial", "--batch-size", "8", "--num-gpus", "1",
        ]  # fmt: skip
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - started
        print(done.stdout[-1500:], done.stderr[-3000:], f"evolve: exit {done.returncode}, {seconds:.0f} s", flush=True)
    return seconds / count


if __name__ == "__main__":
    main()
