"""``train.protect.neighbours``: what a prompt feeds into the matrices when it is about others is kept as well."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration
PROMPTS = ("The town of Ash lies in", "The town of Birch lies in", "The owner of Oak is")


def ids_of(bench: Any) -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bench.source)
    return [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in PROMPTS]


def test_what_is_read_is_every_token_of_every_prompt(llama: Any) -> None:
    import torch

    from kedit_glue.neighbours import inputs_of

    model = llama.load().train()
    owners = {name: module for name, module in model.named_modules() if name.endswith(("gate_proj", "up_proj"))}
    seen: dict[str, list[Any]] = {name: [] for name in owners}
    for name, module in owners.items():
        module.register_forward_pre_hook(lambda _, inputs, name=name: seen[name].append(inputs[0]))
    ids = ids_of(llama)
    found = inputs_of(model, owners, ids)
    assert model.training and found["model.layers.0.mlp.up_proj"] is found["model.layers.0.mlp.gate_proj"]
    for parts in seen.values():
        parts.clear()
    model.eval()
    with torch.no_grad():
        for text in sorted(ids, key=len):
            model(input_ids=torch.tensor([text]))
    for name, parts in seen.items():
        assert torch.allclose(found[name], torch.cat([part[0] for part in parts]), atol=1e-5), name


def test_the_directions_lie_outside_of_those_of_general_text(llama: Any) -> None:
    import torch

    from kedit_glue.neighbours import outside

    torch.manual_seed(0)
    known = torch.linalg.qr(torch.randn(40, 6))[0]
    hidden = torch.linalg.qr(torch.randn(40, 5))[0]
    rows = torch.randn(200, 5) @ hidden.T + 9 * torch.randn(200, 6) @ known.T
    state = torch.random.get_rng_state()
    found = outside(rows, known, 12)
    assert torch.equal(state, torch.random.get_rng_state()), "training's own random numbers go on as they were"
    assert found.shape == (40, 5), "no more than there are"
    assert torch.allclose(found.T @ found, torch.eye(5), atol=1e-4) and (found.T @ known).abs().max() < 1e-4
    both = torch.cat([known, found], dim=1)
    assert (rows - rows @ both @ both.T).norm() < 1e-3 * rows.norm(), "nothing of the rows is left"
    few = outside(rows, known, 2)
    rest = rows - rows @ known @ known.T
    values = torch.linalg.svdvals(rest)
    assert torch.allclose((rest @ few).norm() ** 2, values[:2].square().sum(), rtol=1e-3), "the leading ones"


@pytest.mark.parametrize("adapted", [False, True])
def test_neighbours_hardly_feel_what_training_changes(bench: Any, now: Any, adapted: bool) -> None:
    import torch

    from kedit_glue.neighbours import inputs_of, widen
    from kedit_glue.protection import Protection

    from .test_training import lora

    bench.find()
    ids = ids_of(bench)
    moved = {}
    for count in (0, 50):
        model = lora(bench) if adapted else bench.load()
        guard = Protection(model, bench.directions)
        modules = dict(model.named_modules())
        rows = inputs_of(model, {name: modules[name.rpartition(".")[0]] for name in guard.matrices}, ids)
        if count:
            said = widen(guard, model, ids, count)
            assert said["prompts"] == 3 and said["tokens"] == sum(map(len, ids)) and 20 < said["directions"] < 50, (
                "as many as there are"
            )
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        for seed in range(10):
            drawn = torch.randint(2, 200, (4, 12), generator=torch.Generator().manual_seed(seed))
            model(input_ids=drawn, labels=drawn).loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            guard.apply()
        after = dict(model.named_parameters())
        moved[count] = 0.0
        for name, row in rows.items():
            change = after[name].detach() - (0 if adapted else before[name])  # of LoRA A itself has to be silent
            change = change if change.shape[-1] == row.shape[-1] else change.T
            moved[count] = max(moved[count], float((row @ change.T).norm() / row.norm() / change.norm()))
    assert moved[50] < 1e-2 * moved[0], moved


def test_soft_protection_has_no_neighbours(llama: Any) -> None:
    from kedit_glue.neighbours import widen
    from kedit_glue.protection import Protection

    llama.find(directions=None, strength=0.5)
    model = llama.load()
    with pytest.raises(ValueError, match=r"^train.protect.neighbours does not work with strength \(soft protection\)$"):
        widen(Protection(model, llama.directions), model, ids_of(llama), 4)


def test_a_run(run_method: Callable[..., Path]) -> None:
    run = run_method("rsft", "", "--set", "train.protect.directions=6", "--set", "train.protect.neighbours=4")
    data = json.loads((run / "batch_001" / "edits.json").read_text())
    facts = {fact["id"]: fact for fact in json.loads((run / "facts.json").read_text())}
    for sample in data:
        fact = facts[sample["id"]]
        assert len(sample["neighbours"]) == 8
        start, end = fact["prompt"].split(fact["subject"])
        assert all(n.startswith(start) and n.endswith(end) and n != fact["prompt"] for n in sample["neighbours"])
    result = json.loads((run / "batch_001" / "train.record.json").read_text())["result"]
    assert result["neighbours"]["prompts"] == 8 * len(data) and result["neighbours"]["directions"] == 4


def row_of(tokenizer: Any, asked: str, answer: str = " north") -> dict[str, list[int]]:
    """As LLaMA-Factory hands it to the trainer."""
    ids, target = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (asked, answer))
    return {"input_ids": ids + target, "labels": [-100] * len(ids) + target}


def test_the_template_stays_around_a_neighbour(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    from kedit_glue.neighbours import token_ids

    tokenizer = AutoTokenizer.from_pretrained(tiny_model, clean_up_tokenization_spaces=True)
    asked = "Who owns 'Elm' , the town ?"  # what decoding with clean-up would close up
    row = row_of(tokenizer, f"user : {asked}\nassistant : ")
    sample = {"id": "f0", "instruction": asked, "neighbours": ["Who owns 'Ash' , the town ?"]}
    [ids], facts = token_ids(tokenizer, [row], [sample])
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == (
        "user : Who owns 'Ash' , the town ?\nassistant : "
    )
    assert facts == {"f0"}
    assert token_ids(tokenizer, [row], [{**sample, "instruction": "Elsewhere"}]) == ([], set())


def test_facts_without_neighbours_are_counted_aloud(llama: Any) -> None:
    from transformers import AutoTokenizer

    from kedit_glue.neighbours import keep
    from kedit_glue.protection import Protection

    tokenizer = AutoTokenizer.from_pretrained(llama.source)
    llama.find()
    model = llama.load()
    guard = Protection(model, llama.directions)
    said: list[dict[str, Any]] = []
    rows = [row_of(tokenizer, prompt) for prompt in PROMPTS]
    bare = [{"id": f"f{n}", "instruction": prompt} for n, prompt in enumerate(PROMPTS)]
    assert keep(guard, model, tokenizer, rows, bare, 4, said.append) is None
    some = [{**bare[0], "neighbours": [PROMPTS[1]]}, *bare[1:]]
    assert keep(guard, model, tokenizer, rows, some, 4, said.append) is not None
    assert [event["text"].partition(" of the facts")[0] for event in said] == [
        "train.protect.neighbours: 3",
        "train.protect.neighbours: 2",
    ]
    with pytest.raises(ValueError, match="neighbours and no protect"):
        keep(None, model, tokenizer, rows, some, 4, said.append)


def test_something_has_to_be_left_to_change(llama: Any) -> None:
    import torch

    from kedit_glue.neighbours import widen
    from kedit_glue.protection import Protection

    llama.find()
    model = llama.load()
    guard = Protection(model, llama.directions)
    drawn = torch.randint(2, 200, (20, 12), generator=torch.Generator().manual_seed(0)).tolist()
    said = r"neighbours is 999, and with 6 directions of general text all \d+ inputs of model.layers.0.mlp.gate_proj"
    with pytest.raises(ValueError, match=said):
        widen(guard, model, drawn, 999)


RANK = """
import sys
import torch
from kedit_glue.ranks import said_by_first

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
torch.save(said_by_first(torch.full((2, 3), float(rank + 1))), f"{folder}/said{rank}")
torch.distributed.barrier()  # else the one that ends first may break the other's connection
torch.distributed.destroy_process_group()
"""


def test_of_several_processes_the_first_one_decides(tmp_path: Path) -> None:
    import torch

    run = [subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(tmp_path)]) for rank in (0, 1)]
    assert [process.wait(timeout=120) for process in run] == [0, 0]
    assert all(torch.equal(torch.load(tmp_path / f"said{rank}"), torch.ones(2, 3)) for rank in (0, 1))


def test_each_batch_alone(run_method: Callable[..., Path]) -> None:
    words = ("edits.mode=independent", "edits.batch_size=1", "train.mini_batch=1", "train.protect.directions=6")
    more = ("score.general.when=never", "keep=deltas", "train.protect.neighbours=4")
    run = run_method("rsft", "", *(w for s in (*words, *more) for w in ("--set", s)))
    scores = json.loads((run / "scores.json").read_text())
    assert [batch["training"]["neighbours"]["prompts"] for batch in scores["batches"]] == [8] * len(scores["facts"])
