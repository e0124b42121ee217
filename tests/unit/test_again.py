"""``--force`` and ``--from``: which stages they name, what follows from them, and what the user is told."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from kedit_glue import job
from kedit_glue import run as cli
from kedit_glue.execute import again_from
from kedit_glue.plan import Plan
from kedit_glue.problems import CannotStart

PlanOf = Callable[..., Plan]
AFTER = ["batch_003/general"]


def jobs(*numbers: int, names: str = "train merge score") -> list[str]:
    return [f"batch_{n:03d}/{name}" for n in numbers for name in names.split()]


@pytest.fixture
def plan(plan_of: PlanOf) -> Plan:
    return plan_of("merge: {onto: previous}\nscore: {general: {tasks: [arc]}}", facts=6)


# -- which stages -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "asked", "follow"),
    [
        (["batch_002/edits"], ["batch_002/edits"], []),
        (["batch_003/merge"], ["batch_003/merge"], ["batch_003/edits", "batch_003/general"]),
        (["general"], ["base/general", "batch_003/general"], []),
        (["base/*"], ["base/edits", "base/general"], []),
        (["batch_00[13]/edits"], ["batch_001/edits", "batch_003/edits"], []),
        (["base/edits", "batch_003/edits"], ["base/edits", "batch_003/edits"], []),
        ([], [], []),
    ],
)
def test_stages_by_name_kind_and_pattern(plan: Plan, patterns: list[str], asked: list[str], follow: list[str]) -> None:
    found = again_from(plan, patterns, None)
    assert sorted(found) == sorted([*asked, *follow])
    assert {name for name, why in found.items() if why.startswith("--force ")} == set(asked)


def test_what_follows_is_named_with_what_it_follows_from(plan: Plan) -> None:
    assert again_from(plan, ["batch_002/merge"], None) == {
        "batch_002/merge": "--force batch_002/merge",
        "batch_002/edits": "an earlier stage is done again (batch_002/merge)",
        "batch_003/train": "an earlier stage is done again (batch_002/merge)",
        "batch_003/merge": "an earlier stage is done again (batch_003/train)",
        "batch_003/edits": "an earlier stage is done again (batch_003/merge)",
        "batch_003/general": "an earlier stage is done again (batch_003/merge)",
    }


def test_from_a_batch_on(plan: Plan) -> None:
    found = again_from(plan, [], 2)
    assert list(found) == [s.name for s in plan.stages if s.batch is not None and s.batch >= 2]
    assert set(found.values()) == {"--from 2"}
    assert again_from(plan, ["batch_002/merge"], 3)["batch_002/merge"] == "--force batch_002/merge"


@pytest.mark.parametrize("pattern", ["batch_004/train", "trian", "batch_9*", "batch_002", "TRAIN", ""])
def test_a_name_of_no_stage(plan: Plan, pattern: str) -> None:
    with pytest.raises(ValueError) as caught:
        again_from(plan, ["merge", pattern], None)
    assert str(caught.value) == (
        f"--force {pattern}: no stage is called so; stages are base/edits, …, batch_003/general; "
        "a kind (edits, general, train, merge) names all of its stages"
    )


@pytest.mark.parametrize("number", [-1, 0, 4])
def test_a_number_of_no_batch(plan: Plan, number: int) -> None:
    with pytest.raises(ValueError, match=f"^--from {number}: there are batches 1 to 3$"):
        again_from(plan, [], number)


# -- whole runs ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, new_workplace: Any) -> Any:
    with new_workplace(tmp_path_factory.mktemp("finished")) as workplace:
        workplace.go()
        workplace.save("done")
        yield workplace


@pytest.fixture
def workplace(finished: Any) -> Any:
    finished.back_to("done")
    return finished


def test_forced_stages_and_what_follows_are_told_and_run(workplace: Any) -> None:
    expected = workplace.state()
    assert workplace.go(force=["batch_002/merge"]) == [*jobs(2, 3), *AFTER]
    lines = workplace.said.splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("batch 2 of 3: train …"))
    told = [line for line in lines[:first] if "stages" in line or line.startswith("again")]
    assert told == [
        "5 of 12 stages are done and stand (base/edits, base/general, batch_001/train, batch_001/merge, "
        "batch_001/edits)",
        "again: batch_002/train: batch_002/merge needs its output, which was not kept",
        "again: batch_002/merge: --force batch_002/merge",
        "again: batch_002/edits: an earlier stage is done again (batch_002/merge)",
        "again: batch_003/train: an earlier stage is done again (batch_002/merge)",
        "again: batch_003/merge: an earlier stage is done again (batch_003/train)",
        "again: batch_003/edits: an earlier stage is done again (batch_003/merge)",
        "again: batch_003/general: an earlier stage is done again (batch_003/merge)",
    ]
    assert workplace.state() == expected


def test_forced_scores_alone(workplace: Any) -> None:
    assert workplace.go(force=["edits", "base/general"]) == [
        *["base/score", "base/general", "batch_001/score", "batch_002/score", "batch_003/score"]
    ]


def test_from_a_batch_on_nothing_before_it_is_done_again(workplace: Any) -> None:
    assert workplace.go(from_batch=3) == [*jobs(3), *AFTER]
    told = workplace.lines("8 of", "again")
    assert told[0].startswith("8 of 12 stages are done and stand (base/edits, base/general, batch_001/train, ")
    assert told[1:] == [f"again: batch_003/{name}: --from 3" for name in ("train", "merge", "edits", "general")]


def test_from_the_first_batch_on_the_original_is_not_scored_again(workplace: Any) -> None:
    assert workplace.go(from_batch=1) == [*jobs(1, 2, 3), *AFTER]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"force": ["tarin"]}, "--force tarin: no stage is called so; "),
        ({"from_batch": 4}, "--from 4: there are batches 1 to 3"),
    ],
)
def test_what_cannot_be_meant_starts_nothing(workplace: Any, options: dict[str, Any], message: str) -> None:
    before = workplace.state()
    with pytest.raises(CannotStart) as caught:
        workplace.go(**options)
    assert str(caught.value).startswith(message)
    assert workplace.tool.calls() == [] and workplace.state() == before


# -- the command line ---------------------------------------------------------------------------


@pytest.fixture
def main(workplace: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setattr(cli, "Options", functools.partial(job.Options, python=workplace.tool.python))
    return lambda *arguments: cli.main([str(workplace.recipe), *arguments])


@pytest.mark.parametrize("number", ["3", "batch_003"])
def test_from_takes_a_number_or_a_folders_name(main: Callable[..., int], workplace: Any, number: str) -> None:
    assert main("--from", number) == 0
    assert workplace.tool.calls() == [*jobs(3), *AFTER]


def test_force_can_be_given_several_times(main: Callable[..., int], workplace: Any) -> None:
    assert main("--force", "batch_001/edits", "--force", "base/g*") == 0
    assert workplace.tool.calls() == ["base/general", "batch_001/score"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--force", "nothing"], "--force nothing: no stage is called so"),
        (["--from", "0"], "--from 0: there are batches 1 to 3"),
        (["--from", "batch_007"], "--from 7: there are batches 1 to 3"),
    ],
)
def test_a_wrong_stage_or_batch_is_2(
    main: Callable[..., int], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(*arguments) == 2
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.parametrize("text", ["third", "1.5", "batch_", ""])
def test_what_is_no_batch_is_a_wrong_command_line(
    main: Callable[..., int], capsys: pytest.CaptureFixture[str], text: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main("--from", text)
    assert ended.value.code == 2
    said = f"argument --from: {text!r} is no batch: give its number, as in 3 or batch_003\n"
    assert capsys.readouterr().err.endswith(said)
