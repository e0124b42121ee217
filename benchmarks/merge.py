"""A batch's merge beside mergekit's own command: ``python benchmarks/merge.py smollm2`` or ``7b``.

Makes a model of random weights, a tuned one (the FFNs of some layers moved), and merges them with
task_arithmetic, in one run:

- ``mergekit-yaml``: the command, as a batch folder's merge.yaml names it; and what it does after its
  imports, forked from a process that has them,
- ours in a process of its own (``python -m kedit_glue.stage``), and forked from a process with the
  imports done, as a run's stages are; the first merge writes the tensors that training does not touch
  once, every further one links them,
- and the touched bytes are copied as they are: what the disk allows.

time: wall clock and CPU (user + system) of the process and its children. written: sizes of the files of
weights that are new on disk (hard links are not), the kept rest of the first merge included. peak:
resident memory by getrusage, pages of mapped files included. Before each one, output is flushed and the
inputs' pages are dropped from the page cache (``--cache cold``) or read (``warm``, the default).
Needs about 3 GB of disk for smollm2 and 40 GB for 7b (``--layers 8``: 12 GB); cleans up after itself.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from kedit_glue import weights
from kedit_glue.stage import execute, quiet_environment

SHAPES: dict[str, dict[str, Any]] = {
    "smollm2": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
        "dtype": "float32",
    },
    "7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    },
}
TOUCHED = {"smollm2": None, "7b": range(4, 9)}
"""Layers whose FFNs training touches, None for all; 4-8 is the paper's recipe."""
SHARD = 5 * 10**9
STOCK, COPY = "mergekit-yaml", "plain copy of the touched bytes"


@dataclass(frozen=True)
class Cost:
    """Seconds and bytes."""

    wall: float
    cpu: float
    written: float
    peak: float


# -- the models ---------------------------------------------------------------------------------


