"""Independent edits on the two-layer model: each batch as if it were the first of a run, the original as it was."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import independent, run
from kedit_glue.tools.merge_memory import MergeError

pytestmark = pytest.mark.integration

SETTINGS = """
methods:
  ft_l: {layers: [1], lr: 0.01}
  ft_m: {layers: [1], lr: 0.01}
  adalora: {num_steps: 10, lr: 0.05}
  rome: {layers: [0], v_num_grad_steps: 5, mom2_adjustment: true}
  memit: {layers: [0, 1], v_num_grad_steps: 5, moments_ridge: 0.01, mom2_update_weight: 1.0}
  emmet: {layers: [0], v_num_grad_steps: 5, moments_ridge: 0.01}
  locft_bf: {layers: [1], learning_rate: 0.01, epochs: 3, mini_batch: 2}
  mend: {train_facts: TRAINING, layers: all, max_iters: 6, accumulate_bs: 1, lr: 1.0e-4, edit_lr: 3.0e-3,
         rank: 8, val_interval: 3, val_steps: 2, early_stop_key: loss/total_edit_val}
"""
ALONE = ("edits.mode=independent",)
METHODS = ("rsft_merge", "rsft", "ft_m", "adalora", "rome", "memit", "mend")
"""The others go the same ways: sft and locft_bf as rsft, ft_l as adalora, emmet as memit."""


def facts(names: str) -> list[dict[str, Any]]:
    """As CounterFact has them, with rephrasings and neighbours."""
    return [
        {
            "id": f"f{n}",
            "subject": place,
            "prompt": f"The mayor of {place} is",
            "target_new": "Ada Moss" if n % 2 else "Ben Ode",
            "ground_truth": "Cy Rill",
            "rephrase_prompt": [f"{place} is governed by"],
            "locality": {"Neighborhood": [{"prompt": f"The mayor of {place}burg is", "ground_truth": "Cy Rill"}]},
        }
        for n, place in enumerate(names.split())
    ]


@pytest.fixture
def go(tmp_path: Path, recipe_text: str, stages_here: list[str]) -> Callable[..., Path]:
    """``go("name", "method=rome", only=slice(2, 4))``: runs the recipe with these values, stages in this process."""
    (tmp_path / "training.json").write_text(
        json.dumps(
            [
                {**fact, "id": f"t{n}", "locality_prompt": f"The river {n} is the", "locality_ground_truth": "Aare"}
                for n, fact in enumerate(facts("Fenn Gorm Hask Ilva Jarn Kest Lorn Mott Nyre Orsa Pell Quay"))
            ]
        ),
        encoding="utf-8",
    )

    def make(name: str, *values: str, only: slice = slice(None), code: int = 0) -> Path:
        source, recipe = tmp_path / f"{name}.json", tmp_path / "recipe.yaml"
        source.write_text(json.dumps(facts("Alba Brunn Corvo Dorn Elm")[only]), encoding="utf-8")
        settings = SETTINGS.replace("TRAINING", str(tmp_path / "training.json"))
        recipe.write_text(recipe_text.replace("keep: all", "") + settings, encoding="utf-8")
        for module in ("rome.rome_main", "memit.memit_main"):  # as in a process of its own
            if loaded := sys.modules.get(f"easyeditor.models.{module}"):
                loaded.CONTEXT_TEMPLATES_CACHE = None  # type: ignore[attr-defined]
        sets = [f"name={name}", f"output={tmp_path}", f"edits.source={source}", "edits.batch_size=2"]
        sets += ["train.mini_batch=2", "train.epochs=5", "merge.onto=base", *values]
        assert run.main([str(recipe), *(w for s in sets for w in ("--set", s))]) == code
        return tmp_path / name

    return make


def answers(folder: Path, stage: str) -> dict[str, Any]:
    found = json.loads((folder / stage / "answers.json").read_text(encoding="utf-8"))
    return {fact["id"]: fact for fact in found["facts"]}


def scores(folder: Path) -> dict[str, Any]:
    """All that two runs have in common."""
    found = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    for batch in found["batches"]:
        for kind in ("training", "merge", "editing"):
            batch[kind] = {k: v for k, v in batch.get(kind, {}).items() if "seconds" not in k}
    return {key: found[key] for key in ("before", "after", "facts", "batches", "answers")}


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_what_a_sequential_run_makes_of_it_as_its_first(go: Any, method: str) -> None:
    """Bit for bit: every loss and every most likely token that was asked about."""
    alone = go("alone", f"method={method}", *ALONE)
    first = go("first", f"method={method}", only=slice(2, 4))
    ours, theirs, before = answers(alone, "batch_001-003"), answers(first, "batch_001"), answers(alone, "base")
    assert list(ours) == ["f0", "f1", "f2", "f3", "f4"]
    assert list(theirs) == ["f2", "f3"]
    for fact, expected in theirs.items():
        for protocol in ("teacher_forced", "likelihood"):
            assert ours[fact][protocol] == expected[protocol]
        if "generated" in ours[fact]:
            assert ours[fact]["generated"] == expected["generated"]
        assert ours[fact]["likelihood"]["edit_success"] != before[fact]["likelihood"]["edit_success"]
    batches = [json.loads((f / "scores.json").read_text(encoding="utf-8"))["batches"] for f in (alone, first)]
    for kind, keys in (
        ("training", ("optimizer_steps", "epochs", "learned", "not_learned")),
        ("merge", ("tensors", "task_vector_norm_tuned", "task_vector_norm_merged", "density")),
        ("editing", ("task_vector_norm", "bytes_changed")),
    ):
        entry, wanted = batches[0][1], batches[1][0]
        assert (kind in entry) == (kind in wanted)
        assert all(entry[kind][key] == wanted[kind][key] for key in keys if kind in entry)


def test_the_scores_of_the_sweep(go: Any) -> None:
    found = json.loads((go("alone", "method=rome", *ALONE) / "scores.json").read_text(encoding="utf-8"))
    three = [found["after"]["edits"][f"{name}.likelihood.score"] for name in ("efficacy", "paraphrase", "neighborhood")]
    assert [score["facts"] for score in three] == [5, 5, 5]
    means = [score["mean"] for score in three]
    assert found["after"]["edits"]["counterfact.likelihood.harmonic_mean"]["mean"] == pytest.approx(
        3 / sum(1 / m for m in means) if all(means) else 0
    )
    assert (found["mode"], found["edited"]) == ("independent", None)


@pytest.mark.parametrize("method", ["rsft_merge", "ft_m"])
def test_killed_between_and_in_its_stages_it_comes_to_the_same(
    go: Any, monkeypatch: pytest.MonkeyPatch, method: str, stages_here: list[str]
) -> None:
    """Stages of two batches; the second dies at its second batch, after the first was scored."""
    from kedit_glue.tools import scorer

    monkeypatch.setattr(independent, "AT_ONCE", 2)
    values = [f"method={method}", "edits.batch_size=1", "train.mini_batch=1", *ALONE]
    whole = go("whole", *values)
    upstream, asked = scorer.answers, []

    def dies(job: Mapping[str, Any], about: Any, *more: Any) -> Any:
        asked.append(about[0]["id"])
        if "f3" in asked and len(about) == 1:
            raise KeyboardInterrupt
        return upstream(job, about, *more)

    monkeypatch.setattr(scorer, "answers", dies)
    with pytest.raises(AssertionError):  # not 0
        go("cut", *values)
    assert asked[-3:] == ["f1", "f2", "f3"]
    monkeypatch.setattr(scorer, "answers", upstream)
    stages_here.clear()
    cut = go("cut", *values)
    assert stages_here == ["independent", "independent"]
    assert scores(cut) == scores(whole)
    assert not list(cut.rglob("scratch"))
    assert not list(cut.rglob("*.safetensors"))


def test_an_original_that_changed_in_memory_is_found(go: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit of a tensor that no edit may change."""
    import torch

    from kedit_glue.tools import independent as stage

    upstream = stage.Editing.edit

    def leaks(self: Any, number: int, batch: Any) -> Any:
        found = upstream(self, number, batch)
        with torch.no_grad():
            weight = self.model.get_parameter("model.layers.0.self_attn.q_proj.weight")
            weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
        return found

    monkeypatch.setattr(stage.Editing, "edit", leaks)
    with pytest.raises(stage.NotRestored, match=r"self_attn\.q_proj\.weight of the original changed in memory"):
        go("leaks", "method=ft_m", *ALONE)


