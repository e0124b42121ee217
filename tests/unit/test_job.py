"""A whole run with fake tools: its files, what is done again, the lock, and what it must not hold."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from kedit_glue import result
from kedit_glue.execute import OutputMissing
from kedit_glue.files import EditedTwice
from kedit_glue.job import CannotStart, Options, held, run
from kedit_glue.models import ModelError
from kedit_glue.progress import Display
from kedit_glue.recipe import load_recipe
from kedit_glue.runner import StageFailed

BASE = ["base/score", "base/general"]
AFTER = ["batch_003/general"]


def batches(*numbers: int, stages: str = "train merge score") -> list[str]:
    return [f"batch_{n:03d}/{stage}" for n in numbers for stage in stages.split()]


ALL = ["setup/prepare", *BASE, *batches(1, 2, 3), *AFTER]


def go(workplace: Any, display: Display, *overrides: str, **more: Any) -> list[str]:
    """Runs the recipe; returns the jobs that were begun."""
    run(Options(workplace.recipe, overrides, python=workplace.tool.python, **more), display)
    found: list[str] = workplace.tool.calls()
    return found


def said(display: Display) -> str:
    text: str = display.console.file.getvalue()  # type: ignore[attr-defined]
    return text


def edit_by_hand(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_a_run_from_recipe_to_report(workplace: Any, display: Display) -> None:
    assert go(workplace, display) == ALL
    folder = workplace.run_folder
    top = {
        ".lock", ".stage.lock", "base", "batch_001", "batch_002", "batch_003", "environment.json", "events.jsonl",
        "facts.json", "log.txt", "model", "recipe.yaml", "report.html", "report.md", "resolved.yaml", "scores.json",
        "setup",
    }  # fmt: skip
    assert {p.name for p in folder.iterdir()} == top
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    assert [f["id"] for f in scores["facts"]] == [f"f{n}" for n in range(6)]
    assert scores["verdict"]["thresholds"]["least_edit_success"] == 0.95 and scores["verdict"]["reasons"]
    assert scores["verdict"]["answer"].capitalize() in (folder / "report.html").read_text(encoding="utf-8")[:2000]
    assert scores["after"]["edits"]["edit_success.teacher_forced.token_accuracy"]["mean"] == 1.0
    assert scores["after"]["edits"]["portability.generated.exact_match"]["by_kind"] == {"Reasoning": 1.0}
    assert result.load(folder / "model").edited.weights == scores["edited"]["weights"] != scores["base"]["weights"]
    merged = {p.name: p.read_bytes() for p in (folder / "batch_003" / "merged").iterdir()}
    assert (
        len(merged) == 5 and merged.items() <= {p.name: p.read_bytes() for p in (folder / "model").glob("*.*")}.items()
    )
    assert sorted(p.name for p in (folder / "model" / "provenance").iterdir()) == [
        "merge.yaml",
        "recipe.yaml",
        "report.md",
        "resolved.yaml",
        "scores.json",
    ]
    assert (folder / "recipe.yaml").read_bytes() == workplace.recipe.read_bytes()
    assert load_recipe(folder / "resolved.yaml").train.epochs == 3
    assert list(folder.rglob("*.partial")) == []
    # an answer of the model is text, whatever it looks like
    assert "an [odd] answer :100:" in said(display)
    assert "6 facts in 3 batches; edit success 100.0 %" in said(display)


def test_every_batch_starts_from_the_one_before(workplace: Any, display: Display) -> None:
    go(workplace, display)
    folder = workplace.run_folder
    models = [yaml.safe_load((folder / f"batch_{n:03d}/train.yaml").read_text())["model_name_or_path"] for n in (1, 2)]
    assert models == [str(workplace.folder / "model"), str(folder / "batch_001" / "merged")]


def test_again_does_nothing(workplace: Any, display: Display) -> None:
    go(workplace, display)
    assert go(workplace, display) == []
    assert "12 of 12 stages are done and stand" in said(display)


def test_the_tokenizer_is_asked_again_where_its_answer_may_differ(workplace: Any, display: Display) -> None:
    go(workplace, display)
    assert go(workplace, display, "train.cutoff_len=64")[0] == "setup/prepare"
    assert go(workplace, display, "train.cutoff_len=64") == []
    facts = workplace.run_folder / "facts.json"
    facts.write_text(facts.read_text(encoding="utf-8").replace("f1", "f9"), encoding="utf-8")
    assert go(workplace, display, "train.cutoff_len=64") == ["setup/prepare"]


def test_after_a_failure_it_goes_on(workplace: Any, display: Display) -> None:
    workplace.tool.behave({"batch_002/merge": "killed"})
    with pytest.raises(StageFailed, match="batch 2 of 3: merge: killed by SIGKILL") as caught:
        go(workplace, display)
    folder = workplace.run_folder / "batch_002"
    assert f"what to do: read the log and {folder / 'merge.yaml'}" in str(caught.value)
    assert "training is not repeated" in str(caught.value)
    assert workplace.tool.calls() == ["setup/prepare", *BASE, *batches(1), "batch_002/train", "batch_002/merge"]
    assert (workplace.run_folder / "batch_001" / "merged" / "model.safetensors.index.json").is_file()
    assert not (workplace.run_folder / "scores.json").exists()
    workplace.tool.behave()
    assert go(workplace, display) == [
        *batches(2, stages="merge score"),
        *batches(3),
        *AFTER,
    ]


def test_train_yaml_edited_by_hand(workplace: Any, display: Display) -> None:
    go(workplace, display)
    file = workplace.run_folder / "batch_002" / "train.yaml"
    edit_by_hand(file, "num_train_epochs: 3", "num_train_epochs: 9")
    assert go(workplace, display) == [*batches(2, 3), *AFTER]
    assert "num_train_epochs: 9" in file.read_text(encoding="utf-8")
    assert f"edited by hand, and kept: {file}" in said(display)
    assert "-num_train_epochs: 3" in said(display) and "+num_train_epochs: 9" in said(display)
    assert "again: batch_002/train: changed: train.yaml" in said(display)
    assert go(workplace, display) == []  # kept, and done


def test_merge_yaml_edited_by_hand_trains_only_later_batches_again(workplace: Any, display: Display) -> None:
    go(workplace, display, "keep=all")
    edit_by_hand(workplace.run_folder / "batch_002" / "merge.yaml", "weight: 0.7", "weight: 0.5")
    expected = [*batches(2, stages="merge score"), *batches(3), *AFTER]
    assert go(workplace, display, "keep=all") == expected


def test_a_tuned_model_that_was_not_kept_is_trained_again_for_another_merge(workplace: Any, display: Display) -> None:
    go(workplace, display)
    edit_by_hand(workplace.run_folder / "batch_002" / "merge.yaml", "weight: 0.7", "weight: 0.5")
    assert go(workplace, display) == [*batches(2, 3), *AFTER]
    assert "again: batch_002/train: batch_002/merge needs its output, which was not kept" in said(display)
    assert "brought back batch_001/merge from its changed tensors" in said(display)


def test_another_merge_weight_in_the_recipe(workplace: Any, display: Display) -> None:
    go(workplace, display, "keep=all")
    workplace.values["merge"]["parameters"]["weight"] = 0.4
    workplace.write()
    expected = [*batches(1, stages="merge score"), *batches(2, 3), *AFTER]
    assert go(workplace, display, "keep=all") == expected
    assert "again: batch_001/merge: changed: merge.yaml" in said(display)


def test_what_a_changed_recipe_does_again_and_keeps_is_said_before_it_starts(workplace: Any) -> None:
    workplace.go()
    workplace.go("train.epochs=4", "score.edits.fluency_facts=0")
    lines = workplace.said.splitlines()
    first = next(n for n, line in enumerate(lines) if " …" in line and "stage " in line)
    assert [line for line in lines[:first] if "stages" in line or line.startswith("again")] == [
        "1 of 12 stages are done and stand (base/general)",
        "again: base/edits: changed: setting fluency_ids",
        "again: batch_001/train: changed: train.yaml",
        "again: batch_001/merge: an earlier stage is done again (batch_001/train)",
        "again: batch_001/edits: an earlier stage is done again (batch_001/merge)",
        "again: batch_002/train: changed: stage batch_001/merge, train.yaml",
        "again: batch_002/merge: an earlier stage is done again (batch_002/train, batch_001/merge)",
        "again: batch_002/edits: an earlier stage is done again (batch_002/merge)",
        "again: batch_003/train: changed: stage batch_002/merge, train.yaml",
        "again: 3 more stages (batch_003/merge, batch_003/edits, batch_003/general)",
    ]
    workplace.go("train.epochs=4", "score.edits.fluency_facts=0")
    assert workplace.lines("12 of", "again") == ["12 of 12 stages are done and stand"]


def test_more_facts_go_on_where_the_run_ended(workplace: Any) -> None:
    workplace.go("edits.limit=4")
    assert workplace.go() == ["setup/prepare", "base/score", "batch_002/score", *batches(3), *AFTER]
    assert workplace.lines("6 of", "again")[:3] == [
        "6 of 12 stages are done and stand (base/general, batch_001/train, batch_001/merge, batch_001/edits, "
        "batch_002/train, batch_002/merge)",
        "again: base/edits: changed: setting example_ids, setting facts, setting fluency_ids, setting generate, "
        "setting upto",
        "again: batch_002/edits: changed: setting example_ids, setting fluency_ids, setting generate, setting new, "
        "setting protocols",
    ]


def test_more_facts_fill_the_last_batch_which_is_done_again(workplace: Any) -> None:
    workplace.go("edits.limit=5", "train.rehearse=2")
    assert workplace.go("train.rehearse=2") == ["setup/prepare", "base/score", *batches(3), *AFTER]


def test_what_is_only_scored_otherwise_is_not_trained_again(workplace: Any, display: Display) -> None:
    go(workplace, display)
    again = go(workplace, display, "score.edits.fluency_facts=0")
    assert again == ["base/score", "batch_003/score"]


def test_both_changed_the_same_value(workplace: Any, display: Display) -> None:
    go(workplace, display)
    edit_by_hand(workplace.run_folder / "batch_002" / "train.yaml", "num_train_epochs: 3", "num_train_epochs: 9")
    with pytest.raises(EditedTwice):
        go(workplace, display, "train.epochs=5")
    assert workplace.tool.calls() == []


def test_another_model_in_the_same_folder(workplace: Any, display: Display) -> None:
    go(workplace, display)
    weights = workplace.folder / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert go(workplace, display) == ALL


def test_an_output_that_was_tampered_with_is_made_again(workplace: Any, display: Display) -> None:
    go(workplace, display, "keep=all")
    config = workplace.run_folder / "batch_002" / "merged" / "config.json"
    config.write_text('{"mine": 1}')
    assert go(workplace, display, "keep=all") == ["batch_002/merge"], "what came out is the same"
    what = "its output merged was changed from outside: config.json has another size"
    assert f"again: batch_002/merge: {what}" in said(display)


def test_fresh_forgets_everything(workplace: Any, display: Display) -> None:
    go(workplace, display)
    edit_by_hand(workplace.run_folder / "batch_002" / "train.yaml", "num_train_epochs: 3", "num_train_epochs: 9")
    (workplace.run_folder / "mine.txt").write_text("x")
    assert go(workplace, display, fresh=True) == ALL
    assert "num_train_epochs: 3" in (workplace.run_folder / "batch_002" / "train.yaml").read_text()
    assert not (workplace.run_folder / "mine.txt").exists()


@pytest.mark.parametrize("fresh", [False, True])
def test_the_recipe_of_a_run_folder_can_be_run(workplace: Any, display: Display, fresh: bool) -> None:
    go(workplace, display)
    text = workplace.recipe.read_bytes()
    copy = workplace.run_folder / "recipe.yaml"
    run(Options(copy, python=workplace.tool.python, fresh=fresh), display)
    assert copy.read_bytes() == text
    assert workplace.tool.calls() == (ALL if fresh else [])


def test_a_run_takes_over_what_another_did(workplace: Any, display: Display) -> None:
    go(workplace, display, "keep=all")
    mine = workplace.run_folder.with_name("mine")
    values = ("merge.parameters.weight=0.4", "edits.limit=2")
    assert go(workplace, display, "name=mine", elsewhere=[workplace.run_folder]) == ["setup/prepare"]
    assert "batch 3 of 3: merge: taken from try" in said(display)
    assert json.loads((mine / "batch_001" / "train.record.json").read_text())["adopted_from"] == "try"
    ours, theirs = (json.loads((f / "scores.json").read_text()) for f in (mine, workplace.run_folder))
    assert {k for k in ours if ours[k] != theirs[k]} <= {"name", "edited", "made"}
    assert [ours["edited"][k] == theirs["edited"][k] for k in ("model", "weights")] == [False, True]
    assert {k for k in ours["made"] if ours["made"][k] != theirs["made"][k]} <= {"at"}
    assert go(workplace, display, "name=mine") == []
    # fewer facts, merged otherwise: general ability before and training on the first batch are the same
    again = go(workplace, display, "name=less", *values, elsewhere=[workplace.run_folder])
    assert again == ["setup/prepare", "base/score", "batch_001/merge", "batch_001/score", "batch_001/general"]


@pytest.mark.parametrize("online", [False, True])
def test_the_hub_is_asked_only_where_it_may_be(
    workplace: Any, display: Display, monkeypatch: pytest.MonkeyPatch, online: bool
) -> None:
    seen = []
    monkeypatch.setattr("kedit_glue.job.needs_hub", lambda recipe: False)
    monkeypatch.setattr("kedit_glue.job.quiet_environment", lambda offline: seen.append(offline) or {})
    go(workplace, display, online=online, dry_run=True)
    assert seen == [not online]


def test_dry_run_starts_nothing_and_writes_all_yaml(workplace: Any, display: Display) -> None:
    assert go(workplace, display, dry_run=True) == []
    folder = workplace.run_folder
    assert {str(p.relative_to(folder)) for p in folder.rglob("*.yaml") if ".rendered" not in p.parts} == {
        "recipe.yaml",
        "resolved.yaml",
        *(f"batch_{n:03d}/{kind}.yaml" for n in (1, 2, 3) for kind in ("train", "rsft", "merge")),
    }
    text = said(display)
    for job in ALL[1:]:
        assert f"-m kedit_glue.stage {folder / job}.job.json" in text
        assert (folder / f"{job}.job.json").is_file()
    assert f"by hand: llamafactory-cli train {folder / 'batch_001' / 'train.yaml'}" in text
    assert not list(folder.rglob("*.log")) and not list(folder.rglob("*.record.json"))


def test_dry_run_leaves_a_finished_run_finished(workplace: Any, display: Display) -> None:
    go(workplace, display)
    go(workplace, display, dry_run=True)
    assert go(workplace, display) == []


def test_check_says_what_it_looked_at(workplace: Any, display: Display) -> None:
    assert go(workplace, display, check=True) == []
    text = said(display)
    for found in ("ok      model: llama in", "ok      disk: about", "ok      data: 6 facts in 3 batches"):
        assert found in text
    assert "nothing stands in the way" in text


def test_a_gpu_that_is_not_there_is_said(workplace: Any, display: Display, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kedit_glue.environment.has_gpu", lambda: False)
    go(workplace, display, "device=cuda", dry_run=True)
    assert "warn    device: cuda is asked for, and no NVIDIA device is seen here" in said(display)


def test_a_model_without_tokenizer_is_refused_before_anything_long(workplace: Any, display: Display) -> None:
    (workplace.folder / "model" / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"cannot be used; nothing was started\n  .* holds no tokenizer"):
        go(workplace, display, check=True)


def test_the_second_run_in_a_folder_is_refused(workplace: Any, display: Display) -> None:
    with held(workplace.run_folder), pytest.raises(CannotStart) as caught:
        go(workplace, display)
    assert str(caught.value) == (
        f"{workplace.run_folder} is in use by process {os.getpid()}: wait for it, stop it, or give the run another name"
    )
    assert go(workplace, display) == ALL


def test_facts_that_were_said_to_be_prepared_and_are_not(workplace: Any, display: Display) -> None:
    workplace.tool.behave({"prepare": "no_output"})
    with pytest.raises(OutputMissing, match=r"wrote no .*facts\.json"):
        go(workplace, display)


def test_no_secret_reaches_a_file(workplace: Any, display: Display, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {"HF_TOKEN": "hf_planted0123456789", "WANDB_API_KEY": "planted9876543210"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    workplace.tool.behave({"batch_003/score": "exit_3"})
    with pytest.raises(StageFailed) as caught:
        go(workplace, display)
    workplace.tool.behave()
    go(workplace, display)
    # the tools do get them
    assert (workplace.tool.folder / "secrets.txt").read_text() == "HF_TOKEN WANDB_API_KEY"
    files = [p for p in workplace.run_folder.rglob("*") if p.is_file()]
    assert len(files) > 60
    for value in secrets.values():
        assert [p for p in files if value.encode() in p.read_bytes()] == []
        assert value not in said(display) and value not in str(caught.value)