def tensor_shapes(shape: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of a Llama's tensors, in the order of its layers."""
    hidden, ffn = shape["hidden_size"], shape["intermediate_size"]
    kv = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    yield "model.embed_tokens.weight", (shape["vocab_size"], hidden)
    for number in range(shape["num_hidden_layers"]):
        layer = f"model.layers.{number}."
        yield layer + "input_layernorm.weight", (hidden,)
        yield layer + "post_attention_layernorm.weight", (hidden,)
        for name, rows in (("q", hidden), ("k", kv), ("v", kv), ("o", hidden)):
            yield layer + f"self_attn.{name}_proj.weight", (rows, hidden)
        for name in ("gate", "up"):
            yield layer + f"mlp.{name}_proj.weight", (ffn, hidden)
        yield layer + "mlp.down_proj.weight", (hidden, ffn)
    yield "model.norm.weight", (hidden,)
    if not shape["tie_word_embeddings"]:
        yield "lm_head.weight", (shape["vocab_size"], hidden)


def make_models(shape: dict[str, Any], trainable: str, before: Path, tuned: Path) -> None:
    """Both models, a shard in memory at a time; a shard that training does not touch is linked, to save disk."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    dtype = getattr(torch, shape["dtype"])
    noise = torch.randn(1 << 24) * 0.02
    for folder in (before, tuned):
        folder.mkdir()
        config = LlamaConfig(**shape, architectures=["LlamaForCausalLM"])
        config.save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_text("{}")

    def random(sizes: tuple[int, ...], seed: int) -> Any:
        count = torch.Size(sizes).numel()
        block = noise[seed * 7919 % (1 << 23) :][:count]
        return block.repeat(-(-count // len(block)))[:count].reshape(sizes).to(dtype)

    groups: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    size = 0
    for name, sizes in tensor_shapes(shape):
        size += torch.Size(sizes).numel() * dtype.itemsize
        if size > SHARD:
            groups.append([])
            size = torch.Size(sizes).numel() * dtype.itemsize
        groups[-1].append((name, sizes))
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups):
        file = f"model-{number + 1:05d}-of-{len(groups):05d}.safetensors"
        weight_map |= {name: file for name, _ in group}
        tensors = {name: random(sizes, len(name) + number) for name, sizes in group}
        save_file(tensors, before / file, metadata={"format": "pt"})
        found = [name for name in tensors if re.search(trainable, name)]
        if not found:
            (tuned / file).hardlink_to(before / file)
            continue
        for position, name in enumerate(found):
            tensors[name] += (random(tuple(tensors[name].shape), position + 1) * 0.1).to(dtype)
        save_file(tensors, tuned / file, metadata={"format": "pt"})
    for folder in (before, tuned):
        (folder / weights.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def merge_yaml(shape: dict[str, Any], before: Path, tuned: Path) -> str:
    """As a batch's merge.yaml says it (mergekit reads JSON as YAML); bf16 is merged in float32, as recipes do."""
    config: dict[str, Any] = {
        "merge_method": "task_arithmetic",
        "base_model": str(before),
        "models": [{"model": str(tuned), "parameters": {"weight": 0.7}}],
        "parameters": {"normalize": False},
    }
    formats = {"dtype": "float32", "out_dtype": "bfloat16"} if shape["dtype"] == "bfloat16" else {}
    return json.dumps(config | formats)


# -- measuring ----------------------------------------------------------------------------------


@dataclass
class Bench:
    """Two models in a scratch folder, and what merging them cost so far."""

    scratch: Path
    trainable: str
    rounds: int
    cold: bool
    rows: dict[str, Cost] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.log = self.scratch / "log.txt"
        self.before, self.tuned = self.scratch / "before", self.scratch / "tuned"
        self.stock, self.ours, self.copied = (self.scratch / name for name in ("stock", "merged", "copied"))
        self.cache = self.scratch / "cache"
        self.yaml = self.scratch / "merge.yaml"

    def command(self, arguments: list[str]) -> int:
        """Start a program; its process id."""
        with self.log.open("ab") as output:
            return subprocess.Popen(arguments, stdout=output, stderr=output).pid

    def in_child(self, work: Callable[[], None]) -> int:
        """Fork and do ``work``; the child's process id."""
        if pid := os.fork():
            return pid
        try:
            with self.log.open("ab") as output:
                for stream in (1, 2):
                    os.dup2(output.fileno(), stream)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def finished(self, pid: int) -> Any:
        """Wait for a process; its resource usage."""
        _, status, usage = os.wait4(pid, 0)
        if status != 0:
            sys.exit(f"{self.log.read_text()[-3000:]}\na process failed with status {status}")
        return usage

    def files(self) -> dict[int, int]:
        """Inode -> bytes of every file of weights; a hard link is the same file."""
        return {s.st_ino: s.st_size for s in map(os.stat, self.scratch.rglob("*.safetensors"))}

    def prepare(self) -> None:
        """Flush what is still to be written, then drop the inputs from the page cache, or read them into it."""
        os.sync()
        for file in (f for folder in (self.before, self.tuned) for f in folder.glob("*.safetensors")):
            with file.open("rb") as handle:
                if self.cold:
                    os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                while not self.cold and handle.read(1 << 20):
                    pass

    def measure(self, name: str, start: Callable[[], int], *outputs: Path) -> None:
        """Run a process ``rounds`` times, each time without its outputs, and print the median."""
        costs = []
        for _ in range(self.rounds):
            for folder in outputs:
                shutil.rmtree(folder, ignore_errors=True)
            self.prepare()
            there, began = self.files(), time.perf_counter()
            usage = self.finished(start())
            wall = time.perf_counter() - began
            written = sum(size for inode, size in self.files().items() if inode not in there)
            costs.append(Cost(wall, usage.ru_utime + usage.ru_stime, written, usage.ru_maxrss * 1024))
        self.rows[name] = Cost(*(statistics.median(values) for values in zip(*map(astuple, costs), strict=True)))
        self.report(name)

    def report(self, name: str) -> None:
        """One line, beside ``mergekit-yaml`` and the plain copy."""
        cost, stock, copy = self.rows[name], self.rows[STOCK], self.rows.get(COPY)
        line = f"{name:34} {cost.wall:8.2f} s wall {cost.cpu:8.2f} s CPU {cost.written / 1e9:7.3f} GB written "
        line += f"{cost.peak / 1e9:6.2f} GB peak"
        if cost is not stock:
            line += f" | {stock.wall / cost.wall:.1f}x less time, {stock.written / cost.written:.1f}x less written"
        if copy and cost is not copy:
            line += f", {cost.wall / copy.wall:.1f}x the copy's time"
        print(line, flush=True)

    def job_file(self) -> Path:
        """A merge stage's job, as a run writes it."""
        arguments = {
            "merge_yaml": str(self.yaml),
            "output": str(self.ours),
            "before": str(self.before),
            "original": str(self.before),
            "tuned": [{"model": str(self.tuned), "adapter": None}],
            "trainable": self.trainable,
            "earlier": None,
            "stats": str(self.scratch / "stats.json"),
            "cache": str(self.cache),
            "seed": 0,
            "device": "cpu",
            "trust_remote_code": False,
        }
        job = {"function": "merge", "arguments": arguments, "threads": None}
        file = self.scratch / "job.json"
        places = {"events": str(self.scratch / "events.jsonl"), "result": str(self.scratch / "result.json")}
        file.write_text(json.dumps(job | places))
        return file

    def stock_merge(self) -> None:
        """What ``mergekit-yaml`` does after its imports (mergekit 0.1.5, scripts/run_yaml.py)."""
        from mergekit.config import MergeConfiguration
        from mergekit.merge import run_merge
        from mergekit.options import MergeOptions

        options = MergeOptions(write_model_card=False, random_seed=0, device="cpu", quiet=True)
        run_merge(MergeConfiguration.model_validate(json.loads(self.yaml.read_text())), str(self.stock), options)

    def copy_touched(self) -> None:
        self.copied.mkdir()
        for file in {at.file for name, at in weights.stored(self.ours).items() if re.search(self.trainable, name)}:
            shutil.copyfile(file, self.copied / file.name)

    def same_bits(self) -> tuple[int, int]:
        """How many touched tensors have mergekit's bits, of how many."""
        stock, ours = weights.stored(self.stock), weights.stored(self.ours)
        found = [weights.difference(stock[n], ours[n]) is None for n in ours if re.search(self.trainable, n)]
        return sum(found), len(found)


def run(name: str, layers: int | None, scratch: Path, rounds: int, cold: bool) -> None:
    shape = SHAPES[name] | ({"num_hidden_layers": layers} if layers else {})
    touched = [n for n in TOUCHED[name] or range(shape["num_hidden_layers"]) if n < shape["num_hidden_layers"]]
    bench = Bench(scratch, rf"\.({'|'.join(map(str, touched))})\.mlp\.", rounds, cold)
    bench.finished(bench.in_child(lambda: make_models(shape, bench.trainable, bench.before, bench.tuned)))
    bench.yaml.write_text(merge_yaml(shape, bench.before, bench.tuned))
    sizes = {tensor: at.size for tensor, at in weights.stored(bench.before).items()}
    part, total = sum(v for n, v in sizes.items() if re.search(bench.trainable, n)), sum(sizes.values())
    print(
        f"{name}: {shape['num_hidden_layers']} layers, {shape['dtype']}, {total / 1e9:.2f} GB; FFNs of {len(touched)} "
        f"layers are touched: {part / 1e9:.2f} GB, {part / total:.0%}; inputs {'not ' if cold else ''}in the page "
        f"cache; median of {rounds}",
        flush=True,
    )
    program = Path(sys.executable).parent / "mergekit-yaml"
    options = ["--copy-tokenizer", "--no-write-model-card", "--random-seed", "0"]
    bench.measure(
        STOCK, lambda: bench.command([str(program), str(bench.yaml), str(bench.stock), *options]), bench.stock
    )
    os.environ |= quiet_environment(offline=True)  # what a run sets for its stages
    stage = [sys.executable, "-m", "kedit_glue.stage", str(bench.job_file())]
    bench.measure("ours, own process, first merge", lambda: bench.command(stage), bench.ours, bench.cache)
    bench.measure("ours, own process, further merge", lambda: bench.command(stage), bench.ours)
    same, count = bench.same_bits()
    bench.measure(COPY, lambda: bench.in_child(bench.copy_touched), bench.copied)

    from kedit_glue.tools.mergekit import preload

    preload()  # last: a process that is started from a large one is counted as large (ru_maxrss)
    for folder in (bench.copied, bench.stock):
        shutil.rmtree(folder)
    bench.measure("mergekit, warm", lambda: bench.in_child(bench.stock_merge), bench.stock)
    shutil.rmtree(bench.stock)
    warm = partial(execute, stage[-1])
    bench.measure("ours, warm, first merge", lambda: bench.in_child(warm), bench.ours, bench.cache)
    bench.measure("ours, warm, further merge", lambda: bench.in_child(warm), bench.ours)
    print(f"{same} of {count} touched tensors have {STOCK}'s bits")
    if same != count:
        sys.exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--layers", type=int, help="fewer layers, for a smaller machine")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--cache", choices=["warm", "cold"], default="warm")
    parser.add_argument("--scratch", type=Path, help="where to make the models (default: the system's folder)")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit("terminated"))  # so that the scratch folder goes
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        run(given.shape, given.layers, Path(scratch), given.rounds, given.cache == "cold")


if __name__ == "__main__":
    main()
