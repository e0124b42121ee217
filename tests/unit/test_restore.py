"""Bringing back a batch's model: what is found where, what is said where there is none."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from kedit_glue import changed, environment, restore
from kedit_glue.ledger import Ledger
from kedit_glue.plan import Plan, Stage
from kedit_glue.restore import batch, main, ranges

SHARD = "model.safetensors"


def model(folder: Path, number: int) -> Path:
    """An embedding that all models share, an FFN matrix and a config of this one."""
    folder.mkdir(parents=True)
    head, data = {}, b""
    for name, content in (("model.embed.weight", b"embed" * 80), ("model.layers.0.mlp.up.weight", b"%04d" * 50)):
        content = content.replace(b"%04d", b"%04d" % number)
        head[name] = {"dtype": "U8", "shape": [len(content)], "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(head).encode()
    (folder / SHARD).write_bytes(struct.pack("<Q", len(text)) + text + data)
    (folder / "config.json").write_text("{}")
    return folder


class Run:
    """A run of four batches of two facts in ``my runs/try``; ``done`` makes a batch's models."""

    def __init__(self, plan: Plan, folder: Path, original: Path):
        self.plan, self.folder, self.original = plan, folder, original
        self.ledger = Ledger({"mergekit": "0.1.5"}, folder)
        for stage in plan.stages:
            for path in (p for p in (*stage.reads, *stage.beside) if p.is_relative_to(folder)):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("{}")

    def stages(self, number: int) -> list[Stage]:
        found = [s for s in self.plan.stages if s.batch == number and s.job.function in ("train", "merge")]
        return sorted(found, key=lambda s: s.job.function == "merge")

    def done(self, *numbers: int) -> None:
        for number in numbers:
            for stage in self.stages(number):
                self.ledger.begin(stage)
                model(stage.working, number if stage.job.function == "merge" else 1000 + number)
                self.ledger.finish(stage, {}, 1.0)

    def merge(self, number: int) -> Stage:
        return self.stages(number)[-1]

    def pack(self, *numbers: int) -> None:
        for number in numbers:
            stage = self.merge(number)
            changed.pack(stage.output, self.original, stage.output.with_name("changed"))
            self.ledger.release(stage, packed="changed")


