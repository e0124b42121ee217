"""A study's runs: what is done once, what a failure leaves, the command line."""

from __future__ import annotations

import functools
import json
import os
import shutil
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from kedit_glue import job, on_ray, records, study
from kedit_glue.execute import NoRoom
from kedit_glue.on_ray import Run
from kedit_glue.page import write
from kedit_glue.problems import CannotStart
from kedit_glue.progress import Display
from kedit_glue.ray_task import Outcome
from kedit_glue.study_before import finished
from kedit_glue.study_file import load_study, plan_cells

ONCE = ["base/score", "base/general"]
MERGED = ["batch_001/merge", "batch_001/score", "batch_001/general"]
WEIGHTS = {
    "name": "weights",
    "recipe": "../try.yaml",
    "set": {"edits.limit": 2},
    "axes": {"merge.parameters.weight": [0.4, 0.7, 1.0]},
}
NAMES = ["weight-0.4", "weight-0.7", "weight-1.0"]
Main = Callable[..., int]


class Bench:
    """A study file beside the workplace's recipe; ``jobs`` are those of each cell, in order."""

    def __init__(self, workplace: Any) -> None:
        self.tool = workplace.tool
        self.folder = workplace.folder / "runs" / "weights"
        self.file = workplace.folder / "studies" / "weights.yaml"
        self.file.parent.mkdir()
        self.jobs: list[tuple[str, list[str]]] = []
        self.behaviour: dict[str, dict[str, str]] = {}
        """What the tool does in a cell, where it is not what it should."""
        self.errors: dict[str, BaseException] = {}
        """What a cell's run raises."""

    def write(self, **changed: Any) -> None:
        self.file.write_text(yaml.safe_dump(WEIGHTS | changed), encoding="utf-8")

    def run(self, options: job.Options, display: Any) -> Any:
        [name] = [text.removeprefix("name=") for text in options.overrides if text.startswith("name=")]
        self.tool.behave(self.behaviour.get(name, {}))
        if name in self.errors:
            raise self.errors[name]
        try:
            return RUN(options, display)
        finally:
            self.jobs.append((name, self.tool.calls()))

    def done(self) -> list[tuple[str, list[str]]]:
        """Cells that were begun since the last call, and their jobs."""
        found, self.jobs = self.jobs, []
        return found

    def document(self) -> Any:
        return json.loads((self.folder / "study.json").read_text(encoding="utf-8"))


RUN = job.run


