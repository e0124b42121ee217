"""What protection and its rivals do, in a plain training loop: settings side by side on the same facts.

    python benchmarks/explore.py FACTS OUT.jsonl [NAME ...]        # all of SETTINGS, or the named ones
    python benchmarks/explore.py --table OUT.jsonl [BASELINE]

One edit batch of the first ``--facts`` facts, robust fine-tuning breadth first (mini-batches of 10), then merged with
the original at each of WEIGHTS. The semantics are R-SFT's (``kedit_glue.rsft``) without the tools around it, so that a
setting costs a minute or two, and so that what is no feature yet can be tried: ``gradient`` projects the gradient as
well, ``keys`` takes directions from prompts of other facts of the same file, or from the short facts that are shipped,
instead of running text or beside it. One line of JSON a setting, with every fact's scores; the table gives means with
95 % intervals over facts, and paired differences.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from llamafactory.third_party.muon import Muon

from kedit_glue import corpus, facts, metrics, models, modules, questions, scores
from kedit_glue.sample_losses import sample_losses
from kedit_glue.tools import asking, moments, protect, regmean, scorer
from kedit_glue.tools.prepare import context_sentences, in_contexts

METRICS = ("edit_success", "generalization", "locality")
BASE: dict[str, Any] = {"lr": 1e-4, "layers": None, "k": 0, "epochs": 30, "threshold": 0.05}
EARLY: dict[str, Any] = {"layers": range(4, 9), "k": 128, "at": "subject", "weights": (1.0, 0.8)}
SUBJECT: dict[str, Any] = {**EARLY, "at": "subject but the first", "lr": 5e-3, "optimizer": "muon", "weights": (1.0,)}
TOKENS = (30, 100, 300, 1000)
"""As so many running text counts in the regression mean."""
SETTINGS: dict[str, dict[str, Any]] = {
    "unprotected": {},
    "k 128": {"k": 128},
    "soft 0.1, k 256": {"strength": 0.1, "k": 256},
    "k 128, keys of other facts": {"k": 128, "keys": "only"},
    "energy 0.95": {"energy": 0.95},
    "k 256": {"k": 256},
    "k 128, keys beside texts": {"k": 128, "keys": "beside"},
    "k 128, short facts": {"k": 128, "keys": "short"},
    "k 128, short facts beside texts": {"k": 128, "keys": "short beside"},
    "k 256, short facts": {"k": 256, "keys": "short"},
    "k 128, gradient too": {"k": 128, "gradient": True},
    "k 64": {"k": 64},
    "k 128, 65 texts": {"k": 128, "texts": 65},
    "soft 1, k 256": {"strength": 1.0, "k": 256},
    "soft 0.1, k 256, gradient too": {"strength": 0.1, "k": 256, "gradient": True},
    "layers 4-8, lr 3e-4": {"layers": range(4, 9), "lr": 3e-4},
    "layers 4-8, lr 3e-4, k 128": {"layers": range(4, 9), "lr": 3e-4, "k": 128},
    "k 128, 2 contexts": {"k": 128, "contexts": 2},
    "k 128, swapped": {"k": 128, "keys": "swapped"},
    "k 128, swapped, strangers": {"k": 128, "keys": "strangers"},
    "k 128, swapped beside short facts": {"k": 128, "keys": "swapped beside"},
    "k 256, swapped beside short facts": {"k": 256, "keys": "swapped beside"},
    "k 128, swapped, names": {"k": 128, "keys": "names"},
    "k 128, swapped, names, beside texts": {"k": 128, "keys": "names beside"},
    "k 128, swapped, names, beside short facts": {"k": 128, "keys": "names short"},
    **{f"k 128 and {n} of swapped, names": {"k": 128, "more": n} for n in (16, 32, 64, 128)},
    "layers 4-8, lr 3e-4, k 128 and 32": {"layers": range(4, 9), "lr": 3e-4, "k": 128, "more": 32},
    "layers 4-8, lr 1e-3, k 128 and 32": {"layers": range(4, 9), "lr": 1e-3, "k": 128, "more": 32},
    "layers 4-8, lr 3e-4, k 128 and 128": {"layers": range(4, 9), "lr": 3e-4, "k": 128, "more": 128},
    "layers 4-8, down_proj, lr 1e-3, k 128 and 32": {
        "layers": range(4, 9),
        "modules": ["down_proj"],
        "lr": 1e-3,
        "k": 128,
        "more": 32,
    },
    "layers 4-8, lr 3e-4, k 128 and 32, 2 contexts": {
        "layers": range(4, 9),
        "lr": 3e-4,
        "k": 128,
        "more": 32,
        "contexts": 2,
    },
    "layers 0-9, k 128 and 32": {"layers": range(10), "k": 128, "more": 32},
    "subject, layers 4-8, lr 3e-4": {"layers": range(4, 9), "lr": 3e-4, "at": "subject"},
    "subject, layers 4-8, lr 3e-4, k 128": {"layers": range(4, 9), "lr": 3e-4, "k": 128, "at": "subject"},
    "subject, layers 4-8, lr 3e-4, k 128, 3 contexts": {
        "layers": range(4, 9),
        "lr": 3e-4,
        "k": 128,
        "at": "subject",
        "contexts": 3,
    },
    "subject, layers 0-14, lr 2e-4, k 128": {"layers": range(15), "lr": 2e-4, "k": 128, "at": "subject"},
    "subject's last, layers 4-8, lr 3e-4, k 128": {"layers": range(4, 9), "lr": 3e-4, "k": 128, "at": "last"},
    "subject, all layers, k 128": {"k": 128, "at": "subject"},
    "layers 4-8, lr 3e-4, k 128, short facts": {"layers": range(4, 9), "lr": 3e-4, "k": 128, "keys": "short"},
    "layers 0-9, k 128, short facts": {"layers": range(10), "k": 128, "keys": "short"},
    "energy 0.9": {"energy": 0.9},
    "k 32": {"k": 32},
    "subject, layers 4-8, lr 1e-3, k 128": {**EARLY, "lr": 1e-3},
    "subject, layers 4-8, lr 2e-3, k 128": {**EARLY, "lr": 2e-3},
    "subject, layers 4-8, SGD, lr 1, k 128": {**EARLY, "lr": 1.0, "optimizer": "sgd"},
    "subject, layers 4-8, down_proj, lr 1e-3, k 256": {**EARLY, "modules": ["down_proj"], "lr": 1e-3, "k": 256},
    "subject, layers 4-8, Muon, lr 5e-3, k 128": {**EARLY, "lr": 5e-3, "optimizer": "muon"},
    "subject but the first, layers 4-8, Muon, lr 5e-3, k 128": {
        **EARLY,
        "at": "subject but the first",
        "lr": 5e-3,
        "optimizer": "muon",
    },
    "subject but the first, layers 4-8, Muon, lr 2e-3, k 128": {
        **EARLY,
        "at": "subject but the first",
        "lr": 2e-3,
        "optimizer": "muon",
    },
    "all but the first, k 128": {"k": 128, "at": "all but the first"},
    "unprotected, regmean": {"weights": (1.0,), "regmean": TOKENS},
    "unprotected, lr 3e-4, regmean": {"lr": 3e-4, "weights": (1.0,), "regmean": TOKENS},
    "k 128, regmean": {"k": 128, "weights": (1.0,), "regmean": TOKENS},
    "layers 4-8, lr 3e-4, regmean": {"layers": range(4, 9), "lr": 3e-4, "weights": (1.0,), "regmean": TOKENS},
    "layers 4-8, lr 1e-3, regmean": {"layers": range(4, 9), "lr": 1e-3, "weights": (1.0,), "regmean": TOKENS},
    "subject but the first, Muon, lr 5e-3, regmean": {**SUBJECT, "k": 0, "regmean": TOKENS},
    "subject but the first, Muon, lr 5e-3, k 128, regmean": {**SUBJECT, "regmean": TOKENS},
    "subject but the first, AdamW, lr 2e-3, regmean": {
        **SUBJECT,
        "k": 0,
        "lr": 2e-3,
        "optimizer": "adamw",
        "regmean": TOKENS,
    },
}
WEIGHTS = (1.0, 0.7)
"""Of the tuned model in the merge with the original; 1: no merging."""


class Bench:
    def __init__(self, file: Path, count: int, model: str):
        self.folder = models.unpack(model)
        self.model, self.tokenizer = asking.load(str(self.folder), "cpu", False)
        loaded = [asdict(e) for e in facts.load(file, "auto", count + 300).edits]
        self.facts = [{**f, "id": str(n)} for n, f in enumerate(loaded[:count])]
        self.others = [f["prompt"] for f in loaded[count:]]
        self.strangers = [f["subject"] for f in loaded[count:] if f["subject"]]
        self.base = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        self.texts = corpus.read_texts(Path("recipes/data/general_text.jsonl"))[:40]
        self.before, self.perplexity = self.ask(), self.word_loss()
        self.moments: dict[Any, dict[str, Any]] = {}
        self.tokens: dict[Any, int] = {}
        self.free: torch.Tensor | None = None

    def ask(self) -> dict[str, Any]:
        asked = [question for fact in self.facts for question in questions.about(fact, METRICS)]
        found = scorer.forced(asked, asking.Asker(self.model, self.tokenizer, lambda event: None))
        return {"facts": [{"id": fact, "teacher_forced": values} for fact, values in found.items()]}

    def word_loss(self) -> float:
        """Perplexity per token on general text that no direction came from."""
        total = tokens = 0.0
        self.tokenizer.padding_side = "left"
        with torch.no_grad():
            for start in range(0, len(self.texts), 10):
                batch = self.tokenizer(
                    self.texts[start : start + 10], return_tensors="pt", padding=True, truncation=True, max_length=96
                )
                labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
                count = (labels[:, 1:] != -100).sum(dim=1)
                total += float((sample_losses(self.model(**batch).logits, labels) * count).sum())
                tokens += int(count.sum())
        return math.exp(total / tokens)

    def swapped(self, subjects: list[str]) -> list[str]:
        """Each fact's prompt about eight others of these subjects."""
        draw, found = random.Random(0), []
        for f in self.facts:
            if f["subject"] and f["subject"] in f["prompt"]:
                others = [s for s in subjects if s and s != f["subject"]]
                found += [f["prompt"].replace(f["subject"], s) for s in draw.sample(others, min(8, len(others)))]
        return found

    def directions(self, trained: dict[str, Any], s: dict[str, Any]) -> dict[str, Any]:
        """Parameter name -> U [inputs, k]."""
        general = corpus.read_texts(Path("recipes/data/background_text.jsonl"))[: s.get("texts")]
        short = corpus.read_texts(Path("recipes/data/short_facts.jsonl"))
        names = corpus.read_texts(Path("recipes/data/subjects.jsonl"))
        texts = {
            None: general,
            "only": self.others,
            "beside": general + self.others,
            "short": short,
            "short beside": general + short,
            "names": self.swapped(names),
            "names beside": general + self.swapped(names),
            "names short": short + self.swapped(names),
            "swapped": self.swapped([f["subject"] for f in self.facts]),
            "strangers": self.swapped(self.strangers),
            "swapped beside": short + self.swapped([f["subject"] for f in self.facts]),
        }[s.get("keys")]
        source = (s.get("texts"), s.get("keys"))
        held = self.moments.setdefault(source, {})
        if missing := [n for n in trained if n not in held]:
            owners = [n.rpartition(".")[0] for n in missing]
            found, self.tokens[source] = moments_of(self.model, self.tokenizer, owners, texts)
            held |= {n: found[o] for n, o in zip(missing, owners, strict=True)}
        made: dict[int, Any] = {}
        for name in trained:
            moment = held[name]
            if id(moment) not in made:
                columns, _ = protect.leading(moment, s.get("k") or None, s.get("energy"), s.get("strength"))
                made[id(moment)] = torch.from_numpy(columns)
        if s.get("more"):
            self.directions(trained, {"k": s["k"], "keys": "names"})  # reads their moments
            of_names = self.moments[None, "names"]
            for name in trained:
                key = id(held[name])
                if made[key].shape[1] == s["k"]:
                    made[key] = beyond(made[key], of_names[name], s["more"])
        return {name: made[id(held[name])] for name in trained}

    def sample(self, prompt: str, target: str, subject: str, at: str | None) -> tuple[list[int], list[int], list[bool]]:
        """Token ids, labels, and the tokens at which the weights may be changed: all, the subject's or its last.

        "but the first": not at the first token of the text.
        """
        asked = self.tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
        head, start = asked["input_ids"], prompt.rfind(subject or "?")
        answer = [*self.tokenizer.encode(" " + target, add_special_tokens=False), self.tokenizer.eos_token_id]
        end = start + len(subject or "")
        inside = [a < end and b > start and start >= 0 for a, b in asked["offset_mapping"]]
        if at == "last":
            inside = [i == max((n for n, x in enumerate(inside) if x), default=-1) for i in range(len(inside))]
        if at == "subject but the first" and any(inside[1:]):
            inside[0] = False
        free = inside + [False] * len(answer)
        if at in (None, "all but the first"):
            free = [at is None] + [True] * (len(free) - 1)
        return head + answer, [-100] * len(head) + answer, free

    def only_there(self, trained: dict[str, Any]) -> list[Any]:
        """Elsewhere than in ``self.free`` the trained matrices are used as they are, and learn nothing."""

        def hook(module: Any, inputs: Any, output: Any) -> Any:
            if self.free is None:
                return output
            return torch.where(self.free, output, torch.nn.functional.linear(inputs[0], module.weight.detach()))

        owners = dict(self.model.named_modules())
        return [owners[name.rpartition(".")[0]].register_forward_hook(hook) for name in trained]

    def run(self, name: str, seed: int) -> list[dict[str, Any]]:
        s = {**BASE, **SETTINGS[name]}
        random.seed(seed)
        torch.manual_seed(seed)
        pattern = re.compile(modules.trainable_pattern(s.get("modules", ["mlp"]), s["layers"] and list(s["layers"])))
        trained = {n: p for n, p in self.model.named_parameters() if pattern.search(n)}
        with torch.no_grad():
            for n, p in self.model.named_parameters():
                p.copy_(self.base[n])
                p.requires_grad_(n in trained)
        protected = bool(s["k"] or s.get("energy") or s.get("strength"))
        vectors = self.directions(trained, s) if protected else {}
        sentences = context_sentences(None) if s.get("contexts") else []
        data = [
            self.sample(prompt, f["target_new"], f["subject"], s.get("at"))
            for f in self.facts
            for prompt in [f["prompt"], *in_contexts(f["prompt"], sentences, f["id"], seed, s.get("contexts", 0))]
        ]
        hooks = self.only_there(trained) if s.get("at") else []
        optimizer = optimizer_of(s.get("optimizer", "adamw"), list(trained.values()), s["lr"])
        started, steps = time.monotonic(), 0
        for _ in range(s["epochs"]):
            order, before = random.sample(range(len(data)), len(data)), steps
            for start in range(0, len(order), 10):
                rows = [data[i] for i in order[start : start + 10]]
                steps += self.step(rows, trained, vectors, optimizer, s)
            if steps == before:
                break
        seconds = time.monotonic() - started
        for handle in hooks:
            handle.remove()
        tuned = {n: p.detach().clone() for n, p in trained.items()}
        old = {f["id"]: f for f in self.before["facts"]}
        change = {n: t - self.base[n] for n, t in tuned.items()}
        merges: dict[Any, Any] = {w: {n: w * d for n, d in change.items()} for w in s.get("weights", WEIGHTS)}
        if s.get("regmean"):
            merges |= self.regression_means(change, data, s["regmean"])
        found = []
        for weight, merged in merges.items():
            with torch.no_grad():
                for n, p in trained.items():
                    p.copy_(self.base[n] + merged[n])
            after = self.ask()
            found.append(
                {
                    "name": name,
                    "weight": weight,
                    "seed": seed,
                    "steps": steps,
                    "seconds": round(seconds, 1),
                    "perplexity": self.word_loss() / self.perplexity - 1,
                    "directions": sum(v.shape[1] for v in vectors.values()) / len(vectors) if vectors else 0,
                    "facts": {f["id"]: flat(scores.fact_scores(f, old[f["id"]], {})) for f in after["facts"]},
                }
            )
        return found

    def regression_means(self, change: dict[str, Any], data: Any, tokens: Sequence[float]) -> dict[str, Any]:
        """As ``kedit_glue.tools.regmean`` for the tuned model, which the model is now, and the original."""
        self.directions(change, {"k": 1})  # reads the running text's moments
        rows, _ = regmean.inputs_of(self.model, list(change), [ids for ids, _, _ in data], lambda event: None)
        merged: dict[str, Any] = {f"regmean {count}": {} for count in tokens}
        for name, d in change.items():
            facts = rows[name].double().T @ rows[name].double()
            text = torch.from_numpy(self.moments[None, None][name]).double() / self.tokens[None, None]
            for count in tokens:
                merged[f"regmean {count}"][name] = d @ regmean.weighed(facts, text, count).float()
        return merged

    def step(self, rows: Any, trained: Any, vectors: Any, optimizer: Any, s: dict[str, Any]) -> int:
        longest = max(len(ids) for ids, _, _ in rows)
        ids = torch.tensor([i + [0] * (longest - len(i)) for i, _, _ in rows])
        mask = torch.tensor([[1] * len(i) + [0] * (longest - len(i)) for i, _, _ in rows])
        labels = torch.tensor([t + [-100] * (longest - len(t)) for _, t, _ in rows])
        self.free = torch.tensor([f + [False] * (longest - len(f)) for _, _, f in rows])[..., None]
        losses = sample_losses(self.model(input_ids=ids, attention_mask=mask).logits, labels)
        self.free = None
        active = losses.detach() >= s["threshold"]
        if not active.any():
            return 0
        (losses * active / active.sum()).sum().backward()
        if s.get("gradient"):
            for n, p in trained.items():
                p.grad.sub_((p.grad @ vectors[n]) @ vectors[n].T)
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        before = {n: p.detach().clone() for n, p in trained.items()} if vectors else {}
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for n, v in vectors.items():
                change = trained[n] - before[n]
                trained[n].sub_((change @ v) @ v.T)
        return 1