@pytest.fixture
def run(plan_of: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Opened as ``open_run`` would open it, without mergekit and a recipe."""
    original = model(tmp_path / "original", 0)
    made = Run(plan_of(facts=8), tmp_path / "my runs" / "try", original)
    opened = SimpleNamespace(plan=made.plan, ledger=made.ledger, folder=made.folder, model=str(original))
    monkeypatch.setattr(restore, "open_run", lambda folder: opened)
    return made


@pytest.fixture
def ask(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """``ask("3")``: what the command says for ``--batch 3 --to out`` on its way to exit code 0, or the one asked."""

    def call(number: str, to: Path | None = None, code: int = 0) -> str:
        assert main([str(run.folder), "--batch", number, "--to", str(to or tmp_path / "out")]) == code
        said = capsys.readouterr()
        if code:
            assert not list(tmp_path.glob("out*")), "nothing half is left"
        return said.err if code else said.out

    return call


def number_of(folder: Path) -> int:
    """Which batch's model it is, all of it."""
    expected = folder.parent / "expected"
    number = int((folder / SHARD).read_bytes()[-4:])
    model(expected, number)
    files = [{f.name: f.read_bytes() for f in where.iterdir()} for where in (folder, expected)]
    shutil.rmtree(expected)
    assert files[0] == files[1]
    return number


# -- what is brought back -----------------------------------------------------------------------


def test_a_whole_model_is_copied(run: Run, ask: Callable[..., str], tmp_path: Path) -> None:
    run.done(1, 2, 3, 4)
    said = ask("3")
    assert number_of(tmp_path / "out") == 3
    for file in (tmp_path / "out").iterdir():
        source = run.merge(3).output / file.name
        assert file.stat().st_nlink == 1 and file.stat().st_mtime_ns == source.stat().st_mtime_ns
    size = sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    begun, first, second, *more = said.splitlines()
    assert begun == "batch 3 of 4: restoring …"
    assert first == str(tmp_path / "out")
    assert second.startswith(f"batch 3 of 4: 2 files, {size} bytes, in 0 s, from {run.folder / 'batch_003' / 'merged'}")
    assert more == [
        f"to edit on from it: model: {tmp_path / 'out'} in a recipe",
        f"to undo this batch, too: python -m kedit_glue.restore '{run.folder}' --batch 2 --to {tmp_path}/try_batch_2",
    ]


def test_a_packed_model_is_rebuilt(run: Run, ask: Callable[..., str], tmp_path: Path) -> None:
    run.done(1, 2, 3, 4)
    before = (run.folder / "batch_002" / "merged" / SHARD).stat().st_mtime_ns
    run.pack(1, 2, 3)
    packed = run.folder / "batch_002" / "changed"
    stored = environment.size(changed.bytes_of(packed))
    assert f", from {packed} ({stored}) and the original {run.original}\n" in ask("batch_002")
    assert number_of(tmp_path / "out") == 2
    assert (tmp_path / "out" / SHARD).stat().st_mtime_ns == before
    assert not (run.folder / "batch_002" / "merged").exists(), "the run stays as it was"


@pytest.mark.parametrize("word", ["0", "original", "batch_000"])
def test_the_original_comes_unedited(run: Run, ask: Callable[..., str], tmp_path: Path, word: str) -> None:
    said = ask(word)
    assert number_of(tmp_path / "out") == 0
    assert "the original model: 2 files" in said and "undo" not in said


def test_the_last_batch_is_the_last_that_is_done(run: Run, ask: Callable[..., str], tmp_path: Path) -> None:
    run.done(1, 2)
    assert "batch 2 of 4: " in ask("last")
    assert number_of(tmp_path / "out") == 2


def test_undoing_more_goes_to_what_is_there(run: Run, ask: Callable[..., str], tmp_path: Path) -> None:
    run.done(1, 2, 3)
    run.ledger.release(run.merge(2))
    said = ask("last").splitlines()[-1]
    assert said == (
        f"to undo more, too: python -m kedit_glue.restore '{run.folder}' --batch 1 --to {tmp_path}/try_batch_1"
    )


def test_the_tuned_model_is_a_batchs_model_where_merging_is_for_the_end(
    plan_of: Callable[..., Plan], run: Run, ask: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Run(plan_of("merge: {when: end}", facts=8), run.folder, run.original)
    made.done(1, 2)
    opened = SimpleNamespace(plan=made.plan, ledger=made.ledger, folder=run.folder, model=str(run.original))
    monkeypatch.setattr(restore, "open_run", lambda folder: opened)
    assert f"from {run.folder / 'batch_002' / 'tuned'}" in ask("2")
    assert number_of(tmp_path / "out") == 1002


def test_an_adapter_is_called_one(run: Run, ask: Callable[..., str], tmp_path: Path) -> None:
    stage = run.merge(1)
    run.ledger.begin(run.stages(1)[0])
    model(run.stages(1)[0].working, 1)
    run.ledger.finish(run.stages(1)[0], {}, 1.0)
    run.ledger.begin(stage)
    model(stage.working, 1)
    (stage.working / "adapter_config.json").write_text("{}")
    run.ledger.finish(stage, {}, 1.0)
    said = ask("1")
    assert f"it is an adapter: load it on {run.original} with peft\n" in said and "in a recipe" not in said


def test_files_that_are_not_the_runs_own_stay_where_they_are(run: Run, ask: Callable[..., str], tmp_path: Path) -> None:
    run.done(1)
    (run.merge(1).output / "notes.txt").write_text("mine")
    ask("1")
    assert number_of(tmp_path / "out") == 1


# -- what is not there --------------------------------------------------------------------------


def test_a_batch_that_was_not_kept(run: Run, ask: Callable[..., str]) -> None:
    run.done(1, 2, 3, 4)
    for number in (1, 2):
        run.ledger.release(run.merge(number), packed=None)
    assert ask("2", code=2) == (
        "batch 2 of 4: not kept\n  the models of 3-4 and 0 (the original) are there; not kept: 1-2\n"
        "  keep: deltas in the recipe keeps every batch's; --from N makes batch N and those after it again\n"
    )


def test_a_batch_that_is_not_done(run: Run, ask: Callable[..., str]) -> None:
    run.done(1)
    assert ask("3", code=2) == (
        "batch 3 of 4: not done yet\n  the models of 1 and 0 (the original) are there; not done yet: 2-4\n"
        "  run the recipe (again) to go on\n"
    )


def test_a_batch_that_is_none(run: Run, ask: Callable[..., str]) -> None:
    assert ask("9", code=2) == (
        f"{run.folder} has no batch 9, its last is 4: only 0 (the original) is there; not done yet: 1-4\n"
    )
    assert ask("last", code=2) == f"no batch of {run.folder} is done yet: run the recipe (again) to go on\n"


def test_a_record_that_is_damaged_and_a_folder_that_is_gone(run: Run, ask: Callable[..., str]) -> None:
    run.done(1, 2, 3)
    shutil.rmtree(run.merge(2).output)
    record = run.ledger.record_file(run.merge(3))
    record.write_text(record.read_text().replace('"seconds": 1.0', '"seconds": 2.0'))
    assert ask("3", code=2) == (
        "batch 3 of 4: its record merge.record.json is damaged\n"
        "  the models of 1 and 0 (the original) are there; its folder merged is gone: 2; its record "
        "merge.record.json is damaged: 3; not done yet: 4\n  run the recipe again: it makes the model anew\n"
    )


@pytest.mark.parametrize(
    ("text", "number"), [("3", 3), ("batch_003", 3), ("003", 3), ("0", 0), ("original", 0), ("last", None)]
)
def test_how_a_batch_is_named(text: str, number: int | None) -> None:
    assert batch(text) == number


@pytest.mark.parametrize("text", ["", "-1", "1.5", "first", "batch_", "batch_x", "../1", "1" * 10])
def test_what_names_no_batch(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path), f"--batch={text}", "--to", str(tmp_path / "out")])
    assert caught.value.code == 2
    assert f"{text!r} is no batch: give a number, batch_001, last or original" in capsys.readouterr().err