@pytest.fixture
def bench(workplace: Any, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(workplace)
    made.write()
    monkeypatch.setattr(job, "run", made.run)
    monkeypatch.setattr(study, "Options", functools.partial(job.Options, python=workplace.tool.python))
    return made


@pytest.fixture
def main(bench: Bench) -> Main:
    return lambda *arguments: study.main([str(bench.file), *arguments])


def with_result(bench: Bench) -> list[str]:
    return [row["cell"] for row in bench.document()["cells"] if "metrics" in row]


# -- cells --------------------------------------------------------------------------------------


def test_cells_share_what_is_the_same(main: Main, bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0
    prepare = "setup/prepare"
    assert bench.done() == [
        (NAMES[0], [prepare, *ONCE, "batch_001/train", *MERGED]),
        (NAMES[1], [prepare, *MERGED]),
        (NAMES[2], [prepare, *MERGED]),
    ]
    out = capsys.readouterr().out
    assert "cell 2 of 3: weight-0.7 (merge.parameters.weight=0.7)" in out
    assert "batch 1 of 1: train: taken from weight-0.4" in out
    weights = [yaml.safe_load((bench.folder / n / "batch_001" / "merge.yaml").read_text()) for n in NAMES]
    assert [w["models"][0]["parameters"]["weight"] for w in weights] == [0.4, 0.7, 1.0]
    assert with_result(bench) == NAMES
    assert "| weight-0.7 | 0.7 | 100.0±0.0 | 50.0±0.0 |" in (bench.folder / "study.md").read_text(encoding="utf-8")
    tuned = [bench.folder / name / "batch_001" / "tuned" / "model.safetensors" for name in NAMES]
    assert os.path.samefile(tuned[0], tuned[2])


def test_a_study_tells_how_it_was_run(main: Main, bench: Bench) -> None:
    assert main("--set", "train.epochs=2") == 0
    place = {"study": str(bench.file.resolve()), "set": ["train.epochs=2"], "cwd": str(Path.cwd())}
    assert bench.document()["place"] == place
    report = (bench.folder / "report.html").read_text(encoding="utf-8")
    assert "kedit_glue.study" in report and "--set train.epochs=2" in report
    assert bench.document()["set"] == {"edits.limit": 2, "train.epochs": 2}


def test_what_the_command_line_says_is_said_of_every_cell(
    main: Main, bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far = f"output={tmp_path / 'far'}"
    assert main("--dry-run", "--set", "edits.limit=1", "--set", "train.epochs=2", "--set", far) == 0
    assert "in every cell: edits.limit=1, train.epochs=2\n" in capsys.readouterr().out


def test_what_differs_before_training_shares_only_the_original_models_scores(main: Main, bench: Bench) -> None:
    bench.write(axes={"train.loss_threshold": [0.01, 0.5]})
    assert main() == 0
    own = ["setup/prepare", "batch_001/train", *MERGED]
    assert [jobs for _, jobs in bench.done()] == [["setup/prepare", *ONCE, *own[1:]], own]


def test_a_cell_that_fails_does_not_stop_the_rest(main: Main, bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.behaviour = {"weight-0.7": {"batch_001/merge": "exit_3"}}
    assert main("--set", "train.epochs=4") == 1
    assert [(name, jobs[-1]) for name, jobs in bench.done()] == [
        (NAMES[0], "batch_001/general"),
        (NAMES[1], "batch_001/merge"),
        (NAMES[2], "batch_001/general"),
    ]
    assert with_result(bench) == [NAMES[0], NAMES[2]]
    assert bench.document()["cells"][1]["cause"] == "batch 1 of 1: merge: exit code 3"
    out = capsys.readouterr().out
    assert "cell weight-0.7 failed: batch 1 of 1: merge: exit code 3\n  command: " in out
    assert "\nwithout a result:\n  weight-0.7: batch 1 of 1: merge: exit code 3\n" in out
    assert out.splitlines()[-2:] == [
        "1 of 3 cells failed",
        f"  what was finished stays; to go on: python -m kedit_glue.study {bench.file} --set train.epochs=4",
    ]

    bench.behaviour = {}
    assert main("--set", "train.epochs=4") == 0
    assert bench.done() == [(NAMES[0], []), (NAMES[1], MERGED), (NAMES[2], [])]
    assert with_result(bench) == NAMES


def test_a_cell_that_cannot_begin_is_a_failed_one(main: Main, bench: Bench) -> None:
    with job.held(bench.folder / "weight-0.4"):
        assert main() == 1
    assert "is in use by process" in bench.document()["cells"][0]["cause"]
    assert with_result(bench) == NAMES[1:]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (KeyError("x"), "KeyError: 'x'"),
        (PermissionError(13, "Permission denied", "/a"), "PermissionError: [Errno 13] "),
    ],
)
def test_no_error_of_a_cell_stops_the_rest(
    main: Main, bench: Bench, capsys: pytest.CaptureFixture[str], error: Exception, cause: str
) -> None:
    bench.errors = {NAMES[0]: error}
    assert main() == 1
    assert with_result(bench) == NAMES[1:]
    assert bench.document()["cells"][0]["cause"].startswith(cause)
    found = capsys.readouterr()
    assert f"cell weight-0.4 failed: {cause}" in found.out
    assert found.err.startswith("Traceback ") and cause in found.err


@pytest.mark.parametrize("error", [NoRoom("merge: no room\n  make room"), OSError(28, "No space left on device", "/a")])
def test_a_full_disk_stops_the_study_and_is_the_cells_cause(main: Main, bench: Bench, error: Exception) -> None:
    bench.errors = {NAMES[1]: error}
    assert main() == 1
    assert with_result(bench) == NAMES[:1]
    causes = [row["cause"] for row in bench.document()["cells"]]
    assert ("no room" in causes[1] or "No space left" in causes[1]) and causes[2] == "not run yet"


def test_named_cells_beside_the_grid(main: Main, bench: Bench) -> None:
    sets = {"merge.method": "ties", "merge.parameters": {"density": 0.5, "weight": 0.8}}
    bench.write(cells=[{"name": "ties", "set": sets}, {"name": "as-it-is"}], baseline="ties")
    assert main() == 0
    assert with_result(bench) == [*NAMES, "ties", "as-it-is"]
    # the recipe's own weight is that of a cell: nothing is left to do
    assert bench.done()[-1] == ("as-it-is", ["setup/prepare"])
    assert [row["cell"] for row in bench.document()["differences"]] == [*NAMES, "as-it-is"]
    merge = yaml.safe_load((bench.folder / "ties" / "batch_001" / "merge.yaml").read_text())
    assert merge["models"][0]["parameters"] == {"density": 0.5, "weight": 0.8}


def test_a_changed_study_does_again_what_it_changes(main: Main, bench: Bench) -> None:
    assert main() == 0
    bench.done()
    bench.write(axes={"merge.parameters.weight": [0.4, 0.9]})
    assert main() == 0
    assert bench.done() == [(NAMES[0], []), ("weight-0.9", ["setup/prepare", *MERGED])]
    assert with_result(bench) == [NAMES[0], "weight-0.9"]


def test_fresh_takes_nothing_over_from_before(main: Main, bench: Bench) -> None:
    assert main() == 0
    first = bench.done()
    assert main("--fresh") == 0
    assert bench.done() == first


def spoil(bench: Bench, name: str, change: Callable[[Any], Any]) -> None:
    for file in (bench.folder / name).glob("**/provenance/scores.json"):
        document = json.loads(file.read_text(encoding="utf-8"))
        change(document)
        file.unlink()  # a hard link may lead to another cell's
        file.write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "flaw"),
    [
        (lambda d: d.pop("seconds"), "seconds: field required"),
        (lambda d: d["after"]["general_change"]["arc_easy"].update(change_95=None), "change without change_95"),
    ],
)
def test_a_cell_whose_scores_cannot_be_used_has_no_result(
    main: Main, bench: Bench, capsys: pytest.CaptureFixture[str], change: Callable[[Any], Any], flaw: str
) -> None:
    assert main() == 0
    spoil(bench, NAMES[1], change)
    assert main("--dry-run") == 0
    out = capsys.readouterr().out
    assert "weight-0.7\n" in out and "weight-1.0  (done)" in out
    assert main("--table") == 0
    assert with_result(bench) == [NAMES[0], NAMES[2]]
    assert flaw in bench.document()["cells"][1]["cause"]
    assert main("--only", NAMES[0]) == 0
    assert main() == 0
    assert with_result(bench) == NAMES


