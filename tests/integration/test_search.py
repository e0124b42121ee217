"""A merge that is searched, on the two-layer model: what is found is what stock mergekit makes of the found YAML."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from kedit_glue import metrics, run, strict_yaml
from kedit_glue.search import trace

pytestmark = pytest.mark.integration
BIN = Path(sys.executable).parent
Go = Callable[..., Path]
Bits = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def go(tmp_path: Path, recipe_text: str, stages_here: list[str]) -> Go:
    """``go("name", "merge.search.space=ps")``: the run's folder; one batch of five facts, two to search on."""

    def make(name: str, *values: str, merge: str = "{method: task_arithmetic, parameters: {weight: 0.9}}") -> Path:
        recipe = tmp_path / "recipe.yaml"
        own = "merge: {method: task_arithmetic, onto: previous, parameters: {weight: 0.9}}"
        assert own in recipe_text
        recipe.write_text(recipe_text.replace(own, "merge: " + merge), encoding="utf-8")
        sets = [f"name={name}", f"output={tmp_path}", "edits.batch_size=5", "train.epochs=20"]
        sets += ["score.edits.protocols=[teacher_forced]", "merge.search.evaluations=6", "merge.search.population=3"]
        sets += ["merge.search.fitness.texts=2", "merge.search.fitness.text_tokens=16", *values]
        stages_here.clear()
        assert run.main([str(recipe), *(w for s in sets for w in ("--set", s))]) == 0
        return tmp_path / name

    return make


def stock(folder: Path, to: Path) -> Path:
    """What mergekit's own command does with the YAML that a search left (mergekit 0.1.5, scripts/run_yaml.py)."""
    from mergekit.config import MergeConfiguration
    from mergekit.io.tasks import LoaderCache
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    config = MergeConfiguration.model_validate(yaml.safe_load((folder / "merge.yaml").read_text(encoding="utf-8")))
    LoaderCache.loaders.clear()
    run_merge(config, str(to), MergeOptions(copy_tokenizer=True, random_seed=0, write_model_card=False, quiet=True))
    return to


def candidates(folder: Path, name: str = "merge") -> list[dict[str, Any]]:
    return trace.read(folder / "batch_001" / f"{name}.trace.jsonl")[1]


def untimed(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in entries]


def judged_again(folder: Path, config: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The search's judge, and what it says of a merge YAML."""
    from kedit_glue.tools.candidates import Candidates
    from kedit_glue.tools.probes import texts_of

    job = json.loads((folder / "batch_001" / "search.job.json").read_text(encoding="utf-8"))["arguments"]
    judge = Candidates(job, texts_of(job["search"]["fitness"]))
    return judge, judge.judge(config)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("task_arithmetic", "{weight: 0.8}"),
        ("ties", "{weight: 0.9, density: 0.7}"),
        ("dare_ties", "{weight: 0.9, density: 0.7}"),
        ("slerp", "{t: 0.7}"),
        ("linear", "{weight: 0.8}"),
        ("breadcrumbs", "{weight: 0.9, density: 0.8, gamma: 0.01}"),
    ],
)
def test_candidates_have_the_bits_that_stock_mergekit_writes(
    go: Go, bits: Bits, tmp_path: Path, method: str, parameters: str
) -> None:
    import torch

    filters = "[gate_proj]" if method != "slerp" else "[]"
    run = go("r", "merge.search.space=ps", f"merge.method={method}", f"merge.parameters={parameters}",
             "merge.search.layer_granularity=1", f"merge.search.filters={filters}")  # fmt: skip
    config = yaml.safe_load((run / "batch_001" / "merge.yaml").read_text(encoding="utf-8"))
    judge, verdict = judged_again(run, config)
    best = max(candidates(run), key=lambda c: (c["fitness"], -c["number"]))
    assert verdict["parts"] == best["parts"], "the YAML says the candidate that was judged"
    theirs, ours = bits(stock(run / "batch_001", tmp_path / "stock")), bits(run / "model")
    for name, parameter in judge.model.named_parameters():
        if ".mlp." in name:
            assert theirs[name] == ours[name], f"the stage's bits are others: {name}"
            memory = parameter.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            assert memory == theirs[name], f"the candidate's bits are others: {name}"
    assert ours != bits(Path(judge.job["before"])), "something was merged"