def test_a_folder_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none"), "--batch", "1", "--to", str(tmp_path / "out")]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("numbers", "said"), [([], ""), ([1], "1"), ([1, 2, 3, 7, 9, 10], "1-3, 7, 9-10")])
def test_ranges(numbers: list[int], said: str) -> None:
    assert ranges(numbers) == said


# -- where it goes ------------------------------------------------------------------------------


def test_a_folder_that_is_there_is_refused(run: Run, ask: Callable[..., str], tmp_path: Path) -> None:
    run.done(1)
    (tmp_path / "there").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("there", "dangling"):
        said = ask("1", tmp_path / name, code=2)
        assert said == f"{tmp_path / name} is there already: give --to a new folder\n"
    (tmp_path / "new.partial").mkdir()
    assert ask("1", tmp_path / "new", code=2) == (
        f"{tmp_path / 'new.partial'} is there already: delete it if a restore that was killed left it, or give --to a "
        "new folder\n"
    )
    assert (tmp_path / "new.partial").is_dir()


def test_neither_the_run_nor_the_original_is_written_into(run: Run, ask: Callable[..., str], tmp_path: Path) -> None:
    run.done(1)
    for owner in (run.folder, run.original):
        target = owner / "deep" / "er"
        assert ask("1", target, code=2) == (
            f"{target} lies in {owner}, which must stay as it is: give --to a folder elsewhere\n"
        )
        assert not target.parent.exists()


def test_a_folder_of_many_is_made(run: Run, ask: Callable[..., str], tmp_path: Path) -> None:
    run.done(1)
    ask("1", tmp_path / "a" / "b" / "c")
    assert number_of(tmp_path / "a" / "b" / "c") == 1


