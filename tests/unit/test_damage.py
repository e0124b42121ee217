"""Files of a finished run that were damaged: found by their hashes, named, and made again, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kedit_glue.run_folder import open_run

Done = Callable[[], Any]
NEW = "not done yet"
FINAL = "batch_003/merged/"
MODEL = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, new_workplace: Any) -> Iterator[Any]:
    """A workplace whose run is done, and is put back as it was for each test."""
    with new_workplace(tmp_path_factory.mktemp("finished")) as workplace:
        workplace.go()
        workplace.save("done")
        workplace.expected = workplace.state()
        yield workplace


@pytest.fixture
def workplace(finished: Any) -> Any:
    finished.back_to("done")
    return finished


def damage(workplace: Any, name: str, how: str) -> Path:
    file: Path = workplace.run_folder / name
    {"cut": workplace.cut, "flip": workplace.flip, "gone": Path.unlink}[how](file)
    return file


def reasons(workplace: Any) -> dict[str, str]:
    """Why stages would be done again, by name."""
    run = open_run(workplace.run_folder)
    todo = run.ledger.todo(run.plan.stages, {}, run.plan.final_model)
    return {item.stage.name: item.reason for item in todo if item.reason is not None}


# -- what is found ------------------------------------------------------------------------------


def test_whole_files_are_no_damage(workplace: Any) -> None:
    assert reasons(workplace) == {}


RECORDS = {f"batch_00{n}/{job}": f"batch_00{n}/{stage}" for n in (1, 2, 3)
           for job, stage in (("train", "train"), ("merge", "merge"), ("score", "edits"))}  # fmt: skip
RECORDS |= {"base/score": "base/edits", "base/general": "base/general", "batch_003/general": "batch_003/general"}


def test_these_are_all_records(workplace: Any) -> None:
    found = {str(f.relative_to(workplace.run_folder)) for f in workplace.run_folder.rglob("*.record.json")}
    assert found == {f"{name}.record.json" for name in RECORDS} | {"setup/prepare.record.json"}


@pytest.mark.parametrize("how", ["cut", "flip", "gone"])
@pytest.mark.parametrize("job_name", RECORDS)
def test_a_damaged_record(workplace: Any, job_name: str, how: str) -> None:
    file = damage(workplace, f"{job_name}.record.json", how)
    reason = NEW if how == "gone" else f"its record {file.name} is damaged"
    found = reasons(workplace)
    assert found.pop(RECORDS[job_name]) == reason
    if job_name.endswith("merge"):
        train = RECORDS[job_name].replace("merge", "train")
        assert found.pop(train) == f"{RECORDS[job_name]} needs its output, which was not kept"
    assert found == {}


OUTPUTS = {
    f"{folder}/{name}.json": f"{folder}/{stage}"
    for folder, names in {"base": 2, "batch_001": 1, "batch_002": 1, "batch_003": 2}.items()
    for name, stage in list({"answers": "edits", "general": "general"}.items())[:names]
}


@pytest.mark.parametrize(("how", "what"), [("cut", "has another size"), ("flip", "holds something else"), ("gone", "")])
@pytest.mark.parametrize("name", OUTPUTS)
def test_a_damaged_answer(workplace: Any, name: str, how: str, what: str) -> None:
    file = damage(workplace, name, how)
    changed = f"its output {file.name} was changed from outside: {file.name} {what}"
    assert reasons(workplace) == {OUTPUTS[name]: changed if what else f"its output {file.name} is gone"}


@pytest.mark.parametrize("how", ["cut", "flip", "gone"])
@pytest.mark.parametrize("name", [f"batch_00{n}/{name}" for n in (1, 2, 3) for name in ("trace", "merge_stats")])
def test_a_damaged_file_beside_an_output(workplace: Any, name: str, how: str) -> None:
    batch = name.partition("/")[0]
    train = name.endswith("trace")
    file = damage(workplace, f"{name}.{'jsonl' if train else 'json'}", how)
    reason = f"its {file.name} is {'gone' if how == 'gone' else 'damaged'}"
    not_kept = {f"{batch}/train": f"{batch}/merge needs its output, which was not kept"}
    assert reasons(workplace) == ({f"{batch}/train": reason} if train else {**not_kept, f"{batch}/merge": reason})


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("cut", "was changed from outside: {} has another size"),
        ("flip", "is damaged: {} holds something else"),
        ("gone", "was changed from outside: {} is gone"),
    ],
)
@pytest.mark.parametrize("name", [*MODEL, "config.json", "tokenizer.json"])
def test_a_damaged_last_model(workplace: Any, name: str, how: str, what: str) -> None:
    damage(workplace, FINAL + name, how)
    assert reasons(workplace) == {
        "batch_003/merge": f"its output merged {what.format(name)}",
        "batch_003/train": "batch_003/merge needs its output, which was not kept",
    }


@pytest.mark.parametrize("how", ["cut", "flip", "gone"])
def test_what_was_kept_of_a_model_that_nobody_reads_is_not_looked_at(workplace: Any, how: str) -> None:
    for n in (1, 2):
        damage(workplace, f"batch_00{n}/changed/manifest.json", how)
        damage(workplace, f"batch_00{n}/changed/files/{MODEL[0]}", how)
    assert workplace.go() == []
    assert workplace.lines("again") == []


def test_damage_in_a_whole_model_that_nobody_reads_is_not_looked_at(workplace: Any) -> None:
    workplace.go("keep=all", force=["train"])
    workplace.flip(workplace.run_folder / "batch_001" / "merged" / MODEL[0])
    workplace.flip(workplace.run_folder / "batch_002" / "tuned" / "model.safetensors")
    assert workplace.go("keep=all") == []
    # until something reads it
    assert workplace.go("keep=all", force=["batch_001/edits"]) == ["batch_001/merge", "batch_001/score"]
    assert workplace.lines("again") == [
        "again: batch_001/merge: its output merged is damaged: model-00001-of-00002.safetensors holds something else",
        "again: batch_001/edits: --force batch_001/edits",
    ]


# -- what is made again -------------------------------------------------------------------------


def jobs(*numbers: int, names: str = "train merge score") -> list[str]:
    return [f"batch_{n:03d}/{name}" for n in numbers for name in names.split()]


@pytest.mark.parametrize(
    ("name", "how", "again"),
    [
        ("base/score.record.json", "cut", ["base/score"]),
        ("base/general.json", "flip", ["base/general"]),
        ("batch_001/train.record.json", "gone", ["batch_001/train"]),
        ("batch_001/trace.jsonl", "flip", ["batch_001/train"]),
        ("batch_002/merge.record.json", "flip", ["batch_002/train", "batch_002/merge"]),
        ("batch_002/merge_stats.json", "gone", ["batch_002/train", "batch_002/merge"]),
        ("batch_002/answers.json", "flip", ["batch_002/score"]),
        ("batch_003/merge_stats.json", "cut", ["batch_003/train", "batch_003/merge"]),
        (FINAL + MODEL[0], "flip", ["batch_003/train", "batch_003/merge"]),
        (FINAL + MODEL[1], "cut", ["batch_003/train", "batch_003/merge"]),
        (FINAL + "config.json", "gone", ["batch_003/train", "batch_003/merge"]),
        ("setup/prepare.record.json", "flip", ["setup/prepare"]),
        ("setup/prepare.record.json", "cut", ["setup/prepare"]),
        ("facts.json", "flip", ["setup/prepare"]),
    ],
)
def test_what_is_damaged_is_made_again_and_nothing_else(workplace: Any, name: str, how: str, again: list[str]) -> None:
    damage(workplace, name, how)
    assert workplace.go() == again
    assert workplace.state() == workplace.expected
    assert workplace.go() == []
    assert workplace.lines("again") == []


def test_the_user_is_told_before_it_starts(workplace: Any) -> None:
    damage(workplace, "batch_002/merge.record.json", "gone")
    damage(workplace, "batch_003/general.json", "flip")
    workplace.go()
    told = workplace.lines("10 of", "9 of", "again", "1 of", "brought", "batch 2", "edited model: general")
    assert [line.partition(" …")[0] for line in told[:7]] == [
        "9 of 12 stages are done and stand (base/edits, base/general, batch_001/train, batch_001/merge, "
        "batch_001/edits, batch_002/edits",
        "again: batch_002/train: batch_002/merge needs its output, which was not kept",
        "again: batch_003/general: its output general.json was changed from outside: general.json holds something else",
        "1 of 12 stages are still to be done (batch_002/merge)",
        "brought back batch_001/merge from its changed tensors",
        "batch 2 of 3: train",
        "batch 2 of 3: train: done in 0 s, 2 of 2 facts learned in 4 steps",
    ]


def test_a_kept_model_that_is_damaged_is_made_again_when_it_is_needed(workplace: Any) -> None:
    file = damage(workplace, f"batch_001/changed/files/{MODEL[0]}", "flip")
    assert workplace.go(from_batch=3) == [*jobs(3), "batch_003/general"], "only compared with"
    assert workplace.lines("brought", "batch_001") == [
        f"batch_001/merge cannot be brought back, later batches are not compared with it: {file} is damaged: "
        "other content than was written",
        "brought back batch_002/merge from its changed tensors",
    ]
    assert workplace.go(from_batch=2) == [*jobs(1, names="train merge"), *jobs(2, 3), "batch_003/general"]
    assert workplace.lines("again: batch_001") == [
        "again: batch_001/train: batch_001/merge needs its output, which was not kept",
        f"again: batch_001/merge: what was kept of it is damaged: {file} is damaged: other content than was written",
    ]
    assert workplace.state() == workplace.expected


def test_a_model_that_was_damaged_before_it_was_packed_is_not_used(workplace: Any) -> None:
    workplace.go("keep=all", force=["train"])
    workplace.flip(workplace.run_folder / "batch_001" / "merged" / MODEL[0])
    assert workplace.go() == [], "packed unseen, and deleted"
    assert workplace.go(from_batch=2)[:2] == ["batch_001/train", "batch_001/merge"]
    assert workplace.lines("again: batch_001/merge") == [
        f"again: batch_001/merge: what was kept of it is damaged: {MODEL[0]} holds something else than the stage made"
    ]
    assert workplace.state() == workplace.expected


# -- what follows from what is made again -------------------------------------------------------


def test_a_stage_that_comes_out_otherwise_takes_all_that_follows_with_it(workplace: Any) -> None:
    damage(workplace, "batch_002/trace.jsonl", "gone")
    workplace.tool.behave({"batch_002/train": "otherwise"})
    assert workplace.go() == [*jobs(2, 3), "batch_003/general"]
    assert workplace.lines("again") == [
        "again: batch_002/train: its trace.jsonl is gone",
        "again: batch_002/merge: it was made from another output of batch_002/train",
        "again: batch_002/edits: it was made from another output of batch_002/merge",
        "again: batch_003/train: it was made from another output of batch_002/merge",
        "again: batch_003/merge: it was made from another output of batch_002/merge",
        "again: batch_003/edits: it was made from another output of batch_003/merge",
        "again: batch_003/general: it was made from another output of batch_003/merge",
    ]
    assert workplace.state() != workplace.expected
    assert workplace.go() == []
    workplace.tool.behave()
    assert workplace.go(force=["batch_002/train"]) == [*jobs(2, 3), "batch_003/general"]
    assert workplace.state() == workplace.expected


def test_other_answers_of_the_original_model_change_nothing_else(workplace: Any) -> None:
    damage(workplace, "base/answers.json", "gone")
    workplace.tool.behave({"base/score": "otherwise"})
    assert workplace.go() == ["base/score"]
    assert workplace.go() == []