@pytest.mark.parametrize("how", ["magnitude", "della_magprune"])
def test_a_task_vector_is_sorted_once(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    import torch
    from mergekit.sparsify import SparsificationMethod, sparsify

    from kedit_glue.tools.sort_once import Orders, sorted_once

    tensor, method = torch.randn(40, 30).round(decimals=1), SparsificationMethod(how)
    more = {"epsilon": 0.1} if how == "della_magprune" else {}

    def merged(density: float) -> torch.Tensor:
        torch.manual_seed(0)
        return sparsify(tensor, density, method, **more)

    own = [merged(density) for density in (0.3, 0.6)]
    sorts = []
    honest = torch.argsort
    monkeypatch.setattr(torch, "argsort", lambda *args, **more: sorts.append(1) or honest(*args, **more))
    with sorted_once(Orders()):
        ours = [merged(density) for density in (0.3, 0.6)]
    assert len(sorts) == 1
    assert all(torch.equal(a, b) for a, b in zip(own, ours, strict=True))
    merged(0.3)
    assert len(sorts) == 2, "elsewhere mergekit sorts as it does"


def test_a_search_that_was_cut_off_goes_on_to_the_same_result(go: Go, stages_here: list[str]) -> None:
    whole = go("whole", "merge.search.space=ps", "merge.search.layer_granularity=1")
    folder = whole / "batch_001"
    lines = (folder / "merge.trace.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    said, entries = (folder / "merge.yaml").read_text(encoding="utf-8"), candidates(whole)
    assert len(lines) == 7
    (folder / "merge.trace.jsonl").write_text("".join(lines[:5]) + lines[5][:20], encoding="utf-8")
    (folder / "search.record.json").unlink()
    go("whole", "merge.search.space=ps", "merge.search.layer_granularity=1")
    assert stages_here[:1] == ["search"]
    assert (folder / "merge.yaml").read_text(encoding="utf-8") == said
    assert untimed(candidates(whole)) == untimed(entries)
    assert [e["seconds"] for e in candidates(whole)[:4]] == [e["seconds"] for e in entries[:4]], "not judged again"


def test_candidates_are_judged_in_another_format_than_they_are_merged_in(go: Go, bits: Bits, tmp_path: Path) -> None:
    import torch

    run = go("r", "merge.search.space=ps", "merge.search.precision=bf16")
    config = yaml.safe_load((run / "batch_001" / "merge.yaml").read_text(encoding="utf-8"))
    judge, verdict = judged_again(run, config)
    assert {p.dtype for p in judge.model.parameters()} == {torch.bfloat16} and "parts" in verdict
    theirs, ours = bits(stock(run / "batch_001", tmp_path / "stock")), bits(run / "model")
    assert all(theirs[name] == ours[name] for name in ours if ".mlp." in name)


def test_other_numbers_begin_a_new_trace(go: Go) -> None:
    one = candidates(go("r", "merge.search.space=ps"))
    other = candidates(go("r", "merge.search.space=ps", "seed=1"))
    assert [c["print"] for c in one][1:] != [c["print"] for c in other][1:]
    assert [c["number"] for c in other] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("by", ["nsga2", "random", "grid"])
def test_other_ways_to_choose(go: Go, by: str) -> None:
    run = go("r", "merge.search.space=ps", f"merge.search.by={by}")
    search = json.loads((run / "scores.json").read_text(encoding="utf-8"))["search"]["merges"][0]
    assert (search["by"], search["evaluations"], search["failed"]) == (by, 6, 0)
    chosen = {one["number"] for one in search["front"]}
    assert chosen and (by != "nsga2" or search["best"]["number"] in chosen)


def test_a_data_flow_is_what_stock_mergekit_makes_of_it(go: Go, tmp_path: Path) -> None:
    import torch

    from kedit_glue.tools import asking

    run = go("r", "merge.search.space=dfs", "merge.search.repetitions=2", "merge.search.sigma=0.5",
             "merge.search.evaluations=12")  # fmt: skip
    config = yaml.safe_load((run / "batch_001" / "merge.yaml").read_text(encoding="utf-8"))
    assert config["merge_method"] == "passthrough"
    best = max((c for c in candidates(run) if "fitness" in c), key=lambda c: (c["fitness"], -c["number"]))
    command = [BIN / "mergekit-yaml", run / "batch_001" / "merge.yaml", tmp_path / "stock", "--copy-tokenizer"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    theirs, tokenizer = asking.load(str(tmp_path / "stock"), "cpu", False)
    ours, _ = asking.load(str(run / "model"), "cpu", False)
    inputs = tokenizer("The mayor of Alba is", return_tensors="pt")["input_ids"]
    assert torch.equal(theirs(inputs).logits, ours(inputs).logits)
    assert ours.config.num_hidden_layers == sum(
        source["layer_range"][1] - source["layer_range"][0] for s in config["slices"] for source in s["sources"]
    )
    from kedit_glue.tools.candidates import Candidates
    from kedit_glue.tools.probes import Probes, texts_of

    job = json.loads((run / "batch_001" / "search.job.json").read_text(encoding="utf-8"))["arguments"]
    judge = Candidates(job, texts_of(job["search"]["fitness"]))
    asker = asking.Asker(ours, tokenizer, print)
    answers = Probes(judge.facts, asker, judge.fitness, texts_of(judge.fitness)).ask(asker, lambda group: None)
    assert judge.probes.parts(judge.before, answers) == pytest.approx(best["parts"], abs=1e-6)


def test_a_scaled_input_is_a_scale_of_what_layers_add(tmp_path: Path, tiny_model: Path) -> None:
    """RMSNorm sees a direction: w x + f(w x) is w (x + f(x) / w)."""
    import torch

    from kedit_glue.search.paths import Layout
    from kedit_glue.tools import asking

    layout = Layout((str(tiny_model),), 2, 1, True, ("o_proj", "down_proj"), 3, 0)
    shares = [0.7, 0.7, *[0.5] * 4]
    shares[2 + 0 * 2 + 1] = 0.9  # W[0, 1]
    scale = layout.path(shares)[1].scale
    assert scale < 1
    (tmp_path / "merge.yaml").write_text(strict_yaml.dump(layout.config(shares)), encoding="utf-8")
    merged, tokenizer = asking.load(str(stock(tmp_path, tmp_path / "out")), "cpu", False)
    model, _ = asking.load(str(tiny_model), "cpu", False)
    layer = model.model.layers[1]
    layer.register_forward_pre_hook(lambda module, args: (args[0] / scale, *args[1:]))
    inputs = tokenizer("The mayor of Alba is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.allclose(merged(inputs).logits, model(inputs).logits, atol=1e-3)
        layer._forward_pre_hooks.clear()
        assert not torch.allclose(merged(inputs).logits, model(inputs).logits, atol=1e-1)


def test_what_lower_layers_give_is_computed_once(go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    from kedit_glue.tools import asking
    from kedit_glue.tools.asking import Asker, load
    from kedit_glue.tools.probes import Probes, texts_of

    monkeypatch.setitem(asking.TOKENS_AT_ONCE, "cpu", 40)
    run = go("r", "merge.search.space=ps", "train.layers=[1]")
    config = yaml.safe_load((run / "batch_001" / "merge.yaml").read_text(encoding="utf-8"))
    judge, first = judged_again(run, config)
    assert judge.lower is not None and len(judge.lower.given) == len(judge.probes.groups) > 1
    calls: list[int] = []
    judge.stack.own[0].register_forward_hook(lambda *given: calls.append(given[1][0].shape[0]))
    again = judge.judge(config)
    assert again["parts"] == first["parts"]
    assert calls and set(calls) == {1}, "only to see that the candidate can speak, one prompt"
    asker = Asker(*load(str(run / "model"), "cpu", False), print)
    answers = Probes(judge.facts, asker, judge.fitness, texts_of(judge.fitness)).ask(asker, lambda group: None)
    assert judge.probes.parts(judge.before, answers) == pytest.approx(first["parts"], abs=1e-6)


def test_numbers_first_then_layers(go: Go, stages_here: list[str]) -> None:
    run = go("r", "merge.search.space=both")
    assert [name for name in stages_here if name in ("search", "merge")] == ["search", "merge", "search", "merge"]
    assert {len(c.get("values", ())) for c in candidates(run, "search_ps")} == {1}
    job = json.loads((run / "batch_001" / "search.job.json").read_text(encoding="utf-8"))["arguments"]
    assert [Path(model).name for model in job["models"]][1:] == ["tuned", "best"]
    found = json.loads((run / "scores.json").read_text(encoding="utf-8"))["search"]["merges"]
    assert [one["space"] for one in found] == ["ps", "dfs"]
    assert found[1]["first"]["parts"] == pytest.approx(found[0]["best"]["parts"]), "it begins with the best so far"


def test_several_tuned_models(go: Go) -> None:
    run = go("r", "merge.search.space=ps", "edits.batch_size=3", "train.mini_batch=2", "train.from=base",
             "merge.when=end", "merge.search.layer_granularity=1", "score.edits.when=end")  # fmt: skip
    config = yaml.safe_load((run / "batch_002" / "merge.yaml").read_text(encoding="utf-8"))
    sources = config["slices"][0]["sources"]
    assert [Path(source["model"]).parent.name for source in sources[1:]] == ["batch_001", "batch_002"]
    entries = trace.read(run / "batch_002" / "merge.trace.jsonl")[1]
    best = max(entries, key=lambda c: (c["fitness"], -c["number"]))["values"]
    weights = [source["parameters"]["weight"] for s in config["slices"] for source in s["sources"][1:]]
    assert weights == best and len(best) == 4


def test_each_batch_is_searched(go: Go) -> None:
    run = go("r", "merge.search.space=ps", "edits.batch_size=3", "train.mini_batch=2", "merge.onto=previous")
    document = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    first, second = document["search"]["merges"]
    assert (first["batch"], second["batch"]) == (1, 2) and set(first["facts"]) < set(second["facts"])
    reported = document["after"]["edits"][metrics.SUCCESS]["facts"]
    assert reported + len(document["search"]["facts"]) == 5


def test_a_hand_edit_is_merged_and_the_search_stands(go: Go, stages_here: list[str], bits: Bits) -> None:
    run = go("r", "merge.search.space=ps")
    file, before = run / "batch_001" / "merge.yaml", bits(run / "model")
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    content["slices"][0]["sources"][1]["parameters"]["weight"] = 0.123
    file.write_text(strict_yaml.dump(content), encoding="utf-8")
    go("r", "merge.search.space=ps")
    assert "search" not in stages_here and "merge" in stages_here
    assert bits(run / "model") != before
    go("r", "merge.search.space=ps", "merge.search.evaluations=4")
    assert "search" in stages_here
    assert yaml.safe_load((run / "batch_001" / "merge.yaml.by_hand").read_text(encoding="utf-8")) == content
    assert yaml.safe_load(file.read_text(encoding="utf-8")) != content


def test_what_was_found_is_a_merge_file_of_other_recipes(go: Go, bits: Bits) -> None:
    one = go("one", "merge.search.space=ps", "merge.search.layer_granularity=1")
    found = one / "batch_001" / "merge_file.yaml"
    two = go("two", merge=f"{{file: {found}}}")
    assert bits(one / "model") == bits(two / "model")


def test_mergekit_evolve_reads_the_same_search(go: Go) -> None:
    from mergekit.evo.config import EvolMergeConfiguration
    from mergekit.evo.genome import ModelGenome

    run = go("r", "merge.search.space=ps", "merge.search.layer_granularity=1", "merge.search.filters=[gate_proj]")
    said = yaml.safe_load((run / "batch_001" / "evolve.yaml").read_text(encoding="utf-8"))
    genome = ModelGenome(EvolMergeConfiguration.model_validate(said).genome)
    best = max(candidates(run), key=lambda c: (c["fitness"], -c["number"]))
    theirs = genome.genotype_merge_config(genome._to_torch(best["values"])).model_dump(mode="json")
    ours = yaml.safe_load((run / "batch_001" / "merge.yaml").read_text(encoding="utf-8"))
    for mine, other in zip(ours["slices"], theirs["slices"], strict=True):
        tuned = next(s for s in other["sources"] if s["parameters"])
        assert [v["value"] for v in tuned["parameters"]["weight"]] == pytest.approx(
            [v["value"] for v in mine["sources"][1]["parameters"]["weight"]]
        )
        assert tuned["layer_range"] == mine["sources"][1]["layer_range"]


def test_a_candidate_that_cannot_be_judged_costs_itself(go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    from kedit_glue.tools import merge_memory
    from kedit_glue.tools.asking import Asker, Generated

    number = 0
    honest, spoken = merge_memory.merged_in_memory, Asker.generated

    def merged(config: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, Any]:
        nonlocal number
        number += 1
        found = honest(config, job)
        if number == 2:
            return {name: tensor * float("nan") for name, tensor in found.items()}
        if number == 4:
            raise RuntimeError("out of memory")
        return found

    def generated(self: Asker, prompts: Any, template: str, most_tokens: int) -> list[Generated]:
        silent = number == 3 or (number == 0 and "Alba" in prompts[0])  # the original says nothing there, either
        return [Generated("", True)] if silent else spoken(self, prompts, template, most_tokens)

    monkeypatch.setattr(merge_memory, "merged_in_memory", merged)
    monkeypatch.setattr(Asker, "generated", generated)
    found = candidates(go("r", "merge.search.space=ps"))
    assert [c["number"] for c in found if "cause" in c] == [2, 3, 4]
    assert "not a finite number" in found[1]["cause"] or "says nothing" in found[1]["cause"]
    assert re.fullmatch("it says nothing behind 'The mayor of (?!Alba).* is'", found[2]["cause"])
    assert found[3]["cause"] == "RuntimeError: out of memory"
    assert all("fitness" in c for c in found[4:])


def test_nothing_could_be_judged(go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    from kedit_glue.tools import merge_memory
    from kedit_glue.tools.search import SearchFailed

    def broken(config: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, Any]:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(merge_memory, "merged_in_memory", broken)
    with pytest.raises(SearchFailed, match="none of 6 candidates could be judged; the first one: RuntimeError: no ke"):
        go("r", "merge.search.space=ps")


def test_a_killed_worker_costs_one_candidate(go: Go) -> None:
    import psutil

    from kedit_glue.tools.probes import texts_of
    from kedit_glue.tools.search_workers import LOST, Merge, workers

    run = go("r", "merge.search.space=ps")
    job = json.loads((run / "batch_001" / "search.job.json").read_text(encoding="utf-8"))["arguments"]
    merge = Merge(yaml.safe_load((run / "batch_001" / "merge.yaml").read_text(encoding="utf-8")), ())
    best = max(candidates(run), key=lambda c: (c["fitness"], -c["number"]))
    with workers({**job, "search": {**job["search"], "workers": 2}}, texts_of(job["search"]["fitness"])) as judge:
        assert [found["parts"] for found in judge([merge, merge, merge])] == [best["parts"]] * 3
        own = [p for p in psutil.Process().children(recursive=True) if "ray::Worker" in " ".join(p.cmdline())]
        assert len(own) == 2
        own[0].kill()
        own[0].wait()
        found = judge([merge, merge])
        assert sorted(one.get("cause", "") for one in found) == ["", LOST]
        again = judge([merge] * 4)
        assert [one["parts"] for one in again] == [best["parts"]] * 4, "no other is lost while a new worker starts"
