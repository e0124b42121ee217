"""Candidates a minute: merge.search in memory, a merge and a score on disk for each, and mergekit-evolve.

    uv run python benchmarks/search.py RUN [--candidates 10] [--evolve]

RUN is a run with ``merge.search`` whose tuned model is still there (``keep: all``), such as

    uv run python -m kedit_glue.run recipes/smollm2_search.yaml --set keep=all

All three judge the same merges on the same facts and texts of that run, one after another on an idle machine:

- memory   what merge.search does, the loading of the models apart
- disk     ``mergekit-yaml``, then a process that loads the result and asks the same questions: what a loop by hand does
- evolve   ``mergekit-evolve`` itself (needs ray, cma and wandb), its default way, which merges to the disk, on a local
           task of the same paraphrases and locality probes (not the texts), each read as one text
"""

from __future__ import annotations

import argparse
import json
import os
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
from kedit_glue.tools.probes import Probes, texts_of
job = json.loads(Path(sys.argv[1]).read_text())
facts = [f for f in json.loads(Path(job["facts"]).read_text()) if f["id"] in set(job["ids"])]
model, tokenizer = asking.load(sys.argv[2], job["device"], False)
asker = asking.Asker(model, tokenizer, lambda event: None)
probes = Probes(facts, asker, job["search"]["fitness"], texts_of(job["search"]["fitness"]))
answers = probes.ask(asker, lambda group: None)
print(sum(a.accuracy for a in answers[: len(probes.paraphrases)]) / max(len(probes.paraphrases), 1))
"""

GENERATION = 4
# What is bent of mergekit-evolve (mergekit 0.1.5): evo/actors.py:137 looks for lm_eval.models.vllm_causallms, which
# lm-eval 0.4.13 imports on demand only, and only beside vllm; its actors ask Ray for a GPU even where nothing uses one
# (actors.py:78), and call torch.cpu.empty_cache, which torch has not (actors.py:97); lm-eval takes
# a device of cuda for granted that nobody named (evo/helpers.py:35).
STUB = """
import importlib.abc, importlib.util, sys
class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name == "lm_eval.models.vllm_causallms":
            return importlib.util.spec_from_loader(name, self)
        if name == "mergekit.evo.actors":
            import functools, lm_eval.models.huggingface, lm_eval.models.vllm_causallms, torch.cpu
            torch.cpu.empty_cache = lambda: None
            lm_eval.simple_evaluate = functools.partial(lm_eval.simple_evaluate, device="cpu")
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        module.VLLM = type("VLLM", (), {})
sys.meta_path.insert(0, Finder())
"""
START = """
import ray
ray.init(num_cpus=2, num_gpus=1)
from mergekit.scripts.evolve import main
main()
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
        found["evolve"] = evolved(job)
    for name, seconds in found.items():
        ratio = seconds / found["memory"]
        print(f"{name:8} {seconds:8.2f} s a candidate  {60 / seconds:7.1f} a minute  {ratio:6.1f} x memory's time")


def merges(job: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """The first candidates of chance, the same for all."""
    from kedit_glue.search.task import task_of
    from kedit_glue.tools.optimizers import optimizer

    task = task_of({**job, "space": "ps"})
    chooser = optimizer("random", [gene.begin for gene in task.genes()], 0.2, count, count, job["seed"], 1)
    return [{**task.config(vector), **job["formats"]} for vector in chooser.ask(count)]


def in_memory(job: dict[str, Any], configs: list[dict[str, Any]]) -> float:
    from kedit_glue.tools.candidates import Candidates
    from kedit_glue.tools.probes import texts_of

    judge = Candidates(job, texts_of(job["search"]["fitness"]))
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


def evolved(job: dict[str, Any]) -> float:
    """mergekit-evolve on the same models; lm-eval reads each of the run's paraphrases and locality probes as a text."""
    facts = [f for f in json.loads(Path(job["facts"]).read_text(encoding="utf-8")) if f["id"] in set(job["ids"])]
    rows = [f"{prompt} {f['target_new']}" for f in facts for prompt in (f["rephrase_prompts"] or [f["prompt"]])]
    probes = [probe for f in facts for kind in f["locality"].values() for probe in kind]
    rows += [f"{probe['prompt']} {probe['answers'][0]}" for probe in probes]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "rows.jsonl")
        data.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
        task = {
            "task": "rows",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": str(data)},
            "test_split": "train",
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "bits_per_byte"}],
        }
        Path(folder, "rows.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
        said = yaml.safe_load(Path(job["evolve"]).read_text(encoding="utf-8"))
        said["tasks"] = [{"name": "rows", "weight": -1.0, "metric": "bits_per_byte,none"}]
        said |= {"limit": None, "apply_chat_template": False, "fewshot_as_multiturn": False}
        Path(folder, "evolve.yaml").write_text(yaml.safe_dump(said), encoding="utf-8")
        Path(folder, "vllm_stub.py").write_text(STUB, encoding="utf-8")
        Path(folder, "sitecustomize.py").write_text("import vllm_stub\n", encoding="utf-8")
        command = [
            *(
                sys.executable,
                "-c",
                START,
                str(Path(folder, "evolve.yaml")),
                "--storage-path",
                str(Path(folder, "store")),
            ),
            *("--task-search-path", folder, "--max-fevals", str(3 * GENERATION), "--no-merge-cuda", "--no-reshard"),
            *("--force-population-size", str(GENERATION), "--batch-size", "8", "--num-gpus", "1"),
        ]
        surroundings = {**os.environ, "PYTHONPATH": folder, "PYTHONUNBUFFERED": "1", "WANDB_MODE": "disabled"}
        begun, said_last = [], []
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=surroundings, cwd=folder
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                said_last = [*said_last[-40:], line]
                if line.startswith(("Received", "!!! OPTIMIZATION COMPLETE")):
                    begun.append(time.monotonic())
        if process.returncode or len(begun) < 4:
            sys.exit(f"mergekit-evolve ended with {process.returncode}:\n{''.join(said_last)}")
    print(f"evolve: {3 * GENERATION} merges, the first {GENERATION} of them with imports: left out", flush=True)
    return (begun[-1] - begun[1]) / (GENERATION * (len(begun) - 2))


if __name__ == "__main__":
    main()
