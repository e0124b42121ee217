"""Folders outside of a run: what lies in them decides whether stages stand, not how they are called."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from kedit_glue import job
from kedit_glue.ledger import Ledger
from kedit_glue.merging import MergeMethod
from kedit_glue.plan import make_plan
from kedit_glue.recipe import load_recipe

MERGE = MergeMethod("task_arithmetic", "required", 1, None, {"weight": "non_base"})
FACT = {
    "id": "f",
    "prompt": "Alba is",
    "target_new": "up",
    "subject": "Alba",
    "response": " up",
    "rephrase_prompts": [],
}
Parts = dict[str, dict[str, str]]


@pytest.fixture
def parts(tmp_path: Path) -> Callable[..., Parts]:
    """Stage -> what it depends on, of a run by a recipe that ends with these lines; ``HERE`` is the test's folder."""
    for name in ("model", "code/easyeditor/models", "small", "encoder"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text('{"num_hidden_layers": 24}', encoding="utf-8")
    (tmp_path / "code" / "easyeditor" / "models" / "ft.py").write_text("steps = 1\n", encoding="utf-8")
    for name in ("small", "encoder"):
        (tmp_path / name / "model.safetensors").write_bytes(b"before")
    (tmp_path / "facts.json").write_text("[]", encoding="utf-8")

    def find(more: str, mode: str = "sequential") -> Parts:
        head = "name: t\nmodel: HERE/model\nedits: {source: HERE/facts.json, batch_size: 1}\ntrain: {mini_batch: 1}\n"
        (tmp_path / "recipe.yaml").write_text((head + more).replace("HERE", str(tmp_path)), encoding="utf-8")
        recipe = load_recipe(tmp_path / "recipe.yaml", [f"edits.mode={mode}"])
        plan = make_plan(recipe, [FACT], job.place(recipe, tmp_path / "run", str(tmp_path / "model"), MERGE, "cpu"))
        ledger = Ledger({}, tmp_path / "run")
        return {stage.name: ledger.parts(stage, defaultdict(str)) for stage in plan.stages}

    return find


def stale(before: Parts, after: Parts) -> dict[str, list[str]]:
    """Stage -> what of it changed, where something did."""
    found = {name: [key for key in now if before[name].get(key) != now[key]] for name, now in after.items()}
    return {name: keys for name, keys in found.items() if keys}


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ("method: ft_m\nmethods: {easyedit: HERE/code}\n", {"batch_001/edit": ["setting methods.easyedit"]}),
        ("method: emmet\nmethods: {easyedit: HERE/code}\n", {"batch_001/edit": ["setting methods.easyedit"]}),
        ("method: rome\nmethods: {easyedit: HERE/code}\n", {}),  # the package's code edits
        (
            "score: {edits: {easyedit: HERE/code}}\n",
            {name: ["setting score.edits.easyedit"] for name in ("base/edits", "batch_001/edits")},
        ),
    ],
)
def test_another_state_of_a_checkout_is_other_code(
    parts: Callable[..., Parts], tmp_path: Path, more: str, found: dict[str, list[str]]
) -> None:
    before = parts(more)
    code = tmp_path / "code" / "easyeditor" / "models"
    (code / "__pycache__").mkdir()
    (code / "__pycache__" / "ft.pyc").write_bytes(b"left by an import")
    assert parts(more) == before
    (code / "ft.py").write_text("steps = 2\n", encoding="utf-8")
    assert stale(before, parts(more)) == found


@pytest.mark.parametrize(
    ("more", "folder", "stage", "key"),
    [
        ("method: ice\nmethods: {ice: {encoder: HERE/encoder}}\n", "encoder", "batch_001/edit", "methods.ice.encoder"),
        (
            "method: serac\nmethods: {serac: {train_facts: HERE/facts.json, cls_name: HERE/encoder}}\n",
            *("encoder", "base/editor", "methods.serac.cls_name"),
        ),
        (
            "method: serac\nmethods: {serac: {train_facts: HERE/facts.json, small_name: HERE/small}}\n",
            *("small", "base/editor", "methods.serac.small_name"),
        ),
    ],
)
def test_another_model_of_the_same_name_is_another(
    parts: Callable[..., Parts], tmp_path: Path, more: str, folder: str, stage: str, key: str
) -> None:
    before = parts(more)
    assert parts(more) == before
    (tmp_path / folder / "model.safetensors").write_bytes(b"afterwards")
    assert stale(before, parts(more))[stage] == [f"setting {key}"]


def test_batches_that_are_edited_alone_are_asked_by_that_code(parts: Callable[..., Parts], tmp_path: Path) -> None:
    more = "score: {edits: {easyedit: HERE/code}}\n"
    before = parts(more, "independent")
    (tmp_path / "code" / "easyeditor" / "models" / "ft.py").write_text("steps = 2\n", encoding="utf-8")
    assert set(stale(before, parts(more, "independent"))) == {"base/edits", "batch_001/independent"}