def optimizer_of(kind: str, trained: list[torch.Tensor], lr: float) -> torch.optim.Optimizer:
    if kind == "sgd":
        return torch.optim.SGD(trained, lr=lr)
    if kind == "adamw":
        return torch.optim.AdamW(trained, lr=lr, weight_decay=0.0)
    return Muon(lr=lr, wd=0.0, muon_params=trained, momentum=0.9)


def beyond(known: torch.Tensor, moment: Any, count: int) -> torch.Tensor:
    """``known`` [inputs, k], and the ``count`` leading directions of what the moment holds outside of it."""
    outside = torch.eye(len(known)) - known @ known.T
    columns, _ = protect.leading((outside @ torch.from_numpy(moment) @ outside).numpy(), count, None, None)
    return torch.cat([known, torch.from_numpy(columns)], dim=1)


def moments_of(model: Any, tokenizer: Any, owners: list[str], texts: list[str]) -> tuple[dict[str, Any], int]:
    """C [inputs, inputs] of each module's inputs, and of how many tokens; the same input has one array."""
    tokenizer.padding_side = "right"
    sums, same, tokens = moments.second_moments(model, tokenizer, texts, owners, lambda event: None)
    tokenizer.padding_side = "left"
    arrays = {name: tensor.numpy() for name, tensor in sums.items()}
    return {name: arrays[same.get(name, name)] for name in owners}, tokens


