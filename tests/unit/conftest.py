"""Builders for the tests of single modules: a small recipe, facts, merge methods, a place, a plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kedit_glue.merging import MergeMethod
from kedit_glue.plan import Place, Plan, make_plan
from kedit_glue.problems import RecipeError
from kedit_glue.recipe import Recipe, load_recipe

HEAD = "name: try\nmodel: smollm2-135m\nedits:\n  source: facts.json\n  batch_size: {batch_size}\n"
WEIGHT = {"weight": "non_base"}
TASK_VECTOR = {
    **dict.fromkeys(("int8_mask", "normalize", "rescale", "lambda"), "shared"),
    **WEIGHT,
    "density": "non_base",
}
REGISTERED = {
    m.name: m
    for m in (  # as mergekit 0.1.5 registers them
        MergeMethod("task_arithmetic", "required", 1, None, TASK_VECTOR),
        MergeMethod("ties", "required", 1, None, TASK_VECTOR),
        MergeMethod("slerp", "required", 2, 2, {"t": "shared"}),
        MergeMethod("linear", "ignored", 1, None, {"weight": "input", "normalize": "shared"}),
        MergeMethod("nuslerp", "optional", 2, None, {**WEIGHT, "nuslerp_flatten": "shared"}),
        MergeMethod("multislerp", "optional", 1, None, {**WEIGHT, "normalize_weights": "shared", "eps": "shared"}),
        MergeMethod("passthrough", "ignored", 1, 1, {"scale": "input"}),
        MergeMethod("model_stock", "required", 3, None, {"filter_wise": "shared"}),
    )
}


TASK_VECTOR_NAMES = frozenset({"weight", "density", "normalize", "rescale", "lambda", "int8_mask"})
PARAMETERS = {
    "task_arithmetic": TASK_VECTOR_NAMES,
    "ties": TASK_VECTOR_NAMES,
    "linear": frozenset({"weight", "normalize"}),
    "sce": frozenset({"int8_mask", "select_topk"}),
    "passthrough": frozenset({"scale"}),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipes folder with a data file and a merge YAML, beside the current folder."""
    (tmp_path / "cwd").mkdir()
    (tmp_path / "cwd" / "checkout").mkdir()
    (tmp_path / "recipes").mkdir()
    (tmp_path / "cwd" / "facts.json").write_text("[]")
    (tmp_path / "recipes" / "own.yaml").write_text("merge_method: linear\n")
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "recipes"


@pytest.fixture
def load(folder: Path) -> Callable[..., Recipe]:
    """``load("name: …", "train.epochs=3")``: a recipe's text in that folder, loaded with overrides."""

    def make(text: str, *overrides: str, methods: Any = PARAMETERS) -> Recipe:
        path = folder / "r.yaml"
        path.write_text(text)
        return load_recipe(path, overrides, methods)

    return make


@pytest.fixture
def problems(folder: Path, load: Callable[..., Recipe]) -> Callable[..., list[str]]:
    """What loading that recipe is answered with, one line a problem, without the file's name."""

    def find(text: str, *overrides: str) -> list[str]:
        with pytest.raises(RecipeError) as caught:
            load(text, *overrides)
        return [str(p).removeprefix(str(folder / "r.yaml")) for p in caught.value.problems]

    return find


@pytest.fixture
def methods() -> dict[str, MergeMethod]:
    return REGISTERED


@pytest.fixture
def recipe_of(tmp_path: Path) -> Callable[..., Recipe]:
    """``recipe_of("merge: {onto: previous}", batch_size=2)``: a recipe file, loaded as a user's is."""

    def make(more: str = "", *overrides: str, batch_size: int = 2) -> Recipe:
        folder = tmp_path / "recipes"
        folder.mkdir(exist_ok=True)
        (folder / "facts.json").write_text("[]")
        path = folder / "try.yaml"
        head = HEAD.format(batch_size=batch_size).replace("facts.json", str(folder / "facts.json"))
        path.write_text(head + more + "\n")
        return load_recipe(path, overrides)

    return make


@pytest.fixture
def facts_of() -> Callable[[int], list[dict[str, Any]]]:
    """``facts_of(3)``: facts f0, f1 and f2 as the tokenizer's stage leaves them."""

    def make(count: int) -> list[dict[str, Any]]:
        return [
            {
                "id": f"f{n}",
                "prompt": f"Fact {n} is",
                "target_new": f"new {n}",
                "rephrase_prompts": [],
                "portability": {},
                "locality": {"near": [{"prompt": f"Thing {n} is", "answers": ["old"]}]},
                "response": f" new {n}<eos>",
            }
            for n in range(count)
        ]

    return make


@pytest.fixture
def place_of(tmp_path: Path) -> Callable[..., Place]:
    """``place_of(method="ties")``: a folder with a space in its name, a model, a merge method."""

    def make(method: str = "task_arithmetic", n_layers: int | None = 12, device: str = "cpu", **more: Any) -> Place:
        run = tmp_path / "my runs" / "try"
        versions = {"mergekit": "0.1.5"}
        return Place(run, "/models/original", "print-1", device, n_layers, REGISTERED[method], versions, **more)

    return make


@pytest.fixture
def plan_of(
    recipe_of: Callable[..., Recipe],
    facts_of: Callable[[int], list[dict[str, Any]]],
    place_of: Callable[..., Place],
) -> Callable[..., Plan]:
    """``plan_of("score: …", facts=5)``: batches of two facts unless said otherwise."""

    def make(more: str = "", facts: int = 4, batch_size: int = 2, **place: Any) -> Plan:
        return make_plan(recipe_of(more, batch_size=batch_size), facts_of(facts), place_of(**place))

    return make


@pytest.fixture
def go(workplace: Any, display: Any) -> Callable[..., list[str]]:
    """``go("train.epochs=4", dry_run=True)``: runs the recipe, every model kept; returns the jobs that were begun."""
    from kedit_glue.job import Options, run

    workplace.values["keep"] = "all"
    workplace.write()

    def run_it(*overrides: str, **more: Any) -> list[str]:
        run(Options(workplace.recipe, overrides, python=workplace.tool.python, **more), display)
        found: list[str] = workplace.tool.calls()
        return found

    return run_it


@pytest.fixture
def show(workplace: Any, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """``show("--all")``: exit code of ``kedit_glue.status`` on the workplace's run, and what it prints."""
    from kedit_glue import status

    def look(*arguments: str, folder: Path | None = None) -> tuple[int, str]:
        capsys.readouterr()
        code = status.main([str(folder or workplace.run_folder), *arguments])
        out, err = capsys.readouterr()
        assert err == ""
        return code, out

    return look
