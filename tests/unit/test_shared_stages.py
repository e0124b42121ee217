"""Stages that a run takes over from another one beside it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from kedit_glue.ledger import Ledger
from kedit_glue.plan import Stage
from kedit_glue.runner import Job


def run_of(tmp_path: Path, name: str, *elsewhere: str) -> tuple[Ledger, list[Stage]]:
    """A run in ``runs/<name>``: two stages whose YAML names the run's folder, as generated YAML does."""
    folder = tmp_path / "my runs" / name
    stages: list[Stage] = []
    for job_name in ("train", "merge"):
        batch = folder / "batch_001"
        batch.mkdir(parents=True, exist_ok=True)
        (batch / f"{job_name}.yaml").write_text(f"# mine: '{batch}/{job_name}.yaml'\noutput_dir: {batch}/out\n")
        job = Job(job_name, job_name, {}, batch, job_name)
        after, beside = tuple(s.name for s in stages), (batch / f"{job_name}.jsonl",)
        reads = (batch / f"{job_name}.yaml",)
        stages.append(Stage(f"b/{job_name}", 1, job, reads, after, batch / f"{job_name}ed", {}, 1, beside))
    beside_it = [tmp_path / "my runs" / other for other in elsewhere]
    return Ledger({"mergekit": "0.1.5"}, folder, beside_it), stages


def do_all(ledger: Ledger, stages: list[Stage]) -> None:
    for stage in stages:
        do(ledger, stage)


def do(ledger: Ledger, stage: Stage) -> None:
    ledger.begin(stage)
    stage.working.mkdir()
    (stage.working / "model.safetensors").write_text(f"weights of {stage.name}")
    stage.beside[0].write_text(f"trace of {stage.name}\n")
    ledger.finish(stage, {"facts": 2}, 1.25)


def reasons(ledger: Ledger, stages: list[Stage]) -> list[str | None]:
    return [t.reason for t in ledger.todo(stages)]


def adopted(ledger: Ledger, stages: list[Stage]) -> list[str | None]:
    """The runs that each stage was taken from, up to the first that was not."""
    ledger.todo(stages)
    found = []
    for stage in stages:
        found.append(ledger.adopt(stage))
        if found[-1] is None:
            break
    return found


def test_keys_do_not_depend_on_where_the_run_lies(tmp_path: Path) -> None:
    runs = [run_of(tmp_path, name) for name in ("one", "one-more")]
    for ledger, stages in runs:
        do_all(ledger, stages)
    first, second = ([ledger.record(s) for s in stages] for ledger, stages in runs)
    for a, b in zip(first, second, strict=True):
        assert a is not None and b is not None
        assert (a["key"], a["parts"]) == (b["key"], b["parts"])


@pytest.mark.parametrize(
    ("path", "text", "same"),
    [
        ("one/batch_001/train.yaml", "output_dir: {folder}/batch_001/out", True),
        ("one/batch_001/train.yaml", "output_dir: {folder}/batch_002/out", False),
        ("one/batch_001/train.yaml", "output_dir: {folder}-2/batch_001/out", False),
        ("corpus.txt", "{folder}/batch_001", False),  # not the run's own: its text is data
    ],
)
def test_only_the_runs_own_folder_is_left_out_of_a_digest(tmp_path: Path, path: str, text: str, same: bool) -> None:
    keys = []
    for name in ("one", "two"):
        ledger, stages = run_of(tmp_path, name)
        file = tmp_path / "my runs" / path.replace("one", name)
        said = text if name == "one" else "output_dir: {folder}/batch_001/out" if "corpus" not in path else text
        file.write_text(said.format(folder=tmp_path / "my runs" / name))
        keys.append(ledger.parts(replace(stages[0], reads=(file,)), {})[file.name])
    assert (keys[0] == keys[1]) is same


def test_what_a_run_beside_did_is_taken_over(tmp_path: Path) -> None:
    do_all(*run_of(tmp_path, "one"))
    ledger, stages = run_of(tmp_path, "two", "zero", "one")
    assert adopted(ledger, stages) == ["one", "one"]
    assert reasons(ledger, stages) == [None, None]
    weights = stages[0].output / "model.safetensors"
    assert weights.read_text() == "weights of b/train"
    assert os.path.samefile(weights, tmp_path / "my runs" / "one" / "batch_001" / "trained" / "model.safetensors")
    assert stages[0].beside[0].read_text() == "trace of b/train\n"
    assert not os.path.samefile(stages[0].beside[0], tmp_path / "my runs" / "one" / "batch_001" / "train.jsonl")
    record = ledger.record(stages[0])
    assert record is not None
    assert (record["adopted_from"], record["result"], record["seconds"]) == ("one", {"facts": 2}, 1.25)


def test_an_output_that_is_one_file_is_taken_over(tmp_path: Path) -> None:
    done, [stage, _] = run_of(tmp_path, "one")
    done.begin(stage)
    stage.working.write_text("{}")
    stage.beside[0].write_text("")
    done.finish(stage, {}, 1.0)
    ledger, [stage, _] = run_of(tmp_path, "two", "one")
    assert ledger.adopt(stage) == "one"
    assert stage.output.read_text() == "{}" and not stage.working.exists()


def test_what_was_taken_over_can_be_done_again_and_the_other_run_keeps_its_own(tmp_path: Path) -> None:
    do_all(*run_of(tmp_path, "one"))
    ledger, stages = run_of(tmp_path, "two", "one")
    adopted(ledger, stages)
    stages[0].reads[0].write_text("output_dir: elsewhere\n")
    assert reasons(ledger, stages)[0] == "changed: train.yaml"
    do_all(ledger, stages)
    first, its_stages = run_of(tmp_path, "one")
    assert reasons(first, its_stages) == [None, None]
    ledger.release(stages[0])
    assert reasons(first, its_stages) == [None, None]


def test_without_hard_links_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    do_all(*run_of(tmp_path, "one"))
    ledger, stages = run_of(tmp_path, "two", "one")
    monkeypatch.setattr(Path, "hardlink_to", lambda *_: (_ for _ in ()).throw(OSError("not here")))
    assert adopted(ledger, stages) == ["one", "one"]
    assert reasons(ledger, stages) == [None, None]
    assert (stages[1].output / "model.safetensors").read_text() == "weights of b/merge"


@pytest.mark.parametrize("how", ["rewritten", "released", "record", "beside", "yaml"])
def test_what_is_not_whole_or_not_the_same_is_not_taken_over(tmp_path: Path, how: str) -> None:
    done, its_stages = run_of(tmp_path, "one")
    do_all(done, its_stages)
    train = its_stages[0]
    ledger, stages = run_of(tmp_path, "two", "one")
    if how == "rewritten":
        (train.output / "model.safetensors").write_text("mine")
    elif how == "released":
        done.release(train)
    elif how == "record":
        done.record_file(train).write_text("{")
    elif how == "beside":
        train.beside[0].unlink()
    else:
        stages[0].reads[0].write_text("output_dir: elsewhere\n")
    assert adopted(ledger, stages[:1]) == [None]
    do(ledger, stages[0])
    assert ledger.adopt(stages[1]) == (None if how == "yaml" else "one")  # it follows from another training


def test_a_run_without_others_beside_it_does_everything(tmp_path: Path) -> None:
    do_all(*run_of(tmp_path, "one"))
    assert adopted(*run_of(tmp_path, "two")) == [None]