def test_a_twin_shares_what_it_does_not_own(tiny_model: Path) -> None:
    import torch

    from kedit_glue.tools import asking
    from kedit_glue.tools.twin import clones, first_difference, touched, twin

    model, tokenizer = asking.load(str(tiny_model), "cpu", False)
    own = clones(touched(model, r"\.1\.mlp\.down_proj"))
    assert list(own) == ["model.layers.1.mlp.down_proj.weight"]
    made = twin(model, own)
    mine, theirs = dict(model.named_parameters()), dict(made.named_parameters())
    assert mine.keys() == theirs.keys()
    assert {n for n in mine if mine[n].data_ptr() != theirs[n].data_ptr()} == set(own)
    assert made.get_output_embeddings().weight is made.get_input_embeddings().weight
    ids = tokenizer("The mayor of Alba is", return_tensors="pt")
    assert torch.equal(model(**ids).logits, made(**ids).logits)
    made.train().requires_grad_(False)
    made.config.use_cache = False
    made.gradient_checkpointing_enable()
    made.model.layers[0].register_forward_hook(lambda *args: 1 / 0)
    with torch.no_grad():
        theirs["model.layers.1.mlp.down_proj.weight"].zero_()
    assert model.config.use_cache and not model.training and not model.is_gradient_checkpointing
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert first_difference(model, tiny_model) is None
    assert first_difference(made, tiny_model) == "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ("method: ties, parameters: {density: 0.5, weight: 0.8}", "touched tensors"),
        ("method: dare_linear, parameters: {density: 0.5, weight: 0.8}", "touched tensors, whole model read"),
        ("method: slerp, parameters: {t: 0.6}", "touched tensors"),
        ("parameters: {weight: [0.2, 0.9]}", "touched tensors"),
        ("parameters: {weight: [{filter: gate_proj, value: 0.3}, {value: 0.8}]}", "touched tensors"),
    ],
)
def test_every_merge_is_mergekits(go: Any, recipe_text: str, tmp_path: Path, parameters: str, said: str) -> None:
    """Gradients, filters and random numbers as on disk."""
    values = [f"merge={{{parameters}, onto: base}}"]
    alone, first = go("alone", *ALONE, *values), go("first", *values, only=slice(2, 4))
    ours, theirs = answers(alone, "batch_001-003"), answers(first, "batch_001")
    assert {i: ours[i]["likelihood"] for i in theirs} == {i: theirs[i]["likelihood"] for i in theirs}
    merges = [json.loads((f / "scores.json").read_text(encoding="utf-8"))["batches"] for f in (alone, first)]
    assert merges[0][1]["merge"]["way"].startswith(said)
    assert merges[0][1]["merge"]["density"] == merges[1][0]["merge"]["density"]


def test_a_merge_that_needs_the_whole_model_is_refused(go: Any) -> None:
    with pytest.raises(MergeError, match=r"merge\.yaml has tokenizer_source, and in memory the trained matrices alone"):
        go("whole", *ALONE, "merge.extra={tokenizer_source: base}")


def test_another_model_by_hand_is_loaded_and_noticed(
    go: Any, tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """train.yaml is what is trained by: a model that is not the original is not passed over in silence."""
    from safetensors.torch import load_file, save_file

    folder = go("hand", "method=rsft", *ALONE)
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    tensors = load_file(other / "model.safetensors")
    tensors["model.layers.0.self_attn.q_proj.weight"][0, 0] += 1
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    file = folder / "independent" / "train.yaml"
    text = file.read_text(encoding="utf-8")
    assert str(tiny_model) in text
    file.write_text(text.replace(str(tiny_model), str(other)), encoding="utf-8")
    go("hand", "method=rsft", *ALONE, code=2)
    assert "training changed model.layers.0.self_attn.q_proj.weight, which" in capsys.readouterr().err