def flat(found: dict[str, Any]) -> dict[str, float | None]:
    """One number a metric and fact."""
    kinds = [v for v in found[metrics.LOCALITY].values() if v is not None]
    return {
        "success": found[metrics.SUCCESS],
        "generalization": found[metrics.GENERALIZATION],
        "locality": sum(kinds) / len(kinds) if kinds else None,
    }


def table(file: Path, baseline: str) -> None:
    runs = [json.loads(line) for line in file.read_text().splitlines()]
    base = next((r for r in runs if r["name"] == baseline and r["weight"] == 1), runs[0])
    print(f"differences against '{base['name']}'; * where the 95 % interval leaves out 0\n")
    print("| setting | weight | success | generalization | locality | H | perplexity | steps | dG | dL |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for run in runs:
        cells, means = [], []
        for metric in ("success", "generalization", "locality"):
            mean, half = scores.interval([v for f in run["facts"].values() if (v := f[metric]) is not None])
            means.append(mean)
            cells.append(f"{100 * mean:.1f} ± {100 * half:.1f}")
        h = 3 / sum(1 / max(m, 1e-9) for m in means)
        for metric in ("generalization", "locality"):
            pairs = [
                f[metric] - base["facts"][i][metric]
                for i, f in run["facts"].items()
                if f[metric] is not None and base["facts"][i][metric] is not None
            ]
            mean, half = scores.interval(pairs)
            cells.append(f"{100 * mean:+.1f} ± {100 * half:.1f}{'*' if abs(mean) > half else ''}")
        perplexity = f"{100 * run['perplexity']:+.1f} %"
        print(
            f"| {run['name']} | {run['weight']} | {cells[0]} | {cells[1]} | {cells[2]} | {100 * h:.1f} | "
            f"{perplexity} | {run['steps']} | {cells[3]} | {cells[4]} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="+")
    parser.add_argument("--facts", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        table(Path(options.words[0]), *options.words[1:2] or ["k 128"])
        return
    source, out, *names = options.words
    done = {json.loads(line)["name"] for line in Path(out).read_text().splitlines()} if Path(out).exists() else set()
    bench = Bench(Path(source), options.facts, options.model)
    for name in names or SETTINGS:
        if name in done:
            continue
        found = bench.run(name, options.seed)
        with Path(out).open("a") as file:
            file.writelines(json.dumps(one) + "\n" for one in found)
        print(name, found[0]["steps"], found[0]["seconds"], flush=True)


if __name__ == "__main__":
    main()
