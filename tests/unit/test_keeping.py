"""What stays of each batch, and that what was let go of comes back when it is needed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import changed, ledger, records
from kedit_glue.keeping import Keeper
from kedit_glue.ledger import Ledger
from kedit_glue.plan import Plan

Done = Callable[[str], Any]
SHARD = "model-00001-of-00002.safetensors"
AFTER = ["batch_003/general"]


def jobs(*numbers: int, names: str = "train merge score") -> list[str]:
    return [f"batch_{n:03d}/{name}" for n in numbers for name in names.split()]


def on_disk(workplace: Any) -> list[str]:
    """Models and what is packed of them, by batch."""
    found = workplace.run_folder.glob("batch_*/*")
    return sorted(
        str(path.relative_to(workplace.run_folder)) for path in found if path.is_dir() and path.name[0] != "."
    )


def record(workplace: Any, name: str) -> Any:
    return records.read_record(workplace.run_folder / f"{name}.record.json")


def keeping(workplace: Any, keep: str) -> Any:
    workplace.values["keep"] = keep
    workplace.write()
    return workplace


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, new_workplace: Any) -> Iterator[Any]:
    """A workplace with a finished run for each ``keep``, to go ``back_to``; the state of all is the same but for it."""
    with new_workplace(tmp_path_factory.mktemp("finished")) as workplace:
        for keep in KEEPS:
            keeping(workplace, keep).go(fresh=True)
            workplace.save(keep)
        yield workplace


@pytest.fixture
def done(finished: Any) -> Callable[[str], Any]:
    def back(keep: str) -> Any:
        finished.back_to(keep)
        return keeping(finished, keep)

    return back


# -- what is there at the end -------------------------------------------------------------------

KEEPS = ("all", "deltas", "last")
ALL = [f"batch_00{n}/{name}" for n in (1, 2, 3) for name in ("merged", "tuned")]
DELTAS = ["batch_001/changed", "batch_002/changed", "batch_003/merged"]
LAST = ["batch_003/merged"]


@pytest.mark.parametrize(("keep", "expected"), zip(KEEPS, (ALL, DELTAS, LAST), strict=True))
def test_what_is_on_the_disk_in_the_end(done: Done, keep: str, expected: list[str]) -> None:
    workplace = done(keep)
    assert on_disk(workplace) == expected
    said = {name: record(workplace, name) for name in ("batch_001/train", "batch_001/merge", "batch_003/merge")}
    let_go = {name: (each.get("released", False), each.get("packed")) for name, each in said.items()}
    assert let_go == {
        "batch_001/train": (keep != "all", None),
        "batch_001/merge": (keep != "all", "changed" if keep == "deltas" else None),
        "batch_003/merge": (False, None),
    }
    assert workplace.go() == []
    assert on_disk(workplace) == expected


def test_deltas_are_the_default(workplace: Any) -> None:
    workplace.go()
    assert on_disk(workplace) == DELTAS


def test_of_a_batch_only_what_is_not_the_originals_is_stored(workplace: Any) -> None:
    workplace.go()
    files = workplace.run_folder / "batch_002" / "changed" / "files"
    names = ["config.json", SHARD, "model.safetensors.index.json"]
    assert sorted(file.name for file in files.iterdir()) == names
    first = workplace.run_folder / "batch_001" / "changed" / "files"
    assert [os.path.samefile(first / name, files / name) for name in names] == [True, False, True], "stored once"


def test_batches_that_are_trained_apart_are_let_go_of_after_the_merge(workplace: Any) -> None:
    workplace.values["train"]["from"] = "base"
    workplace.values["merge"] = {
        "method": "task_arithmetic",
        "when": "end",
        "onto": "base",
        "parameters": {"weight": 1},
    }
    workplace.tool.behave({"batch_003/merge": "exit_3"})
    workplace.write()
    with pytest.raises(Exception, match="merge: exit code 3"):
        workplace.go()
    assert on_disk(workplace) == [f"batch_00{n}/tuned" for n in (1, 2, 3)]
    workplace.tool.behave()
    workplace.go()
    assert on_disk(workplace) == ["batch_001/changed", "batch_002/changed", "batch_003/merged"]
    assert workplace.go(force=["merge"]) == ["batch_003/train", *jobs(3, names="merge score"), *AFTER]
    assert workplace.lines("brought") == [f"brought back batch_00{n}/train from its changed tensors" for n in (1, 2)], (
        "the last one's was not its batch's model"
    )


def test_a_model_that_is_projected_after_the_merge_is_the_batchs(workplace: Any) -> None:
    workplace.values["merge"]["protect"] = {"directions": 1}
    workplace.write()
    workplace.go()
    assert on_disk(workplace) == ["batch_001/changed", "batch_002/changed", "batch_003/projected"]
    expected = workplace.state()
    workplace.go(from_batch=2)
    assert workplace.lines("brought") == ["brought back batch_001/project from its changed tensors"]
    assert workplace.state() == expected


def test_an_adapter_is_no_model_and_stays(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    plan = plan_of("train: {lora: {rank: 4}}")
    book = Ledger({}, plan.stages[0].output.parents[1])
    for stage in plan.stages:
        stage.output.parent.mkdir(parents=True, exist_ok=True)
        for path in [*stage.reads, *stage.beside]:
            path.write_text("{}")
        book.begin(stage)
        if stage.job.function == "score":
            stage.working.write_text("{}")
        else:
            stage.working.mkdir()
            name = "adapter_config.json" if stage.job.function == "train" else "model.safetensors"
            (stage.working / name).write_text("{}")
        book.finish(stage, {}, 1.0)
    Keeper(plan, book, "last", tmp_path).begin(())
    there = {stage.name: stage.output.exists() for stage in plan.stages if stage.job.function != "score"}
    assert there == {
        "batch_001/train": True,
        "batch_001/merge": False,
        "batch_002/train": True,
        "batch_002/merge": True,
    }


# -- what is needed comes back ------------------------------------------------------------------


def test_a_batchs_model_comes_back_from_its_changed_tensors(done: Done) -> None:
    workplace = done("deltas")
    expected, before = workplace.state(), record(workplace, "batch_001/merge")
    assert workplace.go(from_batch=2) == [*jobs(2, 3), *AFTER], "nothing of batch 1"
    assert workplace.lines("brought") == ["brought back batch_001/merge from its changed tensors"]
    assert workplace.state() == expected
    assert on_disk(workplace) == DELTAS, "and was packed again"
    after = record(workplace, "batch_001/merge")
    assert {key for key in before if before[key] != after[key]} <= {"output"}
    assert (after["content"], after["finished"]) == (before["content"], before["finished"])
    assert workplace.go() == []


def test_models_that_a_merge_is_compared_with_come_back_as_well(done: Done) -> None:
    workplace = done("deltas")
    expected = workplace.state()
    assert workplace.go(from_batch=3) == [*jobs(3), *AFTER]
    assert workplace.lines("brought") == [
        "brought back batch_001/merge from its changed tensors",
        "brought back batch_002/merge from its changed tensors",
    ]
    assert workplace.state() == expected
    assert "sign_agreement" in record(workplace, "batch_003/merge")["result"]


def test_what_was_not_kept_is_made_again(done: Done) -> None:
    workplace = done("last")
    expected = workplace.state()
    assert workplace.go(from_batch=2) == [*jobs(1, names="train merge"), *jobs(2, 3), *AFTER]
    assert workplace.lines("again: batch_001") == [
        "again: batch_001/train: batch_001/merge needs its output, which was not kept",
        "again: batch_001/merge: batch_002/merge needs its output, which was not kept",
    ]
    assert workplace.state() == expected
    assert on_disk(workplace) == LAST


def test_a_run_that_ends_earlier_now_has_its_last_model_whole(done: Done) -> None:
    workplace = done("deltas")
    assert workplace.go("edits.limit=4") == ["setup/prepare", "base/score", "batch_002/score", "batch_002/general"]
    assert workplace.lines("brought") == ["brought back batch_002/merge from its changed tensors"]
    assert (workplace.run_folder / "batch_002" / "merged" / SHARD).is_file()
    assert not (workplace.run_folder / "batch_002" / "changed").exists()
    # and one that goes on packs what was its last
    workplace.go()
    assert on_disk(workplace) == DELTAS


def test_a_run_that_ends_earlier_and_whose_last_model_is_damaged_makes_it_again(done: Done) -> None:
    workplace = done("deltas")
    workplace.flip(workplace.run_folder / "batch_002" / "changed" / "files" / SHARD)
    again = workplace.go("edits.limit=4")
    assert again == ["setup/prepare", "base/score", *jobs(2), "batch_002/general"]
    assert workplace.lines("brought") == ["brought back batch_001/merge from its changed tensors"]
    assert (workplace.run_folder / "batch_002" / "merged" / SHARD).is_file()


def test_a_run_that_ends_earlier_and_kept_nothing_makes_its_last_model_again(workplace: Any) -> None:
    keeping(workplace, "last").go("score.edits.when=end", "score.general.when=never")
    again = workplace.go("score.edits.when=end", "score.general.when=never", "edits.limit=4")
    assert again == ["setup/prepare", "base/score", *jobs(1, 2, names="train merge"), "batch_002/score"]


def test_what_was_kept_stays_when_a_run_stops_before_it_is_made_anew(done: Done) -> None:
    workplace = done("deltas")
    expected = workplace.state()
    workplace.tool.behave({"batch_002/train": "exit_3"})
    with pytest.raises(Exception, match="exit code 3"):
        workplace.go(from_batch=2)
    assert changed.damage(workplace.run_folder / "batch_002" / "changed") is None
    workplace.tool.behave()
    assert workplace.go() == ["batch_002/train"], "the merge was not begun, and comes from the same"
    assert workplace.state() == expected
    assert on_disk(workplace) == DELTAS


# -- another keep: than before ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "then", "expected"),
    [
        ("all", "deltas", DELTAS),
        ("all", "last", LAST),
        ("deltas", "last", LAST),
        ("deltas", "all", DELTAS),  # what is gone is not brought back before somebody needs it
        ("last", "deltas", LAST),
        ("last", "all", LAST),
    ],
)
def test_another_keep_needs_no_stage(done: Done, first: str, then: str, expected: list[str]) -> None:
    workplace = keeping(done(first), then)
    assert workplace.go() == []
    assert on_disk(workplace) == expected
    assert workplace.go() == []


def test_a_model_that_came_back_stays_with_keep_all(done: Done) -> None:
    workplace = keeping(done("deltas"), "all")
    workplace.go(from_batch=2)
    assert on_disk(workplace) == [name for name in ALL if name != "batch_001/tuned"]
    assert keeping(workplace, "deltas").go() == []
    assert on_disk(workplace) == DELTAS


def test_nothing_is_left_of_what_was_packed_and_is_not_kept_any_more(done: Done) -> None:
    workplace = keeping(done("deltas"), "last")
    workplace.go()
    assert {record(workplace, f"batch_00{n}/merge")["packed"] for n in (1, 2)} == {None}
    assert workplace.go(from_batch=2)[:2] == ["batch_001/train", "batch_001/merge"]


# -- killed at the wrong moment -----------------------------------------------------------------


class Killed(BaseException):
    pass


def kill_at(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, target: str, after: bool) -> None:
    """The run ends before, or after, it first calls a function with that path in batch 1."""
    real = getattr(module, name)

    def call(path: Path, *arguments: Any, **more: Any) -> Any:
        if (path.parent.name, path.name) != ("batch_001", target):
            return real(path, *arguments, **more)
        if after:
            real(path, *arguments, **more)
        raise Killed

    monkeypatch.setattr(module, name, call)


LETTING_GO = [
    (ledger, "remove", "tuned"),
    (ledger, "remove", "merged"),
    (changed, "pack", "merged"),
    (records, "write_record", "train.record.json"),
    (records, "write_record", "merge.record.json"),
]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("module", "name", "target"), LETTING_GO)
@pytest.mark.parametrize("keep", ["deltas", "last"])
def test_killed_while_it_lets_go(
    done: Done, monkeypatch: pytest.MonkeyPatch, keep: str, module: Any, name: str, target: str, after: bool
) -> None:
    expected = done(keep).state()
    workplace = keeping(done("all"), keep)
    with monkeypatch.context() as patch:
        kill_at(patch, module, name, target, after)
        if (keep, name) == ("last", "pack"):
            workplace.go()  # nothing is packed
        else:
            with pytest.raises(Killed):
                workplace.go()
    assert workplace.go() == []
    assert workplace.state() == expected
    assert on_disk(workplace) == (DELTAS if keep == "deltas" else LAST)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("module", "name", "target"),
    [(changed, "rebuild", "changed"), (records, "write_record", "merge.record.json"), (ledger, "remove", "changed")],
)
def test_killed_while_it_brings_back(
    done: Done, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, target: str, after: bool
) -> None:
    workplace = done("deltas")
    expected = workplace.state()
    with monkeypatch.context() as patch:
        kill_at(patch, module, name, target, after)
        with pytest.raises(Killed):
            workplace.go(force=["batch_001/edits"])
    assert workplace.go(force=["batch_001/edits"]) == ["batch_001/score"]
    assert workplace.state() == expected
    assert on_disk(workplace) == DELTAS


def test_a_half_packed_folder_is_no_packed_one(done: Done) -> None:
    workplace = done("all")
    half = workplace.run_folder / "batch_001" / "changed"
    half.mkdir()
    (half / "manifest.json").write_text(json.dumps({"format": 1}))
    assert keeping(workplace, "deltas").go() == []
    assert changed.damage(half) is None
    assert on_disk(workplace) == DELTAS