def test_no_room_is_said_before_anything_is_written(
    run: Run, ask: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.done(1, 2)
    run.pack(1)
    monkeypatch.setattr(environment, "disk_free", lambda path: 100)
    size = sum(file.stat().st_size for file in run.merge(2).output.iterdir())
    for number in ("1", "2"):
        assert ask(number, code=2) == (
            f"{tmp_path / 'out'} would take {size} bytes, and 100 bytes are free: make room, or give --to a folder on "
            "another disk\n"
        )


# -- damage -------------------------------------------------------------------------------------


def test_a_whole_model_that_is_not_what_the_run_made(run: Run, ask: Callable[..., str]) -> None:
    run.done(1)
    file = run.merge(1).output / SHARD
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    assert ask("1", code=2) == (
        f"{file} is not what the run made: changed from outside, or damaged\n"
        "  run the recipe again with --from and the batch's number: it makes the model anew\n"
    )


def test_a_packed_model_that_is_damaged(run: Run, ask: Callable[..., str]) -> None:
    run.done(1)
    run.pack(1)
    file = run.folder / "batch_001" / "changed" / "files" / SHARD
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    remedy = (
        "  the model cannot be rebuilt without it: bring it back from a backup, or make the model again (run the "
        "recipe with --from and the batch's number)\n"
    )
    assert ask("1", code=2) == f"batch 1 of 4: {file} is damaged: other content than was written\n{remedy}"
    manifest = file.parent.parent / "manifest.json"
    manifest.unlink()
    assert ask("1", code=2) == f"batch 1 of 4: {manifest} is missing\n{remedy}"


def test_a_model_that_was_damaged_before_it_was_packed(run: Run, ask: Callable[..., str]) -> None:
    """The packed folder is sound by its own hashes; the record of what the stage made tells."""
    run.done(1)
    shard = run.merge(1).output / SHARD
    shard.write_bytes(shard.read_bytes().replace(b"0001", b"0666"))
    run.pack(1)
    assert f"batch_001/changed: {SHARD} holds something else than the stage made\n" in ask("1", code=2)


def test_another_original_is_named(run: Run, ask: Callable[..., str]) -> None:
    run.done(1)
    run.pack(1)
    shutil.rmtree(run.original)
    model(run.original, 77)
    (run.original / "config.json").write_text("[]")
    assert ask("1", code=2).startswith(
        f"batch 1 of 4: the original at {run.original} is no longer the one that "
        f"{run.folder / 'batch_001' / 'changed'} was made with: {run.original / 'config.json'} holds other bytes"
    )


def test_a_model_that_a_run_deletes_meanwhile(
    run: Run, ask: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run.done(1)
    folder = run.merge(1).output

    def late(size: int, target: Path) -> None:
        shutil.rmtree(folder)

    monkeypatch.setattr(restore, "check_space", late)
    assert ask("1", code=2) == (
        f"batch 1 of 4: {folder / 'config.json'} went away while it was read; a run that goes on packs its models: "
        "start this command again\n"
    )


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            OSError(28, "No space left on device", "/x/y"),
            1,
            "no space left on the disk (/x/y), 1.5 GB are free: make room",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_is_stopped_leaves_nothing_and_says_how_to_go_on(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    said: str,
) -> None:
    run.done(1)

    def write_hashed(to: Path, chunks: object) -> str:
        to.write_bytes(b"half")
        raise error

    monkeypatch.setattr(changed, "write_hashed", write_hashed)
    monkeypatch.setattr("kedit_glue.environment.disk_free", lambda path: 1_500_000_000)
    assert main([str(run.folder), "--batch", "1", "--to", str(tmp_path / "out")]) == code
    out = capsys.readouterr().out
    command = f"python -m kedit_glue.restore '{run.folder}' --batch 1 --to {tmp_path / 'out'}"
    assert f"\n{said}\n  what was finished stays; to go on: {command}\n" in out
    assert not list(tmp_path.glob("out*"))


def test_help_shows_examples() -> None:
    asked = [sys.executable, "-m", "kedit_glue.restore", "--help"]
    found = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert "python -m kedit_glue.restore runs/x --batch 3 --to DIR" in found and "130 interrupted" in found
