"""Cells whose model lacks what they ask for, and metrics that no cell measures: said before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import models, study
from kedit_glue.recipe import Recipe
from kedit_glue.study_check import unmeasured

HAS = "asked for, the model has layers 0 to 3"


@pytest.fixture
def work(workplace: Any) -> Path:
    """A folder whose cache holds the packaged model, with four layers, by its configuration alone."""
    folder = models.packaged_folder("smollm2-135m")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"num_hidden_layers": 4}), encoding="utf-8")
    where: Path = workplace.folder
    return where


def dry_run(folder: Path, *more: str, **keys: Any) -> int:
    file = folder / "s.yaml"
    plain = {"name": "s", "recipe": "try.yaml", **keys}
    plain["set"] = {"model": "smollm2-135m", "edits.limit": 2, **plain.get("set", {})}
    file.write_text(json.dumps(plain), encoding="utf-8")
    return study.main([str(file), "--dry-run", *more])


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"axes": {"train.layers": ["all", "3-5"]}}, f"layer 5 {HAS}; in cell layers-3-5"),
        (
            {"axes": {"train.layers": ["last 9", "last 2"], "seed": [1, 2]}},
            f"'last 9' layers {HAS}; in cells layers-last-9_seed-1, layers-last-9_seed-2",
        ),
        (
            {"axes": {"method": ["sft", "memit"]}, "set": {"methods.memit.layers": [7]}},
            f"layer 7 {HAS}; in cell method-memit",
        ),
    ],
)  # fmt: skip
def test_layers_that_the_model_does_not_have(
    work: Path, capsys: pytest.CaptureFixture[str], keys: dict[str, Any], said: str
) -> None:
    assert dry_run(work, **keys) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == f"{work / 's.yaml'}  smollm2-135m: {said}"


def test_a_cell_that_is_not_chosen_does_not_stand_in_the_way(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run(work, "--only", "layers-all", axes={"train.layers": ["all", "3-5"]}) == 0
    assert "not checked" not in capsys.readouterr().out


@pytest.mark.parametrize("model", ["smollm2-135m", "owner/name"])
def test_a_model_that_is_not_here_is_not_checked(
    work: Path, capsys: pytest.CaptureFixture[str], model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEDIT_GLUE_CACHE", str(work / "empty"))
    assert dry_run(work, set={"model": model}, axes={"train.layers": ["all", "40-50"]}) == 0
    assert f"not checked: whether {model} has the layers and modules that are asked for" in capsys.readouterr().out
    assert not (work / "empty").exists()


def recipe(*protocols: str, **edits: Any) -> Recipe:
    asked = {"protocols": list(protocols), **edits}
    keys = {"name": "a", "model": "smollm2-135m", "edits": {"source": "/f.json"}, "score": {"edits": asked}}
    return Recipe.model_validate(keys)


FORCED, LIKELY = "edit_success.teacher_forced.token_accuracy", "paraphrase.likelihood.score"
FLUENCY = "fluency.sampled.n_gram_entropy"


@pytest.mark.parametrize(
    ("collected", "recipes", "lines"),
    [
        ([FORCED], [recipe("teacher_forced")], []),
        ([LIKELY], [recipe("teacher_forced"), recipe("likelihood")], []),
        ([FORCED, LIKELY], [recipe("teacher_forced")], [
            f"warning: collect: no cell measures {LIKELY}; in none score.edits.protocols has likelihood"]),
        ([FLUENCY], [recipe("teacher_forced")], []),
        ([FLUENCY], [recipe("teacher_forced", metrics=["edit_success"])], [
            f"warning: collect: no cell measures {FLUENCY}; in none score.edits.metrics has fluency"]),
    ],
)  # fmt: skip
def test_metrics_that_no_cell_measures(collected: list[str], recipes: list[Recipe], lines: list[str]) -> None:
    assert unmeasured(collected, recipes) == lines


def test_a_dry_run_warns_of_them(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run(work, set={"score.edits.protocols": ["teacher_forced"]}, axes={"seed": [1]}, collect=[LIKELY]) == 0
    assert f"no cell measures {LIKELY};" in capsys.readouterr().out