def causes(bench: Bench) -> list[str]:
    return [row["cause"] for row in bench.document()["cells"]]


def test_a_cause_is_kept_until_its_cell_begins_again(
    main: Main, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.behaviour = {"weight-0.7": {"batch_001/merge": "exit_3"}}
    said = "batch 1 of 1: merge: exit code 3"
    assert main() == 1
    assert main("--table") == 0
    assert causes(bench) == ["", said, ""]
    assert main("--only", "weight-0.4") == 0
    assert causes(bench) == ["", said, ""]
    bench.errors = {"weight-0.4": KeyboardInterrupt()}
    assert main() == 130
    assert causes(bench) == ["", said, ""]
    bench.errors = {"weight-0.7": CannotStart("something else")}
    assert main("--only", "weight-0.7", "--fresh") == 1
    assert causes(bench) == ["", "something else", ""] and with_result(bench) == [NAMES[0], NAMES[2]]
    bench.errors = bench.behaviour = {}
    bench.write(set={"edits.limit": 1})
    assert main("--table") == 0
    assert causes(bench) == ["", "something else", ""], "no cell has a result of these settings: nothing was written"
    assert (
        "not run yet: weight-0.4, weight-0.7, weight-1.0\n"
        in capsys.readouterr().out.rpartition("without a result:")[2]
    )
    bench.write()
    assert main() == 0
    assert causes(bench) == ["", "", ""]


@pytest.mark.parametrize("seeds", [[1], [1, 2]])
def test_a_seeds_cause_is_kept(main: Main, bench: Bench, seeds: list[int]) -> None:
    bench.write(seeds=seeds, axes={"merge.parameters.weight": [0.7]})
    bench.errors = {"weight-0.7_seed-1": CannotStart("no such thing")}
    assert main("--only", "weight-0.7_seed-1") == 1
    assert main("--table") == 0
    assert "no such thing" in causes(bench)[0]


@pytest.mark.parametrize("seeds", [[1], [1, 2]])
def test_the_page_is_written_again_from_the_table(main: Main, bench: Bench, seeds: list[int]) -> None:
    bench.write(seeds=seeds, axes={"merge.parameters.weight": [0.7]})
    assert main() == 0
    _, results = write.study(bench.folder)
    assert [(one.cell, one.cause) for one in results] == [(f"weight-0.7_seed-{seed}", "") for seed in seeds]
    assert all(one.document for one in results)


@pytest.mark.parametrize("text", ["", "[]", '{"set": {"edits.limit": 2}, "cells": [{"cell": "weight-0.4"}, 3]}'])
def test_a_table_that_cannot_be_read_tells_no_causes(main: Main, bench: Bench, text: str) -> None:
    bench.folder.mkdir(parents=True)
    (bench.folder / "study.json").write_text(text, encoding="utf-8")
    assert main("--only", "weight-0.4") == 0
    assert causes(bench) == ["", "not run yet", "not run yet"]


def test_what_changes_no_number_leaves_a_cell_done(
    main: Main, bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main() == 0
    shutil.copytree(bench.folder, tmp_path / "copied" / "weights")
    bench.write(set={"edits.limit": 2, "verdict.least_edit_success": 1.0, "verdict.least_locality": 1.0})
    for more in ((), ("--set", f"output={tmp_path / 'copied'}")):
        capsys.readouterr()
        assert main("--dry-run", *more) == 0
        assert capsys.readouterr().out.count("  (done)\n") == 3
    assert main("--only", NAMES[0]) == 0
    assert with_result(bench) == NAMES


def test_a_done_cell_is_judged_by_the_thresholds_of_now(main: Main, bench: Bench) -> None:
    assert main("--only", NAMES[0]) == 0
    bench.write(set={"edits.limit": 2, "verdict.least_edit_success": None, "verdict.least_locality": 0.123})
    known = {name: frozenset(method.parameters) for name, method in job.merge_methods().items()}
    document = finished(plan_cells(load_study(bench.file), [], known)[0])
    assert document is not None and document["verdict"]["thresholds"]["least_locality"] == 0.123
    said = " ".join(reason["says"] for reason in document["verdict"]["reasons"])
    assert "12.3 %" in said and "edit success" not in said


# -- the command line ---------------------------------------------------------------------------


def test_dry_run_starts_nothing(main: Main, bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("--dry-run") == 0
    out = capsys.readouterr().out
    assert "weights: 3 cells of " in out and "in every cell: edits.limit=2" in out
    assert (
        "  1. weight-0.4  (baseline)\n       sets:   merge.parameters.weight=0.4\n"
        f"       writes: {bench.folder / 'weight-0.4'}\n" in out
    )
    assert bench.done() == [] and not bench.folder.exists()
    assert main() == 0
    capsys.readouterr()
    assert main("--dry-run") == 0
    assert "  3. weight-1.0  (done)\n" in capsys.readouterr().out


def test_a_dry_run_lists_the_cells_that_are_named(main: Main, bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("--dry-run", "--only", "weight-0.7") == 0
    out = capsys.readouterr().out
    assert "weights: 1 of 3 cells of " in out and "  1. weight-0.7\n" in out
    assert "weight-0.4" not in out and "still to do: 1 cells; run one (--only weight-0.7)" in out
    assert main("--dry-run", "--only", "nonsense") == 2
    assert "--only nonsense: there is no such cell" in capsys.readouterr().err


def test_table_shows_only_what_is_done_with_these_settings(
    main: Main, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("--table") == 0
    assert "  not run yet: weight-0.4, weight-0.7, weight-1.0\n" in capsys.readouterr().out
    assert not bench.folder.exists()
    assert main() == 0
    bench.done()
    for name in ("study.md", "study.json"):
        (bench.folder / name).unlink()
    assert main("--table") == 0
    assert with_result(bench) == NAMES
    bench.write(axes={"merge.parameters.weight": [0.4, 0.5]})
    assert main("--table") == 0
    assert with_result(bench) == [NAMES[0]]
    bench.write(set={"edits.limit": 1, "edits.batch_size": 1})
    assert main("--table") == 0
    assert bench.done() == []


@pytest.mark.parametrize("pair", [("--fresh", "--dry-run"), ("--fresh", "--table"), ("--table", "--dry-run")])
def test_what_does_not_go_together(main: Main, bench: Bench, pair: Sequence[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(*pair)
    assert ended.value.code == 2


def test_interrupted_in_a_cell(
    main: Main, bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(options: job.Options, display: Any) -> Any:
        if "name=weight-0.7" in options.overrides:
            raise KeyboardInterrupt
        return bench.run(options, display)

    monkeypatch.setattr(job, "run", run)
    assert main() == 130
    assert f"to go on: python -m kedit_glue.study {bench.file}\n" in capsys.readouterr().out
    assert with_result(bench) == NAMES[:1]
    assert [row["cause"] for row in bench.document()["cells"]] == ["", "not run yet", "not run yet"]


@pytest.mark.parametrize(
    ("changed", "values", "expected"),
    [
        ({"axis": {}}, (), "axis: unknown key"),
        ({"axes": {"train.epochs": [0]}}, (), "train.epochs: 0 (whole number)"),
        ({}, ("--set", "name=x"), "each cell has a name of its own"),
    ],
)
def test_a_study_that_cannot_be_run_is_2(
    main: Main, bench: Bench, capsys: pytest.CaptureFixture[str], changed: Any, values: Sequence[str], expected: str
) -> None:
    bench.write(**changed)
    assert main(*values) == 2
    found = capsys.readouterr()
    assert f"1 problem in {bench.file}; nothing was started\n" in found.err and expected in found.err
    assert found.out == "" and bench.done() == [] and not bench.folder.exists()


def test_a_study_of_two_at_once(main: Main, bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    with job.held(bench.folder):
        assert main() == 2
        assert main("--table") == 0
    said = f"{bench.folder} is in use by process {os.getpid()}: wait for it, stop it, or run cells beside each other"
    assert said in capsys.readouterr().err


def test_a_runs_folder_is_no_studys(main: Main, bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.folder.mkdir(parents=True)
    (bench.folder / "resolved.yaml").write_text("")
    assert main() == 2
    expected = f"{bench.folder} holds a run or is a file: give the study another name\n"
    assert capsys.readouterr().err == expected


def test_output_may_lie_elsewhere(main: Main, bench: Bench, tmp_path: Path) -> None:
    assert main("--set", f"output={tmp_path / 'far'}") == 0
    assert (tmp_path / "far" / "weights" / "weight-0.4" / "scores.json").is_file()
    assert (tmp_path / "far" / "weights" / "study.json").is_file()


def test_the_hub_may_be_asked_in_every_cell_or_in_none(
    main: Main, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warm server's environment is that of the first cell."""
    seen = []
    monkeypatch.setattr(job, "needs_hub", lambda recipe: recipe.name == "weight-1.0")
    monkeypatch.setattr(job, "quiet_environment", lambda offline: seen.append(offline) or {})
    assert main() == 0
    assert seen == [False, False, False]


# -- some of the cells, and elsewhere -----------------------------------------------------------


def test_only_the_cells_that_are_named(bench: Bench, main: Main, capsys: Any) -> None:
    bench.write(seeds=[1, 2])
    assert main("--only", "weight-0.7", "--only", "weight-1.0_seed-2") == 0
    assert [name for name, _ in bench.done()] == ["weight-0.7_seed-1", "weight-0.7_seed-2", "weight-1.0_seed-2"]
    assert {row["cell"]: row.get("runs") for row in bench.document()["cells"]} == {
        "weight-0.4": {},
        "weight-0.7": {"weight-0.7_seed-1": 1, "weight-0.7_seed-2": 2},
        "weight-1.0": {"weight-1.0_seed-2": 2},
    }
    capsys.readouterr()
    assert main("--only", "weight-0.8") == 2
    assert "--only weight-0.8: there is no such cell; did you mean 'weight-0.7'?" in capsys.readouterr().err
    assert not bench.done()


def test_a_cell_that_failed_is_run_again_alone(bench: Bench, main: Main, capsys: Any) -> None:
    bench.behaviour = {"weight-0.7": {"batch_001/merge": "exit_3"}}
    assert main("--only", "weight-0.7") == 1
    assert f"to go on: python -m kedit_glue.study {bench.file} --only weight-0.7" in capsys.readouterr().out
    bench.done()
    bench.behaviour = {}
    assert main("--only", "weight-0.7") == 0
    assert [name for name, _ in bench.done()] == ["weight-0.7"]


def test_a_dry_run_says_what_the_rest_will_take(bench: Bench, main: Main, capsys: Any) -> None:
    assert main("--dry-run") == 0
    assert "still to do: 3 cells; run one (--only weight-0.4) to see what they take" in capsys.readouterr().out
    assert main("--only", "weight-0.4") == 0
    capsys.readouterr()
    assert main("--dry-run") == 0
    out = capsys.readouterr().out
    assert out.count("       takes:  about ") == 2
    assert (
        "still to do: 2 cells: about " in out and "by the 1 that are done (time in proportion to their facts, " in out
    )


def test_an_estimate_counts_what_cells_share_once(bench: Bench, main: Main, capsys: Any) -> None:
    assert main("--only", "weight-0.4") == 0
    for file in [*bench.folder.glob("*/base/*.record.json"), *bench.folder.glob("*/batch_001/train.record.json")]:
        record = records.read_record(file)
        assert record is not None
        records.write_record(file, record | {"seconds": 1000.0})
    spoil(bench, "weight-0.4", lambda document: document["seconds"].update(all=3060.0))
    capsys.readouterr()
    assert main("--dry-run") == 0
    out = capsys.readouterr().out
    assert out.count("takes:  about 1 min 00 s") == 2 and "still to do: 2 cells: about 2 min 00 s one after" in out


def test_cells_unlike_any_that_is_done_have_no_estimate(bench: Bench, main: Main, capsys: Any) -> None:
    bench.write(axes={"method": ["sft", "rsft_merge"]})
    assert main("--only", "method-rsft_merge") == 0
    bench.write(axes={"method": ["sft", "rsft_merge"]}, cells=[{"name": "more", "set": {"train.epochs": 3}}])
    capsys.readouterr()
    assert main("--dry-run") == 0
    out = capsys.readouterr().out
    assert out.count("takes:  about ") == 1 and "still to do: 1 of 2 cells: about " in out
    assert "\n  nothing measured for the other 1 (none like them is done, or" in out and "(--only method-sft)" in out


def test_all_facts_of_a_file_are_counted(bench: Bench, main: Main, capsys: Any) -> None:
    """The done cell's number of facts says nothing of them."""
    whole = {"edits.limit": None}
    bench.write(set={}, axes={}, cells=[{"name": "two", "set": {"edits.limit": 2}}, {"name": "all", "set": whole}])
    assert main("--only", "two") == 0
    capsys.readouterr()
    spoil(bench, "two", lambda document: document["seconds"].update(all=7230.0))
    assert main("--dry-run") == 0
    assert "takes:  about 6 h 0" in capsys.readouterr().out, "of six facts"


def test_cells_go_to_ray(bench: Bench, main: Main, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def follow(ray: Any, runs: Sequence[Run], display: Any, ready: Callable[[Run], bool]) -> None:
        first, *others = runs
        assert ready(first) and not any(map(ready, others)), "the first makes what the others share"
        for run in runs:
            folders = {Path(folder).name for folder in run.order.beside}
            assert folders == set(NAMES) - {run.order.name}
            if run.order.name == "weight-0.7":
                run.outcome = Outcome(False, "a stage failed")
                continue
            bench.run(study.Options(Path(run.order.recipe), run.order.overrides), Display(None))
            run.outcome = Outcome(True, "well")
            assert all(map(ready, others))

    monkeypatch.setattr(on_ray, "connect", lambda address: types.SimpleNamespace(shutdown=lambda: None))
    monkeypatch.setattr(on_ray, "follow", follow)
    assert main("--on", "ray", "--address", "local") == 1
    assert [name for name, _ in bench.done()] == ["weight-0.4", "weight-1.0"]
    causes = {row["cell"]: row["cause"] for row in bench.document()["cells"]}
    assert causes == {"weight-0.4": "", "weight-0.7": "a stage failed", "weight-1.0": ""}
    assert f"python -m kedit_glue.study {bench.file} --on ray --address local" in capsys.readouterr().out


def on_fake_ray(bench: Bench, monkeypatch: pytest.MonkeyPatch, fails: Sequence[str] = ()) -> list[list[str]]:
    """One cell after another, the cells that are ready first; returns which were ready at each look."""
    looks: list[list[str]] = []

    def follow(ray: Any, runs: Sequence[Run], display: Any, ready: Callable[[Run], bool]) -> None:
        left, waiting = list(runs), []
        while left or waiting:
            looks.append([run.order.name for run in left if ready(run)])
            waiting += [run for run in left if run.order.name in looks[-1]]
            left = [run for run in left if run not in waiting]
            run = waiting.pop(0)
            done = run.order.name not in fails
            if done:
                others = tuple(map(Path, run.order.beside))
                bench.run(study.Options(Path(run.order.recipe), run.order.overrides, elsewhere=others), Display(None))
            run.outcome = Outcome(done, "said")

    monkeypatch.setattr(on_ray, "connect", lambda address: types.SimpleNamespace(shutdown=lambda: None))
    monkeypatch.setattr(on_ray, "follow", follow)
    return looks


def with_other_data(bench: Bench) -> list[str]:
    """Two cells of each of two data sets, which have no work with the original in common; their names."""
    facts = bench.file.parent.parent / "facts.json"
    (facts.parent / "other.json").write_text(json.dumps(json.loads(facts.read_text())[::-1]), encoding="utf-8")
    data = {"one": {}, "two": {"edits.source": str(facts.parent / "other.json")}}
    common = {"edits.limit": 2, "score.general.when": "never"}
    bench.write(axes={"data": data, "merge.parameters.weight": [0.4, 0.7]}, set=common)
    return [f"{name}_weight-{weight}" for name in data for weight in (0.4, 0.7)]


def test_on_ray_one_cell_of_each_data_set_goes_ahead(bench: Bench, main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    one, one_more, two, two_more = with_other_data(bench)
    looks = on_fake_ray(bench, monkeypatch)
    assert main("--on", "ray") == 0
    assert [names for names in looks if names] == [[one, two], [one_more], [two_more]]
    base = [name for name, jobs in bench.done() if "base/score" in jobs]
    assert base == [one, two]


def test_on_ray_another_goes_ahead_where_one_failed(bench: Bench, main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = on_fake_ray(bench, monkeypatch, fails=NAMES[:1])
    assert main("--on", "ray") == 1
    assert looks == [NAMES[:1], NAMES[1:2], NAMES[2:]]


def test_on_ray_a_cell_whose_facts_changed_is_done_again(
    bench: Bench, main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = on_fake_ray(bench, monkeypatch)
    assert main("--on", "ray") == 0
    bench.done()
    looks.clear()
    assert main("--on", "ray") == 0
    assert bench.done() == [(name, []) for name in NAMES]
    assert looks[0] == NAMES[:1], "what it did before does not say that it is ahead now"
    facts = bench.file.parent.parent / "facts.json"
    facts.write_text(json.dumps(json.loads(facts.read_text())[::-1]), encoding="utf-8")
    assert main("--on", "ray") == 0
    assert [jobs[:2] for _, jobs in bench.done()] == [
        ["setup/prepare", "base/score"],
        *[["setup/prepare", "batch_001/merge"]] * 2,
    ]


def test_on_ray_a_cell_that_failed_has_no_result_of_before(
    bench: Bench, main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main() == 0
    on_fake_ray(bench, monkeypatch, fails=NAMES[1:2])
    assert main("--on", "ray") == 1
    assert causes(bench) == ["", "said", ""] and with_result(bench) == [NAMES[0], NAMES[2]]


def test_what_no_task_can_do_is_said_before_anything_starts(bench: Bench, main: Main, capsys: Any) -> None:
    bench.write(set={"edits.limit": 2, "device": "cuda"})
    assert main("--on", "ray") == 2
    assert "cell weight-0.4: device is cuda, while launch.ray.gpus is 0; nothing was started" in capsys.readouterr().err
