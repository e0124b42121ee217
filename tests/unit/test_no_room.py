"""A full disk: the stage, what it needs and what is free are said; what is finished stays, and goes on afterwards."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from kedit_glue import changed, environment, records
from kedit_glue.environment import size
from kedit_glue.execute import SPARE, NoRoom
from kedit_glue.problems import CannotStart
from kedit_glue.progress import Display
from kedit_glue.weights import SINGLE

AFTER = ["batch_003/general"]


def jobs(*numbers: int, names: str = "train merge score") -> list[str]:
    return [f"batch_{n:03d}/{name}" for n in numbers for name in names.split()]


ALL = ["setup/prepare", "base/score", "base/general", *jobs(1, 2, 3), *AFTER]


@pytest.fixture
def full_after(workplace: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """From when a stage is recorded on only so many bytes are free."""

    def fill(name: str, free: int) -> None:
        record = workplace.run_folder / f"{name}.record.json"
        monkeypatch.setattr(environment, "disk_free", lambda path: free if record.is_file() else 10**12)

    return fill


def made(workplace: Any) -> dict[str, Any]:
    """What is recorded: by stage, when it ended and what it made."""
    found = [records.read_record(file) for file in workplace.run_folder.rglob("batch_*/*.record.json")]
    return {record["stage"]: (record["finished"], record["content"]) for record in found if record}


def refused(workplace: Any, **more: Any) -> str:
    with pytest.raises(NoRoom) as caught:
        workplace.go(**more)
    return str(caught.value)


def room_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "disk_free", lambda path: 10**12)


def test_a_stage_that_has_no_room_is_not_begun(
    workplace: Any, full_after: Callable[[str, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = (workplace.folder / "model" / SINGLE).stat().st_size
    full_after("batch_001/score", weights - 1)
    assert refused(workplace) == (
        "batch 2 of 3: train: not begun, there is no space for it on the disk\n"
        f"  it writes about {size(weights + SPARE)} to {workplace.run_folder / 'batch_002'}, "
        f"and {weights - 1} bytes are free: make room"
    )
    assert workplace.tool.calls() == ALL[:6], "not begun"
    before = made(workplace)
    with pytest.raises(CannotStart, match="1 thing above must be put right first"):
        workplace.go()
    assert workplace.lines("fail    disk: "), "the look before the start sees it, too"
    room_made(monkeypatch)
    assert workplace.go() == ALL[6:]
    assert before.items() <= made(workplace).items()


def test_a_stage_with_just_enough_room_is_begun(workplace: Any, full_after: Callable[[str, int], None]) -> None:
    weights = (workplace.folder / "model" / SINGLE).stat().st_size
    full_after("batch_003/train", weights)
    workplace.go()


@pytest.mark.parametrize("behaviour", ["no_space", "no_quota"])
def test_a_tool_that_found_no_space(workplace: Any, monkeypatch: pytest.MonkeyPatch, behaviour: str) -> None:
    room_made(monkeypatch)
    workplace.tool.behave({"batch_002/train": behaviour})
    lines = refused(workplace).splitlines()
    weights = (workplace.folder / "model" / SINGLE).stat().st_size
    batch = workplace.run_folder / "batch_002"
    assert lines[0] == "batch 2 of 3: train: exit code 1 (no space left on the disk)"
    assert lines[-1] == f"  it writes about {size(weights + SPARE)} to {batch}, and 1000.0 GB are free: make room"
    assert f"  last lines of {batch / 'train.log'}:" in lines
    assert workplace.tool.calls() == ALL[:7]
    workplace.tool.behave()
    assert workplace.go() == ALL[6:]


OURS = [
    # function, when it finds no space, whose writing that is, what is done when there is space again
    (records, "write_record", "batch_002/merge", "batch 2 of 3: merge", ALL[7:]),
    (Display, "event", "batch_002/merge", "batch 2 of 3: merge", ALL[7:]),
    (changed, "pack", "batch_003/merge", "batch 3 of 3: merge", ALL[11:]),
]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize(("module", "name", "job", "title", "rest"), OURS)
def test_our_own_writing_finds_no_space(
    workplace: Any, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, job: str, title: str, rest: list[str],
    number: int,
) -> None:  # fmt: skip
    real, begun = getattr(module, name), workplace.run_folder / f"{job}.job.json"

    def full(*arguments: Any, **more: Any) -> Any:
        if begun.is_file():
            raise OSError(number, "No space left on device", "a file")
        return real(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, full)
        patch.setattr(environment, "disk_free", lambda path: 5000 if begun.is_file() else 10**12)
        assert refused(workplace) == (
            f"{title}: no space left on the disk (a file)\n"
            f"  it writes about 20.0 MB to {begun.parent}, and 5.0 kB are free: make room"
        )
    workplace.tool.calls()
    assert workplace.go() == rest
    assert list(workplace.run_folder.rglob("*.partial")) == []
    assert workplace.go() == []


def test_another_error_is_not_taken_for_a_full_disk(workplace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changed, "pack", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
    with pytest.raises(OSError, match="I/O error"):
        workplace.go()


def test_there_is_no_room_to_bring_a_model_back(workplace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    workplace.go()
    batch = workplace.run_folder / "batch_001"
    record = records.read_record(batch / "merge.record.json")
    assert record is not None
    whole = sum(length for length, _, _ in record["output"].values())
    monkeypatch.setattr(environment, "disk_free", lambda path: whole - 1 if path == batch else 10**12)
    assert refused(workplace, from_batch=2) == (
        "batch_001/merge cannot be brought back whole\n"
        f"  it writes about {size(whole)} to {batch}, and {size(whole - 1)} are free: make room"
    )
    assert workplace.tool.calls() == []
    room_made(monkeypatch)
    assert workplace.go(from_batch=2) == [*jobs(2, 3), *AFTER]
