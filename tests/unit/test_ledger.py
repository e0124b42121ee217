"""What counts as done, and the reason a stage is done again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kedit_glue import strict_yaml
from kedit_glue.ledger import Ledger, Todo, digest
from kedit_glue.plan import Plan, Stage
from kedit_glue.runner import Job

VERSIONS = {"mergekit": "0.1.5"}


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(VERSIONS)


@pytest.fixture
def chain(tmp_path: Path) -> list[Stage]:
    """Three stages, each after the one before, each reading a YAML of its own."""
    stages = []
    for number, name in enumerate(("train", "merge", "score")):
        yaml = tmp_path / f"{name}.yaml"
        yaml.write_text(f"{name}: 1\n")
        job = Job(name, name, {}, tmp_path, name)
        after = (stages[-1].name,) if number else ()
        stages.append(Stage(f"b/{name}", 1, job, (yaml,), after, tmp_path / "out" / name, {"seed": 0}))
    (tmp_path / "out").mkdir()
    return stages


def do(ledger: Ledger, stages: list[Stage], names: str = "train merge score", weights: str = "weights of") -> None:
    """What the run does for each stage, with a folder of one file as its output."""
    for stage in stages:
        if stage.job.name in names.split():
            ledger.begin(stage)
            stage.working.mkdir()
            (stage.working / "model.safetensors").write_text(f"{weights} {stage.name}")
            ledger.finish(stage, {"facts": 2, "learned": 1}, 1.25)


def reasons(ledger: Ledger, stages: list[Stage], final: Path | None = None, **again: str) -> list[str | None]:
    return [t.reason for t in ledger.todo(stages, {f"b/{name}": why for name, why in again.items()}, final)]


def flip(file: Path) -> None:
    """Turn one bit, as a disk does: size and time stay."""
    at = file.stat()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    os.utime(file, ns=(at.st_atime_ns, at.st_mtime_ns))


AGAIN = "an earlier stage is done again (b/{})"


def test_nothing_is_done_at_first(ledger: Ledger, chain: list[Stage]) -> None:
    assert ledger.todo(chain) == [Todo(s, "not done yet") for s in chain]


def test_what_is_done_stands(ledger: Ledger, chain: list[Stage]) -> None:
    do(ledger, chain)
    assert reasons(ledger, chain) == [None, None, None]
    again = Ledger(VERSIONS)  # in another process, too
    assert again.todo(chain) == [Todo(stage, None, 1.25, 1) for stage in chain]


def test_a_run_that_stopped_half_way_goes_on(ledger: Ledger, chain: list[Stage]) -> None:
    do(ledger, chain, "train")
    assert reasons(ledger, chain) == [None, "not done yet", "not done yet"]


def test_an_output_without_a_record_is_not_done(ledger: Ledger, chain: list[Stage]) -> None:
    chain[0].output.mkdir()
    (chain[0].output / "model.safetensors").write_text("whatever")
    assert reasons(ledger, chain)[0] == "not done yet"


def test_a_changed_yaml_is_named_and_all_after_it_is_done_again(ledger: Ledger, chain: list[Stage]) -> None:
    do(ledger, chain)
    chain[1].reads[0].write_text("merge: 2\n")
    assert reasons(ledger, chain) == [None, "changed: merge.yaml", AGAIN.format("merge")]
    do(ledger, chain, "merge")
    assert reasons(ledger, chain) == [None, None, AGAIN.format("merge")]
    do(ledger, chain, "score")
    assert reasons(ledger, chain) == [None, None, None]


def test_a_change_taken_back_needs_nothing(ledger: Ledger, chain: list[Stage]) -> None:
    do(ledger, chain)
    chain[0].reads[0].write_text("train: 2\n")
    chain[0].reads[0].write_text("train: 1\n")
    assert reasons(ledger, chain) == [None, None, None]


def test_a_file_of_the_same_content_written_again_is_no_change(ledger: Ledger, chain: list[Stage]) -> None:
    do(ledger, chain)
    chain[0].reads[0].unlink()
    chain[0].reads[0].write_text("train: 1\n")
    assert reasons(ledger, chain) == [None, None, None]


def test_a_changed_setting_or_version_is_named(ledger: Ledger, chain: list[Stage]) -> None:
    do(ledger, chain)
    other = [*chain[:2], replace(chain[2], settings={"seed": 1})]
    assert reasons(ledger, other) == [None, None, "changed: setting seed"]
    newer = Ledger({"mergekit": "0.1.6"})
    assert reasons(newer, chain)[0] == "changed: version of mergekit"


def test_several_changes_are_named_together(ledger: Ledger, chain: list[Stage]) -> None:
    do(ledger, chain)
    chain[0].reads[0].write_text("train: 2\n")
    chain[1].reads[0].write_text("merge: 2\n")
    assert reasons(ledger, chain)[1] == "changed: merge.yaml, stage b/train"


def test_an_input_that_came_or_went_is_named(ledger: Ledger, chain: list[Stage]) -> None:
    do(ledger, chain)
    assert reasons(ledger, [replace(chain[0], reads=()), *chain[1:]])[0] == "changed: train.yaml"
    more = {"seed": 0, "new": 1}
    assert reasons(ledger, [replace(chain[0], settings=more), *chain[1:]])[0] == "changed: setting new"


def test_an_output_that_is_gone(ledger: Ledger, chain: list[Stage]) -> None:
    do(ledger, chain)
    (chain[1].output / "model.safetensors").unlink()
    chain[1].output.rmdir()
    assert reasons(ledger, chain)[1] == "its output merge is gone"


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("rewritten", "model.safetensors has another size"),
        ("as long", "model.safetensors holds something else"),
        ("added", "more.json is new"),
        ("removed", "model.safetensors is gone"),
        ("renamed", "model.safetensors is gone"),
    ],
)
def test_an_output_that_was_changed_from_outside(ledger: Ledger, chain: list[Stage], how: str, what: str) -> None:
    do(ledger, chain)
    file = chain[1].output / "model.safetensors"
    if how == "rewritten":
        file.write_text("other weights")
    elif how == "as long":
        file.write_text(file.read_text().upper())
    elif how == "added":
        (file.parent / "more.json").write_text("{}")
    elif how == "removed":
        file.unlink()
    else:
        file.rename(file.with_name("other.safetensors"))
    assert reasons(ledger, chain) == [None, f"its output merge was changed from outside: {what}", None]


def test_a_file_that_was_only_touched_is_the_same(ledger: Ledger, chain: list[Stage]) -> None:
    do(ledger, chain)
    (chain[1].output / "model.safetensors").touch()
    assert reasons(ledger, chain) == [None, None, None]


def test_a_file_edited_while_its_stage_ran_is_a_change(ledger: Ledger, chain: list[Stage]) -> None:
    ledger.begin(chain[0])
    chain[0].working.mkdir()
    chain[0].reads[0].write_text("train: 2\n")
    ledger.finish(chain[0], {}, 1.0)
    assert reasons(ledger, chain)[0] == "changed: train.yaml"


def test_a_file_edited_after_its_stage_ran_makes_later_stages_of_the_same_run_stale(
    ledger: Ledger, chain: list[Stage]
) -> None:
    ledger.todo(chain)
    do(ledger, chain, "train")
    chain[0].reads[0].write_text("train: 2\n")
    do(ledger, chain, "merge score")  # of what was trained with 1
    again = Ledger(VERSIONS)
    assert reasons(again, chain) == ["changed: train.yaml", AGAIN.format("train"), AGAIN.format("merge")]
    do(again, chain, "train")
    assert reasons(again, chain) == [None, AGAIN.format("train"), AGAIN.format("merge")]


# -- what a stage was made from -----------------------------------------------------------------


def test_an_output_done_again_with_the_same_content_changes_nothing(ledger: Ledger, chain: list[Stage]) -> None:
    do(ledger, chain)
    ledger.record_file(chain[0]).unlink()
    assert reasons(ledger, chain) == ["not done yet", None, None]
    do(ledger, chain, "train")
    assert reasons(ledger, chain) == [None, None, None]


def test_an_output_done_again_with_other_content_makes_what_was_made_from_it_stale(
    ledger: Ledger, chain: list[Stage]
) -> None:
    do(ledger, chain)
    ledger.record_file(chain[0]).unlink()
    do(ledger, chain, "train", weights="other weights of")
    assert reasons(ledger, chain) == [None, "it was made from another output of b/train", None]
    do(ledger, chain, "merge")
    assert reasons(ledger, chain) == [None, None, None], "the merge came out as before"
    do(ledger, chain, "merge", weights="other weights of")
    assert reasons(ledger, chain) == [None, None, "it was made from another output of b/merge"]


def test_what_no_later_stage_reads_of_a_model_makes_nothing_stale(ledger: Ledger, chain: list[Stage]) -> None:
    """A tokenizer's file or a training's log may hold a time; weights and configuration decide."""
    do(ledger, chain)
    stage = chain[0]
    ledger.begin(stage)
    stage.working.mkdir()
    (stage.working / "model.safetensors").write_text(f"weights of {stage.name}")
    (stage.working / "training_args.bin").write_text("with a time in it")
    ledger.finish(stage, {}, 1.0)
    assert reasons(ledger, chain) == [None, None, None]


# -- a bit that turned on the disk --------------------------------------------------------------


def test_a_model_is_read_before_anything_is_made_from_it(ledger: Ledger, chain: list[Stage]) -> None:
    do(ledger, chain)
    flip(chain[1].output / "model.safetensors")
    assert reasons(ledger, chain) == [None, None, None], "nobody reads it"
    damaged = "its output merge is damaged: model.safetensors holds something else"
    assert reasons(ledger, chain, score="asked for") == [None, damaged, "asked for"]
    assert reasons(ledger, chain, final=chain[1].output) == [None, damaged, None]
    # what made the damaged one is read in turn
    flip(chain[0].output / "model.safetensors")
    assert reasons(ledger, chain, final=chain[1].output) == [
        "its output train is damaged: model.safetensors holds something else",
        damaged,
        None,
    ]


def test_an_output_that_is_a_file_is_always_read(ledger: Ledger, chain: list[Stage]) -> None:
    stage = replace(chain[0], output=chain[0].output.with_name("answers.json"))
    ledger.begin(stage)
    stage.working.write_text('{"facts": []}')
    ledger.finish(stage, {}, 1.0)
    assert reasons(ledger, [stage]) == [None]
    flip(stage.output)
    expected = "its output answers.json was changed from outside: answers.json holds something else"
    assert reasons(ledger, [stage]) == [expected]
    stage.output.unlink()
    assert reasons(ledger, [stage]) == ["its output answers.json is gone"]


def test_files_beside_an_output_are_always_read(ledger: Ledger, chain: list[Stage]) -> None:
    trace = chain[0].output.with_name("trace.jsonl")
    chain[0] = replace(chain[0], beside=(trace,))
    trace.write_text('{"id": "f0"}\n')
    do(ledger, chain)
    assert reasons(ledger, chain) == [None, None, None]
    flip(trace)
    assert reasons(ledger, chain) == ["its trace.jsonl is damaged", None, None]
    trace.unlink()
    assert reasons(ledger, chain) == ["its trace.jsonl is gone", None, None]


def test_a_stage_that_is_asked_for_runs_whatever_its_record_says(ledger: Ledger, chain: list[Stage]) -> None:
    do(ledger, chain)
    assert reasons(ledger, chain, merge="--force merge") == [None, "--force merge", None]
    ledger.record_file(chain[1]).write_text("{")
    assert reasons(ledger, chain, merge="--force merge") == [None, "--force merge", None]


# -- outputs that were not kept -----------------------------------------------------------------


def test_a_released_output_is_still_done(ledger: Ledger, chain: list[Stage]) -> None:
    do(ledger, chain)
    ledger.release(chain[0])
    assert not chain[0].output.exists()
    assert reasons(ledger, chain) == [None, None, None]


def test_a_released_output_is_made_again_when_a_stage_needs_it(ledger: Ledger, chain: list[Stage]) -> None:
    do(ledger, chain)
    ledger.release(chain[0])
    ledger.release(chain[1])
    assert reasons(ledger, chain, final=chain[1].output)[1] == "the end of the run needs its output, which was not kept"
    chain[2].reads[0].write_text("score: 2\n")
    assert reasons(ledger, chain) == [
        "b/merge needs its output, which was not kept",
        "b/score needs its output, which was not kept",
        "changed: score.yaml",
    ]
    do(ledger, chain)
    assert reasons(ledger, chain) == [None, None, None]
    assert chain[0].output.is_dir()


def test_only_what_is_missing_is_made_again(ledger: Ledger, chain: list[Stage]) -> None:
    do(ledger, chain)
    ledger.release(chain[0])
    chain[2].reads[0].write_text("score: 2\n")
    assert reasons(ledger, chain) == [None, None, "changed: score.yaml"]


def test_nothing_is_released_that_is_not_recorded(ledger: Ledger, chain: list[Stage]) -> None:
    chain[0].output.mkdir()
    ledger.release(chain[0])
    assert chain[0].output.is_dir()


# -- the record itself --------------------------------------------------------------------------


def test_a_record_says_what_was_done(ledger: Ledger, chain: list[Stage]) -> None:
    do(ledger, chain)
    record = ledger.record(chain[1])
    assert record is not None
    assert (record["stage"], record["result"], record["seconds"]) == ("b/merge", {"facts": 2, "learned": 1}, 1.25)
    assert set(record["parts"]) == {"merge.yaml", "stage b/train", "setting seed", "version of mergekit"}
    assert list(record["output"]) == ["model.safetensors"]


BROKEN = ["", '{"key": "x", "par', "[]", "null", "{}", '{"key": "x"}', "\x00\x00"]


@pytest.mark.parametrize("text", BROKEN)
def test_a_half_written_record_counts_as_none(ledger: Ledger, chain: list[Stage], text: str) -> None:
    do(ledger, chain)
    ledger.record_file(chain[0]).write_text(text)
    assert ledger.record(chain[0]) is None
    assert reasons(ledger, chain) == ["its record train.record.json is damaged", None, None]
    ledger.release(chain[0])
    assert chain[0].output.is_dir(), "nothing is deleted on the word of a damaged record"


def test_begin_forgets_record_output_and_half_an_output(ledger: Ledger, chain: list[Stage]) -> None:
    do(ledger, chain)
    stage = chain[0]
    stage.working.mkdir()
    (stage.working / "half").write_text("x")
    ledger.begin(stage)
    assert [p.exists() for p in (ledger.record_file(stage), stage.output, stage.working)] == [False] * 3
    assert chain[1].output.is_dir()
    assert reasons(ledger, chain)[0] == "not done yet"


def test_begin_forgets_an_output_that_is_a_file(ledger: Ledger, chain: list[Stage]) -> None:
    stage = replace(chain[0], output=chain[0].output.with_suffix(".json"))
    stage.output.write_text("{}")
    stage.working.write_text("{")
    ledger.begin(stage)
    assert not stage.output.exists() and not stage.working.exists()


def test_an_output_gets_its_name_before_the_record_is_written(
    ledger: Ledger, chain: list[Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(path: Path, value: object) -> None:
        assert chain[0].output.is_dir() and not chain[0].working.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr("kedit_glue.records.write_record", stop)
    with pytest.raises(KeyboardInterrupt):
        do(ledger, chain, "train")
    assert reasons(ledger, chain)[0] == "not done yet"


def test_every_stage_of_a_plan_has_its_own_record(plan_of: Callable[..., Plan], ledger: Ledger) -> None:
    plan = plan_of("score: {general: {tasks: [hellaswag], when: each}}")
    assert len({ledger.record_file(s) for s in plan.stages}) == len(plan.stages)


# -- digests ------------------------------------------------------------------------------------


def test_a_folders_digest_knows_names_and_contents(tmp_path: Path) -> None:
    seen = []
    (tmp_path / "tasks" / "in").mkdir(parents=True)
    for name, text in (("a", "1"), ("a", "2"), ("in/b", "2"), ("in/c", "2")):
        (tmp_path / "tasks" / name).write_text(text)
        seen.append(digest(tmp_path / "tasks"))
    assert len(set(seen)) == 4
    (tmp_path / "tasks" / "in" / "c").rename(tmp_path / "tasks" / "in" / "d")
    assert digest(tmp_path / "tasks") not in seen


@pytest.mark.parametrize("name", ["elsewhere", "with a blank", "with: colon"])
def test_a_run_that_was_moved_is_still_done(tmp_path: Path, name: str) -> None:
    def stage_in(folder: Path) -> tuple[Ledger, Stage]:
        job = Job("train", "train", {}, folder, "train")
        return Ledger(VERSIONS, folder), Stage("b/train", 1, job, (folder / "train.yaml",), (), folder / "out")

    first, moved = tmp_path / "runs", tmp_path / name
    first.mkdir()
    (first / "train.yaml").write_text(strict_yaml.dump({"model": f"{first}/tuned", "rate": 0.1}), encoding="utf-8")
    ledger, stage = stage_in(first)
    do(ledger, [stage])
    shutil.copytree(first, moved)
    (moved / "train.yaml").write_text(strict_yaml.dump({"model": f"{moved}/tuned", "rate": 0.1}), encoding="utf-8")
    there, moved_stage = stage_in(moved)
    assert reasons(there, [moved_stage]) == [None]
    (moved / "train.yaml").write_text(strict_yaml.dump({"model": f"{moved}/other", "rate": 0.1}), encoding="utf-8")
    assert reasons(there, [moved_stage]) == ["changed: train.yaml"]
